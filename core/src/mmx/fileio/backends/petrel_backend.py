"""Files of Ceph clusters in the style of the Petrel client: clusters by name, mapped prefixes."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from typing import Any

from mmx.fileio.backends.fsspec_backend import FsspecBackend
from mmx.fileio.errors import UnknownBackendError
from mmx.fileio.paths import StrPath

DEFAULT_CONF_PATH = "~/petreloss.conf"


class PetrelBackend(FsspecBackend):
    """Files of Ceph clusters, addressed as the Petrel client does.

    ``'petrel://bucket/key'`` and ``'s3://bucket/key'`` are files of the default cluster,
    ``'cluster:s3://bucket/key'`` are files of a named one. Access goes through S3's protocol
    (needs ``mmx[s3]``), with the addresses and keys of the client's configuration file.

    Args:
        path_mapping: Beginning of a local path -> what replaces it.
        enable_mc: Taken for compatibility; there is no memcached in between.
        conf_path: Configuration file of the Petrel client; default ``~/petreloss.conf`` if there
            is one. A section per cluster: ``access_key``, ``secret_key``, ``host_base``,
            ``use_https``; ``[DEFAULT]`` names ``default_cluster``.
        **storage_options: For ``s3fs.S3FileSystem``; they win over the file.
    """

    default_protocol = "s3"

    def __init__(
        self,
        path_mapping: Mapping[str, str] | None = None,
        enable_mc: bool = True,
        conf_path: StrPath | None = None,
        **storage_options: Any,
    ) -> None:
        super().__init__(path_mapping=path_mapping, **storage_options)
        self.enable_mc = enable_mc
        self._clusters = configparser.ConfigParser()
        path = os.path.expanduser(conf_path or DEFAULT_CONF_PATH)
        if conf_path is not None or os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                self._clusters.read_file(file)

    def _replace_prefix(self, filepath: StrPath) -> str:
        # Both prefixes name the same files.
        return re.sub(r"^((?:[^:/]+:)?)s3://", r"\1petrel://", str(filepath))

    def _locate(self, filepath: StrPath) -> str:
        return re.sub(r"^((?:[^:/]+:)?)petrel://", r"\1s3://", super()._locate(filepath))

    def _options(self, url: str) -> dict[str, Any]:
        name, separator, _ = url.split("://", 1)[0].rpartition(":")
        if not separator:
            name = self._clusters.defaults().get("default_cluster", "")
            if not name:
                return self.storage_options
        if name not in self._clusters:
            raise UnknownBackendError(
                f"{url!r} is in the cluster {name!r}, which the Petrel configuration does not describe; it has "
                f"{self._clusters.sections()}. Give the file as conf_path",
                name,
            )
        cluster = self._clusters[name]
        scheme = "https" if cluster.getboolean("use_https", fallback=False) else "http"
        options: dict[str, Any] = {
            "key": cluster.get("access_key"),
            "secret": cluster.get("secret_key"),
        }
        if host := cluster.get("host_base"):
            options["endpoint_url"] = host if "://" in host else f"{scheme}://{host}"
        return {**options, **self.storage_options}
