"""Objects as one block of bytes, compact where there are many alike.

Results of an evaluation are long lists of small dicts. Pickled one by one, each number costs some
opcodes and each tensor a storage of its own; as columns they are a few arrays. What is no column
is pickled, with its tensors joined into one for each dtype.

The bytes are for processes of one group, which run the same code. :func:`unpack` runs what a
pickle says: never give it anything that came from elsewhere.
"""

from __future__ import annotations

import gc
import io
import math
import pickle
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Shorter lists are not worth the inspection.
_MIN_ROWS = 16
# Nesting beyond this is left to pickle, which also knows cycles.
_MAX_DEPTH = 6
_SAMPLE = 64
# Buffers start at multiples of this, so that arrays of any dtype can be read in place.
_ALIGNMENT = 16

# A node of the tree: its kind and what belongs to it. Buffers are named by their index.
_Node = tuple[Any, ...]


def pack(obj: Any) -> Tensor:
    """Return an object as bytes: a CPU tensor, uint8 ``(n,)``.

    Raises:
        Exception: What pickle raises for an object that it cannot take.
    """
    packer = _Packer()
    if type(obj) is list and len(obj) >= _MIN_ROWS:
        tree: _Node = packer.column(obj, 0)
    else:
        tree = ("object", obj)
    stream = io.BytesIO()
    _TensorPickler(stream, packer).dump(tree)
    loose = packer.join_loose_tensors()
    head = pickle.dumps((loose, [len(b) for b in packer.buffers]), pickle.HIGHEST_PROTOCOL)
    body = stream.getbuffer()
    sizes = np.array([len(head), len(body)], np.int64)
    return _concatenate([sizes.data.cast("B"), memoryview(head), body, *packer.buffers])


