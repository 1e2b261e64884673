"""Times iterations and the waiting for data, and estimates when the run ends."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.logging import MessageHub
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike

# After so many iterations the hub takes over what waits, should nobody have asked for it.
_FLUSH_INTERVAL = 1024


@functools.cache
def _names(mode: str) -> tuple[str, str]:
    return f"{mode}/data_time", f"{mode}/time"


@HOOKS.register_module()
class IterTimerHook(Hook):
    """Logs ``data_time``, waiting for data, and ``time``, the whole iteration, in seconds.

    It also tells the message hub ``eta``: how many seconds the rest of training (or of the
    validation or test that is running) will take at the average pace so far.
    """

    priority = "NORMAL"

    def __init__(self) -> None:
        self.time_sec_tot = 0.0
        self.time_sec_test_val = 0.0
        self.start_iter = 0
        # Asked for once: it takes the runner longer to say than everything else here.
        self._max_iters: int | None = None
        # The shortest ways to the hub of the run, while it trains.
        self._log_data_time: Callable[[float], None] | None = None
        self._log_time: Callable[[float], None] | None = None
        self._facts: dict[str, Any] = {}
        self.t = perf_counter()

    def before_train(self, runner: RunnerLike) -> None:
        """Start to count where training starts, which after a resume is not 0."""
        self.start_iter = runner.iter
        self._max_iters = runner.max_iters
        cls, hub = type(self), runner.message_hub
        if (
            isinstance(hub, MessageHub)
            and cls._before_iter is IterTimerHook._before_iter
            and cls._after_iter is IterTimerHook._after_iter
        ):
            self._log_data_time, self._log_time = map(hub.lane, _names("train"))
            # The first iteration enters `eta`; from then on it is only replaced.
            self._facts = {}

    def after_train(self, runner: RunnerLike) -> None:
        """Forget what was asked for once."""
        self._max_iters = self._log_data_time = self._log_time = None
        self._facts = {}

    def before_train_iter(
        self, runner: RunnerLike, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Log how long the batch was waited for."""
        if self._log_data_time is None:
            self._before_iter(runner, batch_idx, data_batch, "train")
        else:
            self._log_data_time(perf_counter() - self.t)

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | dict[str, Any] | None = None,
    ) -> None:
        """Log how long the iteration took, and estimate the rest."""
        total, facts = self._max_iters, self._facts
        if self._log_time is None or total is None or not facts:
            self._after_iter(runner, batch_idx, data_batch, outputs, "train")
            if self._log_time is not None:
                self._facts = runner.message_hub.runtime_info
            return
        now = perf_counter()
        seconds = now - self.t
        self.t = now
        self._log_time(seconds)
        self.time_sec_tot = spent = self.time_sec_tot + seconds
        done = runner.iter + 1
        facts["eta"] = spent / (done - self.start_iter) * (total - done)
        if done % _FLUSH_INTERVAL == 0:
            runner.message_hub.flush()

    def _before_epoch(self, runner: RunnerLike, mode: str = "train") -> None:
        self.t = perf_counter()

    def _after_epoch(self, runner: RunnerLike, mode: str = "train") -> None:
        self.time_sec_test_val = 0.0

    def _before_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        mode: str = "train",
    ) -> None:
        runner.message_hub.update_scalar(_names(mode)[0], perf_counter() - self.t)

    def _after_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | dict[str, Any] | None = None,
        mode: str = "train",
    ) -> None:
        now = perf_counter()
        seconds, self.t = now - self.t, now
        hub = runner.message_hub
        hub.update_scalar(_names(mode)[1], seconds)
        if mode == "train":
            self.time_sec_tot += seconds
            iteration = runner.iter
            total = self._max_iters if self._max_iters is not None else runner.max_iters
            eta = self.time_sec_tot / (iteration - self.start_iter + 1) * (total - iteration - 1)
        else:
            self.time_sec_test_val += seconds
            loader = runner.val_dataloader if mode == "val" else runner.test_dataloader
            eta = self.time_sec_test_val / (batch_idx + 1) * (len(loader) - batch_idx - 1)
        hub.update_info("eta", eta)
