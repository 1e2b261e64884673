"""Whether a larger or a smaller value of a metric is better, told from its name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

GREATER_KEYS = (
    "acc",
    "top",
    "AR@",
    "auc",
    "precision",
    "mAP",
    "mDice",
    "mIoU",
    "mAcc",
    "aAcc",
)
LESS_KEYS = ("loss",)

IS_BETTER: dict[str, Callable[[float, float], bool]] = {
    "greater": lambda new, old: new > old,
    "less": lambda new, old: new < old,
}
WORST = {"greater": -math.inf, "less": math.inf}


def infer_rule(
    metric: str,
    rule: str | None = None,
    greater_keys: Sequence[str] = GREATER_KEYS,
    less_keys: Sequence[str] = LESS_KEYS,
) -> str:
    """Return ``'greater'`` or ``'less'`` for a metric, as MMEngine decides it.

    The name is compared without case: first whole against the "greater" keys, then whole against
    the "less" keys, then for a key inside the name, again "greater" first.

    Raises:
        KeyError: ``rule`` is neither None, ``'greater'`` nor ``'less'``.
        ValueError: ``rule`` is None and the name says nothing.
    """
    if rule is not None:
        if rule not in IS_BETTER:
            raise KeyError(
                f'rule must be greater, less or None, but got "{rule}" for metric {metric!r}.'
            )
        return rule
    name = metric.lower()
    greater = [key.lower() for key in greater_keys]
    less = [key.lower() for key in less_keys]
    if name in greater:
        return "greater"
    if name in less:
        return "less"
    if any(key in name for key in greater):
        return "greater"
    if any(key in name for key in less):
        return "less"
    raise ValueError(
        f'Cannot infer the rule for key "{metric}", thus a specific rule must be specified: '
        "set rule='greater' if larger values are better, else rule='less'."
    )
