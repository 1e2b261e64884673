"""Values of an LMDB database."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from mmx.fileio.backends.base import BaseStorageBackend
from mmx.fileio.errors import missing_extra
from mmx.fileio.paths import StrPath

# LMDB forbids opening a database twice in a process; back ends of one file share its environment.
_environments: weakref.WeakValueDictionary[tuple[int, str], Any] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class _Environment:
    """An open database, closed with the last back end that uses it."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        import lmdb

        self.handle = lmdb.open(path, **options)
        self.pid = os.getpid()

    def __del__(self) -> None:
        # A child process must not close what it inherited.
        if getattr(self, "pid", None) == os.getpid():
            self.handle.close()


class LmdbBackend(BaseStorageBackend):
    """Values of an LMDB database; the key is the path. Needs ``mmx[lmdb]``.

    The database is opened at first use and once more in each worker process, since it cannot be
    used across ``fork``.

    Args:
        db_path: File or directory of the database.
        readonly: Open it for reading only.
        lock: Lock it against concurrent writers.
        readahead: Let the system read ahead.
        **kwargs: For ``lmdb.open``.

    Raises:
        ImportError: The package ``lmdb`` is not installed.
    """

    def __init__(
        self,
        db_path: StrPath,
        readonly: bool = True,
        lock: bool = False,
        readahead: bool = False,
        **kwargs: Any,
    ) -> None:
        try:
            import lmdb  # noqa: F401
        except ImportError as error:
            raise missing_extra("lmdb", "lmdb", "LmdbBackend") from error
        self.db_path = os.fspath(db_path)
        self.readonly = readonly
        self.lock = lock
        self.readahead = readahead
        self.kwargs = kwargs
        self._client: _Environment | None = None

    def _get_client(self) -> Any:
        if self._client is None or self._client.pid != os.getpid():
            key = (os.getpid(), os.path.realpath(self.db_path))
            with _lock:
                # What the parent process had open cannot be used here, and would be in the way.
                for pid, path in list(_environments):
                    if path == key[1] and pid != key[0]:
                        inherited = _environments.pop((pid, path), None)
                        if inherited is not None:
                            inherited.handle.close()
                environment = _environments.get(key)
                if environment is None:
                    options = dict(
                        readonly=self.readonly,
                        lock=self.lock,
                        readahead=self.readahead,
                        subdir=os.path.isdir(self.db_path),
                        **self.kwargs,
                    )
                    environment = _environments[key] = _Environment(self.db_path, options)
            self._client = environment
        return self._client.handle

    def get(self, filepath: StrPath) -> bytes:
        """Return the value of a key.

        Raises:
            FileNotFoundError: The database has no such key.
        """
        with self._get_client().begin(write=False) as transaction:
            value = transaction.get(str(filepath).encode())
        if value is None:
            raise FileNotFoundError(
                f"the LMDB database {self.db_path} has no key {str(filepath)!r}"
            )
        return bytes(value)

    def get_text(self, filepath: StrPath, encoding: str | None = None) -> str:
        """Return the value of a key as text, by default UTF-8."""
        return self.get(filepath).decode(encoding or "utf-8")

    def exists(self, filepath: StrPath) -> bool:
        """Tell whether the database has this key."""
        with self._get_client().begin(write=False) as transaction:
            return transaction.get(str(filepath).encode()) is not None

    def isfile(self, filepath: StrPath) -> bool:
        """Tell whether the database has this key."""
        return self.exists(filepath)

    def isdir(self, filepath: StrPath) -> bool:
        """Return False: a database has no directories."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        # An open database cannot travel to another process.
        return {**self.__dict__, "_client": None}
