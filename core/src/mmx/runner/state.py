"""Where a training run is: the counters that loops, hooks and checkpoints share."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class TrainState:
    """Counters and marks of one training run.

    The loop advances it, the runner's properties read it and checkpoints save what it says.

    Attributes:
        epoch: Finished epochs (of an iteration-based loop: always 0).
        iter: Finished iterations. Both advance after the hooks of their ``after_`` stage, so that
            inside these hooks they still number the epoch or iteration that has just been
            computed.
        pass_start: Value of ``iter`` at the first batch of the current pass over the data.
        stage: The hook stage that is being called, None outside of hooks.
        stop_signal: Number of the signal that asked the run to stop, 0 for none.
        validation_due: True from the end of a training epoch (or iteration) that a validation
            belongs to until that validation has ended.
        stream: Random states of the training stream while something else (a validation) runs in
            between; None while training itself runs.
        pass_stream: Random states at the beginning of the current pass over the data.
    """

    epoch: int = 0
    iter: int = 0
    pass_start: int = 0
    stage: str | None = None
    stop_signal: int = 0
    validation_due: bool = False
    stream: dict[str, Any] | None = None
    pass_stream: dict[str, Any] | None = None

    @property
    def finished_iters(self) -> int:
        """Iterations whose training step has been taken, also while their hooks still run."""
        return self.iter + (self.stage == "after_train_iter")

    @property
    def finished_epochs(self) -> int:
        """Epochs whose batches have all been trained on, also while their hooks still run."""
        return self.epoch + (self.stage == "after_train_epoch")


class RunStopped(BaseException):
    """Raised inside a loop when a signal has asked the run to stop; never leaves the runner.

    A BaseException, so that no ``except Exception`` of a user's step swallows it.

    Args:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum

    def ending(self) -> BaseException:
        """Return what leaves the runner: KeyboardInterrupt for Ctrl-C, else SystemExit(128 + n)."""
        if self.signum == signal.SIGINT:
            return KeyboardInterrupt()
        return SystemExit(128 + self.signum)
