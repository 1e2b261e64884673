"""Collectives of tensors, of nested tensors and of Python objects.

Without distribution each function returns what it would with a single process. Objects are pickled
and unpickled only between the processes of one group, which run the same code.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Generator, Iterable
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as torch_dist
from torch._utils import (
    _flatten_dense_tensors,
    _take_tensors,
    _unflatten_dense_tensors,
)
from torch.distributed import ProcessGroup

from mmx.dist.objects import all_gather_objects, broadcast_objects, gather_objects
from mmx.dist.utils import (
    cast_data_device,
    get_comm_device,
    get_data_device,
    get_default_group,
    get_model_parallel_size,
    get_object_group,
    get_world_size,
)
from mmx.utils.errors import InvalidTypeError, InvalidValueError

_OPERATIONS = {
    "sum": torch_dist.ReduceOp.SUM,
    "product": torch_dist.ReduceOp.PRODUCT,
    "min": torch_dist.ReduceOp.MIN,
    "max": torch_dist.ReduceOp.MAX,
    "band": torch_dist.ReduceOp.BAND,
    "bor": torch_dist.ReduceOp.BOR,
    "bxor": torch_dist.ReduceOp.BXOR,
}


def _get_reduce_op(name: str) -> Any:
    try:
        return _OPERATIONS[name.lower()]
    except KeyError:
        raise ValueError(
            f"reduce op should be one of {', '.join(_OPERATIONS)}, but got {name}"
        ) from None


def _on_comm_device(data: Any, group: ProcessGroup | None) -> Tensor:
    """Return a tensor as collectives take it.

    Raises:
        TypeError: It is no tensor.
    """
    if not isinstance(data, Tensor):
        raise InvalidTypeError(
            f"data should be a Tensor, but got {type(data)}: all_reduce_dict and all_reduce_params take several, "
            "the functions of objects anything"
        )
    moved: Tensor = cast_data_device(data, get_comm_device(group)).contiguous()
    return moved


@torch.no_grad()
def all_reduce(data: Tensor, op: str = "sum", group: ProcessGroup | None = None) -> None:
    """Reduce a tensor over all processes, in place.

    Args:
        data: Tensor, changed in place.
        op: ``'sum'``, ``'mean'``, ``'product'``, ``'min'``, ``'max'``, ``'band'``, ``'bor'`` or ``'bxor'``.
        group: Process group; all processes by default.
    """
    world_size = get_world_size(group)
    if world_size == 1:
        return
    group = group if group is not None else get_default_group()
    moved = _on_comm_device(data, group)
    if op.lower() == "mean":
        torch_dist.all_reduce(moved, _get_reduce_op("sum"), group)
        # Integers have no mean of their own type: as MMEngine, cut off what is behind the point, but
        # exact for large ones, too.
        is_integer = not (moved.is_floating_point() or moved.is_complex())
        rounding = "trunc" if is_integer and moved.dtype != torch.bool else None
        moved = torch.div(moved, world_size, rounding_mode=rounding)
    else:
        torch_dist.all_reduce(moved, _get_reduce_op(op), group)
    cast_data_device(moved, get_data_device(data), out=data)


def all_gather(data: Tensor, group: ProcessGroup | None = None) -> list[Tensor]:
    """Return the tensors of all processes, in the order of ranks.

    Args:
        data: Tensor of this process; shapes and dtypes must be equal.
        group: Process group; all processes by default.
    """
    world_size = get_world_size(group)
    if world_size == 1:
        return [data]
    group = group if group is not None else get_default_group()
    moved = _on_comm_device(data, group)
    gathered = [torch.empty_like(moved) for _ in range(world_size)]
    torch_dist.all_gather(gathered, moved, group)
    result: list[Tensor] = cast_data_device(gathered, get_data_device(data))
    return result


def gather(data: Tensor, dst: int = 0, group: ProcessGroup | None = None) -> list[Tensor]:
    """Return the tensors of all processes on rank ``dst``; an empty list on the others.

    Args:
        data: Tensor of this process; shapes and dtypes must be equal.
        dst: Rank (of all processes) that receives.
        group: Process group; all processes by default.
    """
    world_size = get_world_size(group)
    if world_size == 1:
        return [data]
    group = group if group is not None else get_default_group()
    moved = _on_comm_device(data, group)
    here = torch_dist.get_rank() == dst
    gathered = [torch.empty_like(moved) for _ in range(world_size)] if here else []
    torch_dist.gather(moved, gathered if here else None, dst, group)
    result: list[Tensor] = cast_data_device(gathered, get_data_device(data)) if here else []
    return result


@torch.no_grad()
def broadcast(data: Tensor, src: int = 0, group: ProcessGroup | None = None) -> None:
    """Copy the tensor of rank ``src`` into that of every other process, in place.

    Args:
        data: Tensor; shapes and dtypes must be equal.
        src: Rank (of all processes) that sends.
        group: Process group; all processes by default.
    """
    if get_world_size(group) == 1:
        return
    group = group if group is not None else get_default_group()
    moved = _on_comm_device(data, group)
    torch_dist.broadcast(moved, src, group)
    if torch_dist.get_rank() != src:
        cast_data_device(moved, get_data_device(data), out=data)


def sync_random_seed(group: ProcessGroup | None = None) -> int:
    """Return one random seed, the same on every process of a group: that of its first."""
    # From NumPy's global state, as MMEngine: who seeds it gets the same run again.
    seed = int(np.random.randint(2**31))
    if get_world_size(group) == 1:
        return seed
    told = torch.tensor(seed, dtype=torch.int64)
    # Of a group of some processes, number 0 of all may be no member.
    group = group if group is not None else get_default_group()
    assert group is not None
    broadcast(told, torch_dist.get_global_rank(group, 0), group)
    return int(told.item())


def broadcast_object_list(data: list[Any], src: int = 0, group: ProcessGroup | None = None) -> None:
    """Replace the objects in a list by those of rank ``src``, in place. Lengths must be equal.

    Args:
        data: Picklable objects; on the other ranks anything, such as None.
        src: Rank (of all processes) that sends.
        group: Process group; by default a CPU group of all processes with a long timeout.

    Raises:
        TypeError: ``data`` is no list.
        ValueError: The lists have different lengths.
        CollectiveError: Rank ``src`` cannot pickle its objects; it raises the original error.
    """
    if not isinstance(data, list):
        raise InvalidTypeError(f"data must be a list of objects, but got {type(data)}")
    if get_world_size(group) == 1:
        return
    group = group if group is not None else get_object_group()
    assert group is not None
    received = broadcast_objects(data, torch_dist.get_group_rank(group, src), group)
    if len(received) != len(data):
        raise ValueError(
            f"rank {src} sends a list of {len(received)} objects, but this rank gave one of {len(data)}"
        )
    data[:] = received


def all_reduce_dict(
    data: dict[str, Tensor], op: str = "sum", group: ProcessGroup | None = None
) -> None:
    """Reduce each tensor of a dict over all processes, in one collective for each dtype.

    Args:
        data: Tensors by name, replaced by the results. Names and shapes must be equal on all
            processes, which may hold them in another order; the tensors must be on one device.
            The mean of integers beside floating-point tensors is floating-point.
        op: As for :func:`all_reduce`.
        group: Process group.

    Raises:
        TypeError: ``data`` is no dict.
    """
    if not isinstance(data, dict):
        raise InvalidTypeError(f"data must be a dict of tensors, but got {type(data)}")
    if get_world_size(group) == 1 or not data:
        return
    # Sorted: the order of insertion may differ between processes.
    by_dtype: dict[torch.dtype, list[str]] = {}
    common = functools.reduce(torch.promote_types, (value.dtype for value in data.values()))
    for key in sorted(data):
        is_integer = not (data[key].is_floating_point() or data[key].is_complex())
        if is_integer and common.is_floating_point and op.lower() == "mean":
            data[key] = data[key].to(common)
        by_dtype.setdefault(data[key].dtype, []).append(key)
    for keys in by_dtype.values():
        tensors = [data[key].detach() for key in keys]
        flat = _flatten_dense_tensors(tensors)
        all_reduce(flat, op=op, group=group)
        for key, value in zip(keys, _unflatten_dense_tensors(flat, tensors), strict=True):
            # A new tensor: one that belongs to a graph must not change under it.
            data[key] = value.clone()


def all_gather_object(data: Any, group: ProcessGroup | None = None) -> list[Any]:
    """Return the picklable objects of all processes, in the order of ranks.

    Args:
        data: Object of this process; it comes back as it is, the others' as copies.
        group: Process group; by default a CPU group of all processes with a long timeout.

    Raises:
        CollectiveError: Another rank cannot pickle its object; it raises the original error.
    """
    if get_world_size(group) == 1:
        return [data]
    group = group if group is not None else get_object_group()
    assert group is not None
    return all_gather_objects(data, group)


def gather_object(data: Any, dst: int = 0, group: ProcessGroup | None = None) -> list[Any] | None:
    """Return the picklable objects of all processes on rank ``dst``; None on the others.

    Args:
        data: Object of this process.
        dst: Rank (of all processes) that receives.
        group: Process group; by default a CPU group of all processes with a long timeout.

    Raises:
        CollectiveError: Another rank cannot pickle its object; it raises the original error.
    """
    if get_world_size(group) == 1:
        return [data]
    group = group if group is not None else get_object_group()
    assert group is not None
    return gather_objects(data, torch_dist.get_group_rank(group, dst), group)


def collect_results(
    results: list[Any], size: int, device: str = "cpu", tmpdir: str | None = None
) -> list[Any] | None:
    """Gather the results of all processes on process 0, in the order of the data set.

    Process r holds the results of samples r, r + world size, …, as :class:`DefaultSampler` deals
    them. What it repeated to make all shares equal is cut off. Rows that are alike (dicts of the
    same keys) travel as columns; rows of other processes come back as copies.

    Args:
        results: Picklable results of this process.
        size: Length of the data set.
        device: ``'cpu'``, or ``'gpu'`` or a kind of accelerator: there the bytes travel through
            the accelerator's group and its memory.
        tmpdir: Not needed: MMEngine exchanges files there; here nothing is written.

    Returns:
        All results on process 0, None on the others.

    Raises:
        NotImplementedError: ``device`` is no device.
        ValueError: ``tmpdir`` is given with another device than the CPU.
        CollectiveError: Another rank cannot pickle its results; it raises the original error.
    """
    if device not in _RESULT_DEVICES:
        raise NotImplementedError(
            f"device must be one of {', '.join(_RESULT_DEVICES)}, but got {device!r}"
        )
    if tmpdir is not None and device != "cpu":
        raise InvalidValueError("tmpdir should be None when device is gpu")
    if get_world_size() == 1:
        return results[:size]
    group = get_object_group() if device == "cpu" else get_default_group()
    parts = gather_object(results, 0, group)
    if parts is None:
        return None
    parts = parts[:: get_model_parallel_size()]
    if len({len(part) for part in parts}) == 1:
        ordered: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            ordered[rank :: len(parts)] = part
    else:
        ordered = [
            row
            for turn in zip_longest(*parts, fillvalue=_ABSENT)
            for row in turn
            if row is not _ABSENT
        ]
    return ordered[:size]


_RESULT_DEVICES = ("cpu", "gpu", "cuda", "npu", "mlu", "musa", "xpu", "mps")
_ABSENT = object()


def collect_results_cpu(
    result_part: list[Any], size: int, tmpdir: str | None = None
) -> list[Any] | None:
    """Gather results through the CPU group. See :func:`collect_results`."""
    return collect_results(result_part, size, "cpu", tmpdir)


def collect_results_gpu(result_part: list[Any], size: int) -> list[Any] | None:
    """Gather results through the accelerator's group. See :func:`collect_results`."""
    return collect_results(result_part, size, "gpu")


