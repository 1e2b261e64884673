"""Real servers: of web pages and of S3."""

from __future__ import annotations

import functools
import http.server
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/secret":
            ok = self.headers.get("Authorization") == "Bearer key"
            self.send_response(200 if ok else 403)
            self.end_headers()
            self.wfile.write(b"hidden" if ok else b"")
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/a.txt")
            self.end_headers()
        elif self.path == "/to-file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the address of a web server and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, Any]]:
    """Yield the options that reach a server of S3's protocol."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {"key": "key", "secret": "secret", "endpoint_url": f"http://{host}:{port}"}
    server.stop()


@pytest.fixture
def s3(s3_server: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the options of a server that has one empty bucket, ``bucket``."""
    import boto3

    with warnings.catch_warnings():
        # Of botocore's own.
        warnings.simplefilter("ignore")
        client = boto3.client(
            "s3",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            endpoint_url=s3_server["endpoint_url"],
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="bucket")
        yield dict(s3_server)
        for item in client.list_objects_v2(Bucket="bucket").get("Contents", []):
            client.delete_object(Bucket="bucket", Key=item["Key"])
        client.delete_bucket(Bucket="bucket")
        client.close()
