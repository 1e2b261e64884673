"""Times iterations and the waiting for data, and estimates when the run ends."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.logging import MessageHub
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike

# After so many iterations the hub takes over what waits, should nobody have asked for it.
FLUSH_INTERVAL = 1024


@functools.cache
def _names(mode: str) -> tuple[str, str]:
    return f"{mode}/data_time", f"{mode}/time"


class Clock:
    """What a timer counts, in one place.

    Attributes:
        t: When the latest iteration ended, in seconds.
        train_seconds: What all training iterations took.
        eval_seconds: What the iterations of the current validation or test took.
        mode: ``train``, ``val`` or ``test``: that of the latest iteration.
        done: How many iterations have been done in that mode; None if ``eta`` says so already.
    """

    __slots__ = ("done", "eval_seconds", "mode", "t", "train_seconds")

    def __init__(self) -> None:
        self.t = time.time()
        self.train_seconds = 0.0
        self.eval_seconds = 0.0
        self.mode = "train"
        self.done: int | None = None


@HOOKS.register_module()
class IterTimerHook(Hook):
    """Logs ``data_time``, waiting for data, and ``time``, the whole iteration, in seconds.

    It also tells the message hub ``eta``: how many seconds the rest of training (or of the
    validation or test that is running) will take at the average pace so far.
    """

    priority = "NORMAL"

    def __init__(self) -> None:
        self.clock = Clock()
        self.start_iter = 0
        # Asked for once: it takes the runner longer to say than everything else here.
        self._max_iters: int | None = None
        self._lengths: dict[str, int] = {}
        # Where the two times of iterations wait for the hub of the run, by mode.
        self._data_times: dict[str, list[float]] = {}
        self._times: dict[str, list[float]] = {}
        self._hub: Any = None
        # Whether the hub asks for `eta` when somebody wants it.
        self._is_asked = False

    @property
    def t(self) -> float:
        """When the latest iteration ended, in seconds."""
        return self.clock.t

    @t.setter
    def t(self, value: float) -> None:
        self.clock.t = value

    @property
    def time_sec_tot(self) -> float:
        """What all training iterations took, in seconds."""
        return self.clock.train_seconds

    @time_sec_tot.setter
    def time_sec_tot(self, value: float) -> None:
        self.clock.train_seconds = value

    @property
    def time_sec_test_val(self) -> float:
        """What the iterations of the current validation or test took, in seconds."""
        return self.clock.eval_seconds

    @time_sec_test_val.setter
    def time_sec_test_val(self, value: float) -> None:
        self.clock.eval_seconds = value

    def before_train(self, runner: RunnerLike) -> None:
        """Start to count where training starts, which after a resume is not 0."""
        self.start_iter = runner.iter
        self._max_iters = runner.max_iters

    def after_train(self, runner: RunnerLike) -> None:
        """Forget what was asked for once."""
        self._take_leave()
        self._max_iters = None

    def after_run(self, runner: RunnerLike) -> None:
        """Forget the hub of the run."""
        self._leave_hub(None)
        self._lengths.clear()

    def _leave_hub(self, hub: Any) -> None:
        """Forget the ways into the hub of before; ``hub`` is the one from now on."""
        self._take_leave()
        self._data_times.clear()
        self._times.clear()
        self._hub = hub

    def _take_leave(self) -> None:
        """Tell the hub the latest, and from now on each new ``eta`` at once."""
        if self._is_asked:
            self._hub.end_deferring(self._tell)
            self._is_asked = False

    def _before_epoch(self, runner: RunnerLike, mode: str = "train") -> None:
        self.clock.t = time.time()

    def _after_epoch(self, runner: RunnerLike, mode: str = "train") -> None:
        if self._is_asked:
            self._tell(self._hub.runtime_info)
        self._lengths.pop(mode, None)
        self.clock.eval_seconds = 0.0

    def _before_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        mode: str = "train",
    ) -> None:
        hub = runner.message_hub
        if hub is not self._hub:
            self._leave_hub(hub)
        waits = self._data_times.get(mode)
        if waits is None:
            hub.update_scalar(_names(mode)[0], time.time() - self.clock.t)
            if isinstance(hub, MessageHub):
                self._data_times[mode], self._times[mode] = map(hub.lane_values, _names(mode))
        else:
            waits.append(time.time() - self.clock.t)

    def _after_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | dict[str, Any] | None = None,
        mode: str = "train",
    ) -> None:
        clock = self.clock
        now = time.time()
        seconds, clock.t = now - clock.t, now
        hub = runner.message_hub
        if hub is not self._hub:
            self._leave_hub(hub)
        times = self._times.get(mode)
        if times is None:
            hub.update_scalar(_names(mode)[1], seconds)
        else:
            times.append(seconds)
        if mode == "train":
            clock.train_seconds += seconds
            clock.done = done = runner.iter + 1
            if self._max_iters is None:
                hub.update_info("eta", self._eta(done, runner.max_iters))
                return
        else:
            clock.eval_seconds += seconds
            clock.done = done = batch_idx + 1
            if batch_idx == 0 or mode not in self._lengths:  # there may be several data sets
                self._lengths[mode] = len(_loader(runner, mode))
        clock.mode = mode
        if not self._is_asked:
            facts: dict[str, Any] = {}
            self._tell(facts)
            hub.update_info("eta", facts["eta"])
            if times is not None:
                hub.defer_facts(self._tell)
                self._is_asked = True
        if times is not None and done % FLUSH_INTERVAL == 0:
            hub.flush()

    def _tell(self, facts: dict[str, Any]) -> None:
        """Set ``eta``, if it is a new one."""
        clock = self.clock
        done, clock.done = clock.done, None
        if done is None:
            return
        if clock.mode != "train":
            facts["eta"] = clock.eval_seconds / done * (self._lengths[clock.mode] - done)
        elif self._max_iters is not None:
            facts["eta"] = self._eta(done, self._max_iters)

    def _eta(self, done: int, total: int) -> float:
        return self.clock.train_seconds / (done - self.start_iter) * (total - done)

    def short_ways(self, runner: RunnerLike, mode: str) -> tuple[list[float], list[float]] | None:
        """Return where the two times of iterations are logged: waiting for data, and the whole.

        For a loop that counts :attr:`clock` on, and that calls the hub's ``flush`` now and then.

        None before the hub asks this hook for ``eta``, which is after an iteration.
        """
        times = self._times.get(mode)
        if not self._is_asked or times is None or runner.message_hub is not self._hub:
            return None
        return self._data_times[mode], times


def _loader(runner: RunnerLike, mode: str) -> Any:
    """Return the data loader of a validation or test."""
    return runner.val_dataloader if mode == "val" else runner.test_dataloader
