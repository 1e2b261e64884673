"""Metrics that keep a few tensors instead of results, and reduce them over the processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmx.dist import (
    all_gather_object,
    all_reduce,
    data_share,
    get_data_group,
    get_dist_info,
)
from mmx.evaluator.metric import BaseMetric

Reduction = str | int


def samples_to_drop(count: int, size: int) -> int:
    """Return how many of this rank's last samples only repeat others.

    Rank r of w evaluates the samples r, r + w, r + 2w, … of the data set, as the samplers of
    :mod:`mmx.dataset` deal them; those numbered ``size`` and above are repetitions.

    Args:
        count: Samples that this rank has evaluated.
        size: Samples of the data set.
    """
    rank, world_size = data_share(*get_dist_info())
    return max(0, count - max(0, -(-(size - rank) // world_size)))


class HeldBack:
    """The latest batch of something, kept until the next: only then its last samples surely count.

    Attributes:
        count: Samples seen.
        batch: The latest batch: values that have a length and can be sliced, all as long.
    """

    def __init__(self) -> None:
        self.count = 0
        self.batch: Any = None

    def swap(self, batch: Any, size: int) -> Any:
        """Keep a batch of ``size`` samples, and return the one before it, or None."""
        before, self.batch = self.batch, batch
        self.count += size
        return before

    def excess(self, size: int, last: int, name: str) -> int:
        """Return how many samples of the latest batch, of ``last`` samples, are repetitions.

        Raises:
            ValueError: More than the latest batch are beyond the data set's size.
        """
        excess = samples_to_drop(self.count, size)
        if excess > last:
            raise ValueError(
                f"{name} has processed {self.count} samples on this rank, {excess} more than a data set "
                f"of size {size} gives it; evaluate(size) needs the length of the whole data set"
            )
        return excess


class ReducedMetric(BaseMetric):
    """Base class of metrics whose state is a few tensors, however large the data set.

    :meth:`measure` gives tensors with a row for each sample; they are reduced over the samples at
    once, on their device, and over the processes at the end. Nothing else is kept or sent, and
    samples that a sampler repeated are not counted.

    Example:
        >>> class Accuracy(ReducedMetric):
        ...     default_prefix = "accuracy"
        ...     reductions = {"right": "sum", "all": "sum"}
        ...
        ...     def measure(self, data_batch, data_samples):
        ...         scores, labels = data_samples
        ...         return {"right": scores.argmax(1) == labels, "all": torch.ones_like(labels)}
        ...
        ...     def compute(self, states):
        ...         return {"top1": float(states["right"] / states["all"])}

    Attributes:
        reductions: Name of a state -> how the rows of all samples become one: ``'sum'``, ``'max'``,
            ``'min'``, or an int n: rows are numbers in ``[0, n)``, which are counted (negative ones
            are left out). Sums of integers and bools are int64.
    """

    reductions: ClassVar[Mapping[str, Reduction]] = {}

    def __init__(
        self,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        self._states: dict[str, Tensor] = {}
        self._held = HeldBack()

    @abstractmethod
    def measure(self, data_batch: Any, data_samples: Sequence[Any]) -> Mapping[str, Tensor]:
        """Return for each state a tensor of shape ``(N, ...)``, a row for each sample of a batch."""

    @abstractmethod
    def compute(self, states: dict[str, Tensor]) -> dict[str, Any]:
        """Return the metrics, from the states of all samples of all processes."""

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Add a batch to the states."""
        rows = {
            name: tensor.detach() for name, tensor in self.measure(data_batch, data_samples).items()
        }
        if set(rows) != set(self.reductions):
            raise ValueError(
                f"{type(self).__name__}.measure returned {sorted(rows)}, but its reductions are "
                f"{sorted(self.reductions)}"
            )
        sizes = {name: len(tensor) for name, tensor in rows.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"{type(self).__name__}.measure must return a row for each sample, but returned {sizes}"
            )
        before = self._held.swap(rows, next(iter(sizes.values()), 0))
        if before is not None:
            self._add(before)

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Not used: nothing is collected."""
        raise NotImplementedError(f"{type(self).__name__} computes from states, see `compute`")

    def _add(self, rows: Mapping[str, Tensor]) -> None:
        for name, tensor in rows.items():
            if not len(tensor):
                continue
            reduction = self.reductions[name]
            value = _reduce_rows(tensor, reduction)
            if name in self._states:
                value = _combine(self._states[name], value.to(self._states[name].device), reduction)
            self._states[name] = value

    def evaluate(self, size: int) -> dict[str, Any]:
        """Return the metrics over all processes, and forget the states. See :class:`BaseMetric`."""
        held, self._held = self._held, HeldBack()
        error: Exception | None = None
        try:
            if held.batch is not None:
                last = len(next(iter(held.batch.values()), ()))
                keep = last - held.excess(size, last, type(self).__name__)
                self._add({name: tensor[:keep] for name, tensor in held.batch.items()})
        except ValueError as e:
            # Raised below, on all ranks: the others already wait in a collective.
            error = e
        states, self._states = self._states, {}
        states = self._reduce_over_ranks(states, error)
        return self._compute_for_all(lambda: self.compute(states))

    def _reduce_over_ranks(
        self, states: dict[str, Tensor], error: Exception | None
    ) -> dict[str, Tensor]:
        # A rank without samples does not know the shapes.
        mine = {name: (state.shape, state.dtype) for name, state in states.items()}
        known: dict[str, Any] = {}
        failures = []
        for shapes, failure in all_gather_object((mine, str(error) if error else None)):
            known.update(shapes)
            failures += [failure] if failure else []
        if error is not None:
            raise error
        if failures:
            raise ValueError(failures[0])
        device = next((state.device for state in states.values()), torch.device("cpu"))
        reduced = {}
        for name, reduction in self.reductions.items():
            if name not in known:
                continue
            state = states.get(name)
            if state is None:
                shape, dtype = known[name]
                state = _identity(shape, dtype, reduction).to(device)
            state = state.clone()
            op = reduction if isinstance(reduction, str) else "sum"
            all_reduce(state, op=op, group=get_data_group())
            reduced[name] = state.cpu()
        if not reduced:
            raise ValueError(
                f"{type(self).__name__} has seen no samples: process was not called before evaluate"
            )
        return reduced


def _reduce_rows(rows: Tensor, reduction: Reduction) -> Tensor:
    if isinstance(reduction, int):
        numbers = rows.reshape(-1)
        return torch.bincount(numbers[numbers >= 0].long(), minlength=reduction)
    if reduction == "sum":
        return rows.sum(dim=0)
    if reduction == "max":
        return rows.amax(dim=0)
    if reduction == "min":
        return rows.amin(dim=0)
    raise ValueError(f"a reduction must be 'sum', 'max', 'min' or an int, got {reduction!r}")


def _combine(one: Tensor, other: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "max":
        return torch.maximum(one, other)
    if reduction == "min":
        return torch.minimum(one, other)
    return one + other


def _identity(shape: torch.Size, dtype: torch.dtype, reduction: Reduction) -> Tensor:
    """Return a state that changes nothing when it is combined with another."""
    if reduction in ("max", "min") and dtype != torch.bool:
        info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
        return torch.full(shape, info.min if reduction == "max" else info.max, dtype=dtype)
    if reduction == "min":
        return torch.ones(shape, dtype=dtype)
    return torch.zeros(shape, dtype=dtype)