def unpack(data: Tensor) -> Any:
    """Return the object in bytes that :func:`pack` made in a process of the same group."""
    block = memoryview(_array(data))
    parts = _Reader(block)
    head_size, body_size = np.frombuffer(parts.take(16), np.int64).tolist()
    loose, sizes = pickle.loads(parts.take(head_size))  # noqa: S301  # from our own process group
    body = parts.take(body_size)
    unpacker = _Unpacker([parts.take(size) for size in sizes], loose)
    with _no_garbage_collection():
        kind, *rest = _TensorUnpickler(_Stream(body), unpacker).load()
        return rest[0] if kind == "object" else unpacker.column((kind, *rest))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Make many objects that live on without searching them for garbage again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _concatenate(parts: Sequence[memoryview]) -> Tensor:
    padded = [-(-len(part) // _ALIGNMENT) * _ALIGNMENT for part in parts]
    data = torch.empty(sum(padded), dtype=torch.uint8)
    target = memoryview(_array(data))
    start = 0
    for part, size in zip(parts, padded, strict=True):
        target[start : start + len(part)] = part
        start += size
    return data


class _Reader:
    def __init__(self, block: memoryview) -> None:
        self._block = block
        self._start = 0

    def take(self, size: int) -> memoryview:
        part = self._block[self._start : self._start + size]
        self._start += -(-size // _ALIGNMENT) * _ALIGNMENT
        return part


def _array(data: Tensor) -> Any:
    # NumPy's stubs do not say that arrays are buffers.
    return data.numpy()


def _tensor_bytes(flat: Tensor) -> memoryview:
    # bfloat16 and others are unknown to NumPy; their bytes are not.
    return memoryview(_array(flat.contiguous().view(torch.uint8)))


def _is_plain_tensor(value: Any) -> bool:
    """Tell whether a value is a tensor that its dtype, shape and numbers describe."""
    return type(value) is Tensor and value.layout is torch.strided and not value.is_quantized


class _Packer:
    """Turns a list of rows into a tree of columns, whose numbers go to ``buffers``."""

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []
        self._loose: dict[tuple[torch.dtype, str], list[Tensor]] = {}
        self._places: list[tuple[int, int, int, tuple[int, ...]]] = []
        self._ends: dict[tuple[torch.dtype, str], int] = {}
        self._known: dict[int, int] = {}

    def _add(self, data: memoryview) -> int:
        self.buffers.append(data)
        return len(self.buffers) - 1

    def column(self, values: Sequence[Any], depth: int) -> _Node:
        kinds = set(map(type, values))
        if len(kinds) != 1 or depth > _MAX_DEPTH:
            return ("values", list(values))
        kind = kinds.pop()
        node: _Node | None = None
        if kind is int:
            node = self._ints(values)
        elif kind is float:
            node = ("floats", self._add(memoryview(array("d", values)).cast("B")))
        elif kind is bool:
            node = ("bools", self._add(memoryview(bytes(values))))
        elif kind in (dict, list, tuple, Tensor, np.ndarray):
            # What several rows share is sent once, by pickle. A sample shows it.
            sample = values[:_SAMPLE]
            if len(set(map(id, sample))) == len(sample):
                if kind is dict:
                    node = self._dicts(values, depth)
                elif kind is Tensor:
                    node = self._tensors(values)
                elif kind is np.ndarray:
                    node = self._arrays(values)
                else:
                    node = self._sequences(values, kind, depth)
        elif issubclass(kind, np.number):
            node = ("scalars", kind, self._add(memoryview(np.array(values, kind).data).cast("B")))
        return ("values", list(values)) if node is None else node

    def _ints(self, values: Sequence[int]) -> _Node | None:
        try:
            return ("ints", self._add(memoryview(array("q", values)).cast("B")))
        except OverflowError:
            return None

    def _dicts(self, rows: Sequence[dict[Any, Any]], depth: int) -> _Node | None:
        keys = tuple(rows[0])
        if not keys or len(set(map(len, rows))) != 1:
            return None
        try:
            # By column: a tuple for each row would keep the garbage collector busy.
            columns = [list(map(itemgetter(key), rows)) for key in keys]
        except KeyError:
            return None
        return ("dicts", keys, [self.column(column, depth + 1) for column in columns])

    def _sequences(self, rows: Sequence[Any], kind: type, depth: int) -> _Node | None:
        flat = list(chain.from_iterable(rows))
        if not flat:
            return None
        lengths = self._ints(list(map(len, rows)))
        return ("sequences", kind is tuple, lengths, self.column(flat, depth + 1))

    def _tensors(self, values: Sequence[Tensor]) -> _Node | None:
        if not all(map(_is_plain_tensor, values)):
            return None
        if len({(v.dtype, v.device) for v in values}) != 1:
            return None
        first = values[0]
        shapes = {v.shape for v in values}
        with torch.no_grad():
            if len(shapes) == 1:
                flat, shape = torch.stack(list(values)).reshape(-1), [tuple(first.shape)]
            else:
                flat = torch.cat([v.reshape(-1) for v in values])
                shape = [tuple(v.shape) for v in values]
            place = self._add(_tensor_bytes(flat.cpu()))
        return ("tensors", first.dtype, first.device.type, len(values), shape, place)

    def _arrays(self, values: Sequence[np.ndarray[Any, Any]]) -> _Node | None:
        dtypes = {v.dtype for v in values}
        if len(dtypes) != 1 or values[0].dtype.hasobject or values[0].dtype.names:
            return None
        flat = np.concatenate([v.reshape(-1) for v in values])
        same = len({v.shape for v in values}) == 1
        shape = [values[0].shape] if same else [v.shape for v in values]
        place = self._add(flat.view(np.uint8).data if flat.size else memoryview(b""))
        return ("arrays", flat.dtype, len(values), shape, place)

    def loose(self, value: Tensor) -> int:
        """Note a tensor inside of an object; return the name by which it is found again."""
        known = self._known.get(id(value))
        if known is not None:
            return known
        key = (value.dtype, value.device.type)
        start = self._ends.get(key, 0)
        group = self._loose.setdefault(key, [])
        group.append(value.detach().reshape(-1))
        self._ends[key] = start + value.numel()
        self._places.append(
            (list(self._loose).index(key), start, value.numel(), tuple(value.shape))
        )
        self._known[id(value)] = len(self._places) - 1
        return len(self._places) - 1

    def join_loose_tensors(self) -> tuple[Any, ...]:
        groups = [
            (dtype, device, self._add(_tensor_bytes(torch.cat(parts).cpu())))
            for (dtype, device), parts in self._loose.items()
        ]
        return groups, self._places


class _TensorPickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, packer: _Packer) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._packer = packer

    def persistent_id(self, obj: Any) -> int | None:
        return self._packer.loose(obj) if _is_plain_tensor(obj) else None


class _Stream:
    """A file in memory that holds no copy of it, as that of :mod:`io` would."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        part = self._data[self._at :] if size < 0 else self._data[self._at : self._at + size]
        self._at += len(part)
        return bytes(part)

    def readinto(self, target: memoryview) -> int:
        part = self._data[self._at : self._at + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)

    def readline(self) -> bytes:
        # Only pickles of old protocols have lines.
        rest = bytes(self._data[self._at :])
        return self.read(rest.find(b"\n") + 1 or len(rest))


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, file: _Stream, unpacker: _Unpacker) -> None:
        super().__init__(file)
        self._unpacker = unpacker

    def persistent_load(self, pid: int) -> Tensor:
        return self._unpacker.loose(pid)


class _Unpacker:
    def __init__(self, buffers: list[memoryview], loose: tuple[Any, ...]) -> None:
        self._buffers = buffers
        groups, self._places = loose
        self._groups = [self._tensor(place, dtype, device) for dtype, device, place in groups]
        self._made: dict[int, Tensor] = {}

    def _tensor(self, place: int, dtype: torch.dtype, device: str) -> Tensor:
        data = self._buffers[place]
        if not len(data):
            return torch.empty(0, dtype=dtype, device=device)
        return torch.frombuffer(data, dtype=torch.uint8).view(dtype).to(device)

    def loose(self, pid: int) -> Tensor:
        if pid not in self._made:
            group, start, length, shape = self._places[pid]
            # A copy: a view would keep, and save with it, the numbers of all tensors.
            self._made[pid] = self._groups[group][start : start + length].clone().reshape(shape)
        return self._made[pid]

    def column(self, node: _Node) -> list[Any]:
        kind, *rest = node
        if kind == "values":
            return list(rest[0])
        if kind == "ints":
            return np.frombuffer(self._buffers[rest[0]], np.int64).tolist()
        if kind == "floats":
            return np.frombuffer(self._buffers[rest[0]], np.float64).tolist()
        if kind == "bools":
            return np.frombuffer(self._buffers[rest[0]], np.bool_).tolist()
        if kind == "scalars":
            return list(np.frombuffer(self._buffers[rest[1]], rest[0]))
        if kind == "dicts":
            return _dicts(rest[0], [self.column(child) for child in rest[1]])
        if kind == "sequences":
            return self._sequences(*rest)
        if kind == "tensors":
            return self._tensors(*rest)
        return self._arrays(*rest)

    def _sequences(self, is_tuple: bool, lengths: _Node, child: _Node) -> list[Any]:
        flat: Any = self.column(child)
        if is_tuple:
            flat = tuple(flat)
        rows = []
        start = 0
        for length in self.column(lengths):
            rows.append(flat[start : start + length])
            start += length
        return rows

    def _tensors(
        self, dtype: torch.dtype, device: str, number: int, shapes: list[Any], place: int
    ) -> list[Tensor]:
        flat = self._tensor(place, dtype, device)
        # Copies, for the reason given above.
        if len(shapes) == 1:
            copies: Any = torch.unbind_copy
            return list(copies(flat.reshape(number, *shapes[0])))
        parts = flat.split([math.prod(shape) for shape in shapes])
        return [part.clone().reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def _arrays(
        self, dtype: np.dtype[Any], number: int, shapes: list[Any], place: int
    ) -> list[np.ndarray[Any, Any]]:
        flat = np.frombuffer(self._buffers[place], dtype)
        shapes = shapes * number if len(shapes) == 1 else shapes
        arrays = []
        start = 0
        for shape in shapes:
            end = start + math.prod(shape)
            arrays.append(flat[start:end].reshape(shape).copy())
            start = end
        return arrays


def _dicts(keys: tuple[Any, ...], columns: list[list[Any]]) -> list[dict[Any, Any]]:
    # A literal of known keys is made four times as fast as dict(zip(...)).
    rows = zip(*columns, strict=True)
    match keys:
        case (a,):
            return [{a: p} for p in columns[0]]
        case (a, b):
            return [{a: p, b: q} for p, q in rows]
        case (a, b, c):
            return [{a: p, b: q, c: r} for p, q, r in rows]
        case (a, b, c, d):
            return [{a: p, b: q, c: r, d: s} for p, q, r, s in rows]
        case (a, b, c, d, e):
            return [{a: p, b: q, c: r, d: s, e: t} for p, q, r, s, t in rows]
    return [dict(zip(keys, row, strict=True)) for row in rows]
