"""JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from mmx.fileio.handlers.base import BaseFileHandler

# orjson turns whole numbers beyond 64 bits into floats.
_LONG_NUMBER = re.compile(r"\d{19}")


def set_default(obj: Any) -> Any:
    """Turn what JSON lacks into what it has: sets, ranges and NumPy arrays become lists.

    Raises:
        TypeError: The object is none of these.
    """
    if isinstance(obj, (set, frozenset, range)):
        return list(obj)
    # An object of NumPy's can only exist where NumPy is imported.
    import sys

    np = sys.modules.get("numpy")
    if np is not None:
        if isinstance(obj, np.ndarray):
            return obj.tolist()
        if isinstance(obj, np.generic):
            return obj.item()
    raise TypeError(f"{type(obj)} is unsupported for json dump")


class JsonHandler(BaseFileHandler):
    """JSON, read with orjson where it is installed."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Return what an open file contains. Arguments are those of ``json.load``."""
        text = file.read()
        if not kwargs:
            fast = _orjson()
            if fast is not None and isinstance(text, str) and not _LONG_NUMBER.search(text):
                try:
                    return fast.loads(text)
                except ValueError:
                    # NaN and infinities, which it refuses; or an error, which json words better.
                    pass
        return json.loads(text, **kwargs)

    def dump_to_fileobj(self, obj: Any, file: Any, **kwargs: Any) -> None:
        """Write an object to an open file. Arguments are those of ``json.dump``."""
        kwargs.setdefault("default", set_default)
        json.dump(obj, file, **kwargs)

    def dump_to_str(self, obj: Any, **kwargs: Any) -> str:
        """Return an object as JSON. Arguments are those of ``json.dumps``."""
        kwargs.setdefault("default", set_default)
        return json.dumps(obj, **kwargs)


def _orjson() -> Any:
    try:
        import orjson
    except ImportError:
        return None
    return orjson
