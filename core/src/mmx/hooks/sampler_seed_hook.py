"""Another order of the samples in each epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmx.hooks.hook import Hook
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class DistSamplerSeedHook(Hook):
    """Tell the sampler of the training data which epoch begins, so that it shuffles anew.

    Loops tell the sampler themselves when they open a pass over the data; the hook serves loops
    that do not, as MMEngine's.
    """

    priority = "NORMAL"

    def before_train_epoch(self, runner: RunnerLike) -> None:
        """Call ``set_epoch`` of the sampler, or of the batch sampler's sampler, that has it."""
        loader = runner.train_loop.dataloader
        batch_sampler = getattr(loader, "batch_sampler", None)
        for sampler in (
            getattr(loader, "sampler", None),
            getattr(batch_sampler, "sampler", None),
        ):
            if sampler is not None and hasattr(sampler, "set_epoch"):
                sampler.set_epoch(runner.epoch)
                return
