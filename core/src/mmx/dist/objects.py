"""Collectives of Python objects: bytes of exact size, and failures that every rank learns of."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch import distributed as torch_dist
from torch.distributed import ProcessGroup

from mmx.dist.packing import pack, unpack
from mmx.dist.utils import get_comm_device

# Payloads of all ranks together up to this many bytes travel in one collective; larger ones one
# rank after the other, so that beside the objects no process holds more than two: its own, which it
# keeps until its turn, and the one that comes.
_TOGETHER = 64 << 20
# Greatest message: back ends count bytes in 32 bits.
_CHUNK = 256 << 20


class CollectiveError(RuntimeError):
    """An object collective failed on another rank, which raises the original error.

    Attributes:
        rank: The rank, within the group.
        cause: Class and text of the original error.
    """

    def __init__(self, rank: int, cause: str) -> None:
        super().__init__(
            f"a collective of Python objects failed on rank {rank} of its group: {cause}"
        )
        self.rank = rank
        self.cause = cause


def _describe(error: BaseException) -> Tensor:
    text = f"{type(error).__name__}: {error}"[:4000]
    return torch.frombuffer(bytearray(text.encode("utf-8", "replace")), dtype=torch.uint8)


def _pack(obj: Any) -> tuple[Tensor, Exception | None]:
    """Return the bytes of an object, or those of an error's text with the error."""
    try:
        return pack(obj), None
    except Exception as error:  # noqa: BLE001  # every rank has to learn of any failure
        return _describe(error), error


def _sizes(own: Tensor, error: Exception | None, group: ProcessGroup) -> list[int]:
    """Tell each other how many bytes come.

    Raises:
        CollectiveError: A rank has no bytes to send but an error; that rank raises the error.
    """
    device = get_comm_device(group)
    note = torch.tensor([own.numel(), int(error is not None)], device=device)
    notes = [torch.empty_like(note) for _ in range(torch_dist.get_world_size(group))]
    torch_dist.all_gather(notes, note, group)
    rows = torch.stack(notes).tolist()
    failed = [rank for rank, (_, bad) in enumerate(rows) if bad]
    if failed:
        _raise_failure(own, error, failed[0], rows[failed[0]][0], group)
    return [size for size, _ in rows]


def _raise_failure(
    own: Tensor, error: Exception | None, rank: int, size: int, group: ProcessGroup
) -> None:
    """Let the rank that failed tell all others why, and raise on every rank."""
    here = torch_dist.get_rank(group) == rank
    text = own.to(get_comm_device(group)) if here else _room(size, group)
    torch_dist.broadcast(text, group=group, group_src=rank)
    if error is not None:
        raise error
    raise CollectiveError(rank, _text(text))


def _text(data: Tensor) -> str:
    return bytes(data.cpu().numpy()).decode("utf-8", "replace")


def _room(size: int, group: ProcessGroup) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device=get_comm_device(group))


def _chunks(data: Tensor) -> Iterator[Tensor]:
    for start in range(0, data.numel(), _CHUNK):
        yield data[start : start + _CHUNK]


def _broadcast(data: Tensor, src: int, group: ProcessGroup) -> None:
    for chunk in _chunks(data):
        torch_dist.broadcast(chunk, group=group, group_src=src)


def _padded(own: Tensor, size: int, group: ProcessGroup) -> Tensor:
    data = _room(size, group)
    data[: own.numel()] = own.to(data.device)
    return data


def all_gather_objects(obj: Any, group: ProcessGroup) -> list[Any]:
    """Return the objects of all ranks of a group, in their order."""
    own, error = _pack(obj)
    sizes = _sizes(own, error, group)
    rank = torch_dist.get_rank(group)
    if max(sizes) * len(sizes) <= _TOGETHER:
        sent = _padded(own, max(sizes), group)
        parts = [torch.empty_like(sent) for _ in sizes]
        torch_dist.all_gather(parts, sent, group)
        return [
            obj if other == rank else unpack(part[:size].cpu())
            for other, (part, size) in enumerate(zip(parts, sizes, strict=True))
        ]
    objects = []
    for other, size in enumerate(sizes):
        data = own.to(get_comm_device(group)) if other == rank else _room(size, group)
        _broadcast(data, other, group)
        objects.append(obj if other == rank else unpack(data.cpu()))
        # No longer than needed: the next one takes as much.
        del data
        if other == rank:
            own = _NOTHING
    return objects


