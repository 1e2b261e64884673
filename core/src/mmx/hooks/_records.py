"""What two of the default hooks do in each iteration, done in one go."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.hooks.iter_timer_hook import FLUSH_INTERVAL, IterTimerHook
from mmx.hooks.runtime_info_hook import RuntimeInfoHook

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


class TrainRecord:
    """A RuntimeInfoHook and the IterTimerHook that follows it, in training iterations.

    Between two real training steps hardly anything of the engine stays in the processor's caches:
    what counts is how many different things an iteration touches. So an iteration only leaves
    numbers behind; facts are told when the hub is asked for them. Whatever is unusual (a first
    iteration, another hub, several learning rates, other losses) is left to the hooks.

    Args:
        info: The first hook.
        timer: The second hook.
    """

    __slots__ = (
        "_clock",
        "_hub",
        "_info",
        "_is_told",
        "_iter",
        "_log_data_time",
        "_log_rate",
        "_log_time",
        "_losses",
        "_optimizer",
        "_state",
        "_timer",
        "_wrapper",
    )

    def __init__(self, info: RuntimeInfoHook, timer: IterTimerHook) -> None:
        self._info = info
        self._timer = timer
        self._clock = timer.clock
        # None: the hooks act themselves.
        self._hub: Any = None
        self._wrapper: Any = None
        self._optimizer: Any = None
        self._state: Any = None
        # What collects the losses.
        self._losses: Any = None
        self._log_rate: Callable[[float], None]
        self._log_data_time: Callable[[float], None]
        self._log_time: Callable[[float], None]
        # The iteration that is under way, and whether the hub knows.
        self._iter = 0
        self._is_told = True

    def before_train_iter(
        self, runner: RunnerLike, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Record the iteration, its learning rate and the time of waiting for data."""
        hub = self._hub
        if hub is not None and runner.message_hub is hub and runner.optim_wrapper is self._wrapper:
            rate = self._optimizer.param_groups[0]["lr"]
            if rate.__class__ is float:
                self._iter = self._state.iter
                self._is_told = False
                self._log_rate(rate)
                self._log_data_time(time.time() - self._clock.t)
                return
        self.give_back()
        self._info.before_train_iter(runner, batch_idx=batch_idx, data_batch=data_batch)
        self._timer.before_train_iter(runner, batch_idx=batch_idx, data_batch=data_batch)

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Record losses and the time of the iteration."""
        losses = self._losses
        if self._hub is None:
            self._info.after_train_iter(runner, batch_idx, data_batch, outputs)
            self._timer.after_train_iter(runner, batch_idx, data_batch, outputs)
            self._take_over(runner, outputs)
            return
        if (
            losses is None
            or outputs is None
            or tuple(outputs) != losses.open_for
            or not losses.append(outputs)
        ):
            self._log_losses(runner, batch_idx, data_batch, outputs)
        clock, done = self._clock, self._iter + 1
        now = time.time()
        seconds, clock.t = now - clock.t, now
        self._log_time(seconds)
        clock.train_seconds += seconds
        clock.mode = "train"
        clock.done = done
        if not done % FLUSH_INTERVAL:
            self._hub.flush()

    def _log_losses(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH,
        outputs: dict[str, Any] | None,
    ) -> None:
        """Let the first hook log losses, and find out what collects them."""
        self._info.after_train_iter(runner, batch_idx, data_batch, outputs)
        self._losses = self._hub.row_group("train/", outputs or ())

    def _take_over(self, runner: RunnerLike, outputs: dict[str, Any] | None) -> None:
        """Go the short ways from now on, if the hooks have found them."""
        rates, self._state = self._info.short_ways(runner), runner.train_state
        if rates is None or self._state is None:
            return
        times = self._timer.short_ways(runner, "train", self.give_back)
        if times is None:
            return
        self._optimizer, self._log_rate = rates
        self._log_data_time, self._log_time = times
        self._wrapper, self._hub = runner.optim_wrapper, runner.message_hub
        self._losses = self._hub.row_group("train/", outputs or ())
        self._is_told = True
        self._hub.defer_facts(self._tell)

    def give_back(self) -> None:
        """Leave the next iteration to the hooks."""
        if self._hub is not None:
            self._hub.end_deferring(self._tell)
            self._hub = None

    def _tell(self, facts: dict[str, Any]) -> None:
        """Set ``iter``, if it is a new one."""
        if not self._is_told:
            self._is_told = True
            facts["iter"] = self._iter


class EvalRecord:
    """An IterTimerHook in the iterations of a validation or test.

    Args:
        timer: The hook.
        mode: ``val`` or ``test``.
    """

    __slots__ = ("_clock", "_hub", "_log_data_time", "_log_time", "_mode", "_timer")

    def __init__(self, timer: IterTimerHook, mode: str) -> None:
        self._timer = timer
        self._clock = timer.clock
        self._mode = mode
        # None: the hook acts itself.
        self._hub: Any = None
        self._log_data_time: Callable[[float], None]
        self._log_time: Callable[[float], None]

    def before_iter(
        self, runner: RunnerLike, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Record the time of waiting for data."""
        if runner.message_hub is self._hub:
            self._log_data_time(time.time() - self._clock.t)
        else:
            self._hub = None
            self._timer._before_iter(runner, batch_idx, data_batch, self._mode)

    def after_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Any = None,
    ) -> None:
        """Record the time of the iteration."""
        if self._hub is None or batch_idx == 0:
            self._timer._after_iter(runner, batch_idx, data_batch, outputs, self._mode)
            times = self._timer.short_ways(runner, self._mode, self._give_back)
            if times is not None:
                self._log_data_time, self._log_time = times
                self._hub = runner.message_hub
            return
        clock, done = self._clock, batch_idx + 1
        now = time.time()
        seconds, clock.t = now - clock.t, now
        self._log_time(seconds)
        clock.eval_seconds += seconds
        clock.mode = self._mode
        clock.done = done
        if not done % FLUSH_INTERVAL:
            self._hub.flush()

    def _give_back(self) -> None:
        """Leave the next iteration to the hook."""
        self._hub = None


def train_record(first: Hook, second: Hook) -> TrainRecord | None:
    """Return what does the work of two hooks that follow each other, None if nothing does."""
    if type(first) is not RuntimeInfoHook or _own_stages(first) or not _is_plain_timer(second):
        return None
    return TrainRecord(first, second)


def eval_call(hook: Hook, stage: str) -> Callable[..., None] | None:
    """Return what does the work of a hook in a stage of a validation or test, if anything does."""
    when, _, mode = stage.removesuffix("_iter").partition("_")
    if mode not in ("val", "test") or not stage.endswith("_iter") or not _is_plain_timer(hook):
        return None
    record = hook.records.setdefault(mode, EvalRecord(hook, mode))
    return record.before_iter if when == "before" else record.after_iter


def _is_plain_timer(hook: Hook) -> TypeGuard[IterTimerHook]:
    return type(hook) is IterTimerHook and not _own_stages(hook)


def _own_stages(hook: Hook) -> bool:
    """Tell whether methods of a hook have been replaced on the instance."""
    return any(name.endswith("_iter") and callable(value) for name, value in vars(hook).items())
