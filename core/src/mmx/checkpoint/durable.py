"""Files that are there whole or not at all, even after a crash or a power cut."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmx.fileio.paths import atomic_writer, fsync_directory

__all__ = [
    "aside_of",
    "atomic_writer",
    "fsync_directory",
    "located",
    "making_way",
    "remove_stale_temporaries",
    "remove_tree",
]

# How atomic_writer names them: `.NAME.PID.TOKEN.tmp`.
_TEMPORARY = re.compile(r"^\..+\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp$")
# What NAME was, while a folder takes its place: `.NAME.replaced`. The name says all that is needed
# to find it again, for whoever comes after a crash.
_ASIDE = re.compile(r"^\.(?P<name>.+)\.replaced$")


def aside_of(path: str | os.PathLike[str]) -> Path:
    """Return where a checkpoint is, while another one that a rename cannot put over it comes."""
    target = Path(path)
    return target.with_name(f".{target.name}.replaced")


def located(path: str | os.PathLike[str]) -> str:
    """Return where a local checkpoint is: there, or aside, if a crash came while it was replaced."""
    name = os.fspath(path)
    if "://" in name or not os.path.basename(name) or os.path.lexists(name):
        return name
    aside = aside_of(name)
    return os.fspath(aside) if aside.exists() else name


@contextlib.contextmanager
def making_way(target: str | os.PathLike[str]) -> Iterator[None]:
    """Set aside what has the name ``target`` while the block puts something else there.

    Only for what no rename can replace: a folder, and a file where a folder comes. At each moment
    :func:`located` finds the old or the new one. If the block fails the old one is back.
    """
    path = Path(target)
    aside = aside_of(path)
    if os.path.lexists(path):
        remove_tree(aside)  # of an earlier crash, whose successor came
        os.rename(path, aside)
    try:
        yield
    except BaseException:
        if aside.exists() and not os.path.lexists(path):
            os.rename(aside, path)
        raise
    fsync_directory(path.parent)
    remove_tree(aside)


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove a file or a folder, if it is there; what cannot be removed stays."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    if os.path.lexists(path):
        with contextlib.suppress(OSError):
            os.unlink(path)


def remove_stale_temporaries(directory: str | os.PathLike[str]) -> list[str]:
    """Remove what killed processes left behind in ``directory``; return the removed names.

    A temporary file whose process still lives is left alone, and so is a checkpoint that was set
    aside and whose successor never came.
    """
    removed = []
    for entry in sorted(os.listdir(directory)):
        replaced = _ASIDE.match(entry)
        if replaced and os.path.lexists(os.path.join(directory, replaced["name"])):
            remove_tree(os.path.join(directory, entry))
            removed.append(entry)
        found = _TEMPORARY.match(entry)
        if found and not _is_alive(int(found["pid"])):
            with contextlib.suppress(FileNotFoundError):
                path = os.path.join(directory, entry)
                # A sharded checkpoint is a folder.
                if os.path.isdir(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
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
