"""Files of web servers."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from http import HTTPStatus
from typing import IO, Any

from mmx.fileio.backends.base import BaseStorageBackend
from mmx.fileio.paths import StrPath, atomic_writer, to_text


class HTTPBackend(BaseStorageBackend):
    """Files of web servers, read with the standard library.

    Only ``http`` and ``https`` are served, also after a redirection. For listings use
    ``backend_args=dict(backend='fsspec')``.

    Args:
        headers: Sent with every request, such as ``{'Authorization': 'Bearer ...'}``.
        timeout_s: Seconds without an answer after which a request fails.
    """

    def __init__(self, headers: Mapping[str, str] | None = None, timeout_s: float = 60) -> None:
        self.headers = dict(headers or {})
        self.timeout_s = timeout_s

    def _request(self, filepath: StrPath, method: str = "GET") -> IO[bytes]:
        url = to_text(filepath)
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(
                f"{url!r} is no address of a web server: it must start with http:// or https://"
            )
        request = urllib.request.Request(url, headers=self.headers, method=method)
        try:
            response: IO[bytes] = urllib.request.urlopen(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            if error.code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
                error.close()
                raise FileNotFoundError(f"{url}: the server answers {error.code}") from error
            raise
        return response

    def get(self, filepath: StrPath) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: The server has none.
            urllib.error.URLError: Any other failure.
        """
        with self._request(filepath) as response:
            try:
                return response.read()
            except http.client.IncompleteRead as error:
                raise _too_short(error.expected) from error

    def get_text(self, filepath: StrPath, encoding: str = "utf-8") -> str:
        """Return the content of a file as text."""
        return self.get(filepath).decode(encoding)

    def exists(self, filepath: StrPath) -> bool:
        """Tell whether the server has this file."""
        try:
            self._request(filepath, "HEAD").close()
        except FileNotFoundError:
            return False
        return True

    def isfile(self, filepath: StrPath) -> bool:
        """Tell whether the server has this file."""
        return self.exists(filepath)

    def isdir(self, filepath: StrPath) -> bool:
        """Return False: a web server knows no directories."""
        return False

    def join_path(self, filepath: StrPath, *filepaths: StrPath) -> str:
        """Join an address and parts below it, with single slashes."""
        joined = to_text(filepath)
        for part in filepaths:
            joined = f"{joined.removesuffix('/')}/{to_text(part).lstrip('/')}"
        return joined

    @contextmanager
    def get_local_path(self, filepath: StrPath) -> Iterator[str]:
        """Download a file and yield where it is; it is removed when the block ends."""
        path = urllib.parse.urlsplit(to_text(filepath)).path
        descriptor, local = tempfile.mkstemp(suffix=os.path.splitext(path)[1])
        try:
            with os.fdopen(descriptor, "wb") as file, self._request(filepath) as response:
                _copy(response, file)
            yield local
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(local)

    def copyfile_to_local(self, src: StrPath, dst: StrPath) -> StrPath:
        """Download a file to a local file or into a local directory; return the destination."""
        target: StrPath = dst
        if os.path.isdir(dst):
            name = os.path.basename(urllib.parse.urlsplit(to_text(src)).path)
            if not name:
                raise ValueError(f"{src} names no file; give a destination that is a file")
            target = os.path.join(dst, urllib.parse.unquote(name).replace("/", "_"))
        parent = os.path.dirname(target)
        if parent:
            os.makedirs(parent, exist_ok=True)
        with self._request(src) as response, atomic_writer(target) as file:
            _copy(response, file)
        return target

    def __repr__(self) -> str:
        # Headers may hold secrets.
        return f"{type(self).__name__}(timeout_s={self.timeout_s})"

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a web server's files can be read only")

    put = put_text = remove = rmtree = _refuse


def _copy(response: IO[bytes], file: IO[bytes]) -> None:
    """Copy all that a server sends; a part of it raises ``ContentTooShortError``."""
    shutil.copyfileobj(response, file, 1 << 20)
    missing = getattr(response, "length", None)  # read in blocks, a response does not complain
    if missing:
        raise _too_short(missing)


def _too_short(missing: int | None) -> urllib.error.ContentTooShortError:
    return urllib.error.ContentTooShortError(
        f"the connection ended too early: {missing or 'some'} bytes are missing", ("", Message())
    )
