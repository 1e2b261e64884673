"""Giving unused memory of the accelerator back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mmx.device import is_cuda_available
from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class EmptyCacheHook(Hook):
    """Give memory that torch keeps in its cache back to the device, for other processes.

    It makes no room for this process, and costs time. Does nothing without an accelerator.

    Args:
        before_epoch: Before each epoch.
        after_epoch: After each epoch.
        after_iter: After each iteration.
    """

    priority = "NORMAL"

    def __init__(
        self, before_epoch: bool = False, after_epoch: bool = True, after_iter: bool = False
    ) -> None:
        self._do_before_epoch = before_epoch
        self._do_after_epoch = after_epoch
        self._do_after_iter = after_iter

    @staticmethod
    def _empty() -> None:
        if is_cuda_available():
            torch.cuda.empty_cache()
        elif torch.accelerator.is_available():
            torch.accelerator.empty_cache()

    def _after_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | dict[str, Any] | None = None,
        mode: str = "train",
    ) -> None:
        if self._do_after_iter:
            self._empty()

    def _before_epoch(self, runner: RunnerLike, mode: str = "train") -> None:
        if self._do_before_epoch:
            self._empty()

    def _after_epoch(self, runner: RunnerLike, mode: str = "train") -> None:
        if self._do_after_epoch:
            self._empty()
