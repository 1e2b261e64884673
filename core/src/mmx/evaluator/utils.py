"""Look-up of a metric's value by a full or shortened name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def get_metric_value(indicator: str, metrics: Mapping[str, Any]) -> Any:
    """Return the value that ``indicator`` names.

    Args:
        indicator: A key of ``metrics``, or without a slash the last part of exactly one key:
            ``'top1'`` finds ``'accuracy/top1'``.
        metrics: Metric names and values.

    Raises:
        ValueError: No key matches, or several do.
    """
    if "/" in indicator:
        if indicator in metrics:
            return metrics[indicator]
        raise ValueError(f'The indicator "{indicator}" can not match any metric in {list(metrics)}')
    matched = [key for key in metrics if key.split("/")[-1] == indicator]
    if not matched:
        raise ValueError(f"The indicator {indicator} can not match any metric in {list(metrics)}")
    if len(matched) > 1:
        raise ValueError(f'The indicator "{indicator}" matches multiple metrics {matched}')
    return metrics[matched[0]]