def _all_reduce_coalesced(
    tensors: list[Tensor],
    bucket_size_mb: int = -1,
    op: str = "sum",
    group: ProcessGroup | None = None,
) -> None:
    if bucket_size_mb > 0:
        buckets: Iterable[list[Tensor]] = _take_tensors(tensors, bucket_size_mb * 1024 * 1024)
    else:
        by_type: OrderedDict[str, list[Tensor]] = OrderedDict()
        for tensor in tensors:
            by_type.setdefault(tensor.type(), []).append(tensor)
        buckets = by_type.values()
    for bucket in buckets:
        flat = _flatten_dense_tensors(bucket)
        all_reduce(flat, op=op, group=group)
        for tensor, synced in zip(bucket, _unflatten_dense_tensors(flat, bucket), strict=True):
            tensor.copy_(synced)


def all_reduce_params(
    params: list[Tensor] | Generator[Tensor, None, None],
    coalesce: bool = True,
    bucket_size_mb: int = -1,
    op: str = "sum",
    group: ProcessGroup | None = None,
) -> None:
    """Reduce parameters or buffers over all processes, in place.

    Args:
        params: Tensors.
        coalesce: Join them into buckets, one collective each.
        bucket_size_mb: Greatest size of a bucket in MiB; -1 is one for each type.
        op: As for :func:`all_reduce`.
        group: Process group.
    """
    if get_world_size(group) == 1:
        return
    data = [param.data for param in chain(params)]
    if coalesce:
        _all_reduce_coalesced(data, bucket_size_mb, op=op, group=group)
    else:
        for tensor in data:
            all_reduce(tensor, op=op, group=group)
