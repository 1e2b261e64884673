"""A training loop with a time limit."""

import time
from typing import Any

from mmx.runner import EpochBasedTrainLoop
from mmx_toy.registry import LOOPS


@LOOPS.register_module()
class TimeLimitTrainLoop(EpochBasedTrainLoop):
    """Train by epochs, and start no further one when the time is up.

    Args:
        max_minutes: Time limit in minutes.
        **kwargs: As for :class:`mmx.runner.EpochBasedTrainLoop`.
    """

    def __init__(self, *args: Any, max_minutes: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deadline = time.monotonic() + 60 * max_minutes

    def run_epoch(self) -> None:
        """Run one epoch, then look at the clock."""
        super().run_epoch()
        if time.monotonic() > self.deadline:
            self.runner.logger.info("The time limit is reached.")
            self.stop_training = True
