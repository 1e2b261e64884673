"""Files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def is_filepath(x: Any) -> bool:
    """Tell whether ``x`` is a str or a Path."""
    return isinstance(x, (str, Path))


def fopen(filepath: str | Path, *args: Any, **kwargs: Any) -> IO[Any]:
    """Open a file by a str or a Path.

    Raises:
        ValueError: ``filepath`` is neither.
    """
    if not is_filepath(filepath):
        raise ValueError("`filepath` should be a string or a Path")
    file: IO[Any] = open(filepath, *args, **kwargs)  # noqa: SIM115  # the caller closes it
    return file


def check_file_exist(filename: str | Path, msg_tmpl: str = 'file "{}" does not exist') -> None:
    """Do nothing if a file exists.

    Raises:
        FileNotFoundError: It does not; ``msg_tmpl`` is the message.
    """
    if not os.path.isfile(filename):
        raise FileNotFoundError(msg_tmpl.format(filename))


def mkdir_or_exist(dir_name: str | Path, mode: int = 0o777) -> None:
    """Make a directory with its parents, if it is not there. The empty name is ignored."""
    if dir_name == "":
        return
    os.makedirs(os.path.expanduser(dir_name), mode=mode, exist_ok=True)


def symlink(src: str | Path, dst: str | Path, overwrite: bool = True, **kwargs: Any) -> None:
    """Make a symbolic link ``dst`` that points to ``src``.

    Args:
        src: Target.
        dst: The link.
        overwrite: Replace an existing ``dst``.
        **kwargs: As for :func:`os.symlink`.
    """
    if os.path.lexists(dst) and overwrite:
        os.remove(dst)
    os.symlink(src, dst, **kwargs)


def scandir(
    dir_path: str | Path,
    suffix: str | tuple[str, ...] | None = None,
    recursive: bool = False,
    case_sensitive: bool = True,
) -> Iterator[str]:
    """Return an iterator over the files of a directory, as paths relative to it, in order.

    Hidden files (``.name``) are left out; hidden directories are looked into.

    Args:
        dir_path: Directory.
        suffix: Endings of the files wanted; None is all.
        recursive: Look into sub-directories.
        case_sensitive: Whether the case of the ending counts.

    Raises:
        TypeError: ``dir_path`` or ``suffix`` is of another type.
    """
    if not isinstance(dir_path, (str, Path)):
        raise TypeError('"dir_path" must be a string or Path object')
    if suffix is not None and not isinstance(suffix, (str, tuple)):
        raise TypeError('"suffix" must be a string or tuple of strings')
    if suffix is not None and not case_sensitive:
        suffix = suffix.lower() if isinstance(suffix, str) else tuple(s.lower() for s in suffix)
    root = os.fspath(dir_path)

    def scan(folder: str) -> Iterator[str]:
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            if entry.is_file():
                if entry.name.startswith("."):
                    continue
                name = os.path.relpath(entry.path, root)
                compared = name if case_sensitive else name.lower()
                if suffix is None or compared.endswith(suffix):
                    yield name
            elif recursive and entry.is_dir():
                yield from scan(entry.path)

    return scan(root)


def is_abs(path: str) -> bool:
    """Tell whether a path is absolute, or an address in object storage."""
    return os.path.isabs(path) or path.startswith(("http://", "https://", "s3://"))


def find_vcs_root(path: str | Path, markers: tuple[str, ...] = (".git",)) -> str | None:
    """Return the closest directory at or above ``path`` that has one of ``markers``, or None."""
    start = Path(path)
    current = start.parent if start.is_file() else start
    for folder in (current, *current.parents):
        if any((folder / marker).exists() for marker in markers):
            return str(folder)
    return None
