"""The share of right answers."""

from collections.abc import Sequence
from typing import Any

import torch

from mmx.evaluator import ReducedMetric
from mmx_toy.registry import METRICS


@METRICS.register_module()
class Accuracy(ReducedMetric):
    """Top-1 accuracy in per cent, from models that predict ``(scores, labels)``."""

    # Over all samples of all processes, on their device.
    reductions = {"right": "sum", "all": "sum"}

    def measure(self, data_batch: Any, data_samples: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Tell which answers of a batch are right: scores ``(N, classes)``, labels ``(N,)``."""
        scores, labels = data_samples
        return {"right": scores.argmax(dim=1) == labels, "all": torch.ones_like(labels)}

    def compute(self, states: dict[str, torch.Tensor]) -> dict[str, float]:
        """Divide the sums."""
        return {"accuracy": 100 * states["right"].item() / states["all"].item()}