def gather_objects(obj: Any, dst: int, group: ProcessGroup) -> list[Any] | None:
    """Return the objects of all ranks on rank ``dst`` of a group, in their order; else None.

    ``dst`` gets its own object back as it is. Long lists, and those of large rows, travel in parts:
    one part is packed while the one before is unpacked, and only those two are in memory as bytes.
    Every rank learns of any failure.
    """
    rank = torch_dist.get_rank(group)
    objects: list[Any] | None = None
    failure: Exception | None = None
    if rank == dst:
        objects = []
        failed = (dst, _NOTHING)
        for source in range(torch_dist.get_world_size(group)):
            if source == dst:
                objects.append(obj)
                continue
            received, text, problem = _receive_object(source, group)
            objects.append(received)
            if not failed[1].numel():
                if problem is not None:
                    failure, failed = problem, (dst, _describe(problem))
                elif text.numel():
                    failed = (source, text)
        note = torch.tensor([failed[0], failed[1].numel()], device=get_comm_device(group))
    else:
        failure = _send_object(obj, dst, group)
        note = torch.zeros(2, dtype=torch.int64, device=get_comm_device(group))
    torch_dist.broadcast(note, group=group, group_src=dst)
    where, size = note.tolist()
    if size:
        text = failed[1].to(get_comm_device(group)) if rank == dst else _room(size, group)
        torch_dist.broadcast(text, group=group, group_src=dst)
        if failure is not None:
            raise failure
        raise CollectiveError(where, _text(text))
    return objects


_NOTHING = torch.empty(0, dtype=torch.uint8)
# Rows of a list that travel at a time, and about how many bytes.
_PART = 16_384
_PART_BYTES = 64 << 20
# Rows that are looked at to tell how many those are.
_SAMPLE = 8


def _parts(obj: Any) -> list[Any]:
    """Split a list into parts that travel one after the other."""
    if type(obj) is not list or len(obj) < 2:
        return [obj]
    sample = obj[:: max(4, len(obj) // _SAMPLE)]
    data, error = _pack(sample)
    size = _PART
    if error is None:
        size = min(_PART, max(1, len(sample) * _PART_BYTES // data.numel()))
    if len(obj) <= size:
        return [obj]
    return [obj[start : start + size] for start in range(0, len(obj), size)]


def _send_object(obj: Any, dst: int, group: ProcessGroup) -> Exception | None:
    """Send an object in parts, or tell why it cannot be sent and return the error."""
    parts = _parts(obj)
    under_way: list[Any] = []
    for index, part in enumerate(parts):
        data, error = _pack(part)
        data = data.to(get_comm_device(group))
        left = 0 if error is not None else len(parts) - 1 - index
        head = torch.tensor([data.numel(), left, int(error is not None)], device=data.device)
        for work, _ in under_way:
            work.wait()
        # What is being sent must stay in memory.
        messages = [head, *_chunks(data)]
        under_way = [
            (torch_dist.isend(message, group=group, group_dst=dst), message) for message in messages
        ]
        if error is not None:
            break
    for work, _ in under_way:
        work.wait()
    return error


def _receive_object(source: int, group: ProcessGroup) -> tuple[Any, Tensor, Exception | None]:
    """Return an object, or the text of the sender's failure, or our own failure to read it."""
    parts: list[Any] = []
    problem: Exception | None = None
    left = 1
    while left:
        head = torch.zeros(3, dtype=torch.int64, device=get_comm_device(group))
        torch_dist.recv(head, group=group, group_src=source)
        size, left, failed = head.tolist()
        data = _receive(size, source, group)
        if failed:
            return None, data.cpu(), None
        # After a failure the rest is received all the same: the sender cannot stop.
        if problem is None:
            try:
                parts.append(unpack(data.cpu()))
            except Exception as error:  # noqa: BLE001  # every rank has to learn of any failure
                problem = error
        # No longer than needed: the next part takes as much.
        del data
    if problem is not None:
        return None, _NOTHING, problem
    if len(parts) == 1:
        return parts[0], _NOTHING, None
    return list(chain.from_iterable(parts)), _NOTHING, None


def _receive(size: int, source: int, group: ProcessGroup) -> Tensor:
    data = _room(size, group)
    for chunk in _chunks(data):
        torch_dist.recv(chunk, group=group, group_src=source)
    return data


def broadcast_objects(objects: list[Any], src: int, group: ProcessGroup) -> list[Any]:
    """Return the list of rank ``src`` of a group."""
    here = torch_dist.get_rank(group) == src
    own, error = _pack(objects) if here else (_NOTHING, None)
    note = torch.tensor([own.numel(), int(error is not None)], device=get_comm_device(group))
    torch_dist.broadcast(note, group=group, group_src=src)
    size, failed = note.tolist()
    if failed:
        _raise_failure(own, error, src, size, group)
    data = own.to(get_comm_device(group)) if here else _room(size, group)
    _broadcast(data, src, group)
    if here:
        return objects
    received: list[Any] = unpack(data.cpu())
    return received
