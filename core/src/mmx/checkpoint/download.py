"""Downloading a checkpoint once: whole, and checked against the hash in its name."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import http.client
import logging
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

from mmx.checkpoint.durable import atomic_writer
from mmx.checkpoint.errors import CheckpointError, DownloadError, WrongHashError
from mmx.logging import print_log

_TIMEOUT_S = 60
_BLOCK_BYTES = 1 << 20
# The beginning of a SHA-256, as torch.hub and OpenMMLab name files.
_HASH = re.compile(r"-([0-9a-f]{8,64})(?:\.\w+)+$")
_DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")


def hash_in(name: str) -> str | None:
    """Return the beginning of the SHA-256 that a file's name states.

    That is 8 to 64 hexadecimal digits between a hyphen and the suffix (``resnet50-0a1b2c3d.pth``),
    unless they are a date.
    """
    found = _HASH.search(name)
    return None if found is None or _DATE.fullmatch(found[1]) else found[1]


def download(url: str, directory: str | os.PathLike[str], progress: bool = False) -> str:
    """Return where the file of a web address is in ``directory``, downloaded if it is not there.

    It appears there whole or not at all. A file that is there already is checked against the hash
    in its name as well, and downloaded anew if it is another one. Of several processes (ranks, say)
    that ask for the same file one downloads it, and the others wait.

    Args:
        url: The address; the last part of its path is the file's name.
        directory: Where downloads are kept; it is made if need be.
        progress: Show a bar.

    Raises:
        ValueError: The address names no file.
        DownloadError: The server does not answer, refuses, or stops early.
        WrongHashError: What it sends is not what the name states; it is not kept.
    """
    name = os.path.basename(urllib.parse.urlsplit(url).path)
    if name in ("", ".", "..") or "\\" in name:
        raise CheckpointError(
            f"{url} names no file: the last part of its path must be a file's name", filename=url
        )
    target = os.path.join(directory, name)
    if _is_there(url, target):
        return target
    os.makedirs(directory, exist_ok=True)
    with _alone(target):
        if not _is_there(url, target, tells=False):  # another process may have been first
            _fetch(url, target, progress)
    return target


def _is_there(url: str, target: str, tells: bool = True) -> bool:
    """Tell whether the file is there and has the hash that its name states."""
    if not os.path.exists(target):
        return False
    expected = hash_in(target)
    if expected is None:
        return True
    with open(target, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual.startswith(expected):
        return True
    if tells:
        print_log(
            f"{target} is damaged or another file than its name says: its SHA-256 is {actual}. "
            f"It is not used; {url} is downloaded anew.",
            logger="current",
            level=logging.WARNING,
        )
    return False


def _fetch(url: str, target: str, progress: bool) -> None:
    import torch.hub

    expected = hash_in(target)
    digest = hashlib.sha256()
    request = urllib.request.Request(url, headers={"User-Agent": "mmx"})
    try:
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response,
            atomic_writer(target) as file,
            torch.hub.tqdm(  # type: ignore[attr-defined]  # tqdm's, or a plain one where it is absent
                total=response.length,
                disable=not progress,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
            ) as bar,
        ):
            for block in iter(functools.partial(response.read, _BLOCK_BYTES), b""):
                file.write(block)
                digest.update(block)
                bar.update(len(block))
            if response.length:  # what http.client still expects; it does not complain by itself
                raise ConnectionError(f"the connection ended {response.length} bytes too early")
            if expected is not None and not digest.hexdigest().startswith(expected):
                raise WrongHashError(url, expected, digest.hexdigest())
    except urllib.error.HTTPError as error:
        with error:
            raise DownloadError(url, f"the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise DownloadError(url, str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(url, str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _alone(target: str) -> Iterator[None]:
    """Let one process at a time into the block, for each ``target``.

    Where files cannot be locked all may enter: each then downloads for itself, and renames.
    """
    directory, name = os.path.split(target)
    path = os.path.join(directory, f".{name[:200]}.lock")
    descriptor = _lock(path, name)
    try:
        if descriptor is not None:
            for leftover in glob.glob(f".{glob.escape(name[:200])}.*.tmp", root_dir=directory):
                os.unlink(os.path.join(directory, leftover))  # of a process that was killed
        yield
    finally:
        if descriptor is not None:
            # While it is locked, so that nobody locks a file that is about to go; who waits for
            # this one finds that it is gone.
            with contextlib.suppress(OSError):
                os.unlink(path)
            os.close(descriptor)


def _lock(path: str, name: str) -> int | None:
    """Return the descriptor of the locked file ``path``; None where there are no such locks."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print_log(f"Waits for another process that downloads {name}", logger="current")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:  # its owner has just finished
            pass
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
