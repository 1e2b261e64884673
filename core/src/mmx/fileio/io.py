"""Files of any storage by one set of functions: the path's prefix chooses the back end."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from mmx.fileio.backends import backends, prefix_to_backends
from mmx.fileio.backends.fsspec_backend import FsspecBackend, fsspec_knows, unknown_prefix
from mmx.fileio.errors import UnknownBackendError
from mmx.fileio.handlers.registry_utils import file_handlers
from mmx.fileio.handlers.registry_utils import register_handler as register_handler
from mmx.fileio.paths import StrPath, check_bytes, check_file
from mmx.fileio.paths import parse_uri_prefix as _parse_uri_prefix
from mmx.utils.errors import InvalidTypeError, InvalidValueError

BackendArgs = dict[str, Any] | None

# Back ends that get_file_backend(enable_singleton=True) has made.
backend_instances: dict[str, Any] = {}


# What `FileClient` calls them.
_OLD_NAMES = {"disk": "local"}


def _get_file_backend(prefix: str, backend_args: dict[str, Any]) -> Any:
    # The caller's dict stays as it is: it often belongs to a config.
    arguments = dict(backend_args)
    name = arguments.pop("backend", None)
    if name is not None:
        try:
            cls = backends[_OLD_NAMES.get(name, name)]
        except (KeyError, TypeError):
            raise UnknownBackendError(
                f"no storage back end has the name {name!r}; registered are {', '.join(sorted(backends))}",
                str(name),
            ) from None
        return cls(**arguments)
    if prefix in prefix_to_backends:
        return prefix_to_backends[prefix](**arguments)
    if fsspec_knows(prefix):
        return FsspecBackend(**arguments)
    raise unknown_prefix(prefix)


def get_file_backend(
    uri: StrPath | None = None,
    *,
    backend_args: BackendArgs = None,
    enable_singleton: bool = False,
) -> Any:
    """Return the back end that serves a path.

    Args:
        uri: Path or address; its prefix chooses (``'s3://bucket/key'``; none: this machine).
        backend_args: Arguments of the back end; ``backend`` names one, which wins over the prefix.
        enable_singleton: Return the same object for the same prefix and arguments.

    Returns:
        A :class:`~mmx.fileio.BaseStorageBackend`.

    Raises:
        UnknownBackendError: There is none for this name or prefix.
        ValueError: Neither a path nor a back end's name is given.
    """
    arguments = backend_args or {}
    if uri is None and "backend" not in arguments:
        raise InvalidValueError(
            'uri should not be None when "backend" does not exist in backend_args'
        )
    prefix = "" if uri is None else _parse_uri_prefix(uri)
    if not enable_singleton:
        return _get_file_backend(prefix, arguments)
    key = f"{prefix}:{json.dumps(arguments, sort_keys=True, default=repr)}"
    if key not in backend_instances:
        backend_instances[key] = _get_file_backend(prefix, arguments)
    return backend_instances[key]


def _backend(path: StrPath, backend_args: BackendArgs) -> Any:
    return get_file_backend(path, backend_args=backend_args, enable_singleton=True)


def get(filepath: StrPath, backend_args: BackendArgs = None, *, sha256: str | None = None) -> bytes:
    """Return the content of a file.

    Args:
        filepath: Its path.
        backend_args: Arguments of the back end.
        sha256: Expected SHA-256 of the content, in hexadecimal digits, or its beginning.

    Raises:
        FileNotFoundError: There is no such file.
        HashMismatchError: The content is another.
    """
    data: bytes = _backend(filepath, backend_args).get(filepath)
    return check_bytes(data, sha256, filepath)


def get_text(filepath: StrPath, encoding: str = "utf-8", backend_args: BackendArgs = None) -> str:
    """Return the content of a file as text."""
    text: str = _backend(filepath, backend_args).get_text(filepath, encoding)
    return text


def put(obj: bytes, filepath: StrPath, backend_args: BackendArgs = None) -> None:
    """Write a file, making the directories that it needs.

    On this machine a reader sees the old file or the new one, never a part.

    Args:
        obj: The content.
        filepath: Where; an existing file is replaced.
        backend_args: Arguments of the back end.
    """
    _backend(filepath, backend_args).put(obj, filepath)


def put_text(obj: str, filepath: StrPath, backend_args: BackendArgs = None) -> None:
    """Write a text file in UTF-8; see :func:`put`."""
    _backend(filepath, backend_args).put_text(obj, filepath)


def exists(filepath: StrPath, backend_args: BackendArgs = None) -> bool:
    """Tell whether there is a file or directory."""
    return bool(_backend(filepath, backend_args).exists(filepath))


def isdir(filepath: StrPath, backend_args: BackendArgs = None) -> bool:
    """Tell whether there is a directory."""
    return bool(_backend(filepath, backend_args).isdir(filepath))


def isfile(filepath: StrPath, backend_args: BackendArgs = None) -> bool:
    """Tell whether there is a file."""
    return bool(_backend(filepath, backend_args).isfile(filepath))


def join_path(filepath: StrPath, *filepaths: StrPath, backend_args: BackendArgs = None) -> Any:
    """Join a path and others below it, as its storage writes paths."""
    return _backend(filepath, backend_args).join_path(filepath, *filepaths)


@contextmanager
def get_local_path(
    filepath: StrPath, backend_args: BackendArgs = None, *, sha256: str | None = None
) -> Iterator[StrPath]:
    """Yield a local path to a file: the file itself, or a copy that goes when the block ends.

    Args:
        filepath: Path of the file.
        backend_args: Arguments of the back end.
        sha256: Expected SHA-256 of the content, in hexadecimal digits, or its beginning.

    Raises:
        HashMismatchError: The content is another.
    """
    with _backend(filepath, backend_args).get_local_path(str(filepath)) as path:
        check_file(path, sha256, filepath)
        yield path


def copyfile(src: StrPath, dst: StrPath, backend_args: BackendArgs = None) -> StrPath:
    """Copy a file within a storage, to a file or into a directory; return the destination.

    Args:
        src: A file.
        dst: File, which is replaced, or directory.
        backend_args: Arguments of the back end.

    Raises:
        shutil.SameFileError: Both are the same file.
    """
    result: StrPath = _backend(src, backend_args).copyfile(src, dst)
    return result


def copytree(src: StrPath, dst: StrPath, backend_args: BackendArgs = None) -> StrPath:
    """Copy a directory within a storage; return the destination.

    Raises:
        FileExistsError: The destination exists.
    """
    result: StrPath = _backend(src, backend_args).copytree(src, dst)
    return result


def copyfile_from_local(src: StrPath, dst: StrPath, backend_args: BackendArgs = None) -> StrPath:
    """Copy a local file to a file or into a directory of a storage; return the destination."""
    result: StrPath = _backend(dst, backend_args).copyfile_from_local(src, dst)
    return result


def copytree_from_local(src: StrPath, dst: StrPath, backend_args: BackendArgs = None) -> StrPath:
    """Copy a local directory to a storage; return the destination.

    Raises:
        FileExistsError: The destination exists.
    """
    result: StrPath = _backend(dst, backend_args).copytree_from_local(src, dst)
    return result


def copyfile_to_local(
    src: StrPath, dst: StrPath, backend_args: BackendArgs = None, *, sha256: str | None = None
) -> StrPath:
    """Copy a file of a storage to a local file or into a local directory; return the destination.

    Args:
        src: The file.
        dst: Local file, which is replaced, or local directory.
        backend_args: Arguments of the back end.
        sha256: Expected SHA-256 of the content, in hexadecimal digits, or its beginning.

    Raises:
        HashMismatchError: The content is another; the destination is as it was.
    """
    if sha256 is None:
        result: StrPath = _backend(src, backend_args).copyfile_to_local(src, dst)
        return result
    with get_local_path(src, backend_args, sha256=sha256) as local:
        target = Path(dst)
        if target.is_dir():
            target = target / str(src).rstrip("/").rsplit("/", 1)[-1]
        put(Path(local).read_bytes(), target)
        return str(target)


def copytree_to_local(src: StrPath, dst: StrPath, backend_args: BackendArgs = None) -> StrPath:
    """Copy a directory of a storage to a local directory; return the destination.

    Raises:
        UnsafePathError: A name in the storage leads out of the destination.
    """
    result: StrPath = _backend(src, backend_args).copytree_to_local(src, dst)
    return result


def remove(filepath: StrPath, backend_args: BackendArgs = None) -> None:
    """Remove a file.

    Raises:
        FileNotFoundError: There is none.
        IsADirectoryError: It is a directory.
    """
    _backend(filepath, backend_args).remove(filepath)


def rmtree(dir_path: StrPath, backend_args: BackendArgs = None) -> None:
    """Remove a directory with all that it contains."""
    _backend(dir_path, backend_args).rmtree(dir_path)


def copy_if_symlink_fails(src: StrPath, dst: StrPath, backend_args: BackendArgs = None) -> bool:
    """Link ``dst`` to ``src``, or copy where links cannot be made.

    Returns:
        True if a link was made.
    """
    return bool(_backend(src, backend_args).copy_if_symlink_fails(src, dst))


def list_dir_or_file(
    dir_path: StrPath,
    list_dir: bool = True,
    list_file: bool = True,
    suffix: str | tuple[str, ...] | None = None,
    recursive: bool = False,
    backend_args: BackendArgs = None,
) -> Iterator[str]:
    """Yield what a directory contains, relative to it, in any order.

    Args:
        dir_path: The directory.
        list_dir: Yield directories.
        list_file: Yield files; hidden ones (``.name``) are left out.
        suffix: Yield only files that end so.
        recursive: Go into sub-directories.
        backend_args: Arguments of the back end.

    Raises:
        TypeError: ``suffix`` is no text, or given together with ``list_dir``.
    """
    yield from _backend(dir_path, backend_args).list_dir_or_file(
        dir_path, list_dir, list_file, suffix, recursive
    )


def generate_presigned_url(
    url: str,
    client_method: str = "get_object",
    expires_in: int = 3600,
    backend_args: BackendArgs = None,
) -> str:
    """Return a link that gives access to a file without credentials.

    Args:
        url: Path of the file.
        client_method: Operation that the link allows, in the words of S3's client.
        expires_in: Seconds for which it works.
        backend_args: Arguments of the back end.

    Raises:
        NotImplementedError: The storage has no such links.
    """
    backend = _backend(url, backend_args)
    if not hasattr(backend, "generate_presigned_url"):
        raise NotImplementedError(f"{backend.name} has no presigned links; s3:// and gs:// have")
    link: str = backend.generate_presigned_url(url, client_method, expires_in)
    return link


def _storage(path: str, file_client_args: BackendArgs, backend_args: BackendArgs) -> Any:
    """Return what reads and writes a path, also by the older arguments."""
    if file_client_args is None:
        return _backend(path, backend_args)
    warnings.warn(
        '"file_client_args" will be deprecated in future. Please use "backend_args" instead',
        DeprecationWarning,
        stacklevel=3,
    )
    if backend_args is not None:
        raise InvalidValueError(
            '"file_client_args and "backend_args" cannot be set at the same time.'
        )
    from mmx.fileio.file_client import FileClient

    with warnings.catch_warnings():
        # Said already, for the caller's own line.
        warnings.simplefilter("ignore", DeprecationWarning)
        return FileClient.infer_client(file_client_args, path)


def _handler(file: Any, file_format: str | None) -> Any:
    if file_format is None and isinstance(file, str):
        file_format = file.rsplit(".", 1)[-1].lower()
        # Query and fragment of a link are no part of the name.
        if "://" in file:
            file_format = file_format.split("?", 1)[0].split("#", 1)[0]
    if file_format not in file_handlers:
        raise InvalidTypeError(
            f"Unsupported format: {file_format}; known are {', '.join(sorted(file_handlers))}, and further ones are "
            "registered with mmx.fileio.register_handler"
        )
    return file_handlers[file_format]


def load(
    file: Any,
    file_format: str | None = None,
    file_client_args: BackendArgs = None,
    backend_args: BackendArgs = None,
    **kwargs: Any,
) -> Any:
    """Return what a JSON, YAML, TOML, pickle or ``.npy`` file of any storage contains.

    Args:
        file: Path, or an open file.
        file_format: ``'json'``, ``'yaml'``, ``'yml'``, ``'toml'``, ``'pickle'``, ``'pkl'``,
            ``'npy'`` or a registered one; None takes it from the file's extension.
        file_client_args: Older form of ``backend_args``.
        backend_args: Arguments of the back end.
        **kwargs: For the handler. ``trusted=True`` reads a pickle that is more than plain data.

    Raises:
        TypeError: Nothing handles the format, or ``file`` is neither a path nor a file.
        UntrustedPickleError: A pickle is more than plain data, and ``trusted`` is not set.
    """
    if isinstance(file, Path):
        file = str(file)
    handler = _handler(file, file_format)
    if isinstance(file, str):
        storage = _storage(file, file_client_args, backend_args)
        if handler.str_like:
            with StringIO(storage.get_text(file)) as text:
                return handler.load_from_fileobj(text, **kwargs)
        with BytesIO(storage.get(file)) as data:
            return handler.load_from_fileobj(data, **kwargs)
    if hasattr(file, "read"):
        return handler.load_from_fileobj(file, **kwargs)
    raise InvalidTypeError('"file" must be a filepath str or a file-object')


def dump(
    obj: Any,
    file: Any = None,
    file_format: str | None = None,
    file_client_args: BackendArgs = None,
    backend_args: BackendArgs = None,
    **kwargs: Any,
) -> Any:
    """Write an object as JSON, YAML, TOML, pickle or ``.npy`` to any storage.

    Args:
        obj: The object.
        file: Path, or an open file; None returns text, or bytes if the format is binary.
        file_format: As for :func:`load`.
        file_client_args: Older form of ``backend_args``.
        backend_args: Arguments of the back end.
        **kwargs: For the handler, such as ``indent=2`` for JSON.

    Returns:
        The text or bytes if ``file`` is None, else None.

    Raises:
        TypeError: Nothing handles the format, or ``file`` is neither a path nor a file.
        ValueError: Neither a file nor a format is given.
    """
    if isinstance(file, Path):
        file = str(file)
    if file_format is None and file is None:
        raise InvalidValueError("file_format must be specified since file is None")
    handler = _handler(file, file_format)
    if file is None:
        return handler.dump_to_str(obj, **kwargs)
    if isinstance(file, str):
        storage = _storage(file, file_client_args, backend_args)
        if handler.str_like:
            with StringIO() as text:
                handler.dump_to_fileobj(obj, text, **kwargs)
                storage.put_text(text.getvalue(), file)
        else:
            with BytesIO() as data:
                handler.dump_to_fileobj(obj, data, **kwargs)
                storage.put(data.getvalue(), file)
        return None
    if hasattr(file, "write"):
        handler.dump_to_fileobj(obj, file, **kwargs)
        return None
    raise InvalidTypeError('"file" must be a filename str or a file-object')
