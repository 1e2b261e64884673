"""Pickles: plain data from anywhere, anything from files that the caller trusts."""

from __future__ import annotations

import io
import pickle
from typing import Any

from mmx.fileio.errors import UntrustedPickleError
from mmx.fileio.handlers.base import BaseFileHandler

# What plain data is made of: containers, numbers, times, arrays. Calling any of these with any
# arguments has no effect beyond the object that it makes.
_SAFE = {
    "builtins": "object bool int float complex str bytes bytearray list tuple dict set frozenset range slice",
    "collections": "OrderedDict defaultdict Counter deque",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "pathlib": "PurePath PurePosixPath PureWindowsPath",
    "copyreg": "_reconstructor",
    "numpy": "dtype ndarray",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy._core.numeric": "_frombuffer",
    "torch": "Size device",
    "torch._utils": "_rebuild_tensor_v2 _rebuild_parameter",
    "torch.storage": "UntypedStorage TypedStorage",
    "torch.serialization": "_get_layout",
}
_SAFE_NAMES = {f"{module}.{name}" for module, names in _SAFE.items() for name in names.split()}

# Names by which older versions of Python and NumPy knew them.
_MOVED_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
    "pathlib._local": "pathlib",
}
_MOVED_NAMES = {
    "builtins.unicode": "builtins.str",
    "builtins.long": "builtins.int",
    "builtins.xrange": "builtins.range",
}


def _path(*parts: str) -> Any:
    # A path of another system cannot be made here; it was a path of this one's kind.
    import pathlib

    return pathlib.Path(*parts)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # How old protocols write bytes. Other codecs could be anything that is registered.
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise UntrustedPickleError(f"a pickle uses the codec {encoding!r}", "_codecs.encode")
    return text.encode(encoding)


def _load_storage(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")


_REPLACED = {
    "pathlib.Path": _path,
    "pathlib.PosixPath": _path,
    "pathlib.WindowsPath": _path,
    "_codecs.encode": _encode,
    # torch's own reads the bytes as another pickle, without any check.
    "torch.storage._load_from_bytes": _load_storage,
}

# Packages whose classes are plain data too. Only classes, and only those defined there.
_SAFE_PACKAGES = ("mmx.structures.", "mmengine.structures.")


class PlainUnpickler(pickle.Unpickler):
    """Builds plain data: containers, numbers, times, paths, NumPy arrays, tensors, data elements.

    Raises:
        UntrustedPickleError: The pickle asks for anything else.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle asks for, if it is plain data."""
        module = _MOVED_MODULES.get(module, module)
        full = f"{module}.{name}"
        full = _MOVED_NAMES.get(full, full)
        if full in _REPLACED:
            return _REPLACED[full]
        if full in _SAFE_NAMES:
            return super().find_class(*full.rsplit(".", 1))
        if module == "torch" and name.isidentifier():
            import torch

            found = getattr(torch, name, None)
            if isinstance(found, (torch.dtype, torch.layout)) or _is_storage(found):
                return found
        if module == "numpy.dtypes" or (module == "numpy" and name.isidentifier()):
            found = super().find_class(module, name)
            import numpy as np

            if isinstance(found, type) and issubclass(found, (np.generic, np.dtype)):
                return found
        if module.startswith(_SAFE_PACKAGES) and name.isidentifier():
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise UntrustedPickleError(
            f"the pickle asks for {full!r}, which is not plain data: reading it could run any code. If the file comes "
            "from a source that you trust, pass trusted=True to load()",
            full,
        )


def _is_storage(found: Any) -> bool:
    import torch

    return isinstance(found, type) and issubclass(found, (torch.TypedStorage, torch.UntypedStorage))


class PickleHandler(BaseFileHandler):
    """Pickles.

    Plain data is read from any file: containers, numbers, times, paths, NumPy arrays, tensors and
    data elements. A pickle with anything else is read only with ``trusted=True``, since it runs
    whatever its author wanted. (MMEngine reads every pickle.)
    """

    str_like = False

    def load_from_fileobj(self, file: Any, trusted: bool = False, **kwargs: Any) -> Any:
        """Return what an open binary file contains.

        Args:
            file: An open binary file.
            trusted: The file comes from a source that may run any code on this machine.
            **kwargs: For ``pickle.load``.

        Raises:
            UntrustedPickleError: It is not plain data, and ``trusted`` is not set.
        """
        if trusted:
            return pickle.load(file, **kwargs)  # noqa: S301  # the caller vouches for the file
        return PlainUnpickler(file, **kwargs).load()

    def load_from_path(self, filepath: Any, mode: str = "rb", **kwargs: Any) -> Any:
        """Return what a local file contains. Arguments as for :meth:`load_from_fileobj`."""
        return super().load_from_path(filepath, mode="rb", **kwargs)

    def dump_to_fileobj(self, obj: Any, file: Any, **kwargs: Any) -> None:
        """Write an object to an open binary file, by default with protocol 2."""
        kwargs.setdefault("protocol", 2)
        pickle.dump(obj, file, **kwargs)

    def dump_to_str(self, obj: Any, **kwargs: Any) -> bytes:
        """Return an object as bytes, by default with protocol 2."""
        kwargs.setdefault("protocol", 2)
        return pickle.dumps(obj, **kwargs)

    def dump_to_path(self, obj: Any, filepath: Any, mode: str = "wb", **kwargs: Any) -> None:
        """Write an object to a local file."""
        super().dump_to_path(obj, filepath, mode="wb", **kwargs)
