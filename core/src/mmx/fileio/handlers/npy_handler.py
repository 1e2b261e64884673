"""Arrays in NumPy's format."""

from __future__ import annotations

import io
from typing import Any

from mmx.fileio.handlers.base import BaseFileHandler


class NpyHandler(BaseFileHandler):
    """One array in NumPy's ``.npy`` format, without Python objects."""

    str_like = False

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Return the array in an open file.

        Raises:
            ValueError: The array holds Python objects: reading those could run code.
        """
        import numpy as np

        return np.load(file, **{**kwargs, "allow_pickle": False})

    def dump_to_fileobj(self, obj: Any, file: Any, **kwargs: Any) -> None:
        """Write an array, or what makes one, to an open file."""
        import numpy as np

        np.save(file, np.asarray(obj), **{**kwargs, "allow_pickle": False})

    def dump_to_str(self, obj: Any, **kwargs: Any) -> bytes:
        """Return an array as bytes."""
        buffer = io.BytesIO()
        self.dump_to_fileobj(obj, buffer, **kwargs)
        return buffer.getvalue()

    def load_from_path(self, filepath: Any, mode: str = "rb", **kwargs: Any) -> Any:
        """Return the array in a local file."""
        return super().load_from_path(filepath, mode="rb", **kwargs)

    def dump_to_path(self, obj: Any, filepath: Any, mode: str = "wb", **kwargs: Any) -> None:
        """Write an array to a local file."""
        super().dump_to_path(obj, filepath, mode="wb", **kwargs)
