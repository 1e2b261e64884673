"""Collectives of tensors, of nested tensors and of Python objects.

Without distribution each function returns what it would with a single process. Objects are pickled
and unpickled only between the processes of one group, which run the same code.
"""

from __future__ import annotations

import pickle
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

from mmx.dist.utils import (
    cast_data_device,
    get_comm_device,
    get_data_device,
    get_default_group,
    get_object_group,
    get_rank,
    get_world_size,
)

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
    moved = cast_data_device(data, get_comm_device(group))
    if op.lower() == "mean":
        torch_dist.all_reduce(moved, _get_reduce_op("sum"), group)
        # Integers have no mean of their own type: as MMEngine, divide and round down.
        moved = (
            torch.true_divide(moved, world_size)
            if moved.is_floating_point()
            else moved // world_size
        )
    else:
        torch_dist.all_reduce(moved, _get_reduce_op(op), group)
    cast_data_device(moved, get_data_device(data), out=data)


def all_gather(data: Tensor, group: ProcessGroup | None = None) -> list[Tensor]:
    """Return the tensors of all processes, in the order of ranks; shapes must be equal."""
    world_size = get_world_size(group)
    if world_size == 1:
        return [data]
    group = group if group is not None else get_default_group()
    moved = cast_data_device(data, get_comm_device(group)).contiguous()
    gathered = [torch.empty_like(moved) for _ in range(world_size)]
    torch_dist.all_gather(gathered, moved, group)
    result: list[Tensor] = cast_data_device(gathered, get_data_device(data))
    return result


def gather(data: Tensor, dst: int = 0, group: ProcessGroup | None = None) -> list[Tensor]:
    """Return the tensors of all processes on rank ``dst``; an empty list on the others."""
    world_size = get_world_size(group)
    if world_size == 1:
        return [data]
    group = group if group is not None else get_default_group()
    moved = cast_data_device(data, get_comm_device(group)).contiguous()
    here = get_rank(group) == dst
    gathered = [torch.empty_like(moved) for _ in range(world_size)] if here else []
    torch_dist.gather(moved, gathered if here else None, dst, group)
    result: list[Tensor] = cast_data_device(gathered, get_data_device(data)) if here else []
    return result


def broadcast(data: Tensor, src: int = 0, group: ProcessGroup | None = None) -> None:
    """Copy the tensor of rank ``src`` into that of every other process, in place."""
    if get_world_size(group) == 1:
        return
    group = group if group is not None else get_default_group()
    moved = cast_data_device(data, get_comm_device(group)).contiguous()
    torch_dist.broadcast(moved, src, group)
    if get_rank(group) != src:
        cast_data_device(moved, get_data_device(data), out=data)


def sync_random_seed(group: ProcessGroup | None = None) -> int:
    """Return one random seed, the same on every process."""
    seed = int(np.random.default_rng().integers(2**31))
    if get_world_size(group) == 1:
        return seed
    told = torch.tensor(seed, dtype=torch.int64)
    broadcast(told, 0, group)
    return int(told.item())


def broadcast_object_list(data: list[Any], src: int = 0, group: ProcessGroup | None = None) -> None:
    """Replace the objects in a list by those of rank ``src``, in place. Lengths must be equal.

    Raises:
        TypeError: ``data`` is no list.
    """
    if not isinstance(data, list):
        raise TypeError(f"data must be a list of objects, got {type(data).__name__}")
    if get_world_size(group) == 1:
        return
    torch_dist.broadcast_object_list(data, src, group if group is not None else get_object_group())


def all_reduce_dict(
    data: dict[str, Tensor], op: str = "sum", group: ProcessGroup | None = None
) -> None:
    """Reduce each tensor of a dict over all processes, in place, in one collective.

    Args:
        data: Tensors of one dtype by name; the names must be equal on all processes.
        op: As for :func:`all_reduce`; only ``'sum'`` and ``'mean'`` make sense.
        group: Process group.

    Raises:
        TypeError: ``data`` is no dict.
    """
    if not isinstance(data, dict):
        raise TypeError(f"data must be a dict of tensors, got {type(data).__name__}")
    if get_world_size(group) == 1:
        return
    # Sorted: the order of insertion may differ between processes.
    keys = sorted(data)
    device = get_data_device(data)
    flat = _flatten_dense_tensors([data[key] for key in keys]).to(get_comm_device(group))
    all_reduce(flat, op=op, group=group)
    for key, value in zip(
        keys, _unflatten_dense_tensors(flat, [data[k] for k in keys]), strict=True
    ):
        data[key].copy_(value.to(device))


