"""The scheduler that goes by a metric of validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmx.optim.scheduler.base import INF, OptimizerType, _count_steps, _inner, _ParamScheduler
from mmx.registry import PARAM_SCHEDULERS
from mmx.utils.errors import InvalidTypeError, InvalidValueError


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauParamScheduler(_ParamScheduler):
    """Lowers the value when a metric of validation has stopped improving.

    :meth:`step` counts epochs; with metrics, after a validation, it judges them.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        monitor: Name of the metric.
        rule: ``'less'`` or ``'greater'``, which is better.
        factor: What the value is multiplied by, below 1.
        patience: Validations in a row without improvement that are borne.
        threshold: What counts as an improvement is better than the best by this.
        threshold_rule: ``'rel'``: by this share of the best; ``'abs'``: by this amount.
        cooldown: Validations after a change that are not judged.
        min_value: Lowest value, for all groups or a list with one for each.
        eps: Changes that are not greater are not made.
        begin, end, last_step, by_epoch, verbose: See :class:`_ParamScheduler`; ``by_epoch`` is
            True.

    Raises:
        TypeError: The metrics are no dict, or the monitored one is no number.
        ValueError: A setting is out of range.
        KeyError: The metrics lack the monitored one.
    """

    __slots__ = ()

    need_val_args = True

    best: float
    cooldown_counter: int
    num_bad_epochs: int
    settings = (
        *_ParamScheduler.settings,
        "monitor",
        "rule",
        "factor",
        "patience",
        "threshold",
        "threshold_rule",
        "cooldown",
        "min_values",
        "eps",
        "rule_worse",
    )
    progress = ("last_step", "_global_step", "best", "num_bad_epochs", "cooldown_counter")

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        monitor: str = "loss",
        rule: str = "less",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_rule: str = "rel",
        cooldown: int = 0,
        min_value: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        self._attach(optimizer)
        self.param_name = param_name
        if not by_epoch:
            raise InvalidValueError(
                f"Now {type(self).__name__} only support by_epoch=True: validation follows epochs"
            )
        self.by_epoch = by_epoch
        self._set_range(begin, end)
        if factor >= 1.0:
            raise InvalidValueError(f"Factor should be < 1.0. Got {factor}")
        self.factor = factor
        self._set_base_values(last_step)
        # What is set is the present value; first ones are kept for others only.
        del self.base_values
        self.min_values = self._lowest_values(min_value)
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.monitor = monitor
        self._init_is_better(rule=rule, threshold=threshold, threshold_rule=threshold_rule)
        self._reset()
        self.last_step = last_step
        _count_steps(optimizer)
        self._global_step = -1
        self.verbose = verbose
        self.step()

    def _lowest_values(self, min_value: float | Sequence[float]) -> list[float]:
        groups = self.optimizer.param_groups
        if not isinstance(min_value, list | tuple):
            return [min_value] * len(groups)  # type: ignore[list-item]  # a number, as just seen
        expected = len(_inner(self.optimizer).param_groups)
        if len(min_value) not in (expected, len(groups)):
            raise InvalidValueError(f"expected {expected} min_lrs, got {len(min_value)}")
        # The wrapper's base settings follow the last group.
        return [*min_value, *[min_value[-1]] * (len(groups) - len(min_value))]

    def step(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Count an epoch, or judge the metrics of a validation.

        Args:
            metrics: Name -> number. None counts an epoch.
        """
        if metrics is None:
            if self._global_step == 0:
                self._check_order()
            self._global_step += 1
            self._known_values = None
            return
        if not isinstance(metrics, Mapping):
            raise InvalidTypeError(f"metrics type should be dict, but got type {type(metrics)}")
        if not self.begin <= self._global_step < self.end:
            return
        if metrics.get(self.monitor) is None:
            raise KeyError(
                f"Excepted key in {list(metrics.keys())}, but got key {self.monitor} is not in "
                "dict: set `monitor` to the name of a metric of validation"
            )
        metric = self._as_number(metrics[self.monitor])
        self.last_step += 1
        if self._is_better(metric, self.best):
            self.best = metric
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self._in_cooldown():
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0  # bad epochs do not count while it cools down
        if self.num_bad_epochs > self.patience:
            self._assign(self._get_value())
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
            if self.verbose:
                self._print_values()
        self._known_values = None

    def _as_number(self, value: Any) -> float:
        try:
            return float(value) if not isinstance(value, str) else _no_number(value)
        except (TypeError, ValueError):
            raise InvalidTypeError(
                f"the metric {self.monitor!r} should be a number to be compared, but is {value!r}"
            ) from None

    def _get_value(self) -> list[Any]:
        lowered = [
            max(value * self.factor, low)
            for value, low in zip(self._values(), self.min_values, strict=False)
        ]
        return [
            new if old - new > self.eps else old
            for old, new in zip(self._values(), lowered, strict=False)
        ]

    def _in_cooldown(self) -> bool:
        return self.cooldown_counter > 0

    def _is_better(self, a: float, best: float) -> bool:
        if self.rule == "less" and self.threshold_rule == "rel":
            return a < best * (1.0 - self.threshold)
        if self.rule == "less":
            return a < best - self.threshold
        if self.threshold_rule == "rel":
            return a > best * (1.0 + self.threshold)
        return a > best + self.threshold

    def _init_is_better(self, rule: str, threshold: float, threshold_rule: str) -> None:
        if rule not in ("less", "greater"):
            raise InvalidValueError(f"mode {rule} is unknown! rule should be 'less' or 'greater'")
        if threshold_rule not in ("rel", "abs"):
            raise InvalidValueError(
                f"threshold mode {threshold_rule} is unknown! threshold_rule should be 'rel' or "
                "'abs'"
            )
        self.rule_worse = INF if rule == "less" else -INF
        self.rule = rule
        self.threshold = threshold
        self.threshold_rule = threshold_rule

    def _reset(self) -> None:
        self.best = self.rule_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0


def _no_number(value: str) -> float:
    raise InvalidValueError(value)
