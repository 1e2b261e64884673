"""Iteration over a data loader from any position, with random numbers that depend on it alone."""

from __future__ import annotations

import hashlib
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch._C import _remove_worker_pids
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    IterDataPipe,
    MapDataPipe,
    get_worker_info,
)
from torch.utils.data.dataloader import (
    _BaseDataLoaderIter,
    _MultiProcessingDataLoaderIter,
    _SingleProcessDataLoaderIter,
)

from mmx.dist import data_share, get_rank, get_world_size

STATE_VERSION = 1

# Attributes that this module keeps on loaders and on torch's iterators.
_RESTORED = "_mmx_restored"
_PASS_GENERATORS = "_mmx_pass_generators"

# Seconds between looks whether the workers live while a batch is waited for.
POLL_S = 1.0

# Seed, epoch, rank and number of the batch in its epoch.
Key = tuple[int, int, int, int]


_SIGNALS: dict[int, str] = {
    signal.SIGKILL: ", SIGKILL: is memory short?",
    signal.SIGBUS: ", SIGBUS: is shared memory (/dev/shm) too small?",
    signal.SIGSEGV: ", SIGSEGV: a library crashed",
}


class DataWorkerError(RuntimeError):
    """A worker process of a data loader died.

    Attributes:
        workers: Number of each dead worker -> its exit code (negative: the signal that ended it).
    """

    def __init__(self, workers: Mapping[int, int | None], pids: Mapping[int, int | None]) -> None:
        parts = []
        for number, code in workers.items():
            end = f"exited with code {code}"
            if code is not None and code < 0:
                end = f"was ended by signal {-code}{_SIGNALS.get(-code, '')}"
            parts.append(f"worker {number} (pid {pids[number]}) {end}")
        super().__init__(
            f"data loader: {', '.join(parts)} while batches were still due. num_workers=0 runs the data "
            "set in this process and shows the error itself"
        )
        self.workers = dict(workers)


# -- in the worker processes ------------------------------------------------------------------