def all_gather_object(data: Any, group: ProcessGroup | None = None) -> list[Any]:
    """Return the picklable objects of all processes, in the order of ranks."""
    world_size = get_world_size(group)
    if world_size == 1:
        return [data]
    gathered: list[Any] = [None] * world_size
    torch_dist.all_gather_object(gathered, data, group if group is not None else get_object_group())
    return gathered


def gather_object(data: Any, dst: int = 0, group: ProcessGroup | None = None) -> list[Any] | None:
    """Return the picklable objects of all processes on rank ``dst``; None on the others."""
    world_size = get_world_size(group)
    if world_size == 1:
        return [data]
    group = group if group is not None else get_object_group()
    gathered: list[Any] | None = [None] * world_size if get_rank(group) == dst else None
    torch_dist.gather_object(data, gathered, dst, group)
    return gathered


def collect_results(
    results: list[Any], size: int, device: str = "cpu", tmpdir: str | None = None
) -> list[Any] | None:
    """Gather the results of all processes on process 0, in the order of the data set.

    Process r holds the results of samples r, r + world size, …, as :class:`DefaultSampler` deals
    them. What it repeated to make all shares equal is cut off.

    Args:
        results: Picklable results of this process.
        size: Length of the data set.
        device: ``'cpu'``, or the accelerator: there the bytes travel as its tensors.
        tmpdir: Not used: nothing is written to a shared file system.

    Returns:
        All results on process 0, None on the others.

    Raises:
        NotImplementedError: ``device`` is no device.
    """
    if device not in ("cpu", "gpu", "cuda", "npu", "mlu", "musa", "xpu", "mps"):
        raise NotImplementedError(
            f"device must be 'cpu' or an accelerator's name, but got {device}"
        )
    world_size = get_world_size()
    if world_size == 1:
        return results[:size]
    packed = _Packed(results)
    group = get_object_group() if device == "cpu" else get_default_group()
    parts = gather_object(packed, 0, group)
    if parts is None:
        return None
    rows = [part.unpack() for part in parts]
    ordered = [
        row for turn in zip_longest(*rows, fillvalue=_ABSENT) for row in turn if row is not _ABSENT
    ]
    return ordered[:size]


_ABSENT = object()


def collect_results_cpu(
    result_part: list[Any], size: int, tmpdir: str | None = None
) -> list[Any] | None:
    """Gather results through the CPU group. See :func:`collect_results`."""
    return collect_results(result_part, size, "cpu", tmpdir)


def collect_results_gpu(result_part: list[Any], size: int) -> list[Any] | None:
    """Gather results through the accelerator's group. See :func:`collect_results`."""
    return collect_results(result_part, size, "gpu")


class _Packed:
    """Results ready to travel: many small tensors are pickled as one, which is what costs time.

    Each tensor is replaced by a place in a list of flat tensors, one for each dtype.
    """

    def __init__(self, rows: list[Any]) -> None:
        self.data, self.flat, self.shapes = self._pack(rows)

    @staticmethod
    def _pack(rows: list[Any]) -> tuple[bytes, dict[str, Tensor], list[Any]]:
        groups: dict[torch.dtype, list[Tensor]] = {}
        places: list[tuple[str, int, int, tuple[int, ...]]] = []
        offsets: dict[torch.dtype, int] = {}

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj: Any) -> int | None:
                if type(obj) is not Tensor or obj.layout is not torch.strided or obj.is_quantized:
                    return None
                flat = obj.detach().reshape(-1)
                dtype, length = obj.dtype, flat.numel()
                start = offsets.get(dtype, 0)
                groups.setdefault(dtype, []).append(flat.cpu())
                places.append((str(dtype), start, length, tuple(obj.shape)))
                offsets[dtype] = start + length
                return len(places) - 1

        import io

        buffer = io.BytesIO()
        Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(rows)
        flat = {str(dtype): torch.cat(parts) for dtype, parts in groups.items()}
        return buffer.getvalue(), flat, places

    def unpack(self) -> list[Any]:
        import io

        flat, places = self.flat, self.shapes

        class Unpickler(pickle.Unpickler):
            def persistent_load(self, pid: int) -> Tensor:
                dtype, start, length, shape = places[pid]
                return flat[dtype][start : start + length].reshape(shape)

        rows: list[Any] = Unpickler(io.BytesIO(self.data)).load()
        return rows


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
