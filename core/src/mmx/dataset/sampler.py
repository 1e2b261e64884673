"""Samplers that share the samples of an epoch between the processes of a run."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeVar

import torch
from torch.utils.data import Sampler

from mmx.dist import data_share, get_dist_info, sync_random_seed
from mmx.registry import DATA_SAMPLERS

STATE_VERSION = 1

T = TypeVar("T")


def honours_start(iterate: Callable[[Any], Iterator[T]]) -> Callable[[Any], Iterator[T]]:
    """Mark an ``__iter__`` that begins where ``start_at`` of its sampler says.

    A subclass that overrides ``__iter__`` loses the mark, and its indices are then skipped one by
    one.
    """
    iterate.honours_start = True  # type: ignore[attr-defined]
    return iterate


class _ResumableSampler(Sampler[int]):
    """What both samplers share: the order's seed and a position that survives a restart.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        seed: Seed of the order, the same on all ranks.
        epoch: Number of the epoch, which :meth:`set_epoch` sets.
    """

    def __init__(self, dataset: Sized, shuffle: bool, seed: int | None) -> None:
        self.rank, self.world_size = data_share(*get_dist_info())
        self.dataset = dataset
        self.shuffle = shuffle
        # Every rank must draw the same order, or samples would be lost and doubled.
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        # Samples of this rank that the next pass leaves out; 0 again once that pass has begun.
        self._start = 0
        # The latest sequence handed out, its length, and the position of its first item. An iterator
        # of a list or a range knows how much is left of it, so nothing is counted index by index.
        self._indices: Iterator[int] | None = None
        self._length = self._base = 0

    @property
    def _position(self) -> int:
        """Samples of this rank that the latest pass has handed out or left out."""
        if self._indices is None:
            return self._start
        return self._base + self._length - operator.length_hint(self._indices)

    def _hand_out(self, indices: Sequence[int], base: int) -> Iterator[int]:
        self._indices, self._length, self._base = iter(indices), len(indices), base
        return self._indices

    def start_at(self, position: int) -> None:
        """Let the next pass begin after ``position`` samples of this rank.

        Later passes begin at 0 again. A data loader reads ahead, so a caller that counts
        consumed batches knows the position better than the sampler does.
        """
        if position < 0:
            raise ValueError(f"position must not be negative, got {position}")
        self._start = position
        self._indices = None

    def state_dict(self) -> dict[str, int]:
        """Return seed, epoch and position, the latter counted over all ranks.

        So counted, the position is valid for another number of processes too, if the samples
        of a step over all processes are as many as before.
        """
        return {
            "version": STATE_VERSION,
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self._position * self.world_size,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            ValueError: The state was written by a newer version, or its position lies between
                two steps of this number of processes.
        """
        version = state_dict.get("version", STATE_VERSION)
        if version > STATE_VERSION:
            raise ValueError(
                f"the state of {type(self).__name__} has version {version}; this mmx knows "
                f"{STATE_VERSION} at most: update mmx"
            )
        position, rest = divmod(state_dict["position"], self.world_size)
        if rest:
            raise ValueError(
                f"position {state_dict['position']} of {type(self).__name__} does not divide by the "
                f"{self.world_size} processes of this run: resume with a number of processes that divides it"
            )
        self.seed = state_dict["seed"]
        self.epoch = state_dict["epoch"]
        self.start_at(position)


@DATA_SAMPLERS.register_module()
class DefaultSampler(_ResumableSampler):
    """One pass over the data, shared evenly between the processes.

    Rank r of w takes every w-th index, beginning with the r-th, of the data set's order or of a
    permutation that depends on ``seed + epoch`` alone. So one step of all ranks takes the same
    samples for any number of processes, as long as the global batch size stays the same.

    Args:
        dataset: What is sampled; only its length is used.
        shuffle: Permute the samples, another way in each epoch.
        seed: Seed of the permutation. None: one that the ranks agree on.
        round_up: Repeat samples so that all ranks have equally many (needed where the ranks
            communicate in every step). Otherwise the first ranks may have one more.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
    ) -> None:
        super().__init__(dataset, shuffle, seed)
        self.round_up = round_up
        size = len(dataset)
        if round_up:
            self.num_samples = math.ceil(size / self.world_size)
            self.total_size = self.num_samples * self.world_size
        else:
            self.num_samples = max(0, math.ceil((size - self.rank) / self.world_size))
            self.total_size = size

    @honours_start
    def __iter__(self) -> Iterator[int]:
        # Some loaders make an iterator that they do not use, and then another.
        if self._indices is not None and (self._position > self._base or not self._length):
            self._start = 0
        size = len(self.dataset)
        if size == 0:
            return iter(())
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed(self.seed + self.epoch)
            order: Sequence[int] = torch.randperm(size, generator=generator).tolist()
        else:
            order = range(size)
        if self.total_size > size:
            order = list(order) * math.ceil(self.total_size / size)
        mine = order[self.rank : self.total_size : self.world_size][self._start :]
        return self._hand_out(mine, self._start)

    def __len__(self) -> int:
        """Return the number of samples of this rank in one epoch."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation: it depends on ``seed + epoch``.

        A position that was loaded is of its own epoch, so another epoch begins at 0.
        """
        if epoch != self.epoch:
            self.start_at(0)
        self.epoch = epoch


@DATA_SAMPLERS.register_module()
class InfiniteSampler(_ResumableSampler):
    """An endless stream of samples, shared evenly between the processes.

    The data is gone through again and again, each time in another order if ``shuffle`` is set.
    Made for iteration-based training: no pause and no short batch at the end of a pass.

    Args:
        dataset: What is sampled; only its length is used.
        shuffle: Permute the samples, another way in each pass.
        seed: Seed of the permutations. None: one that the ranks agree on.

    Raises:
        ValueError: The data set is empty, so that the stream would never yield.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle, seed)
        self.size = len(dataset)
        self._stream: Iterator[int] | None = None

    def start_at(self, position: int) -> None:
        """Let the stream go on after its first ``position`` samples of this rank."""
        super().start_at(position)
        self._stream = None

    def _indices_of_rank(self, start: int) -> Iterator[Iterator[int]]:
        """Yield this rank's indices, beginning after ``start`` of them, one pass after the other."""
        # Where this rank's next index lies in the stream of all ranks.
        skipped_passes, offset = divmod(start * self.world_size + self.rank, self.size)
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        for number in itertools.count():
            # The orders of skipped passes are drawn too: each moves the generator on.
            order = torch.randperm(self.size, generator=generator) if self.shuffle else None
            if number < skipped_passes:
                continue
            if order is None:
                order = torch.arange(self.size)
            mine = order[offset :: self.world_size]
            yield self._hand_out(mine.tolist(), start)
            start += len(mine)
            offset += len(mine) * self.world_size - self.size

    @honours_start
    def __iter__(self) -> Iterator[int]:
        if self.size == 0:
            raise ValueError(
                f"InfiniteSampler got an empty {type(self.dataset).__name__}: an endless stream of "
                "no samples would never yield; check the annotation file and the filters"
            )
        # As in MMEngine, a second iterator goes on where the first one stopped.
        if self._stream is None:
            self._stream = itertools.chain.from_iterable(self._indices_of_rank(self._position))
        return self._stream

    def __len__(self) -> int:
        """Return the number of samples of the data set; the stream itself has no end."""
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the stream knows no epochs."""
