"""The share of right answers."""

from collections.abc import Sequence
from typing import Any

from mmx.evaluator import BaseMetric
from mmx_toy.registry import METRICS


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Top-1 accuracy in per cent, from models that predict ``(scores, labels)``."""

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count the right answers of a batch: scores ``(N, classes)``, labels ``(N,)``."""
        scores, labels = data_samples
        right = (scores.argmax(dim=1) == labels).sum()
        self.results.append({"right": right.cpu(), "size": len(labels)})

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Add up the batches of all processes."""
        right = sum(int(r["right"]) for r in results)
        return {"accuracy": 100 * right / sum(r["size"] for r in results)}
