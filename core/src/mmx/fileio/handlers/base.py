"""What every handler of a file format offers."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from pathlib import Path
from typing import Any


class BaseFileHandler(metaclass=ABCMeta):
    """Reads and writes one file format."""

    # Whether the format is text. The others are read and written as bytes.
    str_like = True

    @abstractmethod
    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Return what an open file contains."""

    @abstractmethod
    def dump_to_fileobj(self, obj: Any, file: Any, **kwargs: Any) -> None:
        """Write an object to an open file."""

    @abstractmethod
    def dump_to_str(self, obj: Any, **kwargs: Any) -> Any:
        """Return an object as text, or as bytes if the format is binary."""

    def load_from_path(self, filepath: str | Path, mode: str = "r", **kwargs: Any) -> Any:
        """Return what a local file contains."""
        with open(filepath, mode, encoding=None if "b" in mode else "utf-8") as file:
            return self.load_from_fileobj(file, **kwargs)

    def dump_to_path(self, obj: Any, filepath: str | Path, mode: str = "w", **kwargs: Any) -> None:
        """Write an object to a local file."""
        with open(filepath, mode, encoding=None if "b" in mode else "utf-8") as file:
            self.dump_to_fileobj(obj, file, **kwargs)
