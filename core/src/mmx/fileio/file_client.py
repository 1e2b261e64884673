"""Older interface to storages; the functions of :mod:`mmx.fileio` have taken its place."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from mmx.fileio.backends.base import BaseStorageBackend
from mmx.fileio.backends.fsspec_backend import FsspecBackend, S3Backend
from mmx.fileio.backends.http_backend import HTTPBackend
from mmx.fileio.backends.lmdb_backend import LmdbBackend
from mmx.fileio.backends.local_backend import LocalBackend
from mmx.fileio.backends.memcached_backend import MemcachedBackend
from mmx.fileio.backends.petrel_backend import PetrelBackend
from mmx.fileio.paths import StrPath, parse_uri_prefix
from mmx.utils.errors import InvalidTypeError, InvalidValueError

__all__ = [
    "BaseStorageBackend",
    "FileClient",
    "HTTPBackend",
    "HardDiskBackend",
    "LmdbBackend",
    "MemcachedBackend",
    "PetrelBackend",
]


class HardDiskBackend(LocalBackend):
    """Older name of :class:`LocalBackend`."""

    def __init__(self) -> None:
        warnings.warn(
            '"HardDiskBackend" is the alias of "LocalBackend" and the former will be deprecated in future.',
            DeprecationWarning,
            stacklevel=2,
        )


class FileClient:
    """Older interface to storages: chooses a back end once and hands calls on to it.

    The same arguments give the same object. Use the functions of :mod:`mmx.fileio` instead.

    Args:
        backend: Name of the back end, such as ``'disk'``, ``'lmdb'``, ``'http'`` or ``'s3'``.
        prefix: Prefix of the paths, if no back end is named.
        **kwargs: For the back end.

    Attributes:
        client: The back end.

    Raises:
        ValueError: The name or the prefix is not registered.
    """

    _backends: ClassVar[dict[str, type[BaseStorageBackend]]] = {
        "disk": HardDiskBackend,
        "memcached": MemcachedBackend,
        "lmdb": LmdbBackend,
        "petrel": PetrelBackend,
        "http": HTTPBackend,
        "s3": S3Backend,
        "fsspec": FsspecBackend,
    }
    _prefix_to_backends: ClassVar[dict[str, type[BaseStorageBackend]]] = {
        "s3": S3Backend,
        "petrel": PetrelBackend,
        "http": HTTPBackend,
        "https": HTTPBackend,
        "gs": FsspecBackend,
        "hf": FsspecBackend,
        "memory": FsspecBackend,
    }
    _instances: ClassVar[dict[str, FileClient]] = {}

    client: Any

    def __new__(
        cls, backend: str | None = None, prefix: str | None = None, **kwargs: Any
    ) -> FileClient:
        warnings.warn(
            '"FileClient" will be deprecated in future. Please use the functions of mmx.fileio instead',
            DeprecationWarning,
            stacklevel=2,
        )
        if backend is None and prefix is None:
            backend = "disk"
        if backend is not None and backend not in cls._backends:
            raise InvalidValueError(
                f"Backend {backend} is not supported. Currently supported ones are {list(cls._backends)}"
            )
        if prefix is not None and prefix not in cls._prefix_to_backends:
            raise InvalidValueError(
                f"prefix {prefix} is not supported. Currently supported ones are {list(cls._prefix_to_backends)}"
            )
        key = ":".join([f"{backend}:{prefix}", *(f"{k}:{v}" for k, v in kwargs.items())])
        if key in cls._instances:
            return cls._instances[key]
        instance = super().__new__(cls)
        if backend is not None:
            kind = cls._backends[backend]
        else:
            kind = cls._prefix_to_backends[str(prefix)]
        with warnings.catch_warnings():
            # One word about age is enough.
            warnings.simplefilter("ignore", DeprecationWarning)
            instance.client = kind(**kwargs)
        cls._instances[key] = instance
        return instance

    @property
    def name(self) -> str:
        """Name of the back end's class."""
        return str(self.client.name)

    @property
    def allow_symlink(self) -> bool:
        """Whether links to files can be made."""
        return bool(self.client.allow_symlink)

    @staticmethod
    def parse_uri_prefix(uri: StrPath) -> str | None:
        """Return the prefix of a path, None if it has none."""
        return parse_uri_prefix(uri) or None

    @classmethod
    def infer_client(
        cls, file_client_args: dict[str, Any] | None = None, uri: StrPath | None = None
    ) -> FileClient:
        """Return the client that the arguments describe, or else the one for a path.

        Raises:
            ValueError: Neither is given.
        """
        if file_client_args is not None:
            return cls(**file_client_args)
        if uri is None:
            raise InvalidValueError("file_client_args or uri must be given")
        return cls(prefix=cls.parse_uri_prefix(uri))

    @classmethod
    def _register_backend(
        cls,
        name: str,
        backend: Any,
        force: bool = False,
        prefixes: str | list[str] | tuple[str, ...] | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise InvalidTypeError(f"the backend name should be a string, but got {type(name)}")
        if not inspect.isclass(backend):
            raise InvalidTypeError(f"backend should be a class but got {type(backend)}")
        if not issubclass(backend, BaseStorageBackend):
            raise InvalidTypeError(f"backend {backend} is not a subclass of BaseStorageBackend")
        names = [] if prefixes is None else [prefixes] if isinstance(prefixes, str) else prefixes
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            raise InvalidTypeError(
                f"prefixes should be a string or a list of strings, but got {prefixes!r}"
            )
        taken = [name] if name in cls._backends else []
        taken += [prefix for prefix in names if prefix in cls._prefix_to_backends]
        if taken and not force:
            raise KeyError(
                f'{taken[0]} is already registered as a storage backend, add "force=True" if you want to override it'
            )
        # Clients of what is replaced are not handed out any more.
        stale = [cls._backends[name]] if name in cls._backends else []
        stale += [cls._prefix_to_backends[p] for p in names if p in cls._prefix_to_backends]
        for key, instance in list(cls._instances.items()):
            if type(instance.client) in stale:
                del cls._instances[key]
        cls._backends[name] = backend
        for prefix in names:
            cls._prefix_to_backends[prefix] = backend

    @classmethod
    def register_backend(
        cls,
        name: str,
        backend: Any = None,
        force: bool = False,
        prefixes: str | list[str] | tuple[str, ...] | None = None,
    ) -> Callable[[Any], Any] | None:
        """Register a back end; also as a class decorator. See :func:`mmx.fileio.register_backend`.

        Raises:
            KeyError: The name or a prefix is taken, and ``force`` is not set.
        """
        if backend is not None:
            cls._register_backend(name, backend, force, prefixes)
            return None

        def register(kind: Any) -> Any:
            cls._register_backend(name, kind, force, prefixes)
            return kind

        return register

    def get(self, filepath: StrPath) -> Any:
        """Return the content of a file."""
        return self.client.get(filepath)

    def get_text(self, filepath: StrPath, encoding: str = "utf-8") -> str:
        """Return the content of a file as text."""
        return str(self.client.get_text(filepath, encoding))

    def put(self, obj: bytes, filepath: StrPath) -> None:
        """Write a file."""
        self.client.put(obj, filepath)

    def put_text(self, obj: str, filepath: StrPath) -> None:
        """Write a text file."""
        self.client.put_text(obj, filepath)

    def remove(self, filepath: StrPath) -> None:
        """Remove a file."""
        self.client.remove(filepath)

    def exists(self, filepath: StrPath) -> bool:
        """Tell whether there is a file or directory."""
        return bool(self.client.exists(filepath))

    def isdir(self, filepath: StrPath) -> bool:
        """Tell whether there is a directory."""
        return bool(self.client.isdir(filepath))

    def isfile(self, filepath: StrPath) -> bool:
        """Tell whether there is a file."""
        return bool(self.client.isfile(filepath))

    def join_path(self, filepath: StrPath, *filepaths: StrPath) -> str:
        """Join paths."""
        return str(self.client.join_path(filepath, *filepaths))

    @contextmanager
    def get_local_path(self, filepath: StrPath) -> Iterator[StrPath]:
        """Yield a local path to a file."""
        with self.client.get_local_path(str(filepath)) as path:
            yield path

    def list_dir_or_file(
        self,
        dir_path: StrPath,
        list_dir: bool = True,
        list_file: bool = True,
        suffix: str | tuple[str, ...] | None = None,
        recursive: bool = False,
    ) -> Iterator[str]:
        """Yield what a directory contains; see :func:`mmx.fileio.list_dir_or_file`."""
        yield from self.client.list_dir_or_file(dir_path, list_dir, list_file, suffix, recursive)
