"""TOML."""

from __future__ import annotations

import tomllib
from typing import Any

from mmx.fileio.handlers.base import BaseFileHandler


class TomlHandler(BaseFileHandler):
    """TOML. It has tables, lists, texts, numbers and times, and no null."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Return what an open file contains. Arguments are those of ``tomllib.loads``."""
        text = file.read()
        return tomllib.loads(text.decode() if isinstance(text, bytes) else text, **kwargs)

    def dump_to_fileobj(self, obj: Any, file: Any, **kwargs: Any) -> None:
        """Write a dict to an open text file. Arguments are those of ``tomli_w.dumps``."""
        file.write(self.dump_to_str(obj, **kwargs))

    def dump_to_str(self, obj: Any, **kwargs: Any) -> str:
        """Return a dict as TOML.

        Raises:
            TypeError: ``obj`` is no dict, or holds what TOML lacks, such as None.
        """
        import tomli_w

        if not isinstance(obj, dict):
            raise TypeError(f"a TOML file is a dict at its top, but got {type(obj)}")
        return tomli_w.dumps(obj, **kwargs)
