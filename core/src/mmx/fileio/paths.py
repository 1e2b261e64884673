"""Paths: their prefixes, staying inside a root, replacing a file at once, checking its content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mmx.fileio.errors import HashMismatchError, UnsafePathError
from mmx.utils.errors import InvalidTypeError

StrPath = str | Path

# pathlib folds the two slashes of 's3://bucket' into one.
_FOLDED = re.compile(r"^((?:[A-Za-z0-9_.+-]+:)?[A-Za-z0-9+.-]{2,}):/(?!/)")


def to_text(path: StrPath) -> str:
    """Return a path as text; ``Path('s3://bucket/key')``, which lost a slash, gets it back.

    Raises:
        TypeError: It is neither text nor a path.
    """
    if isinstance(path, str):
        return path
    if isinstance(path, os.PathLike):
        return _FOLDED.sub(r"\1://", os.fspath(path))
    raise InvalidTypeError(f"a path must be a str or pathlib.Path, but got {type(path)}")


def parse_uri_prefix(uri: StrPath) -> str:
    """Return the prefix that chooses a back end: ``'s3'`` of ``'s3://bucket/key'``.

    A cluster may stand before it (``'cluster:s3://bucket/key'``). Empty for local paths.

    Raises:
        TypeError: ``uri`` is neither text nor a path.
    """
    text = to_text(uri)
    if "://" not in text:
        return ""
    return text.split("://", 1)[0].rpartition(":")[2]


def safe_join(root: StrPath, *parts: StrPath) -> str:
    """Join local paths, making sure that the result lies inside ``root``.

    Use it wherever the parts come from outside: a listing of a remote directory, an archive, an
    index file. Symbolic links are followed as far as the path exists.

    Returns:
        The path, absolute and resolved.

    Raises:
        UnsafePathError: A part is absolute, goes up with ``..``, or leads out through a link.
    """
    base = os.path.realpath(root)
    path = base
    for part in parts:
        text = str(part)
        pieces = re.split(r"[/\\]", text)
        if os.path.isabs(text) or re.match(r"^([A-Za-z]:)?[/\\]", text) or ".." in pieces:
            raise UnsafePathError(
                f"{text!r} leads out of {base!r}: it must be relative and without '..'", text, base
            )
        if "\0" in text:
            raise UnsafePathError(f"{text!r} contains a null character", text, base)
        path = os.path.join(path, text)
    resolved = os.path.realpath(path)
    if os.path.commonpath([base, resolved]) != base:
        raise UnsafePathError(
            f"{path!r} leads out of {base!r} through a symbolic link to {resolved!r}",
            str(path),
            base,
        )
    return resolved


def fsync_directory(directory: StrPath) -> None:
    """Make renames and removals in a directory durable. Does nothing where that is impossible."""
    if os.name == "nt":  # a directory cannot be opened for that on Windows
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_writer(path: StrPath) -> Iterator[BinaryIO]:
    """Yield a binary file that replaces ``path`` when the block ends without an error.

    Order: write a temporary file in the same directory, fsync it, rename it over ``path``, fsync
    the directory. A reader sees the old file or the new one, never a part; after an error the old
    one is untouched. A symbolic link is written through. What is no regular file (a pipe, a
    device) is written to directly.

    Raises:
        OSError: From any of these steps.
    """
    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode
    except OSError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        with open(target, "wb") as file:
            yield file
        return
    directory, name = os.path.split(target)
    # In the same directory, because a rename is atomic only within a file system. A long name with
    # a suffix could exceed the limit of 255 bytes.
    temporary = os.path.join(directory, f".{name[:200]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_directory(directory)


def check_bytes(data: bytes, expected: str | None, path: StrPath) -> bytes:
    """Return ``data`` if its SHA-256 begins with ``expected``, or if nothing is expected.

    Raises:
        HashMismatchError: It does not.
        ValueError: ``expected`` is no SHA-256 nor the beginning of one (8 digits at least).
    """
    if expected is not None:
        _compare(hashlib.sha256(data).hexdigest(), expected, path)
    return data


def check_file(local: StrPath, expected: str | None, path: StrPath) -> None:
    """Check the content of a local file; see :func:`check_bytes`."""
    if expected is not None:
        with open(local, "rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        _compare(actual, expected, path)


def _compare(actual: str, expected: str, path: StrPath) -> None:
    wanted = expected.lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{8,64}", wanted):
        raise ValueError(
            f"sha256 must be 8 to 64 hexadecimal digits, the hash or its beginning, but got {expected!r}"
        )
    if not actual.startswith(wanted):
        raise HashMismatchError(str(path), wanted, actual)
