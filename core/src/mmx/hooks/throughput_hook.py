"""Measures samples per second and how much of the device's arithmetic the model uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmx.dist import data_share
from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs ``samples_per_s`` and, on request, the model's floating-point operations per second.

    Both are of all ranks together, if each has the same batches. The operations of one iteration
    are counted once, in the second iteration, by PyTorch's counter: forward and backward pass as
    they are run, recomputed activations included. The result is logged as ``tflops_per_s`` and,
    where the device's peak is known, as ``mfu``, the share of it that is used.

    Args:
        interval: Iterations over which rates are taken.
        flops: Count operations.
        peak_tflops: What one device can do at best, in 10¹² operations per second, at the
            precision that is used.

    Raises:
        ValueError: ``interval`` or ``peak_tflops`` is not positive.
    """

    # After the timer, before the log line.
    priority = "NORMAL"

    def __init__(
        self, interval: int = 10, flops: bool = False, peak_tflops: float | None = None
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval should be positive, but got {interval}")
        if peak_tflops is not None and peak_tflops <= 0:
            raise ValueError(f"peak_tflops should be positive, but got {peak_tflops}")
        self.interval = interval
        self.counts_flops = flops or peak_tflops is not None
        self.peak_tflops = peak_tflops
        #: Floating-point operations of one iteration on this rank, with split layers counted whole;
        #: None before they are counted.
        self.flops_per_iter: int | None = None
        self._counter: FlopCounterMode | None = None
        self._start = 0.0
        self._samples = 0
        self._iters = 0
        self._seen = 0

    def before_train_epoch(self, runner: RunnerLike) -> None:
        """Begin to measure: what lay between epochs does not count."""
        self._restart()

    def after_val(self, runner: RunnerLike) -> None:
        """Begin to measure anew after a validation."""
        self._restart()

    def _restart(self) -> None:
        self._start, self._samples, self._iters = perf_counter(), 0, 0

    def before_train_iter(
        self, runner: RunnerLike, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Start the counter in the iteration in which operations are counted."""
        self._seen += 1
        if self.counts_flops and self.flops_per_iter is None and self._seen == 2:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Count the batch, and log the rates if they are due."""
        if self._counter is not None:
            self._stop_counter()
            self._restart()  # counting is slow
            return
        self._samples += num_samples(data_batch)
        self._iters += 1
        if self._iters < self.interval:
            return
        seconds = perf_counter() - self._start
        # Ranks that hold one copy of the model together work on the same samples, and torch counts
        # the operations of the whole layers that they split.
        hub, (_, copies) = runner.message_hub, data_share(0, runner.world_size)
        hub.update_scalar("train/samples_per_s", self._samples * copies / seconds)
        if self.flops_per_iter is not None:
            achieved = self.flops_per_iter * self._iters / seconds / 1e12 * copies
            hub.update_scalar("train/tflops_per_s", achieved)
            if self.peak_tflops is not None:
                hub.update_scalar("train/mfu", achieved / (self.peak_tflops * runner.world_size))
        self._restart()

    def _stop_counter(self) -> None:
        counter, self._counter = self._counter, None
        if counter is not None:
            counter.__exit__(None, None, None)
            self.flops_per_iter = counter.get_total_flops()

    def after_run(self, runner: RunnerLike) -> None:
        """Leave the counter, if the run failed inside of the counted iteration."""
        self._stop_counter()


def num_samples(data_batch: Any) -> int:
    """Return how many samples a batch holds: the length of the first tensor or list in it."""
    if isinstance(data_batch, torch.Tensor):
        return data_batch.shape[0] if data_batch.ndim else 1
    if isinstance(data_batch, Mapping):
        first = next(iter(data_batch.values()), None)
        # In a dict a list holds one item per sample.
        return len(first) if isinstance(first, list) else num_samples(first)
    if isinstance(data_batch, Sequence) and not isinstance(data_batch, str):
        first = data_batch[0] if len(data_batch) else None
        # A list of tensors of one batch size is one batch; a list of samples is its own length.
        if isinstance(data_batch, tuple) or isinstance(first, torch.Tensor | Mapping):
            if isinstance(first, Mapping):
                return len(data_batch)
            sizes = {num_samples(part) for part in data_batch}
            return sizes.pop() if len(sizes) == 1 else len(data_batch)
        if isinstance(first, Sequence) and not isinstance(first, str):
            return num_samples(first)
        return len(data_batch)
    return 1
