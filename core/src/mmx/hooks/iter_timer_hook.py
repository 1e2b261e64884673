"""Times iterations and the waiting for data, and estimates when the run ends."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


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
        self.t = perf_counter()

    def before_train(self, runner: RunnerLike) -> None:
        """Start to count where training starts, which after a resume is not 0."""
        self.start_iter = runner.iter
        self._max_iters = runner.max_iters

    def after_train(self, runner: RunnerLike) -> None:
        """Forget what was asked for once."""
        self._max_iters = None

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
        runner.message_hub.update_scalar(f"{mode}/data_time", perf_counter() - self.t)

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
        hub.update_scalar(f"{mode}/time", seconds)
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
