"""How often the right class is among the k most probable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mmx.evaluator import ReducedMetric
from mmx_vision.registry import METRICS


@METRICS.register_module()
class TopKAccuracy(ReducedMetric):
    """Top-k accuracy in per cent, from models that predict ``(scores, labels)``.

    Args:
        topk: One k or several; ``top1``, ``top5``, … are returned.
        **kwargs: As for :class:`mmx.evaluator.ReducedMetric`.
    """

    default_prefix = "accuracy"
    # Over the samples, on their device: no batch is waited for.
    reductions = {"right": "sum", "all": "sum"}

    def __init__(self, topk: int | Sequence[int] = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f"topk must hold numbers from 1 on, got {topk}")

    def measure(self, data_batch: Any, data_samples: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Tell which samples of a batch are right for each k: scores ``(N, classes)``."""
        scores, labels = data_samples
        if max(self.topk) > scores.shape[1]:
            raise ValueError(f"topk={self.topk} needs as many classes; there are {scores.shape[1]}")
        of_label = scores.gather(1, labels[:, None])
        # Ties count against us, and so do scores that are not numbers.
        place = (~(scores < of_label)).sum(dim=1)
        right = torch.stack([place <= k for k in self.topk], dim=1)
        return {"right": right, "all": torch.ones_like(labels)}

    def compute(self, states: dict[str, torch.Tensor]) -> dict[str, float]:
        """Divide, over the whole data set."""
        right, total = states["right"].tolist(), states["all"].item()
        return {f"top{k}": 100 * count / total for k, count in zip(self.topk, right, strict=True)}
