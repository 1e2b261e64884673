"""Batch samplers: which samples come together in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from mmx.dataset.sampler import honours_start
from mmx.dist import data_share, get_dist_info
from mmx.registry import DATA_SAMPLERS

STATE_VERSION = 1


class _ResumableBatchSampler(Sampler[list[int]]):
    """What the batch samplers share: a position, counted in batches of one rank."""

    def __init__(self, sampler: Any, batch_size: int) -> None:
        if not isinstance(sampler, Sampler):
            raise TypeError(f"sampler should be an instance of ``Sampler``, but got {sampler!r}")
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(
                f"batch_size should be a positive integer value, but got batch_size={batch_size}"
            )
        self.sampler: Any = sampler
        self.batch_size = batch_size
        self.epoch = 0
        # Batches that the next pass leaves out: consumed by `__iter__`.
        self._start = 0
        # Batches that the latest pass has handed out or left out.
        self._position = 0

    def start_at(self, position: int) -> None:
        """Let the next pass begin after ``position`` batches."""
        if position < 0:
            raise ValueError(f"position must not be negative, got {position}")
        self._start = self._position = position

    def state_dict(self) -> dict[str, Any]:
        """Return seed, epoch and position, counted in batches of one rank."""
        return {
            "version": STATE_VERSION,
            "position": self._position,
            "seed": getattr(self.sampler, "seed", None),
            "epoch": self.epoch,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            ValueError: The state was written by a newer version.
        """
        version = state_dict.get("version", STATE_VERSION)
        if version > STATE_VERSION:
            raise ValueError(
                f"the state of {type(self).__name__} has version {version}; this mmx knows "
                f"{STATE_VERSION} at most: update mmx"
            )
        if state_dict.get("seed") is not None and hasattr(self.sampler, "seed"):
            self.sampler.seed = state_dict["seed"]
        self.set_epoch(state_dict.get("epoch", 0))
        self.start_at(state_dict["position"])

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch; another epoch than the position's begins at 0."""
        if epoch != self.epoch:
            self.start_at(0)
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def _batches(self) -> Iterator[list[int]]:
        raise NotImplementedError

    @honours_start
    def __iter__(self) -> Iterator[list[int]]:
        start, self._start = self._start, 0
        self._position = start
        for number, batch in enumerate(self._batches()):
            if number >= start:
                self._position = number + 1
                yield batch


@DATA_SAMPLERS.register_module()
class AspectRatioBatchSampler(_ResumableBatchSampler):
    """Batches of samples of like shape, so that little is padded.

    Samples come in the order of the sampler; each goes to the group of its shape, and a group that
    has filled a batch is handed out. What remains at the end is handed out in the order of groups.

    Args:
        sampler: Gives the order of samples; ``sampler.dataset`` has ``get_data_info(idx)`` with
            ``width`` and ``height``, or ``aspect_ratios``.
        batch_size: Samples in a batch.
        drop_last: Leave out the samples that remain, if they do not fill batches.
        boundaries: Aspect ratios (width / height) between the groups, ascending. One boundary at 1
            parts the wide from the high.
        aspect_ratios: Aspect ratio of each sample, in place of asking the data set.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        drop_last: bool = False,
        boundaries: Sequence[float] = (1.0,),
        aspect_ratios: Sequence[float] | None = None,
    ) -> None:
        super().__init__(sampler, batch_size)
        if list(boundaries) != sorted(set(boundaries)):
            raise ValueError(f"boundaries must ascend, got {list(boundaries)}")
        self.drop_last = drop_last
        self.boundaries = torch.tensor(boundaries, dtype=torch.float64)
        self.aspect_ratios = aspect_ratios
        # Group of each sample, asked once: skipped samples are grouped again on resuming.
        self._groups: dict[int, int] = {}

    def _group(self, index: int) -> int:
        group = self._groups.get(index)
        if group is None:
            if self.aspect_ratios is not None:
                ratio = float(self.aspect_ratios[index])
            else:
                info = self.sampler.dataset.get_data_info(index)
                ratio = info["width"] / info["height"]
            group = int(torch.searchsorted(self.boundaries, ratio, right=True))
            self._groups[index] = group
        return group

    def _batches(self) -> Iterator[list[int]]:
        groups: list[list[int]] = [[] for _ in range(len(self.boundaries) + 1)]
        for index in self.sampler:
            group = groups[self._group(index)]
            group.append(index)
            if len(group) == self.batch_size:
                yield group[:]
                group.clear()
        left = [index for group in groups for index in group]
        for start in range(0, len(left), self.batch_size):
            batch = left[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        """Return the number of batches of this rank in one epoch."""
        if self.drop_last:
            return len(self.sampler) // self.batch_size
        return -(-len(self.sampler) // self.batch_size)


class _ComposedBatchSampler(_ResumableBatchSampler):
    """Batches composed for all ranks at once, which then share them evenly.

    The order depends on (seed, epoch) and on the samples of a step over all ranks, so it survives a
    change of the number of ranks if the latter stay as many.
    """

    def __init__(self, sampler: Any, batch_size: int, num_batches: int | None) -> None:
        super().__init__(sampler, batch_size)
        self.rank, self.world_size = data_share(*get_dist_info())
        self.dataset = sampler.dataset
        if num_batches is None:
            num_batches = -(-len(self.dataset) // (batch_size * self.world_size))
        self.num_batches = num_batches

    def _global_batches(self, generator: torch.Generator) -> Iterator[list[int]]:
        """Yield the samples of one step of all ranks after the other; rank r takes every w-th."""
        raise NotImplementedError

    def _batches(self) -> Iterator[list[int]]:
        generator = torch.Generator()
        generator.manual_seed((getattr(self.sampler, "seed", None) or 0) + self.epoch)
        steps = self._global_batches(generator)
        for _ in range(self.num_batches):
            yield next(steps)[self.rank :: self.world_size]

    def __len__(self) -> int:
        """Return the number of batches of this rank in one epoch."""
        return self.num_batches


class _Deck:
    """Draws the items of a list without end: each once, in random order, before any again."""

    def __init__(self, items: Sequence[int], generator: torch.Generator, shuffle: bool) -> None:
        self.items = items
        self.generator = generator
        self.shuffle = shuffle
        self.left: list[int] = []

    def draw(self) -> int:
        if not self.left:
            size = len(self.items)
            if self.shuffle:
                order = torch.randperm(size, generator=self.generator)
            else:
                order = torch.arange(size)
            self.left = order.tolist()[::-1]
        return self.items[self.left.pop()]


@DATA_SAMPLERS.register_module()
class ClassBalancedBatchSampler(_ComposedBatchSampler):
    """Batches in which all classes are equally frequent, as far as the batch size allows.

    Classes take turns, in an order drawn anew for each round; a class gives each of its samples once
    before any again.

    Args:
        sampler: Its ``dataset`` is sampled, with its ``seed``.
        batch_size: Samples in a batch of one rank.
        num_batches: Batches in an epoch. None: as many as the data set fills.
        labels: Class of each sample, or classes. None: ``dataset.get_cat_ids`` is asked.

    Raises:
        ValueError: No sample has a class, or ``labels`` are not as many as the samples.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        num_batches: int | None = None,
        labels: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(sampler, batch_size, num_batches)
        size = len(self.dataset)
        if labels is None:
            labels = [self.dataset.get_cat_ids(index) for index in range(size)]
        if len(labels) != size:
            raise ValueError(f"labels must be one for each of {size} samples, got {len(labels)}")
        members: dict[int, list[int]] = {}
        for index, label in enumerate(labels):
            several = label if isinstance(label, (list, tuple, set)) else [label]
            for one in sorted({int(c) for c in several}):
                members.setdefault(one, []).append(index)
        if not members:
            raise ValueError("no sample has a class: ClassBalancedBatchSampler cannot balance them")
        self.classes = {c: members[c] for c in sorted(members)}

    def _global_batches(self, generator: torch.Generator) -> Iterator[list[int]]:
        decks = {c: _Deck(items, generator, True) for c, items in self.classes.items()}
        turns = _Deck(list(decks), generator, True)
        while True:
            chosen = [turns.draw() for _ in range(self.batch_size * self.world_size)]
            # Classes side by side, so that each rank gets its share of each.
            yield [decks[c].draw() for c in sorted(chosen)]


