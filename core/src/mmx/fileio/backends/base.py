"""What every storage back end offers."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from pathlib import Path


class BaseStorageBackend(metaclass=ABCMeta):
    """Base of storage back ends; a subclass reads a file as bytes and as text.

    A back end that can do more defines the further methods of
    :class:`~mmx.fileio.LocalBackend` under the same names.
    """

    # Whether the file system knows symbolic links.
    _allow_symlink = False

    @property
    def allow_symlink(self) -> bool:
        """Whether links to files can be made."""
        return self._allow_symlink

    @property
    def name(self) -> str:
        """Name of the back end's class."""
        return type(self).__name__

    @abstractmethod
    def get(self, filepath: str | Path) -> bytes:
        """Return the content of a file."""

    @abstractmethod
    def get_text(self, filepath: str | Path) -> str:
        """Return the content of a file as text."""
