"""How much of a checkpoint is checked when it is loaded, and what to say if it is damaged."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmx.checkpoint.errors import CheckpointError, CorruptCheckpointError
from mmx.checkpoint.load import verify_checkpoint

_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_SIZE = 30


def check_file(path: str, verify: bool) -> None:
    """Check a local file in torch's zip format, before it is loaded.

    Args:
        path: The file.
        verify: Read all of it and check each CRC-32, unless that has just been done. Otherwise all
            but the tensors' data, and where that begins: a few kilobytes.

    Raises:
        CorruptCheckpointError: It is damaged.
    """
    if not verify:
        _check_structure(path)
    elif not _VERIFIED.take(path):
        verify_checkpoint(path)


def _check_structure(path: str) -> None:
    with _damage_named(path), zipfile.ZipFile(path) as archive, open(path, "rb", 0) as file:
        for info in archive.infolist():
            if "/data/" not in info.filename:
                archive.read(info)  # with its checksum
                continue
            # Where a tensor's data begin is told by lengths in here.
            name = info.orig_filename.encode()
            file.seek(info.header_offset)
            head = file.read(_LOCAL_HEADER_SIZE + len(name))
            lengths = [int.from_bytes(head[i : i + 2], "little") for i in (26, 28)]
            end = info.header_offset + _LOCAL_HEADER_SIZE + sum(lengths) + info.compress_size
            if (
                head[:4] != _LOCAL_HEADER
                or head[_LOCAL_HEADER_SIZE:] != name
                or lengths[0] != len(name)
                or end > archive.start_dir
            ):
                raise zipfile.BadZipFile(f"wrong header of its record {info.filename!r}")


def check_bytes(file: Any, name: str) -> None:
    """Check each CRC-32 of a file in memory, if it is in torch's zip format.

    Raises:
        CorruptCheckpointError: One is wrong.
    """
    if not zipfile.is_zipfile(file):
        return
    with _damage_named(name), zipfile.ZipFile(file) as archive:
        bad = archive.testzip()
        if bad is not None:
            raise zipfile.BadZipFile(f"wrong checksum of its record {bad!r}")
    file.seek(0)


@contextlib.contextmanager
def _damage_named(name: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except (
        zipfile.BadZipFile,
        EOFError,
        OSError,  # a place before the file's begin
        NotImplementedError,
        ValueError,
        OverflowError,
    ) as error:
        raise CorruptCheckpointError(f"{name} is damaged: {error}", filename=name) from error


# What has just been verified ----------------------------------------------------------------


class _Verified:
    """The checkpoint that was verified last, so that it is not read twice on the way to a resume."""

    def __init__(self) -> None:
        self._last: tuple[str, Any] | None = None

    def note(self, path: str) -> None:
        """Note that a checkpoint was found whole."""
        self._last = (os.path.realpath(path), _identity(path))

    def take(self, path: str) -> bool:
        """Tell whether it is the one noted, unchanged; true only once."""
        last, self._last = self._last, None
        return last is not None and last == (os.path.realpath(path), _identity(path))


def _identity(path: str) -> Any:
    """Return what changes when a file, or one in a folder, is written."""
    try:
        parts = sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)]
        stats = [(part.name, part.stat()) for part in parts]
    except OSError:
        return object()
    return [(name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats]


_VERIFIED = _Verified()
note_verified = _VERIFIED.note
take_verified = _VERIFIED.take


# What else there is -------------------------------------------------------------------------


@contextlib.contextmanager
def naming_whole_sibling(path: str) -> Iterator[None]:
    """Add to the error of a damaged checkpoint which one beside it is whole."""
    try:
        yield
    except CorruptCheckpointError as error:
        sibling = _newest_whole_beside(path)
        hint = (
            "No other checkpoint of a run in its directory is whole."
            if sibling is None
            else f"The newest whole checkpoint beside it is {sibling}."
        )
        raise CorruptCheckpointError(
            f"{str(error).rstrip('.')}. {hint}", filename=error.filename
        ) from error


def _newest_whole_beside(path: str) -> str | None:
    from mmx.checkpoint.find import candidates_in

    here = os.path.realpath(path)
    try:
        candidates = candidates_in(os.path.dirname(os.path.abspath(path)))
    except OSError:
        return None
    for candidate in candidates:
        if os.path.realpath(candidate) != here:
            with contextlib.suppress(CheckpointError, OSError):
                verify_checkpoint(candidate)
                return candidate
    return None
