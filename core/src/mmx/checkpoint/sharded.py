"""Checkpoints of which each rank writes its part: a folder instead of a file.

Planning (who writes which part, who reads which slice) is that of ``torch.distributed.checkpoint``;
the files are ours, since those of torch begin with a pickle::

    epoch_1.pth/
        index.json          tensors: shape, dtype, chunks; files: size and CRC-32
        rest.pth            all that is no tensor of the model or optimizer
        rank_0.safetensors  the chunks that rank 0 wrote
        rank_1.safetensors

The folder is written under a temporary name and renamed once every rank is done, so that it is there
whole or not at all. ``index.json`` carries a checksum of itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from mmx.checkpoint.durable import fsync_directory, located, making_way
from mmx.checkpoint.errors import CheckpointError, CorruptCheckpointError
from mmx.checkpoint.load import MapLocation, torch_load
from mmx.checkpoint.plain import to_plain
from mmx.checkpoint.save import AsyncCheckpointSaver, root_cause
from mmx.checkpoint.sharded_index import (
    REST,
    check_part,
    check_sizes,
    file_checksum,
    read_index,
    write_index,
)
from mmx.checkpoint.tensor_file import write_tensors
from mmx.checkpoint.verification import naming_whole_sibling, take_verified
from mmx.dist import get_object_group, get_world_size
from mmx.dist.failures import watching_more

# A leaf of what `rest.pth` holds that stands for a tensor of the index.
_PLACE = "$tensor"
# What every rank holds, so that ranks can share the writing of it.
_SHARED_ENTRIES = ("state_dict", "optimizer", "ema_state_dict")

Path_ = tuple[Any, ...]
# From the path of a tensor in the checkpoint and its shape to a sharded tensor that it should be
# laid out like, None if it is wanted whole.
Layout = Callable[[Path_, torch.Size], DTensor | None]


# Writing ------------------------------------------------------------------------------------


def save_sharded(
    checkpoint: dict[str, Any],
    path: str | os.PathLike[str],
    *,
    saver: AsyncCheckpointSaver | None = None,
    then: Callable[[], None] | None = None,
) -> None:
    """Write a checkpoint as a folder, each rank its part. Every rank must call.

    Args:
        checkpoint: Tensors and plain data. ``state_dict``, ``optimizer`` and ``ema_state_dict``
            have the same keys on every rank and may hold sharded tensors (``DTensor``); all else is
            taken from rank 0.
        path: The folder; one of that name is replaced.
        saver: Write in this saver's thread while training goes on. The tensors are copied first.
        then: Called in that thread once the folder is durable, on every rank.

    Raises:
        TypeError: The checkpoint holds other objects than tensors and plain data.
        CheckpointError: On every rank, if any of them could not write its part.
    """
    folder = os.path.expanduser(os.fspath(path))
    if "://" in folder:
        raise CheckpointError(
            f"{path}: a sharded checkpoint is written to a directory that all ranks share, not to "
            "an address; save to a path, or take state_dict_cfg='full'",
            filename=folder,
        )
    tensors, rest = _split(checkpoint)
    if saver is None:
        _write(tensors, rest, folder, get_object_group() if get_world_size() > 1 else None)
        return
    saver.wait()
    group = _background_group()
    staged = {key: _copy(value) for key, value in tensors.items()}
    kept = _copies(rest)

    def write() -> None:
        _write(staged, kept, folder, group)
        if then is not None:
            then()

    saver.submit(write)


def write_folder(checkpoint: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint as a folder by this process alone, whether or not there are others."""
    tensors, rest = _split(checkpoint)
    _write(tensors, rest, os.fspath(path), None)


