"""Moving the parameter schedulers on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.optim import _ParamScheduler
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class ParamSchedulerHook(Hook):
    """Step schedulers by iteration after each iteration, those by epoch after each epoch.

    Schedulers that look at a metric are stepped after validation.
    """

    priority = "LOW"

    def before_train(self, runner: RunnerLike) -> None:
        """Sort the schedulers once: the loop then steps only those that are due."""
        self._sort(runner)

    def _sort(self, runner: RunnerLike) -> None:
        groups = runner.param_schedulers or []
        lists = list(groups.values()) if isinstance(groups, dict) else [groups]
        for schedulers in lists:
            if not isinstance(schedulers, list):
                raise TypeError(
                    "runner.param_schedulers should be list of ParamScheduler or a dict containing list of "
                    f"ParamScheduler, but got {runner.param_schedulers}"
                )
        self._by_iter = [s for part in lists for s in part if not s.by_epoch]
        self._by_epoch = [s for part in lists for s in part if s.by_epoch]
        self._source = groups

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Step the schedulers that count iterations."""
        if runner.param_schedulers is not getattr(self, "_source", self):
            self._sort(runner)
        for scheduler in self._by_iter:
            scheduler.step()

    def after_train_epoch(self, runner: RunnerLike) -> None:
        """Step the schedulers that count epochs."""
        if runner.param_schedulers is not getattr(self, "_source", self):
            self._sort(runner)
        for scheduler in self._by_epoch:
            scheduler.step()

    def after_val_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Step the schedulers that look at a metric."""
        if metrics is None or runner.param_schedulers is None:
            return
        if runner.param_schedulers is not getattr(self, "_source", self):
            self._sort(runner)
        for scheduler in self._by_epoch:
            if isinstance(scheduler, _ParamScheduler) and getattr(
                scheduler, "need_val_args", False
            ):
                scheduler.step(metrics)  # type: ignore[call-arg]  # of those that need them