@DATA_SAMPLERS.register_module()
class MultiSourceBatchSampler(_ComposedBatchSampler):
    """Batches with a fixed number of samples from each part of a :class:`ConcatDataset`.

    Each source gives all of its samples before any again, so small sources are repeated.

    Args:
        sampler: Its ``dataset`` is a ConcatDataset, which is sampled with its ``seed``.
        batch_size: Samples in a batch of one rank.
        source_ratio: Shares of the sources in a batch, for example ``[1, 3]``.
        num_batches: Batches in an epoch. None: as many as the data set fills.
        shuffle: Draw from each source at random, otherwise in its order.

    Raises:
        TypeError: The data set has no parts.
        ValueError: The ratios are not one for each source, not positive, or the batch size does not
            divide by them; or a source is empty.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        source_ratio: Sequence[int | float],
        num_batches: int | None = None,
        shuffle: bool = True,
    ) -> None:
        if not hasattr(sampler.dataset, "cumulative_sizes"):
            raise TypeError(
                "MultiSourceBatchSampler needs a ConcatDataset, whose parts are the sources, but got "
                f"{type(sampler.dataset)}"
            )
        super().__init__(sampler, batch_size, num_batches)
        ends = list(self.dataset.cumulative_sizes)
        if len(source_ratio) != len(ends) or min(source_ratio) <= 0:
            raise ValueError(
                f"source_ratio must be one positive number for each of {len(ends)} sources, got "
                f"{list(source_ratio)}"
            )
        counts = [batch_size * ratio / sum(source_ratio) for ratio in source_ratio]
        self.samples_per_source = [round(count) for count in counts]
        if any(abs(a - b) > 1e-6 for a, b in zip(counts, self.samples_per_source, strict=True)):
            raise ValueError(
                f"batch_size {batch_size} does not divide by source_ratio {list(source_ratio)}: the "
                f"sources would give {counts} samples"
            )
        self.shuffle = shuffle
        self.sources = [range(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        empty = [number for number, source in enumerate(self.sources) if not source]
        if empty:
            raise ValueError(f"sources {empty} are empty")

    def _global_batches(self, generator: torch.Generator) -> Iterator[list[int]]:
        decks = [_Deck(source, generator, self.shuffle) for source in self.sources]
        while True:
            # Blocks whose sizes divide by the ranks: each takes its exact share of each source.
            yield [
                deck.draw()
                for deck, count in zip(decks, self.samples_per_source, strict=True)
                for _ in range(count * self.world_size)
            ]
