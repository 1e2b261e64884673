"""Values of a memcached server, by the client library ``mc``."""

from __future__ import annotations

import sys
from typing import Any

from mmx.fileio.backends.base import BaseStorageBackend
from mmx.fileio.paths import StrPath


class MemcachedBackend(BaseStorageBackend):
    """Values of a memcached server; the key is the path.

    Args:
        server_list_cfg: File that lists the servers.
        client_cfg: Configuration file of the client.
        sys_path: Directory to import the client library ``mc`` from.

    Raises:
        ImportError: The library ``mc`` is not installed.
    """

    def __init__(self, server_list_cfg: str, client_cfg: str, sys_path: str | None = None) -> None:
        if sys_path is not None and sys_path not in sys.path:
            sys.path.append(sys_path)
        try:
            import mc  # type: ignore[import-not-found]
        except ImportError as error:
            raise ImportError(
                "Please install memcached to enable MemcachedBackend: the package index does not have its client 'mc'",
                name="mc",
            ) from error
        self._mc = mc
        self.server_list_cfg = server_list_cfg
        self.client_cfg = client_cfg
        self._client = mc.MemcachedClient.GetInstance(server_list_cfg, client_cfg)
        self._mc_buffer = mc.pyvector()

    def get(self, filepath: StrPath) -> Any:
        """Return the value of a key, as a view of the client's buffer."""
        self._client.Get(str(filepath), self._mc_buffer)
        return self._mc.ConvertBuffer(self._mc_buffer)

    def get_text(self, filepath: StrPath, encoding: str | None = None) -> str:
        """Return the value of a key as text, by default UTF-8."""
        return bytes(self.get(filepath)).decode(encoding or "utf-8")