def _reseed(*key: int) -> None:
    """Seed Python's, NumPy's and torch's generators from a key of any length."""
    digest = hashlib.blake2b(":".join(map(str, key)).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little")
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # Not torch.manual_seed: it queues a call for CUDA each time, for ever in a process that has none.
    torch.default_generator.manual_seed(seed)


class _KeyedBatch(list[Any]):
    """Indices of a batch, with the key of its random numbers; a plain list to whom ignores that."""

    key: Key


class _KeyedIndex:
    """An index without automatic batching, with the key of its random numbers."""

    def __init__(self, index: Any, key: Key) -> None:
        self.index = index
        self.key = key


class _KeyedDataset:
    """A map-style data set as the worker sees it: each batch has random numbers of its own."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: Any) -> list[Any]:
        if isinstance(indices, _KeyedBatch):
            _reseed(*indices.key)
            indices = list(indices)
        fetch = getattr(self.dataset, "__getitems__", None)
        if fetch:
            return fetch(indices)
        return [self.dataset[index] for index in indices]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, _KeyedIndex):
            _reseed(*index.key)
            index = index.index
        return self.dataset[index]


class _KeyedIterable(IterableDataset[Any]):
    """An iterable data set as the worker sees it: each pass has random numbers of its own."""

    def __init__(self, dataset: Any, rank: int) -> None:
        self.dataset = dataset
        self.rank = rank
        # Written by the main process, read by workers that live longer than an epoch:
        # whether there is a seed, the seed, the epoch.
        self.shared = torch.zeros(3, dtype=torch.int64).share_memory_()

    def __iter__(self) -> Iterator[Any]:
        keyed, seed, epoch = self.shared.tolist()
        info = get_worker_info()
        if keyed:
            _reseed(seed, epoch, self.rank, info.id if info is not None else 0)
        if info is not None:
            _set_epoch(self.dataset, epoch)
        return iter(self.dataset)


class _WorkerSetup:
    """Call the user's ``worker_init_fn`` with the user's data set in ``get_worker_info()``."""

    def __init__(self, function: Callable[[int], None] | None) -> None:
        self.function = function

    def __call__(self, worker_id: int) -> None:
        info = get_worker_info()
        if info is not None and isinstance(info.dataset, (_KeyedDataset, _KeyedIterable)):
            object.__setattr__(info, "dataset", info.dataset.dataset)
        if self.function is not None:
            self.function(worker_id)


# -- in the main process ----------------------------------------------------------------------


class _IndexPlan:
    """The index sampler of a loader, from a position on and with a key for each batch.

    What :meth:`aim` says holds for the next pass only, so that a plain ``iter(loader)`` over the
    same workers finds the loader's own order.
    """

    def __init__(self, loader: DataLoader[Any], dataset: Any) -> None:
        self.sampler: Any = loader._index_sampler
        self.batched = loader._auto_collation
        self.dataset = dataset
        self.aim(0, 0, None, 0)

    def aim(self, skip: int, epoch: int, seed: int | None, rank: int) -> None:
        self.skip = skip
        self.epoch = epoch
        self.seed = seed
        self.rank = rank
        if isinstance(self.dataset, _KeyedIterable):
            self.dataset.shared[:] = torch.tensor([seed is not None, (seed or 0) % 2**63, epoch])

    # A generator: torch calls `iter` twice and uses the second result.
    def __iter__(self) -> Iterator[Any]:
        skip, epoch, seed, rank = self.skip, self.epoch, self.seed, self.rank
        self.skip, self.seed = 0, None
        batches = _positioned(self.sampler, skip)
        if seed is None or isinstance(self.dataset, _KeyedIterable):
            yield from batches
            return
        for number, indices in enumerate(batches, start=skip):
            key = (seed, epoch, rank, number)
            if self.batched:
                batch = _KeyedBatch(indices)
                batch.key = key
                yield batch
            else:
                yield _KeyedIndex(indices, key)

    def __len__(self) -> int:
        return len(self.sampler)


class _LoaderView:
    """A data loader with some attributes replaced; torch's iterators ask for no more."""

    def __init__(self, loader: DataLoader[Any], **replaced: Any) -> None:
        self.__dict__.update(replaced)
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Workers(_MultiProcessingDataLoaderIter):
    """Torch's iterator over the batches of worker processes; a dead worker is named, and ends all.

    Torch lets the death of a worker raise wherever the main process is, in the middle of a training
    step for example. Here it raises where the next batch is asked for.
    """

    def __init__(self, loader: Any, plan: _IndexPlan) -> None:
        self.plan = plan
        super().__init__(loader)
        # Out of the set whose members' deaths raise.
        _remove_worker_pids(id(self))
        self._worker_pids_set = False

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except (RuntimeError, OSError, EOFError) as error:
            dead = self._dead_workers(error)
            if not dead:
                raise
            self._shutdown_workers()
            raise DataWorkerError(
                {number: process.exitcode for number, process in dead.items()},
                {number: process.pid for number, process in dead.items()},
            ) from error

    def _try_get_data(self, timeout: float = POLL_S) -> Any:
        return super()._try_get_data(timeout)

    def _dead_workers(self, error: Exception) -> dict[int, Any]:
        # An error of the data set begins so; its worker lives.
        from_dataset = str(error).startswith("Caught ")
        # The connection to a worker breaks some moments before it has an exit code.
        deadline = time.monotonic() + (0 if from_dataset else POLL_S)
        # A worker of an iterable data set ends with code 0 when it has no more.
        unexpected = "exited unexpectedly" in str(error)
        while True:
            dead = {
                number: process
                for number, process in enumerate(self._workers)
                if process.exitcode
                or (process.exitcode == 0 and (unexpected or self._workers_status[number]))
            }
            if dead or time.monotonic() > deadline:
                return dead
            time.sleep(0.02)


def _set_epoch(target: Any, epoch: int) -> None:
    set_epoch = getattr(target, "set_epoch", None)
    if callable(set_epoch):
        set_epoch(epoch)


def _samplers(loader: Any) -> list[Any]:
    """Return the sampler objects of a loader, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    found: list[Any] = []
    for sampler in (
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    ):
        if sampler is not None and not any(sampler is other for other in found):
            found.append(sampler)
    return found


def _generators(loader: Any) -> list[torch.Generator]:
    """Return the random generators that a loader and its samplers own, each once."""
    found: list[torch.Generator] = []
    for owner in (loader, *_samplers(loader)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and not any(generator is g for g in found):
            found.append(generator)
    return found


def _positioned(sampler: Any, skip: int) -> Iterator[Any]:
    """Return an iterator over what an index sampler yields after its first ``skip`` items."""
    if type(sampler) is BatchSampler:
        inner: Any = sampler.sampler
        size = sampler.batch_size
    else:
        inner, size = sampler, 1
    if getattr(type(inner).__iter__, "honours_start", False):
        # A position that was loaded or left over must go, too: the caller's counts.
        if skip or inner._start:
            inner.start_at(skip * size)
        return iter(sampler)
    batches = iter(sampler)
    for _ in range(skip):
        if next(batches, batches) is batches:
            break
    return batches


def _is_plain(loader: Any) -> bool:
    """Whether a loader iterates the way torch's does, so that its parts can be used."""
    return (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and type(loader)._get_iterator is DataLoader._get_iterator
        and not isinstance(loader.dataset, (IterDataPipe, MapDataPipe))
    )


def iterate_from(
    dataloader: Any,
    *,
    epoch: int,
    skip_batches: int = 0,
    seed: int | None = None,
) -> Iterator[Any]:
    """Return an iterator over the batches of one pass, beginning after ``skip_batches`` of them.

    ``set_epoch(epoch)`` is called on the samplers, and on an iterable data set, that have it.

    - Skipped samples of a map-style data set are not read: the position is moved in the sampler.
      Iterable data sets and loaders of other kinds are read and thrown away.
    - With worker processes and a ``seed``, Python's, NumPy's and torch's random numbers in the data
      set and the collate function depend on (seed, epoch, rank, batch number) alone: not on the
      number of workers nor on what was read before. In an iterable data set, they depend on (seed,
      epoch, rank, worker). Without worker processes, the random state of this process is used.
    - ``skip_batches > 0`` leaves the random state of this process as it is. A sampler that draws
      its order from it (torch's ``RandomSampler`` without a generator) draws the order before this
      function returns, so the caller sets the state of the pass's beginning before the call, and the
      state of the position after it.

    Persistent workers are kept from one call to the next, and serve ``iter(dataloader)`` too.

    Args:
        dataloader: A data loader of torch, a subclass, or any iterable of batches.
        epoch: Number of the pass, from 0.
        skip_batches: Batches to leave out.
        seed: Seed of the run.

    Raises:
        ValueError: ``skip_batches`` is negative.
        DataWorkerError: On ``next``, when a worker process has died.
    """
    if skip_batches < 0:
        raise ValueError(f"skip_batches must not be negative, got {skip_batches}")
    for sampler in _samplers(dataloader):
        _set_epoch(sampler, epoch)
    _set_epoch(dataloader, epoch)
    if isinstance(getattr(dataloader, "dataset", None), IterableDataset):
        _set_epoch(dataloader.dataset, epoch)
    restored = _apply_restored(dataloader, skip_batches)
    if restored:
        # The loader stands at the position by itself.
        skip_batches = 0
    if not skip_batches:
        return _begin(dataloader, epoch, 0, seed)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        return _begin(dataloader, epoch, skip_batches, seed)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _begin(loader: Any, epoch: int, skip: int, seed: int | None) -> Iterator[Any]:
    if not _is_plain(loader):
        return _discard(iter(loader), skip)
    generators = [generator.get_state() for generator in _generators(loader)]
    # Kept for dataloader_state: an order that was drawn from them is drawn again on resuming.
    setattr(loader, _PASS_GENERATORS, generators)
    iterable = isinstance(loader.dataset, IterableDataset)
    if loader.num_workers == 0:
        if iterable:
            return _discard(iter(loader), skip)
        if skip == 0:
            _positioned(loader._index_sampler, 0)
            return iter(loader)
        return _begin_here(loader, skip)
    batches = _begin_in_workers(loader, epoch, 0 if iterable else skip, seed)
    return _discard(batches, skip) if iterable else batches


def _begin_here(loader: DataLoader[Any], skip: int) -> Iterator[Any]:
    plan = _IndexPlan(loader, loader.dataset)
    plan.aim(skip, 0, None, 0)
    batches: _BaseDataLoaderIter = _SingleProcessDataLoaderIter(
        _LoaderView(loader, _index_sampler=plan)
    )
    # A sampler draws its order when the first index is taken: take it now, see iterate_from.
    indices: Iterator[Any] = batches._sampler_iter
    first = next(indices, indices)
    batches._sampler_iter = iter(()) if first is indices else _chain(first, indices)
    return batches


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _begin_in_workers(
    loader: DataLoader[Any], epoch: int, skip: int, seed: int | None
) -> Iterator[Any]:
    rank, _ = data_share(get_rank(), get_world_size())
    batches: Any = loader._iterator if loader.persistent_workers else None
    if isinstance(batches, _Workers) and not batches._shutdown:
        batches.plan.aim(skip, epoch, seed, rank)
        # New workers would have drawn their base seed here: a resumed run, whose workers are new,
        # must find the random state of this process as the uninterrupted run does.
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        batches._reset(loader)
        return batches
    if batches is not None:
        # Workers that know no keys, of a plain iter(loader), or dead ones.
        batches._shutdown_workers()
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        dataset = _KeyedIterable(dataset, rank)
    else:
        dataset = _KeyedDataset(dataset)
    plan = _IndexPlan(loader, dataset)
    plan.aim(skip, epoch, seed, rank)
    view: Any = _LoaderView(
        loader,
        dataset=dataset,
        _index_sampler=plan,
        worker_init_fn=_WorkerSetup(loader.worker_init_fn),
    )
    loader.check_worker_number_rationality()
    batches = _Workers(view, plan)
    if loader.persistent_workers:
        loader._iterator = batches
    return batches


def _discard(batches: Iterator[Any], count: int) -> Iterator[Any]:
    for _ in range(count):
        if next(batches, batches) is batches:
            break
    return batches


# -- state ------------------------------------------------------------------------------------


def dataloader_state(dataloader: Any) -> dict[str, Any]:
    """Return what a checkpoint must keep of a data loader besides the number of batches taken.

    That is the ``state_dict`` of a loader that has one, and the states of random generators that
    the loader and its samplers own.
    """
    state: dict[str, Any] = {"version": STATE_VERSION}
    if hasattr(dataloader, "state_dict"):
        state["loader"] = dataloader.state_dict()
        return state
    generators = _generators(dataloader)
    if generators:
        now = [generator.get_state() for generator in generators]
        state["generators"] = now
        state["pass_generators"] = getattr(dataloader, _PASS_GENERATORS, now)
    return state


def load_dataloader_state(dataloader: Any, state: Mapping[str, Any]) -> None:
    """Restore what :func:`dataloader_state` returned; the next :func:`iterate_from` honours it.

    A loader with a ``state_dict`` of its own then stands at its position: that call skips nothing.

    Raises:
        ValueError: The state was written by a newer version, or is of a loader with another number
            of random generators.
    """
    version = state.get("version", STATE_VERSION)
    if version > STATE_VERSION:
        raise ValueError(
            f"the data loader's state has version {version}; this mmx knows {STATE_VERSION} at most: "
            "update mmx"
        )
    if "loader" in state and hasattr(dataloader, "load_state_dict"):
        dataloader.load_state_dict(state["loader"])
    elif "generators" in state and len(state["generators"]) != len(_generators(dataloader)):
        raise ValueError(
            f"the saved state is of a data loader with {len(state['generators'])} random generators, "
            f"this one has {len(_generators(dataloader))}: build it as it was"
        )
    setattr(dataloader, _RESTORED, dict(state))


def _apply_restored(loader: Any, skip: int) -> bool:
    """Apply a loaded state, once; return whether the loader itself moves to the position."""
    state = getattr(loader, _RESTORED, None)
    if state is None:
        return False
    setattr(loader, _RESTORED, None)
    if "loader" in state:
        return hasattr(loader, "load_state_dict")
    if "generators" not in state:
        return False
    # In the middle of a pass its order is drawn again; at its end the next one is drawn.
    saved = state["pass_generators" if skip else "generators"]
    for generator, generator_state in zip(_generators(loader), saved, strict=True):
        generator.set_state(generator_state)
    return False
