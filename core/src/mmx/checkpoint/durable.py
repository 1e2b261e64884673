"""Files that are there whole or not at all, even after a crash or a power cut."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# `.NAME.PID.TOKEN.tmp`: in the same directory, because a rename is atomic only within a file system.
_TEMPORARY = re.compile(r"^\..+\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp$")


def fsync_directory(directory: str | os.PathLike[str]) -> None:
    """Make renames and removals in a directory durable. Does nothing where that is impossible."""
    if os.name == "nt":  # a directory cannot be opened for that on Windows
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a binary file that replaces ``path`` when the block ends without an error.

    The order is: write a temporary file in the same directory, fsync it, rename it over ``path``,
    fsync the directory. Until the rename an earlier file of that name is untouched; after an error
    the temporary file is removed.

    Raises:
        OSError: From any of these steps, for example when the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_directory(target.parent)


def remove_stale_temporaries(directory: str | os.PathLike[str]) -> list[str]:
    """Remove what killed processes left behind in ``directory``; return the removed names.

    A temporary file whose process still lives is left alone.
    """
    removed = []
    for entry in sorted(os.listdir(directory)):
        found = _TEMPORARY.match(entry)
        if found and not _is_alive(int(found["pid"])):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, entry))
                removed.append(entry)
    return removed


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # exists, but belongs to another user
        return True
    return True
