"""A list of plain objects that processes share."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch


class SharedArray(np.ndarray):
    """An array that several processes read from one place.

    A forked process shares its memory anyway, since nothing writes to it. A spawned one gets a
    handle on shared memory, where the array moves when it is first sent; plain pickling copies.
    """

    _tensor: torch.Tensor | None = None


def _rebuild(tensor: torch.Tensor) -> SharedArray:
    array = tensor.numpy().view(SharedArray)
    array._tensor = tensor
    return array


def _reduce(array: SharedArray) -> tuple[Any, ...]:
    if array._tensor is None:
        array._tensor = torch.from_numpy(np.array(array)).share_memory_()
    return _rebuild, (array._tensor,)


# Only what multiprocessing sends to other processes goes through this pickler.
ForkingPickler.register(SharedArray, _reduce)


def serialize(items: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the items pickled into one block of bytes, and where each of them ends.

    Python objects are copied into each worker process bit by bit, since reading one writes its
    reference count. Bytes are not.

    Args:
        items: The items; each is pickled by itself.

    Returns:
        The bytes, uint8 of shape ``(bytes,)``, and the ends, int64 of shape ``(items,)``.
    """
    # One buffer that grows, so that no list of a million bytes objects is in memory.
    buffer = bytearray()
    ends = np.empty(len(items), dtype=np.int64)
    for number, item in enumerate(items):
        buffer += pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
        ends[number] = len(buffer)
    return np.frombuffer(buffer, dtype=np.uint8).view(SharedArray), ends.view(SharedArray)


def deserialize(data: np.ndarray, ends: np.ndarray, position: int) -> Any:
    """Return a new copy of the item at a position in ``[0, len(ends))`` of :func:`serialize`."""
    start = ends[position - 1] if position else 0
    # Bytes of this process or its parent, never of a file.
    return pickle.loads(data[start : ends[position]].data)  # noqa: S301


def select(
    data: np.ndarray, ends: np.ndarray, positions: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what :func:`serialize` would of the items at these positions, in this order."""
    starts = np.concatenate([[0], ends]).astype(np.int64)
    chosen = np.asarray(positions, dtype=np.int64)
    sizes = starts[chosen + 1] - starts[chosen]
    parts = [np.asarray(data[starts[p] : starts[p + 1]]) for p in chosen]
    chosen_data = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)
    return chosen_data.view(SharedArray), np.cumsum(sizes, dtype=np.int64).view(SharedArray)
