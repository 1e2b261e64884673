"""Ending a run when a metric no longer improves."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

from mmx.hooks.hook import Hook
from mmx.hooks.metric_rule import GREATER_KEYS, IS_BETTER, LESS_KEYS, WORST, infer_rule
from mmx.registry import HOOKS
from mmx.utils.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class EarlyStoppingHook(Hook):
    """Stop training when a validation metric has reached a plateau, a goal, or is not finite.

    The best score and the number of validations without improvement are saved in checkpoints, so
    that a resumed run stops when the uninterrupted one would have.

    Args:
        monitor: Name of the metric.
        rule: ``'greater'`` or ``'less'``; None tells it from the name.
        min_delta: Smaller changes count as no improvement. Not negative.
        strict: Raise if validation does not return the metric; else warn.
        check_finite: Stop when the metric is NaN or infinite.
        patience: Number of validations without improvement after which training stops.
        stopping_threshold: Stop as soon as the metric is at least as good as this.
    """

    priority = "LOWEST"

    rule_map = IS_BETTER
    _default_greater_keys = list(GREATER_KEYS)
    _default_less_keys = list(LESS_KEYS)

    def __init__(
        self,
        monitor: str,
        rule: str | None = None,
        min_delta: float = 0.1,
        strict: bool = False,
        check_finite: bool = True,
        patience: int = 5,
        stopping_threshold: float | None = None,
    ) -> None:
        if rule not in (None, *self.rule_map):
            raise InvalidValueError(
                f'`rule` should be either "greater" or "less", but got {rule!r} for {monitor!r}'
            )
        self.monitor = monitor
        self.rule = infer_rule(monitor, rule, self._default_greater_keys, self._default_less_keys)
        self.min_delta = min_delta if self.rule == "greater" else -min_delta
        self.strict = strict
        self.check_finite = check_finite
        self.patience = patience
        self.stopping_threshold = stopping_threshold
        self.wait_count = 0
        self.best_score = WORST[self.rule]

    def before_run(self, runner: RunnerLike) -> None:
        """Check that the loop can be stopped.

        Raises:
            TypeError: The training loop has no ``stop_training``.
        """
        if not hasattr(runner.train_loop, "stop_training"):
            raise InvalidTypeError(
                "`train_loop` should contain `stop_training` variable, so that EarlyStoppingHook "
                f"can end it; {type(runner.train_loop).__name__} has none."
            )

    def after_val_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Count this validation and stop training if it is time.

        Raises:
            RuntimeError: ``strict`` is true and the metric is absent.
        """
        metrics = metrics or {}
        if self.monitor not in metrics:
            message = (
                f"Early stopping conditioned on metric `{self.monitor}` is not available. "
                f"Available metrics are: {', '.join(metrics)}"
            )
            if self.strict:
                raise RuntimeError(message)
            warnings.warn(message, stacklevel=2)
            return
        if isinstance(metrics[self.monitor], str):
            raise InvalidTypeError(
                f"the monitored metric {self.monitor} must be a number, "
                f"but got {metrics[self.monitor]!r}"
            )
        stop, reason = self._check_stop_condition(float(metrics[self.monitor]))
        if stop:
            runner.train_loop.stop_training = True
        if reason:
            runner.logger.info(reason)

    def _check_stop_condition(self, current_score: float) -> tuple[bool, str]:
        if self.check_finite and not math.isfinite(current_score):
            return True, (
                f"Monitored metric {self.monitor} = {current_score} is infinite. "
                f"Previous best value was {self.best_score:.3f}."
            )
        goal = self.stopping_threshold
        if goal is not None and self._compare(current_score, goal):
            self.best_score = current_score
            return True, (
                f"Stopping threshold reached: `{self.monitor}` = {current_score} is {self.rule} than {goal}."
            )
        if self._is_improvement(current_score):
            self.best_score = current_score
            self.wait_count = 0
            return False, ""
        self.wait_count += 1
        if self.wait_count >= self.patience:
            return True, (
                f"the monitored metric did not improve in the last {self.wait_count} records. "
                f"best score: {self.best_score:.3f}. "
            )
        return False, ""

    def _is_improvement(self, score: float) -> bool:
        # What is exactly `min_delta` better counts; what is not a number does not.
        least = self.best_score + self.min_delta
        return score == least or self._compare(score, least)

    def _compare(self, new: float, old: float) -> bool:
        return self.rule_map[self.rule](new, old)

    def state_dict(self) -> dict[str, Any]:
        """Return the counters: ``version``, ``wait_count``, ``best_score``."""
        return {"version": 1, "wait_count": self.wait_count, "best_score": self.best_score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the counters of an interrupted run."""
        self.wait_count = int(state["wait_count"])
        self.best_score = float(state["best_score"])
