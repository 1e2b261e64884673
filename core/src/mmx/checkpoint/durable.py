"""Files that are there whole or not at all, even after a crash or a power cut."""

from __future__ import annotations

import contextlib
import os
import re
import shutil

from mmx.fileio.paths import atomic_writer, fsync_directory

__all__ = ["atomic_writer", "fsync_directory", "remove_stale_temporaries"]

# How atomic_writer names them: `.NAME.PID.TOKEN.tmp`.
_TEMPORARY = re.compile(r"^\..+\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp$")


def remove_stale_temporaries(directory: str | os.PathLike[str]) -> list[str]:
    """Remove what killed processes left behind in ``directory``; return the removed names.

    A temporary file whose process still lives is left alone.
    """
    removed = []
    for entry in sorted(os.listdir(directory)):
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
