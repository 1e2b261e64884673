"""Files of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from mmx.fileio.backends.base import BaseStorageBackend
from mmx.fileio.paths import StrPath, atomic_writer


def check_listing(list_dir: bool, suffix: str | tuple[str, ...] | None) -> None:
    """Check the arguments of ``list_dir_or_file``.

    Raises:
        TypeError: ``suffix`` is given for directories, or is no text.
    """
    if list_dir and suffix is not None:
        raise TypeError("`suffix` should be None when `list_dir` is True")
    if suffix is not None and not isinstance(suffix, (str, tuple)):
        raise TypeError("`suffix` must be a string or tuple of strings")


class LocalBackend(BaseStorageBackend):
    """Files of this machine.

    Writing is atomic: a reader sees the old file or the new one, and a crash leaves the old one.
    """

    _allow_symlink = True

    def get(self, filepath: StrPath) -> bytes:
        """Return the content of a file."""
        with open(filepath, "rb") as file:
            return file.read()

    def get_text(self, filepath: StrPath, encoding: str = "utf-8") -> str:
        """Return the content of a file as text."""
        with open(filepath, encoding=encoding) as file:
            return file.read()

    def put(self, obj: bytes, filepath: StrPath) -> None:
        """Write a file at once, making the directories that it needs.

        Args:
            obj: The content.
            filepath: Where; an existing file is replaced.
        """
        self._make_parent(filepath)
        with atomic_writer(filepath) as file:
            file.write(obj)

    def put_text(self, obj: str, filepath: StrPath, encoding: str = "utf-8") -> None:
        """Write a text file at once, making the directories that it needs."""
        self.put(obj.replace("\n", os.linesep).encode(encoding), filepath)

    @staticmethod
    def _make_parent(filepath: StrPath) -> None:
        parent = os.path.dirname(filepath)
        if parent:
            os.makedirs(parent, exist_ok=True)

    def exists(self, filepath: StrPath) -> bool:
        """Tell whether there is a file or directory."""
        return os.path.exists(filepath)

    def isdir(self, filepath: StrPath) -> bool:
        """Tell whether there is a directory."""
        return os.path.isdir(filepath)

    def isfile(self, filepath: StrPath) -> bool:
        """Tell whether there is a file."""
        return os.path.isfile(filepath)

    def join_path(self, filepath: StrPath, *filepaths: StrPath) -> str:
        """Join paths as ``os.path.join`` does."""
        return str(os.path.join(filepath, *filepaths))

    @contextmanager
    def get_local_path(self, filepath: StrPath) -> Iterator[StrPath]:
        """Yield the path itself: nothing is copied."""
        yield filepath

    def copyfile(self, src: StrPath, dst: StrPath) -> StrPath:
        """Copy a file to a file or into a directory; return the destination.

        Raises:
            shutil.SameFileError: Both are the same file.
        """
        return shutil.copy(src, dst)

    def copytree(self, src: StrPath, dst: StrPath) -> StrPath:
        """Copy a directory; return the destination.

        Raises:
            FileExistsError: The destination exists.
        """
        return shutil.copytree(src, dst)

    def copyfile_from_local(self, src: StrPath, dst: StrPath) -> StrPath:
        """As :meth:`copyfile`."""
        return self.copyfile(src, dst)

    def copytree_from_local(self, src: StrPath, dst: StrPath) -> StrPath:
        """As :meth:`copytree`."""
        return self.copytree(src, dst)

    def copyfile_to_local(self, src: StrPath, dst: StrPath) -> StrPath:
        """As :meth:`copyfile`."""
        return self.copyfile(src, dst)

    def copytree_to_local(self, src: StrPath, dst: StrPath) -> StrPath:
        """As :meth:`copytree`."""
        return self.copytree(src, dst)

    def remove(self, filepath: StrPath) -> None:
        """Remove a file.

        Raises:
            FileNotFoundError: There is none.
            IsADirectoryError: It is a directory.
        """
        if not self.exists(filepath) and not os.path.islink(filepath):
            raise FileNotFoundError(f"filepath {filepath} does not exist")
        if self.isdir(filepath) and not os.path.islink(filepath):
            raise IsADirectoryError("filepath should be a file")
        os.remove(filepath)

    def rmtree(self, dir_path: StrPath) -> None:
        """Remove a directory with all that it contains."""
        shutil.rmtree(dir_path)

    def copy_if_symlink_fails(self, src: StrPath, dst: StrPath) -> bool:
        """Link ``dst`` to ``src``, or copy where links cannot be made.

        Returns:
            True if a link was made.
        """
        try:
            os.symlink(src, dst)
        except OSError:
            if self.isfile(src):
                self.copyfile(src, dst)
            else:
                self.copytree(src, dst)
            return False
        return True

    def list_dir_or_file(
        self,
        dir_path: StrPath,
        list_dir: bool = True,
        list_file: bool = True,
        suffix: str | tuple[str, ...] | None = None,
        recursive: bool = False,
    ) -> Iterator[str]:
        """Yield what a directory contains, relative to it, in any order.

        Args:
            dir_path: The directory.
            list_dir: Yield directories.
            list_file: Yield files; hidden ones (``.name``) are left out.
            suffix: Yield only files that end so.
            recursive: Go into sub-directories.

        Raises:
            TypeError: ``suffix`` is no text, or given together with ``list_dir``.
        """
        check_listing(list_dir, suffix)
        return self._list(os.fspath(dir_path), "", list_dir, list_file, suffix, recursive)

    def _list(
        self,
        directory: str,
        relative: str,
        list_dir: bool,
        list_file: bool,
        suffix: str | tuple[str, ...] | None,
        recursive: bool,
    ) -> Iterator[str]:
        with os.scandir(directory) as entries:
            for entry in entries:
                path = os.path.join(relative, entry.name)
                if entry.is_dir():
                    if list_dir:
                        yield path
                    if recursive:
                        yield from self._list(
                            entry.path, path, list_dir, list_file, suffix, recursive
                        )
                elif (
                    list_file
                    and not entry.name.startswith(".")
                    and entry.is_file()
                    and (suffix is None or path.endswith(suffix))
                ):
                    yield path
