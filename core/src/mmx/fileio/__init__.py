"""Files of any storage, and the formats that they are written in."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.fileio.backends import (
        BaseStorageBackend as BaseStorageBackend,
    )
    from mmx.fileio.backends import (
        FsspecBackend as FsspecBackend,
    )
    from mmx.fileio.backends import (
        HTTPBackend as HTTPBackend,
    )
    from mmx.fileio.backends import (
        LmdbBackend as LmdbBackend,
    )
    from mmx.fileio.backends import (
        LocalBackend as LocalBackend,
    )
    from mmx.fileio.backends import (
        MemcachedBackend as MemcachedBackend,
    )
    from mmx.fileio.backends import (
        MemoryBackend as MemoryBackend,
    )
    from mmx.fileio.backends import (
        PetrelBackend as PetrelBackend,
    )
    from mmx.fileio.backends import (
        S3Backend as S3Backend,
    )
    from mmx.fileio.backends import (
        register_backend as register_backend,
    )
    from mmx.fileio.errors import (
        HashMismatchError as HashMismatchError,
    )
    from mmx.fileio.errors import (
        UnknownBackendError as UnknownBackendError,
    )
    from mmx.fileio.errors import (
        UnsafePathError as UnsafePathError,
    )
    from mmx.fileio.errors import (
        UntrustedPickleError as UntrustedPickleError,
    )
    from mmx.fileio.file_client import (
        FileClient as FileClient,
    )
    from mmx.fileio.file_client import (
        HardDiskBackend as HardDiskBackend,
    )
    from mmx.fileio.handlers import (
        BaseFileHandler as BaseFileHandler,
    )
    from mmx.fileio.handlers import (
        JsonHandler as JsonHandler,
    )
    from mmx.fileio.handlers import (
        NpyHandler as NpyHandler,
    )
    from mmx.fileio.handlers import (
        PickleHandler as PickleHandler,
    )
    from mmx.fileio.handlers import (
        TomlHandler as TomlHandler,
    )
    from mmx.fileio.handlers import (
        YamlHandler as YamlHandler,
    )
    from mmx.fileio.handlers import (
        register_handler as register_handler,
    )
    from mmx.fileio.io import (
        copy_if_symlink_fails as copy_if_symlink_fails,
    )
    from mmx.fileio.io import (
        copyfile as copyfile,
    )
    from mmx.fileio.io import (
        copyfile_from_local as copyfile_from_local,
    )
    from mmx.fileio.io import (
        copyfile_to_local as copyfile_to_local,
    )
    from mmx.fileio.io import (
        copytree as copytree,
    )
    from mmx.fileio.io import (
        copytree_from_local as copytree_from_local,
    )
    from mmx.fileio.io import (
        copytree_to_local as copytree_to_local,
    )
    from mmx.fileio.io import (
        dump as dump,
    )
    from mmx.fileio.io import (
        exists as exists,
    )
    from mmx.fileio.io import (
        generate_presigned_url as generate_presigned_url,
    )
    from mmx.fileio.io import (
        get as get,
    )
    from mmx.fileio.io import (
        get_file_backend as get_file_backend,
    )
    from mmx.fileio.io import (
        get_local_path as get_local_path,
    )
    from mmx.fileio.io import (
        get_text as get_text,
    )
    from mmx.fileio.io import (
        isdir as isdir,
    )
    from mmx.fileio.io import (
        isfile as isfile,
    )
    from mmx.fileio.io import (
        join_path as join_path,
    )
    from mmx.fileio.io import (
        list_dir_or_file as list_dir_or_file,
    )
    from mmx.fileio.io import (
        load as load,
    )
    from mmx.fileio.io import (
        put as put,
    )
    from mmx.fileio.io import (
        put_text as put_text,
    )
    from mmx.fileio.io import (
        remove as remove,
    )
    from mmx.fileio.io import (
        rmtree as rmtree,
    )
    from mmx.fileio.parse import (
        dict_from_file as dict_from_file,
    )
    from mmx.fileio.parse import (
        list_from_file as list_from_file,
    )
    from mmx.fileio.paths import (
        safe_join as safe_join,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "backends": [
                "BaseStorageBackend",
                "FsspecBackend",
                "HTTPBackend",
                "LmdbBackend",
                "LocalBackend",
                "MemcachedBackend",
                "MemoryBackend",
                "PetrelBackend",
                "S3Backend",
                "register_backend",
            ],
            "errors": [
                "HashMismatchError",
                "UnknownBackendError",
                "UnsafePathError",
                "UntrustedPickleError",
            ],
            "file_client": ["FileClient", "HardDiskBackend"],
            "handlers": [
                "BaseFileHandler",
                "JsonHandler",
                "NpyHandler",
                "PickleHandler",
                "TomlHandler",
                "YamlHandler",
                "register_handler",
            ],
            "io": [
                "copy_if_symlink_fails",
                "copyfile",
                "copyfile_from_local",
                "copyfile_to_local",
                "copytree",
                "copytree_from_local",
                "copytree_to_local",
                "dump",
                "exists",
                "generate_presigned_url",
                "get",
                "get_file_backend",
                "get_local_path",
                "get_text",
                "isdir",
                "isfile",
                "join_path",
                "list_dir_or_file",
                "load",
                "put",
                "put_text",
                "remove",
                "rmtree",
            ],
            "parse": ["dict_from_file", "list_from_file"],
            "paths": ["safe_join"],
        },
    )
