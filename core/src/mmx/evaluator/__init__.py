"""Metrics and the evaluator that runs them."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.evaluator.evaluator import Evaluator as Evaluator
    from mmx.evaluator.metric import BaseMetric as BaseMetric
    from mmx.evaluator.metric import DumpResults as DumpResults
    from mmx.evaluator.reduced import ReducedMetric as ReducedMetric
    from mmx.evaluator.torchmetrics import TorchMetric as TorchMetric
    from mmx.evaluator.utils import get_metric_value as get_metric_value
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "evaluator": ["Evaluator"],
            "metric": ["BaseMetric", "DumpResults"],
            "reduced": ["ReducedMetric"],
            "torchmetrics": ["TorchMetric"],
            "utils": ["get_metric_value"],
        },
    )
