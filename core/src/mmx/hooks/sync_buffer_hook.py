"""Equal buffers on all ranks, such as running means of batch normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmx.dist import all_reduce_params, is_distributed
from mmx.hooks.hook import Hook
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class SyncBuffersHook(Hook):
    """Average the model's buffers over all ranks after each training epoch, and before validation.

    Each rank has seen other samples, so that running statistics differ; validation and
    checkpoints then use the same on all. Does nothing on one process.
    """

    priority = "NORMAL"

    def __init__(self) -> None:
        self.distributed = is_distributed()
        self.called_in_train = False

    def before_val_epoch(self, runner: RunnerLike) -> None:
        """Average the buffers, unless the training epoch that ended just now did."""
        if self.distributed:
            if not self.called_in_train:
                all_reduce_params(runner.model.buffers(), op="mean")
            self.called_in_train = False

    def after_train_epoch(self, runner: RunnerLike) -> None:
        """Average the buffers."""
        if self.distributed:
            all_reduce_params(runner.model.buffers(), op="mean")
            self.called_in_train = True
