"""Collate functions and the seeding of worker processes."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils.collate import default_collate as torch_default_collate

from mmx.registry import FUNCTIONS
from mmx.structures import BaseDataElement

# Functions that build a batch are looked up among all functions, as in MMEngine.
COLLATE_FUNCTIONS = FUNCTIONS


def worker_init_fn(
    worker_id: int,
    num_workers: int,
    rank: int,
    seed: int,
    disable_subprocess_warning: bool = False,
) -> None:
    """Seed the random generators of Python, NumPy and torch in a worker of a data loader.

    Args:
        worker_id: Number of the worker, from 0.
        num_workers: Workers of one data loader.
        rank: Number of the process that owns the data loader.
        seed: Seed of the run. Worker w of rank r takes ``num_workers * r + w + seed``.
        disable_subprocess_warning: Silence all warnings in workers but those of worker 0.
    """
    worker_seed = num_workers * rank + worker_id + seed
    # NumPy takes 32 bits.
    np.random.seed(worker_seed % 2**32)
    random.seed(worker_seed)
    torch.manual_seed(worker_seed)
    if disable_subprocess_warning and worker_id != 0:
        warnings.simplefilter("ignore")


def _check_equal_sizes(samples: Sequence[Sequence[Any]]) -> None:
    size = len(samples[0])
    for number, sample in enumerate(samples):
        if len(sample) != size:
            # RuntimeError is what torch and MMEngine raise.
            raise RuntimeError(
                f"each item of a batch should be of equal size: item 0 has {size} parts, item {number} "
                f"has {len(sample)}; write a collate_fn of your own if the parts are not to be put together"
            )


def _is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _like(original: Any, parts: Any) -> Any:
    """Return ``parts`` in the container type of ``original``, as a plain one where that fails."""
    try:
        return type(original)(parts)
    except TypeError:
        # The type cannot be made of one argument, range for example.
        return parts


@FUNCTIONS.register_module()
def pseudo_collate(data_batch: Sequence[Any]) -> Any:
    """Put the samples of a batch together without touching tensors.

    Containers of samples become a container of lists: a list of dicts gives a dict of lists, a
    list of tuples a list of lists. Leaves (tensors, arrays, numbers, strings, data elements) are
    not stacked, moved or converted.

    Args:
        data_batch: Samples of a batch, all of the same structure.

    Raises:
        RuntimeError: Sequences of different lengths are to be put together.
    """
    first = data_batch[0]
    if isinstance(first, (str, bytes)):
        return data_batch
    if _is_namedtuple(first):
        parts = zip(*data_batch, strict=True)
        return type(first)(*(pseudo_collate(part) for part in parts))
    if isinstance(first, Sequence):
        _check_equal_sizes(data_batch)
        transposed = list(zip(*data_batch, strict=True))
        # Tuples give a list, as in torch.
        if isinstance(first, tuple):
            return [pseudo_collate(part) for part in transposed]
        return _like(first, [pseudo_collate(part) for part in transposed])
    if isinstance(first, Mapping):
        return _like(first, {key: pseudo_collate([s[key] for s in data_batch]) for key in first})
    return data_batch


@FUNCTIONS.register_module()
def default_collate(data_batch: Sequence[Any]) -> Any:
    """Put the samples of a batch together and stack their tensors along a new first axis.

    As ``torch.utils.data.default_collate``, with one difference: data elements stay a list.

    Args:
        data_batch: Samples of a batch, all of the same structure. Tensors and arrays of equal
            shape; numbers become a tensor ``(N,)``.

    Returns:
        The structure of one sample, with a batch at each leaf.

    Raises:
        RuntimeError: Tensors or sequences of different sizes are to be put together.
        TypeError: A leaf is of a type that torch cannot collate.
    """
    first = data_batch[0]
    if isinstance(first, torch.Tensor):
        return torch_default_collate(data_batch)
    if isinstance(first, (BaseDataElement, str, bytes)):
        return data_batch
    if _is_namedtuple(first):
        parts = zip(*data_batch, strict=True)
        return type(first)(*(default_collate(part) for part in parts))
    if isinstance(first, Sequence):
        _check_equal_sizes(data_batch)
        transposed = list(zip(*data_batch, strict=True))
        if isinstance(first, tuple):
            return [default_collate(part) for part in transposed]
        return _like(first, [default_collate(part) for part in transposed])
    if isinstance(first, Mapping):
        return _like(first, {key: default_collate([s[key] for s in data_batch]) for key in first})
    return torch_default_collate(list(data_batch) if isinstance(data_batch, tuple) else data_batch)
