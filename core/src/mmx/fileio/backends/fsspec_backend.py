"""Files of any file system that fsspec knows: object stores, the Hugging Face hub, memory."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmx.fileio.backends.base import BaseStorageBackend
from mmx.fileio.backends.local_backend import check_listing
from mmx.fileio.errors import UnknownBackendError, UnsafePathError, missing_extra
from mmx.fileio.paths import StrPath, atomic_writer, safe_join, to_text

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# What a protocol's file system needs, as far as an extra of ours installs it.
_EXTRAS = {
    "s3": ("s3", "s3fs"),
    "s3a": ("s3", "s3fs"),
    "gs": ("gcs", "gcsfs"),
    "gcs": ("gcs", "gcsfs"),
    "hf": ("hf", "huggingface_hub"),
    "http": ("http", "aiohttp"),
    "https": ("http", "aiohttp"),
}


class FsspecBackend(BaseStorageBackend):
    """Files of any file system that fsspec knows.

    Args:
        protocol: Of paths without a prefix, such as ``'s3'`` or ``'memory'``; None takes it from
            each path.
        root: All paths are inside this directory: relative ones start there, and any other that
            does not begin with it, or that goes up with ``..``, is refused.
        path_mapping: Beginning of a path -> what replaces it, such as
            ``{'data/coco/': 's3://bucket/coco/'}``.
        **storage_options: For the file system: ``key``, ``secret``, ``endpoint_url``, ``token``...

    Raises:
        UnknownBackendError: fsspec knows no such protocol.
        ImportError: The protocol's package is not installed; the error names the extra.
    """

    # A subclass that stands for one protocol names it.
    default_protocol: str | None = None

    def __init__(
        self,
        protocol: str | None = None,
        root: StrPath | None = None,
        path_mapping: Mapping[str, str] | None = None,
        **storage_options: Any,
    ) -> None:
        if path_mapping is not None and not isinstance(path_mapping, Mapping):
            raise TypeError(f"path_mapping must be a dict, but got {type(path_mapping)}")
        self.protocol = protocol or self.default_protocol
        self.path_mapping = dict(path_mapping or {})
        self.storage_options = storage_options
        self.root: str | None = None
        if root is not None:
            self.root = self._with_protocol(self._map_path(root)).rstrip("/")

    # Paths

    def _map_path(self, filepath: StrPath) -> str:
        path = to_text(filepath)
        # The first that fits: a mapped path is not mapped again.
        for source, target in self.path_mapping.items():
            if path.startswith(source):
                return target + path[len(source) :]
        return path

    def _format_path(self, path: str) -> str:
        # Windows separators of joined local paths.
        return re.sub(r"\\+", "/", path)

    def _with_protocol(self, path: str) -> str:
        path = self._format_path(path)
        if "://" in path:
            return path
        protocol = self.protocol
        if protocol is None:
            raise UnknownBackendError(
                f"the path {path!r} has no prefix, so that no file system can be chosen for it; "
                "write for example 's3://bucket/key', or give the back end a protocol",
                path,
            )
        return f"{protocol}://{path}"

    def _locate(self, filepath: StrPath) -> str:
        """Return the whole URL of a path, which lies inside the root."""
        path = self._map_path(filepath)
        if self.root is None:
            return self._with_protocol(path)
        if ".." in re.split(r"[/\\]", path.split("://", 1)[-1]):
            raise UnsafePathError(
                f"{path!r} goes up with '..' and may leave {self.root!r}", path, self.root
            )
        if "://" not in path and not path.startswith("/"):
            return posixpath.join(self.root, self._format_path(path))
        url = self._with_protocol(path)
        if url.rstrip("/") != self.root and not url.startswith(self.root + "/"):
            raise UnsafePathError(f"{path!r} is not inside {self.root!r}", path, self.root)
        return url

    def _options(self, url: str) -> dict[str, Any]:
        """Return the options of the file system that serves this URL."""
        return self.storage_options

    def _open(self, filepath: StrPath) -> tuple[AbstractFileSystem, str]:
        """Return the file system of a path and the path within it."""
        url = self._locate(filepath)
        options = self._options(url)
        head, tail = url.split("://", 1)
        protocol = head.rpartition(":")[2]
        return _filesystem(protocol, options), _strip(protocol, tail, options)

    # Reading and writing

    def get(self, filepath: StrPath) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: There is none.
        """
        fs, path = self._open(filepath)
        return bytes(fs.cat_file(path))

    def get_text(self, filepath: StrPath, encoding: str = "utf-8") -> str:
        """Return the content of a file as text."""
        return self.get(filepath).decode(encoding)

    def put(self, obj: bytes, filepath: StrPath) -> None:
        """Write a file; directories are made where the file system has any.

        Args:
            obj: The content.
            filepath: Where; an existing file is replaced.
        """
        fs, path = self._open(filepath)
        self._ensure_parent(fs, path)
        fs.pipe_file(path, bytes(obj))

    def put_text(self, obj: str, filepath: StrPath, encoding: str = "utf-8") -> None:
        """Write a text file."""
        self.put(obj.encode(encoding), filepath)

    @staticmethod
    def _ensure_parent(fs: AbstractFileSystem, path: str) -> None:
        # Object stores have no directories, and making one of the first level makes a bucket.
        if _has_directories(fs):
            parent = posixpath.dirname(path)
            if parent:
                fs.makedirs(parent, exist_ok=True)

    # Questions

    @staticmethod
    def _forget_listings(fs: AbstractFileSystem) -> None:
        # Listings are cached for ever, but other processes write too.
        fs.invalidate_cache()

    def exists(self, filepath: StrPath) -> bool:
        """Tell whether there is a file or directory."""
        fs, path = self._open(filepath)
        self._forget_listings(fs)
        return bool(fs.exists(path))

    def isdir(self, filepath: StrPath) -> bool:
        """Tell whether there is a directory: in an object store, anything under this prefix."""
        fs, path = self._open(filepath)
        self._forget_listings(fs)
        return bool(fs.isdir(path))

    def isfile(self, filepath: StrPath) -> bool:
        """Tell whether there is a file."""
        fs, path = self._open(filepath)
        self._forget_listings(fs)
        return bool(fs.isfile(path))

    def join_path(self, filepath: StrPath, *filepaths: StrPath) -> str:
        """Join a path and others below it, with single slashes.

        >>> FsspecBackend().join_path('s3://bucket/dir/', 'sub', 'file.txt')
        's3://bucket/dir/sub/file.txt'
        """
        joined = self._format_path(self._map_path(filepath))
        for part in filepaths:
            piece = self._format_path(self._map_path(part)).lstrip("/")
            joined = f"{joined.removesuffix('/')}/{piece}" if joined else piece
        return joined

    # Copies

    @contextmanager
    def get_local_path(self, filepath: StrPath) -> Iterator[str]:
        """Download a file and yield where it is; it is removed when the block ends.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if not self.isfile(filepath):
            raise FileNotFoundError(f"there is no file {filepath}")
        fs, path = self._open(filepath)
        descriptor, local = tempfile.mkstemp(suffix=os.path.splitext(path)[1])
        os.close(descriptor)
        try:
            fs.get_file(path, local)
            yield local
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(local)

    def copyfile(self, src: StrPath, dst: StrPath) -> str:
        """Copy a file of this file system to a file or into a directory; return the destination.

        Raises:
            shutil.SameFileError: Both are the same file.
        """
        target = to_text(dst)
        if self.isdir(dst):
            target = self.join_path(dst, posixpath.basename(to_text(src)))
        source_fs, source = self._open(src)
        target_fs, destination = self._open(target)
        if source_fs is target_fs:
            if source == destination:
                raise shutil.SameFileError("src and dst should not be same")
            self._ensure_parent(target_fs, destination)
            source_fs.cp_file(source, destination)
        else:
            self.put(self.get(src), target)
        return target

    def copytree(self, src: StrPath, dst: StrPath) -> str:
        """Copy a directory of this file system; return the destination.

        Raises:
            FileExistsError: The destination exists.
            NotADirectoryError: The source is no directory.
        """
        self._check_tree(src, self.isdir(src))
        if self.exists(dst):
            raise FileExistsError(f"{dst} exists; a directory is copied to a new place")
        for path in self._files_under(src):
            self.copyfile(self.join_path(src, path), self.join_path(dst, path))
        return to_text(dst)

    def copyfile_from_local(self, src: StrPath, dst: StrPath) -> str:
        """Upload a local file to a file or into a directory; return the destination."""
        target = to_text(dst)
        if self.isdir(dst):
            target = self.join_path(dst, os.path.basename(src))
        fs, path = self._open(target)
        self._ensure_parent(fs, path)
        fs.put_file(os.fspath(src), path)
        return target

    def copytree_from_local(self, src: StrPath, dst: StrPath) -> str:
        """Upload a local directory; return the destination.

        Raises:
            FileExistsError: The destination exists.
            NotADirectoryError: The source is no directory.
        """
        self._check_tree(src, os.path.isdir(src))
        if self.exists(dst):
            raise FileExistsError(f"{dst} exists; a directory is copied to a new place")
        for directory, _, names in os.walk(src):
            for name in names:
                path = os.path.join(directory, name)
                relative = os.path.relpath(path, src).replace(os.sep, "/")
                self.copyfile_from_local(path, self.join_path(dst, relative))
        return to_text(dst)

    def copyfile_to_local(self, src: StrPath, dst: StrPath) -> StrPath:
        """Download a file to a local file or into a local directory; return the destination.

        The destination is replaced at once, when all has arrived.
        """
        target: StrPath = dst
        if os.path.isdir(dst):
            target = os.path.join(dst, posixpath.basename(to_text(src)))
        self._download(src, target)
        return target

    def _download(self, src: StrPath, target: StrPath) -> None:
        fs, path = self._open(src)
        parent = os.path.dirname(target)
        if parent:
            os.makedirs(parent, exist_ok=True)
        with fs.open(path, "rb") as source, atomic_writer(target) as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def copytree_to_local(self, src: StrPath, dst: StrPath) -> StrPath:
        """Download a directory to a local directory; return the destination.

        Raises:
            NotADirectoryError: The source is no directory.
            UnsafePathError: A name in the remote directory leads out of the destination.
        """
        self._check_tree(src, self.isdir(src))
        for path in self._files_under(src):
            self._download(self.join_path(src, path), safe_join(dst, path))
        return dst

    def copy_if_symlink_fails(self, src: StrPath, dst: StrPath) -> bool:
        """Copy: there are no links.

        Returns:
            False.
        """
        if self.isfile(src):
            self.copyfile(src, dst)
        else:
            self.copytree(src, dst)
        return False

    @staticmethod
    def _check_tree(src: StrPath, is_directory: bool) -> None:
        if not is_directory:
            raise NotADirectoryError(f"{src} is not a directory")

    def _files_under(self, directory: StrPath) -> list[str]:
        fs, top = self._open(directory)
        self._forget_listings(fs)
        return [_relative(path, top) for path in fs.find(top)]

    # Removing and listing

    def remove(self, filepath: StrPath) -> None:
        """Remove a file.

        Raises:
            FileNotFoundError: There is none.
            IsADirectoryError: It is a directory.
        """
        if not self.exists(filepath):
            raise FileNotFoundError(f"filepath {filepath} does not exist")
        if self.isdir(filepath):
            raise IsADirectoryError("filepath should be a file")
        fs, path = self._open(filepath)
        fs.rm_file(path)

    def rmtree(self, dir_path: StrPath) -> None:
        """Remove a directory with all that it contains. A bucket itself stays."""
        fs, path = self._open(dir_path)
        self._forget_listings(fs)
        if _has_directories(fs):
            fs.rm(path, recursive=True)
            return
        files = fs.find(path)
        if files:
            fs.rm(files)

    def list_dir_or_file(
        self,
        dir_path: StrPath,
        list_dir: bool = True,
        list_file: bool = True,
        suffix: str | tuple[str, ...] | None = None,
        recursive: bool = False,
    ) -> Iterator[str]:
        """Yield what a directory contains, relative to it, in any order.

        Args:
            dir_path: The directory.
            list_dir: Yield directories.
            list_file: Yield files; hidden ones (``.name``) are left out.
            suffix: Yield only files that end so.
            recursive: Go into sub-directories.

        Raises:
            TypeError: ``suffix`` is no text, or given together with ``list_dir``.
        """
        check_listing(list_dir, suffix)
        fs, top = self._open(dir_path)
        self._forget_listings(fs)
        return self._list(fs, top, top, list_dir, list_file, suffix, recursive)

    def _list(
        self,
        fs: AbstractFileSystem,
        directory: str,
        top: str,
        list_dir: bool,
        list_file: bool,
        suffix: str | tuple[str, ...] | None,
        recursive: bool,
    ) -> Iterator[str]:
        for entry in fs.ls(directory, detail=True):
            full = str(entry["name"]).rstrip("/")
            path = _relative(full, top)
            # A store may list the directory itself, as the empty object that marks it.
            if not path or full.strip("/") == directory.strip("/"):
                continue
            if entry["type"] == "directory":
                if list_dir:
                    yield path
                if recursive:
                    yield from self._list(fs, full, top, list_dir, list_file, suffix, recursive)
            elif (
                list_file
                and not posixpath.basename(path).startswith(".")
                and (suffix is None or path.endswith(suffix))
            ):
                yield path

    def generate_presigned_url(
        self, url: str, client_method: str = "get_object", expires_in: int = 3600
    ) -> str:
        """Return a link that gives access to a file without credentials.

        Args:
            url: Path of the file.
            client_method: Operation that the link allows, in the words of S3's client.
            expires_in: Seconds for which it works.

        Raises:
            NotImplementedError: The file system has no such links.
        """
        fs, path = self._open(url)
        options = {"client_method": client_method} if _is_s3(fs) else {}
        return str(fs.sign(path, expiration=expires_in, **options))


class S3Backend(FsspecBackend):
    """Files of Amazon S3 and stores that speak its language. Needs ``mmx[s3]``.

    Args:
        root: See :class:`FsspecBackend`.
        path_mapping: See :class:`FsspecBackend`.
        **storage_options: For ``s3fs.S3FileSystem``: ``key``, ``secret``, ``endpoint_url``, ``anon``...
            Without any the environment and the files of the AWS client decide.
    """

    default_protocol = "s3"


class MemoryBackend(FsspecBackend):
    """Files that live in this process. For tests."""

    default_protocol = "memory"


def _filesystem(protocol: str, options: dict[str, Any]) -> AbstractFileSystem:
    import fsspec

    try:
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        if protocol in _EXTRAS:
            raise missing_extra(*_EXTRAS[protocol], f"reading '{protocol}://'") from error
        raise
    except ValueError as error:
        if "Protocol not known" in str(error):
            raise unknown_prefix(protocol) from error
        raise


def _strip(protocol: str, tail: str, options: dict[str, Any]) -> str:
    import fsspec

    return str(fsspec.get_filesystem_class(protocol)._strip_protocol(f"{protocol}://{tail}"))


def _has_directories(fs: AbstractFileSystem) -> bool:
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    return bool(protocols & {"file", "local", "memory", "ssh", "sftp", "smb", "ftp", "hdfs", "nfs"})


def _is_s3(fs: AbstractFileSystem) -> bool:
    return "s3" in ({fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol))


def _relative(path: str, top: str) -> str:
    return path.strip("/").removeprefix(top.strip("/")).lstrip("/")


def unknown_prefix(prefix: str) -> UnknownBackendError:
    """Return the error for a prefix that neither we nor fsspec know."""
    import difflib

    from mmx.fileio.backends.registry_utils import prefix_to_backends

    known = sorted(name for name in prefix_to_backends if name)
    near = difflib.get_close_matches(prefix, known, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UnknownBackendError(
        f"no storage back end knows the prefix {prefix!r}{hint}; registered are {', '.join(known)}, and fsspec knows "
        "no such protocol either. Register one with mmx.fileio.register_backend(name, backend, prefixes=...)",
        prefix,
    )


def fsspec_knows(prefix: str) -> bool:
    """Tell whether fsspec has a file system for this prefix, installed or not."""
    import fsspec

    return prefix in fsspec.available_protocols()
