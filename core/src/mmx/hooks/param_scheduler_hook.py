"""Stepping parameter schedulers as training goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.optim.scheduler.param_scheduler import _ParamScheduler
from mmx.optim.scheduler.rebuild import rebuild_schedulers
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class ParamSchedulerHook(Hook):
    """Steps the schedulers: by iteration after each one, by epoch after each one.

    Schedulers that go by metrics count epochs too, and get the metrics after each validation.

    Args:
        on_changed_settings: What happens if a run is resumed with other settings of a scheduler
            than were saved, for example for more epochs. ``'keep'``: the saved ones go on, and a
            warning names the difference. ``'rebuild'``: the values become those that this run's
            settings give at the present step, and follow them from there.

    Raises:
        ValueError: ``on_changed_settings`` is neither.
    """

    priority = "LOW"

    def __init__(self, on_changed_settings: str = "keep") -> None:
        if on_changed_settings not in ("keep", "rebuild"):
            raise ValueError(
                "on_changed_settings should be 'keep' or 'rebuild', but got "
                f"{on_changed_settings!r}"
            )
        self.on_changed_settings = on_changed_settings

    def before_train(self, runner: RunnerLike) -> None:
        """Follow this run's settings from here on if that is wanted and a resumed run had others."""
        if self.on_changed_settings == "keep":
            return
        for schedulers in _lists(runner):
            changed = [s for s in schedulers if s.changed_settings()]
            if changed:
                rebuild_schedulers(schedulers, _epoch_length(runner))
                names = ", ".join(type(scheduler).__name__ for scheduler in changed)
                runner.logger.info(f"this run's settings of {names} hold from here on")

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | dict[str, Any] | None = None,
    ) -> None:
        """Step the schedulers by iteration."""
        if not runner.param_schedulers:
            return
        for schedulers in _lists(runner):
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()

    def idle_iters(self, runner: RunnerLike, batch_idx: int, mode: str) -> int | None:
        """Return None if there are schedulers by iteration; without any there is nothing to do."""
        by_iter = any(not s.by_epoch for schedulers in _lists(runner) for s in schedulers)
        return None if by_iter else sys.maxsize

    def after_train_epoch(self, runner: RunnerLike) -> None:
        """Step the schedulers by epoch."""
        for schedulers in _lists(runner):
            for scheduler in schedulers:
                if scheduler.by_epoch:
                    scheduler.step()

    def after_val_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Give the metrics to the schedulers that go by them."""
        if metrics is None:
            return
        # Where a run only validates, schedulers are still configs, which do not go by metrics.
        for schedulers in _lists(runner):
            for scheduler in schedulers:
                if getattr(scheduler, "need_val_args", False) and scheduler.by_epoch:
                    step: Callable[[Any], None] = scheduler.step
                    step(metrics)


def _lists(runner: RunnerLike) -> Iterator[list[Any]]:
    """Yield the list of schedulers of each optimizer."""
    schedulers = runner.param_schedulers
    if schedulers is None:
        return
    if isinstance(schedulers, list):
        yield schedulers
    elif isinstance(schedulers, _ParamScheduler) or _is_config(schedulers):
        yield [schedulers]
    elif isinstance(schedulers, dict):
        yield from schedulers.values()
    else:
        raise TypeError(
            "runner.param_schedulers should be list of ParamScheduler or a dict containing list of "
            f"ParamScheduler, but got {schedulers}"
        )


def _is_config(schedulers: Any) -> bool:
    return isinstance(schedulers, dict) and "type" in schedulers


def _epoch_length(runner: RunnerLike) -> int | None:
    try:
        return len(runner.train_dataloader)
    except TypeError:
        return None
