"""How often the right class is among the k most probable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mmx.evaluator import BaseMetric
from mmx_vision.registry import METRICS


@METRICS.register_module()
class TopKAccuracy(BaseMetric):
    """Top-k accuracy in per cent, from models that predict ``(scores, labels)``.

    Args:
        topk: One k or several; ``top1``, ``top5``, … are returned.
        **kwargs: As for :class:`mmx.evaluator.BaseMetric`.
    """

    default_prefix = "accuracy"

    def __init__(self, topk: int | Sequence[int] = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f"topk must hold numbers from 1 on, got {topk}")

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep, for each sample, the place of the right class among the scores ``(N, classes)``."""
        scores, labels = data_samples
        if max(self.topk) > scores.shape[1]:
            raise ValueError(f"topk={self.topk} needs as many classes; there are {scores.shape[1]}")
        right = scores.gather(1, labels[:, None])
        # Ties count against us, and so do scores that are not numbers.
        rank = (~(scores < right)).sum(dim=1) - 1
        self.results.extend(rank.cpu().tolist())

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """Count over the whole data set."""
        ranks = torch.tensor(results)
        return {f"top{k}": 100 * (ranks < k).double().mean().item() for k in self.topk}