def _split(checkpoint: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors that ranks share in writing, by unique name, and all else."""
    tensors: dict[str, torch.Tensor] = {}

    rest = {
        name: _take(entry, (name,), tensors) if name in _SHARED_ENTRIES else entry
        for name, entry in checkpoint.items()
    }
    return tensors, to_plain(rest)


def _take(value: Any, path: Path_, tensors: dict[str, torch.Tensor]) -> Any:
    """Return a value with names in the place of its tensors, which go into ``tensors``."""
    if isinstance(value, torch.Tensor):
        name = "/".join(map(str, path))
        while name in tensors:
            name += "'"
        tensors[name] = value.detach()
        return {_PLACE: name}
    if isinstance(value, Mapping):
        taken = {k: _take(v, (*path, k), tensors) for k, v in value.items()}
        if not isinstance(value, OrderedDict):
            return taken
        ordered = OrderedDict(taken)
        if hasattr(value, "_metadata"):
            ordered._metadata = value._metadata  # type: ignore[attr-defined]  # as torch does
        return ordered
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        parts = [_take(v, (*path, i), tensors) for i, v in enumerate(value)]
        return parts if isinstance(value, list) else tuple(parts)
    return value


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy on the CPU that the training loop does not change; a shard stays a shard."""
    if not isinstance(tensor, DTensor):
        return tensor.detach().to("cpu", copy=True)
    return DTensor.from_local(
        tensor.to_local().detach().to("cpu", copy=True),
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def _copies(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, OrderedDict):
        copied = OrderedDict((k, _copies(v)) for k, v in value.items())
        if hasattr(value, "_metadata"):
            copied._metadata = value._metadata  # type: ignore[attr-defined]  # as torch does
        return copied
    if isinstance(value, dict):
        return {k: _copies(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copies(v) for v in value)
    return value


def _write(tensors: dict[str, torch.Tensor], rest: dict[str, Any], folder: str, group: Any) -> None:
    writer = _Writer(folder, rest)
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        if group is None:
            _write_alone(tensors, writer, planner)
        else:
            # Its own group: the loop may be in a collective of the others meanwhile.
            save(tensors, storage_writer=writer, planner=planner, process_group=group)
    except CheckpointException as error:
        causes = [f"rank {rank}: {cause}" for rank, (cause, _) in error.failures.items()]
        raise CheckpointError(
            f"the checkpoint {folder} could not be written: {'; '.join(causes)}. Earlier "
            "checkpoints are as they were.",
            filename=folder,
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint {folder} could not be written: {error}. Earlier checkpoints are as "
            "they were.",
            filename=folder,
        ) from error
    finally:
        writer.clean()


def _write_alone(
    tensors: dict[str, torch.Tensor], writer: _Writer, planner: DefaultSavePlanner
) -> None:
    planner.set_up_planner(tensors, is_coordinator=True)
    plans, metadata = planner.create_global_plan([planner.create_local_plan()])
    (plan,) = writer.prepare_global_plan(plans)
    results = writer.write_data(planner.finish_plan(plan), planner).wait()
    writer.finish(metadata, [results])


class _Writer(StorageWriter):
    """Writes each rank's part of a plan, and on the coordinator what holds the parts together."""

    def __init__(self, folder: str, rest: dict[str, Any]) -> None:
        self._target = Path(folder)
        self._rest = rest
        self._temporary: Path | None = None
        self._rank = 0

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept from one checkpoint to the next."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to do before the plan is known."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Make the temporary folder, and tell each rank of it and its number."""
        target = self._target
        self._temporary = target.with_name(
            f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        )
        self._temporary.mkdir(parents=True)
        return [
            dataclasses.replace(plan, storage_data=(os.fspath(self._temporary), rank))
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's chunks; the result tells their places and the file's checksum."""
        folder, rank = plan.storage_data
        results: list[WriteResult] = []
        if plan.items:
            name = f"rank_{rank}.safetensors"
            chunks: dict[str, Any] = {
                str(i): planner.resolve_data(item) for i, item in enumerate(plan.items)
            }
            size, checksum = _write_tensors(chunks, os.path.join(folder, name))
            for i, item in enumerate(plan.items):
                data = _Place(name, str(i), size, checksum)
                results.append(WriteResult(item.index, _num_bytes(item), data))
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write what all ranks' parts are, then give the folder its name."""
        folder = self._temporary
        assert folder is not None
        places = {result.index: result.storage_data for result in itertools.chain(*results)}
        with open(folder / REST, "wb") as file:
            try:
                torch.save(self._rest, file)
            except RuntimeError as error:
                # torch's words for a write that failed; what failed is behind it.
                raise root_cause(error) from error
            file.flush()
            os.fsync(file.fileno())
        files = {p.file: {"bytes": p.size, "crc32": p.checksum} for p in places.values()}
        files[REST] = dict(zip(("bytes", "crc32"), file_checksum(folder / REST), strict=True))
        write_index(folder, _described(metadata, places), files)
        fsync_directory(folder)
        _replace(folder, self._target)
        self._temporary = None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Return whether it is a local path."""
        return "://" not in os.fspath(checkpoint_id)

    def clean(self) -> None:
        """Remove what a failed save has left."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a chunk is: the file, its name in there, and the file's size and checksum."""

    file: str
    key: str
    size: int
    checksum: str


def _described(metadata: Metadata, places: dict[Any, _Place]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for index, place in places.items():
        stored: Any = metadata.state_dict_metadata[index.fqn]
        entry = tensors.setdefault(
            index.fqn,
            {
                "shape": list(stored.size),
                "dtype": str(stored.properties.dtype).removeprefix("torch."),
                "chunks": [],
            },
        )
        offset = list(index.offset) if index.offset is not None else [0] * len(stored.size)
        sizes = next(list(c.sizes) for c in stored.chunks if list(c.offsets) == offset)
        entry["chunks"].append(
            {"offset": offset, "shape": sizes, "file": place.file, "key": place.key}
        )
    return tensors


def _write_tensors(tensors: dict[str, torch.Tensor], path: str) -> tuple[int, str]:
    with open(path, "wb") as file:
        written = write_tensors(tensors, file, {"format": "pt"})
        file.flush()
        os.fsync(file.fileno())
    return written


def _num_bytes(item: WriteItem) -> int:
    data = item.tensor_data
    return 0 if data is None else data.chunk.sizes.numel() * data.properties.dtype.itemsize


def _replace(folder: Path, target: Path) -> None:
    # A folder cannot be renamed over a file, nor over another one that has content.
    with making_way(target):
        os.rename(folder, target)


_groups: dict[Any, Any] = {}


def _background_group() -> Any:
    """Return a group of all ranks for the saver's thread alone. Every rank must call."""
    if get_world_size() == 1:
        return None
    default = torch_dist.group.WORLD
    if default not in _groups:
        _groups.clear()  # those of a process group that is gone
        with watching_more():
            _groups[default] = torch_dist.new_group(backend="gloo")
    return _groups[default]


# Reading ------------------------------------------------------------------------------------


def read_sharded(
    path: str | os.PathLike[str],
    map_location: MapLocation = None,
    *,
    layout: Layout | None = None,
    only: Callable[[str], bool] | None = None,
    room: Callable[[torch.Size, torch.dtype], torch.Tensor] | None = None,
    verify: bool = False,
) -> dict[str, Any]:
    """Return the checkpoint of a folder; it does not matter how many ranks wrote it.

    No rank waits for another. Nothing in the folder can run code: the index is JSON, the tensors
    are safetensors, the rest is read with ``weights_only=True``.

    Args:
        path: The folder.
        map_location: Device of the tensors, as for ``torch.load``; functions and dicts are applied
            to the rest alone.
        layout: From the path of a tensor in the checkpoint (``('state_dict', 'head.weight')``) and
            its shape to a sharded tensor: it is read with that one's mesh and placements, each
            rank its slice. Without one, or where it returns None, tensors are whole.
        only: Which entries of the checkpoint are read; by default all.
        room: From shape and dtype to the memory of a tensor that is read whole; by default it is
            made on the device.
        verify: Check the checksum of each file of tensors that this process reads. Sizes, and the
            checksums of the index and of all that is no tensor, are checked in any case.

    Raises:
        CorruptCheckpointError: A part is missing or damaged; the text names a whole checkpoint
            beside the folder.
    """
    folder = located(os.path.expanduser(os.fspath(path)))
    with naming_whole_sibling(folder):
        return _read_folder(folder, map_location, layout, only, room, verify)


def _read_folder(
    folder: str,
    map_location: MapLocation,
    layout: Layout | None,
    only: Callable[[str], bool] | None,
    room: Callable[[torch.Size, torch.dtype], torch.Tensor] | None,
    verify: bool,
) -> dict[str, Any]:
    index = read_index(folder)
    check_sizes(folder, index)
    check_part(folder, index, REST)
    rest = torch_load(os.path.join(folder, REST), map_location)
    device = _device_of(map_location)

    def make(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    wanted: dict[str, torch.Tensor] = {}

    def room_for(name: str, where: Path_) -> torch.Tensor:
        if name not in wanted:
            wanted[name] = _room(index["tensors"], name, where, layout, room or make, folder)
        return wanted[name]

    kept = {name: entry for name, entry in rest.items() if only is None or only(name)}
    result = {
        name: _fill(entry, (name,), room_for) if name in _SHARED_ENTRIES else entry
        for name, entry in kept.items()
    }
    load_into(wanted, folder, index, verify=verify and not take_verified(folder))
    return result


def _fill(value: Any, where: Path_, room_for: Callable[[str, Path_], torch.Tensor]) -> Any:
    """Return a value with tensors in the place of their names."""
    if isinstance(value, dict):
        if set(value) == {_PLACE}:
            return room_for(value[_PLACE], where)
        for key, item in value.items():
            value[key] = _fill(item, (*where, key), room_for)
        return value
    if type(value) in (list, tuple):
        return type(value)(_fill(v, (*where, i), room_for) for i, v in enumerate(value))
    return value


def load_into(
    tensors: dict[str, torch.Tensor], folder: str, index: dict[str, Any], verify: bool = False
) -> None:
    """Fill whole and sharded tensors, by their names in the index, from a folder's files."""
    if not tensors:
        return
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    metadata, places = _metadata(index, tensors)
    planner.set_up_planner(tensors, metadata, is_coordinator=True)
    # Planned by each rank for itself: nothing has to be agreed upon for reading.
    plan = planner.finish_plan(planner.create_global_plan([planner.create_local_plan()])[0])
    if verify:
        # Each rank only what it reads itself.
        files = {
            places[i.storage_index.fqn, tuple(i.storage_index.offset or ())][0] for i in plan.items
        }
        for file in sorted(files):
            check_part(folder, index, file)
    _read(plan, planner, folder, places)


def _read(
    plan: LoadPlan,
    planner: DefaultLoadPlanner,
    folder: str,
    places: dict[tuple[str, tuple[int, ...]], tuple[str, str]],
) -> None:
    by_file: dict[str, list[tuple[str, Any]]] = {}
    for item in plan.items:
        offset = tuple(item.storage_index.offset or ())
        file, key = places[item.storage_index.fqn, offset]
        by_file.setdefault(file, []).append((key, item))
    for file, items in by_file.items():
        with _opened(os.path.join(folder, file)) as data:
            for key, item in items:
                target = planner.resolve_tensor(item).detach()
                part = data.get_slice(key) if len(item.lengths) else None
                window = tuple(
                    slice(start, start + length)
                    for start, length in zip(item.storage_offsets, item.lengths, strict=True)
                )
                source = data.get_tensor(key) if part is None else part[window]
                target.copy_(source)
                planner.commit_tensor(item, target)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as data:
            yield data
    except (SafetensorError, FileNotFoundError) as error:
        raise CorruptCheckpointError(
            f"{path}, a part of a sharded checkpoint, cannot be read: {error}", filename=path
        ) from error


def _metadata(index: dict[str, Any], names: Mapping[str, Any]) -> tuple[Metadata, dict[Any, Any]]:
    described: dict[str, Any] = {}
    places: dict[tuple[str, tuple[int, ...]], tuple[str, str]] = {}
    for name in names:
        entry = index["tensors"][name]
        chunks = []
        for chunk in entry["chunks"]:
            offset = tuple(chunk["offset"])
            chunks.append(ChunkStorageMetadata(torch.Size(offset), torch.Size(chunk["shape"])))
            places[name, offset] = (chunk["file"], chunk["key"])
        described[name] = TensorStorageMetadata(
            properties=TensorProperties(dtype=_dtype(entry["dtype"])),
            size=torch.Size(entry["shape"]),
            chunks=chunks,
        )
    return Metadata(state_dict_metadata=described), places


def _room(
    described: dict[str, Any],
    name: str,
    where: Path_,
    layout: Layout | None,
    make: Callable[[torch.Size, torch.dtype], torch.Tensor],
    folder: str,
) -> torch.Tensor:
    if name not in described:
        raise CorruptCheckpointError(
            f"{folder} is damaged: its index has no tensor {name!r}", filename=folder
        )
    entry = described[name]
    shape, dtype = torch.Size(entry["shape"]), _dtype(entry["dtype"])
    like = layout(where, shape) if layout is not None else None
    if like is None:
        return make(shape, dtype)
    with torch.no_grad():
        return torch.empty_like(like, dtype=dtype)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise CorruptCheckpointError(f"the index names {name!r} as a dtype, which torch has not")
    return found


def _device_of(map_location: MapLocation) -> torch.device:
    if isinstance(map_location, str | torch.device):
        return torch.device(map_location)
    return torch.device("cpu")
