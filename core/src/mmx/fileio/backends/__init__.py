"""Storage back ends."""

from mmx.fileio.backends.base import BaseStorageBackend
from mmx.fileio.backends.fsspec_backend import FsspecBackend, MemoryBackend, S3Backend
from mmx.fileio.backends.http_backend import HTTPBackend
from mmx.fileio.backends.lmdb_backend import LmdbBackend
from mmx.fileio.backends.local_backend import LocalBackend
from mmx.fileio.backends.memcached_backend import MemcachedBackend
from mmx.fileio.backends.petrel_backend import PetrelBackend
from mmx.fileio.backends.registry_utils import backends, prefix_to_backends, register_backend

__all__ = [
    "BaseStorageBackend",
    "FsspecBackend",
    "HTTPBackend",
    "LmdbBackend",
    "LocalBackend",
    "MemcachedBackend",
    "MemoryBackend",
    "PetrelBackend",
    "S3Backend",
    "backends",
    "prefix_to_backends",
    "register_backend",
]
