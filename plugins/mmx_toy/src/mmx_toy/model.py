"""A multi-layer perceptron that is its own head and loss."""

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmx.model import BaseModel
from mmx_toy.registry import MODELS

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "none": nn.Identity}


@MODELS.register_module()
class MLP(BaseModel):
    """A classifier of points in the plane.

    Args:
        layers: Number of hidden layers.
        activation: ``'relu'``, ``'silu'`` or ``'none'``.
        width: Units of each hidden layer.
    """

    def __init__(self, layers: int = 2, activation: str = "relu", width: int = 64) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        sizes = [2, *[width] * layers]
        parts: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes):
            parts += [nn.Linear(size_in, size_out), ACTIVATIONS[activation]()]
        self.mlp = nn.Sequential(*parts)
        self.classifier = nn.Linear(sizes[-1], 2)

    def forward(self, points: Tensor, labels: Tensor, mode: str = "tensor") -> Any:  # type: ignore[override]  # by mode
        """Return logits ``(N, 2)``, a dict of losses, or ``(probabilities, labels)``, by mode."""
        logits = self.classifier(self.mlp(points))
        if mode == "loss":
            return {"loss": F.cross_entropy(logits, labels)}
        if mode == "predict":
            return logits.softmax(dim=1), labels
        return logits
