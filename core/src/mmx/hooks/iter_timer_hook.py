"""Times iterations and the waiting for data, and estimates when the run ends."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
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
        self._lengths: dict[str, int] = {}
        # The shortest ways to the hub of the run, by mode.
        self._log_data_time: dict[str, Callable[[float], None]] = {}
        self._log_time: dict[str, Callable[[float], None]] = {}
        self._facts: dict[str, Any] = {}
        self._hub: Any = None
        self.t = time.time()

    def before_train(self, runner: RunnerLike) -> None:
        """Start to count where training starts, which after a resume is not 0."""
        self.start_iter = runner.iter
        self._max_iters = runner.max_iters

    def after_train(self, runner: RunnerLike) -> None:
        """Forget what was asked for once."""
        self._max_iters = None

    def after_run(self, runner: RunnerLike) -> None:
        """Forget the hub of the run."""
        self._lengths.clear()
        self._leave_hub(None)

    def _leave_hub(self, hub: Any) -> None:
        """Forget the ways into the hub of before; ``hub`` is the one from now on."""
        self._log_data_time.clear()
        self._log_time.clear()
        self._facts, self._hub = {}, hub

    def _before_epoch(self, runner: RunnerLike, mode: str = "train") -> None:
        self.t = time.time()

    def _after_epoch(self, runner: RunnerLike, mode: str = "train") -> None:
        self._lengths.pop(mode, None)
        self.time_sec_test_val = 0.0

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
        log = self._log_data_time.get(mode)
        if log is None:
            hub.update_scalar(_names(mode)[0], time.time() - self.t)
            if isinstance(hub, MessageHub):
                self._open_lanes(hub, mode)
        else:
            log(time.time() - self.t)

    def _open_lanes(self, hub: MessageHub, mode: str) -> None:
        self._log_data_time[mode], self._log_time[mode] = map(hub.lane, _names(mode))
        # The first iteration enters `eta`; from then on it is only replaced.
        self._facts = hub.runtime_info if "eta" in hub.runtime_info else {}

    def _after_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | dict[str, Any] | None = None,
        mode: str = "train",
    ) -> None:
        now = time.time()
        seconds, self.t = now - self.t, now
        hub = runner.message_hub
        if hub is not self._hub:
            self._leave_hub(hub)
        log = self._log_time.get(mode)
        if log is None:
            hub.update_scalar(_names(mode)[1], seconds)
        else:
            log(seconds)
        if mode == "train":
            self.time_sec_tot = spent = self.time_sec_tot + seconds
            done = runner.iter + 1
            total = self._max_iters if self._max_iters is not None else runner.max_iters
            eta = spent / (done - self.start_iter) * (total - done)
        else:
            self.time_sec_test_val = spent = self.time_sec_test_val + seconds
            done = batch_idx + 1
            if batch_idx == 0 or mode not in self._lengths:  # there may be several data sets
                self._lengths[mode] = len(_loader(runner, mode))
            length = self._lengths[mode]
            eta = spent / done * (length - done)
        if self._facts:
            self._facts["eta"] = eta
        else:
            hub.update_info("eta", eta)
            if log is not None:
                self._facts = hub.runtime_info
        if done % _FLUSH_INTERVAL == 0 and log is not None:
            hub.flush()


def _loader(runner: RunnerLike, mode: str) -> Any:
    """Return the data loader of a validation or test."""
    return runner.val_dataloader if mode == "val" else runner.test_dataloader
