"""Which storage back end serves which name and which prefix."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from mmx.fileio.backends.base import BaseStorageBackend
from mmx.fileio.backends.fsspec_backend import FsspecBackend, MemoryBackend, S3Backend
from mmx.fileio.backends.http_backend import HTTPBackend
from mmx.fileio.backends.lmdb_backend import LmdbBackend
from mmx.fileio.backends.local_backend import LocalBackend
from mmx.fileio.backends.memcached_backend import MemcachedBackend
from mmx.fileio.backends.petrel_backend import PetrelBackend
from mmx.utils.errors import InvalidTypeError, InvalidValueError

B = TypeVar("B", bound=type[BaseStorageBackend])

backends: dict[str, type[BaseStorageBackend]] = {}
prefix_to_backends: dict[str, type[BaseStorageBackend]] = {}


def _register_backend(
    name: str,
    backend: Any,
    force: bool = False,
    prefixes: str | list[str] | tuple[str, ...] | None = None,
) -> None:
    if not isinstance(name, str):
        raise InvalidTypeError(f"the backend name should be a string, but got {type(name)}")
    if not inspect.isclass(backend):
        raise InvalidTypeError(f"backend should be a class, but got {type(backend)}")
    if not issubclass(backend, BaseStorageBackend):
        raise InvalidTypeError(f"backend {backend} is not a subclass of BaseStorageBackend")
    names = [] if prefixes is None else [prefixes] if isinstance(prefixes, str) else prefixes
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
        raise InvalidTypeError(
            f"prefixes should be a string or a list of strings, but got {prefixes!r}"
        )
    # All checks come before any change, so that a refused registration leaves no trace.
    if not force:
        for taken in [name] if name in backends else [n for n in names if n in prefix_to_backends]:
            raise InvalidValueError(
                f'{taken} is already registered as a storage backend, add "force=True" if you want to override it'
            )
    old = backends.get(name)
    if old is not None:
        for prefix in [p for p, cls in prefix_to_backends.items() if cls is old]:
            del prefix_to_backends[prefix]
    backends[name] = backend
    for prefix in names:
        prefix_to_backends[prefix] = backend


def register_backend(
    name: str,
    backend: type[BaseStorageBackend] | None = None,
    force: bool = False,
    prefixes: str | list[str] | tuple[str, ...] | None = None,
) -> Callable[[B], B] | None:
    """Register a storage back end; also as a class decorator.

    Args:
        name: Name that ``backend_args=dict(backend=name)`` asks for.
        backend: The class; None returns the decorator.
        force: Replace what is registered under the name or a prefix. A name that is replaced
            loses its prefixes.
        prefixes: Paths that begin so (``prefix://``) are served by it.

    Raises:
        TypeError: ``name`` is no text, ``backend`` no subclass of ``BaseStorageBackend``, or a
            prefix no text.
        ValueError: The name or a prefix is taken, and ``force`` is not set.
    """
    if backend is not None:
        _register_backend(name, backend, force, prefixes)
        return None

    def register(cls: B) -> B:
        _register_backend(name, cls, force, prefixes)
        return cls

    return register


register_backend("local", LocalBackend, prefixes="")
register_backend("memcached", MemcachedBackend)
register_backend("lmdb", LmdbBackend)
register_backend("petrel", PetrelBackend, prefixes="petrel")
register_backend("http", HTTPBackend, prefixes=["http", "https"])
register_backend("s3", S3Backend, prefixes=["s3", "s3a"])
register_backend("memory", MemoryBackend, prefixes="memory")
# Every other prefix that fsspec knows is served too; this name chooses it for any path.
register_backend("fsspec", FsspecBackend, prefixes=["gs", "gcs", "hf", "file"])
