"""An image classifier put together from a backbone, a neck and a head."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmx.model import BaseModel, BaseModule
from mmx_vision.registry import MODELS


@MODELS.register_module()
class LinearHead(BaseModule):
    """Dropout, one linear layer, and softmax cross-entropy.

    Args:
        in_channels: Features.
        num_classes: Classes.
        dropout: Probability with which a feature is dropped in training.
        label_smoothing: Share of the target spread over all classes, 0–1.
        init_cfg: How to initialise.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or {"type": "Normal", "layer": "Linear", "std": 0.01})
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)
        self.label_smoothing = label_smoothing

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` from features ``(N, in_channels)``."""
        return self.fc(self.dropout(features))

    def loss(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return ``{'loss': ...}``, a mean over the batch."""
        logits = self(features)
        return {"loss": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Backbone, neck and head, each built from a config of any scope.

    Args:
        backbone: Config of a module from images ``(N, C, H, W)`` to a tuple of feature maps.
        head: Config of a module from features to logits, with a method ``loss``.
        neck: Config of a module from the tuple to features ``(N, C)``.
        data_preprocessor: Config or module; see :class:`mmx.model.BaseModel`.
        init_cfg: How to initialise.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        neck: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck or {"type": "mmx_vision.GlobalAveragePooling"})
        self.head = MODELS.build(head)

    def extract_features(self, inputs: Tensor) -> Tensor:
        """Return what the head takes, ``(N, C)``."""
        return self.neck(self.backbone(inputs))

    def forward(  # type: ignore[override]  # labels of images are one tensor
        self, inputs: Tensor, data_samples: Tensor | None = None, mode: str = "tensor"
    ) -> Any:
        """Run the model.

        Args:
            inputs: Images ``(N, C, H, W)``, float32.
            data_samples: Classes ``(N,)``, int64.
            mode: ``'loss'`` returns a dict of losses, ``'predict'`` ``(probabilities, classes)``,
                ``'tensor'`` logits.
        """
        features = self.extract_features(inputs)
        if mode == "loss":
            return self.head.loss(features, data_samples)
        logits = self.head(features)
        if mode == "predict":
            return logits.softmax(dim=1), data_samples
        if mode == "tensor":
            return logits
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', got {mode!r}")
