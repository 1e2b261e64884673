"""What a sharded checkpoint's folder holds, and whether it is whole; needs no process group."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from mmx.checkpoint.durable import aside_of, atomic_writer, located, remove_tree
from mmx.checkpoint.errors import CheckpointError, CorruptCheckpointError

INDEX = "index.json"
REST = "rest.pth"
FORMAT = "mmx-sharded"
VERSION = 1
_BLOCK = 1 << 22


def is_sharded(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is the folder of a sharded checkpoint, or was when a crash came."""
    return "://" not in os.fspath(path) and os.path.isfile(os.path.join(located(path), INDEX))


def write_index(folder: Path, tensors: dict[str, Any], files: dict[str, Any]) -> None:
    """Write the index of a folder, with a checksum of itself."""
    content = {"format": FORMAT, "version": VERSION, "files": files, "tensors": tensors}
    text = json.dumps(content, sort_keys=True)
    content["crc32"] = f"{zlib.crc32(text.encode()):08x}"
    with atomic_writer(folder / INDEX) as file:
        file.write(json.dumps(content, sort_keys=True).encode())


def read_index(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the index of a sharded checkpoint, checked against its own checksum.

    Raises:
        FileNotFoundError: The folder is no sharded checkpoint.
        CorruptCheckpointError: The index is damaged.
        CheckpointError: It was written by a newer version.
    """
    path = os.path.join(folder, INDEX)
    try:
        with open(path, "rb") as file:
            index: dict[str, Any] = json.loads(file.read())
        found = index.pop("crc32")
        kind, version = index["format"], index["version"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptCheckpointError(f"{path} is damaged: {error!r}", filename=path) from error
    if found != f"{zlib.crc32(json.dumps(index, sort_keys=True).encode()):08x}":
        raise CorruptCheckpointError(f"{path} is damaged: wrong checksum", filename=path)
    if kind != FORMAT or version > VERSION:
        raise CheckpointError(
            f"{path} has format {kind} {version}, but this version reads {FORMAT} {VERSION}",
            filename=path,
        )
    for name in index["files"]:
        # A name leads to nothing outside of the folder.
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise CorruptCheckpointError(f"{path} names the file {name!r}", filename=path)
    known = set(index["files"])
    for entry in index["tensors"].values():
        if any(chunk["file"] not in known for chunk in entry["chunks"]):
            raise CorruptCheckpointError(f"{path} names a file it does not list", filename=path)
    return index


def verify_sharded(folder: str | os.PathLike[str]) -> None:
    """Check that every part of a sharded checkpoint is there and has its checksum.

    Raises:
        CorruptCheckpointError: A part is missing, truncated or damaged.
    """
    path = located(os.path.expanduser(os.fspath(folder)))
    index = read_index(path)
    check_sizes(path, index)
    for name in index["files"]:
        check_part(path, index, name)


def check_sizes(folder: str, index: dict[str, Any]) -> None:
    """Check that every part of a sharded checkpoint is there, of its size.

    Raises:
        CorruptCheckpointError: One is not.
    """
    for name, wanted in index["files"].items():
        part = Path(folder, name)
        if not part.is_file():
            raise CorruptCheckpointError(f"{folder} is damaged: {name} is missing", filename=folder)
        size = part.stat().st_size
        if size != wanted["bytes"]:
            raise CorruptCheckpointError(
                f"{folder} is damaged: {name} has {size} bytes instead of {wanted['bytes']}",
                filename=folder,
            )


def check_part(folder: str, index: dict[str, Any], name: str) -> None:
    """Check the checksum of one file of a sharded checkpoint.

    Raises:
        CorruptCheckpointError: It is wrong.
    """
    if file_checksum(Path(folder, name))[1] != index["files"][name]["crc32"]:
        raise CorruptCheckpointError(
            f"{folder} is damaged: wrong checksum of {name}", filename=folder
        )


def file_checksum(path: Path) -> tuple[int, str]:
    """Return the size of a file in bytes and its CRC-32 as 8 hex digits."""
    value = size = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            value, size = zlib.crc32(block, value), size + len(block)
    return size, f"{value:08x}"


def remove_checkpoint(path: str | os.PathLike[str]) -> None:
    """Remove a local checkpoint, a file or a folder, if it is there."""
    # First what would take its place.
    remove_tree(aside_of(path))
    if is_sharded(path):
        remove_tree(path)
    elif os.path.isfile(path):
        os.remove(path)
