"""Shows the progress of a run on a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mmx.dist import is_main_process
from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.logging import terminal
from mmx.logging.live import LiveProgress, Progress
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike

# Over how many iterations rate and shares are taken.
_WINDOW = 50


@HOOKS.register_module()
class ProgressHook(Hook):
    """A live display in the last lines of the terminal; log lines pass above it.

    It shows epoch, iterations, their rate, the time left, the share of time that is spent waiting
    for data, and loss, learning rate and memory as of the last log line. Numbers that are still on
    a device are not waited for. Where standard output is no terminal, on ranks other than 0, and
    with ``MMX_PROGRESS=0`` in the environment, the hook does nothing and costs nothing.

    Args:
        refresh_per_second: How often the display is redrawn.
        enabled: Show it or not; None decides as said.
    """

    priority = "VERY_LOW"

    def __init__(self, refresh_per_second: float = 4, enabled: bool | None = None) -> None:
        if refresh_per_second <= 0:
            raise ValueError(f"refresh_per_second should be positive, but got {refresh_per_second}")
        if enabled is None:
            enabled = terminal.is_terminal() and os.environ.get("MMX_PROGRESS") != "0"
        self.enabled = enabled
        self._runner: RunnerLike | None = None
        self._display = LiveProgress(self._read, refresh_per_second)
        self._mode = "train"
        self._done = 0
        self._total: int | None = None
        self._train_position: tuple[int, int | None] = (0, None)
        self._by_epoch = True
        if enabled:
            # Set on the instance: a hook that is off takes part in no iteration.
            self.after_train_iter = self._count  # type: ignore[method-assign]
            self.after_val_iter = self._count  # type: ignore[method-assign]
            self.after_test_iter = self._count  # type: ignore[method-assign]

    def before_run(self, runner: RunnerLike) -> None:
        """Show the display."""
        if self.enabled and is_main_process():
            self._runner = runner
            self._display.start()

    def after_run(self, runner: RunnerLike) -> None:
        """Take the display away, however the run ends."""
        self._display.stop()
        self._runner = None

    def before_train(self, runner: RunnerLike) -> None:
        """Learn whether training counts epochs."""
        self._by_epoch = runner.max_epochs is not None and runner.max_epochs > 1
        if not self._by_epoch:
            self._by_epoch = bool(getattr(runner.log_processor, "by_epoch", True))

    def before_train_epoch(self, runner: RunnerLike) -> None:
        """Begin with an epoch, or with a training that counts iterations."""
        if not self.enabled:
            return
        if self._by_epoch:
            self._enter("train", 0, _length_of(runner.train_dataloader))
        else:
            self._enter("train", runner.iter, runner.max_iters)

    def before_val(self, runner: RunnerLike) -> None:
        """Begin with a validation."""
        if self.enabled:
            self._train_position = self._done, self._total
            self._enter("val", 0, _length_of(runner.val_dataloader))

    def after_val(self, runner: RunnerLike) -> None:
        """Go back to training."""
        if self.enabled:
            self._enter("train", *self._train_position)

    def before_test(self, runner: RunnerLike) -> None:
        """Begin with a test."""
        if self.enabled:
            self._enter("test", 0, _length_of(runner.test_dataloader))

    def _enter(self, mode: str, done: int, total: int | None) -> None:
        self._mode, self._done, self._total = mode, done, total

    def _count(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | dict[str, Any] | None = None,
    ) -> None:
        self._done = batch_idx + 1

    # What is shown; called from the display's thread ------------------------------------------

    def _read(self) -> Progress:
        runner = self._runner
        if runner is None:
            return Progress()
        hub, mode = runner.message_hub, self._mode
        seconds = hub.peek(f"{mode}/time", _WINDOW)
        waiting = hub.peek(f"{mode}/data_time", _WINDOW)
        progress = Progress(
            title=self._title(runner),
            done=self._done,
            total=self._total,
            rate=1 / seconds if seconds else None,
            left_s=hub.get_info("eta"),
        )
        facts = progress.facts
        if seconds and waiting is not None:
            facts["data"] = f"{min(waiting / seconds, 1):.0%}"
        if mode == "train":
            for name in ("loss", "lr"):
                value = hub.peek(f"train/{name}", 10 if name == "loss" else 1)
                if value is not None:
                    facts[name] = f"{value:.4f}" if name == "loss" else f"{value:.3e}"
        memory = memory_in_use_mb()
        if memory is not None:
            facts["memory"] = f"{memory:.0f} MB"
        return progress

    def _title(self, runner: RunnerLike) -> str:
        if self._mode != "train":
            return "Validation" if self._mode == "val" else "Test"
        if not self._by_epoch:
            return "Training"
        # From the hub: asking the runner could build a loop in this thread.
        info = runner.message_hub.get_info
        return f"Epoch {info('epoch', 0) + 1}/{info('max_epochs', '?')}"


def memory_in_use_mb() -> float | None:
    """Return what tensors take on the accelerator, or this process in main memory, in MB."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None and accelerator.type != "mps":
        return torch.accelerator.memory_allocated() / 2**20
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError, IndexError):  # not Linux
        return None


def _length_of(dataloader: Any) -> int | None:
    try:
        return len(dataloader)
    except TypeError:
        return None
