"""Checkpoints of web servers and of torchvision: whole, the right ones, and downloaded once."""

from __future__ import annotations

import enum
import hashlib
import http.server
import io
import os
import sys
import threading
import types
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmx.checkpoint import (
    CheckpointLoader,
    CorruptCheckpointError,
    DownloadError,
    WrongHashError,
    _load_checkpoint,
    download,
    load,
    load_checkpoint,
    save_checkpoint,
)
from mmx.checkpoint.load import load_from_http
from mmx.fileio import copyfile_to_local, get
from mmx.logging import MMLogger

# Long enough for the busiest machine; nothing waits that long unless it hangs.
PATIENCE_S = 60


def content(value: float) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"w": torch.full((100,), value)}}, buffer)
    return buffer.getvalue()


def weight(checkpoint: Any) -> float:
    return float(checkpoint["state_dict"]["w"][0])


ONE, TWO = content(1.0), content(2.0)
NAMED = f"one-{hashlib.sha256(ONE).hexdigest()[:8]}.pth"


class Web:
    """A web server: what it serves, and what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cuts: set[str] = set()
        self.before_answer: Callable[[], Any] = lambda: None
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                name = self.path.split("?")[0].lstrip("/")
                web.asked.append(name)
                web.before_answer()
                body = web.files.get(name)
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if name in web.cuts else body)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    server.files = {NAMED: ONE, "plain.pth": ONE}
    yield server
    server.stop()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that `torch.hub` downloads into."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    MMLogger.get_instance(tmp_path.name, log_file=str(tmp_path / "run.log"))
    return tmp_path / "run.log"


@pytest.mark.parametrize("name", [NAMED, "plain.pth"])
def test_a_file_is_downloaded_once(web: Web, cache: Path, name: str) -> None:
    for _ in range(2):
        assert 1.0 == weight(_load_checkpoint(f"{web.address}/{name}?token=abc"))
    assert [name] == web.asked
    assert [name] == os.listdir(cache)


def test_it_may_be_kept_elsewhere_and_a_bar_shown(
    web: Web, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load_from_http(f"{web.address}/{NAMED}", "cpu", str(tmp_path / "mine"), progress=True)
    assert 1.0 == weight(loaded)
    assert [NAMED] == os.listdir(tmp_path / "mine")
    assert not cache.exists()
    assert "100" in capfd.readouterr().err


def test_another_hash_is_refused_and_nothing_is_kept(web: Web, cache: Path) -> None:
    web.files[NAMED] = TWO
    with pytest.raises(
        WrongHashError, match=r"but its name states [0-9a-f]{8}:.* was not kept"
    ) as e:
        _load_checkpoint(f"{web.address}/{NAMED}")
    assert hashlib.sha256(TWO).hexdigest() == e.value.actual
    assert isinstance(e.value, RuntimeError)  # what torch.hub raises
    assert [] == os.listdir(cache)


def test_damage_of_a_downloaded_file_is_found_and_mended(web: Web, cache: Path, log: Path) -> None:
    url = f"{web.address}/{NAMED}"
    _load_checkpoint(url)
    (cache / NAMED).write_bytes(TWO)
    assert 1.0 == weight(_load_checkpoint(url))
    assert ONE == (cache / NAMED).read_bytes()
    assert f"{NAMED} is damaged or another file than its name says" in log.read_text()


def test_damage_that_cannot_be_mended_is_not_loaded(web: Web, cache: Path) -> None:
    url = f"{web.address}/{NAMED}"
    _load_checkpoint(url)
    (cache / NAMED).write_bytes(TWO)
    del web.files[NAMED]
    with pytest.raises(DownloadError, match="the server answers 404"):
        _load_checkpoint(url)


def test_without_the_check_another_file_would_be_loaded(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "hash_in", lambda name: None)
    web.files[NAMED] = TWO
    assert 2.0 == weight(_load_checkpoint(f"{web.address}/{NAMED}"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("a_20210208-4271cd6c.pth.tar", "4271cd6c"),
        ("a-" + 64 * "a" + ".pth", 64 * "a"),
        ("a-20210208.pth", None),
        ("a-0676ba6.pth", None),
        ("a-20219999.pth", "20219999"),
        ("a-x0676ba61.pth", None),
        ("0676ba61.pth", None),
        ("a-" + 65 * "a" + ".pth", None),
    ],
)
def test_a_hash_is_known_from_its_place(name: str, expected: str | None) -> None:
    assert expected == download.hash_in(name)


def test_a_damaged_file_without_a_hash_says_what_to_remove(web: Web, cache: Path) -> None:
    url = f"{web.address}/plain.pth"
    _load_checkpoint(url)
    (cache / "plain.pth").write_bytes(ONE[:-30])
    with pytest.raises(
        CorruptCheckpointError, match=r"plain\.pth.* copy of http://.*; remove it to have it"
    ) as e:
        _load_checkpoint(url)
    assert str(cache / "plain.pth") == e.value.filename


def test_what_is_absent_is_named(web: Web, cache: Path) -> None:
    url = f"{web.address}/absent.pth"
    with pytest.raises(
        DownloadError, match=rf"^{url} could .* the server answers 404 Not Found$"
    ) as e:
        _load_checkpoint(url)
    assert isinstance(e.value, urllib.error.URLError)
    assert isinstance(e.value.__cause__, urllib.error.HTTPError)
    assert [] == os.listdir(cache)


def test_a_server_that_is_not_there_is_named(cache: Path) -> None:
    gone = Web()
    gone.stop()
    url = f"{gone.address}/{NAMED}"
    with pytest.raises(DownloadError, match=rf"{url} could not be downloaded: .*refused"):
        _load_checkpoint(url)
    assert [] == os.listdir(cache)


@pytest.mark.parametrize("name", [NAMED, "plain.pth"])
def test_an_interrupted_download_leaves_nothing(web: Web, cache: Path, name: str) -> None:
    web.cuts.add(name)
    half = len(ONE) - len(ONE) // 2
    with pytest.raises(DownloadError, match=f"the connection ended {half} bytes too early"):
        _load_checkpoint(f"{web.address}/{name}")
    assert [] == os.listdir(cache)
    web.cuts.clear()
    assert 1.0 == weight(_load_checkpoint(f"{web.address}/{name}"))


def test_a_file_back_end_notices_an_interrupted_download_too(web: Web, tmp_path: Path) -> None:
    web.cuts.add("plain.pth")
    with pytest.raises(urllib.error.ContentTooShortError, match="bytes are missing"):
        copyfile_to_local(f"{web.address}/plain.pth", tmp_path / "a.pth")
    with pytest.raises(urllib.error.ContentTooShortError, match="bytes are missing"):
        get(f"{web.address}/plain.pth")
    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize("path", ["", "/", "/..", "/a/%2e%2e/.."])
def test_an_address_that_names_no_file_is_refused(cache: Path, path: str) -> None:
    with pytest.raises(ValueError, match="names no file"):
        load_from_http(f"http://host{path}")
    assert not cache.exists()


def test_a_name_stays_in_the_directory(web: Web, cache: Path, tmp_path: Path) -> None:
    web.files["%2e%2e%2fescaped.pth"] = ONE
    load_from_http(f"{web.address}/%2e%2e%2fescaped.pth")
    assert ["%2e%2e%2fescaped.pth"] == os.listdir(cache)


def test_what_a_killed_process_left_is_cleared_away(web: Web, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f".{NAMED}.lock").touch()
    (cache / f".{NAMED}.1.0a1b2c3d.tmp").write_bytes(b"half")
    (cache / f".other{NAMED}.1.0a1b2c3d.tmp").touch()
    assert 1.0 == weight(_load_checkpoint(f"{web.address}/{NAMED}"))
    assert sorted([NAMED, f".other{NAMED}.1.0a1b2c3d.tmp"]) == sorted(os.listdir(cache))


class TestSeveralRanks:
    """Locks of files are as good between threads that open them as between processes."""

    @staticmethod
    def load_twice(url: str) -> list[float]:
        loaded: list[float] = []
        threads = [
            threading.Thread(target=lambda: loaded.append(weight(load_from_http(url))))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        return loaded

    def test_one_downloads_and_the_others_wait(
        self, web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits = threading.Event()
        monkeypatch.setattr(
            download, "print_log", lambda text, **_: text.startswith("Waits for") and waits.set()
        )
        # The first gets its answer when the second waits.
        web.before_answer = lambda: waits.wait(PATIENCE_S)
        assert [1.0, 1.0] == self.load_twice(f"{web.address}/{NAMED}")
        assert waits.is_set()
        assert [NAMED] == web.asked
        assert [NAMED] == os.listdir(cache)

    def test_without_the_lock_each_would_download(
        self, web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "_lock", lambda path, name: None)
        both = threading.Barrier(2, timeout=PATIENCE_S)
        web.before_answer = both.wait
        assert [1.0, 1.0] == self.load_twice(f"{web.address}/{NAMED}")
        assert [NAMED, NAMED] == web.asked


class TestTorchvision:
    @pytest.fixture
    def torchvision(self, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
        """A stand-in with one model."""

        class ResNet50Weights(enum.Enum):
            IMAGENET1K_V1 = "one.pth"
            IMAGENET1K_V2 = "two.pth"
            DEFAULT = IMAGENET1K_V2

            @property
            def url(self) -> str:
                return f"http://weights/{self.value}"

        package, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
        package.models = models  # type: ignore[attr-defined]
        models.list_models = lambda: ["resnet50"]  # type: ignore[attr-defined]
        models.get_model_weights = {"resnet50": ResNet50Weights}.__getitem__  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchvision", package)
        monkeypatch.setitem(sys.modules, "torchvision.models", models)
        monkeypatch.setattr(load, "load_from_http", lambda url, map_location: (url, map_location))
        return models

    @pytest.mark.usefixtures("torchvision")
    @pytest.mark.parametrize(
        ("address", "expected"),
        [
            ("torchvision://resnet50", "one.pth"),
            ("torchvision://resnet50.imagenet1k_v2", "two.pth"),
            ("torchvision://resnet50.IMAGENET1K_V1", "one.pth"),
            ("torchvision://resnet50.default", "two.pth"),
            ("modelzoo://resnet50", "one.pth"),
        ],
    )
    def test_names_stand_for_the_addresses_of_weights(
        self, address: str, expected: str, log: Path
    ) -> None:
        assert (f"http://weights/{expected}", "cpu") == CheckpointLoader.load_checkpoint(
            address, map_location="cpu"
        )
        is_old = address.startswith("modelzoo")
        assert is_old == ("write torchvision://resnet50 instead" in log.read_text())

    @pytest.mark.usefixtures("torchvision")
    def test_unknown_names_are_told_with_the_known_ones(self) -> None:
        with pytest.raises(KeyError, match="has no model 'resnet5'; it has resnet50"):
            _load_checkpoint("torchvision://resnet5")
        with pytest.raises(KeyError, match="no weights 'v9' of resnet50; it has imagenet1k_v1, im"):
            _load_checkpoint("torchvision://resnet50.v9")

    @pytest.mark.parametrize("scheme", ["torchvision", "modelzoo"])
    def test_without_it_the_error_says_what_to_install(
        self, scheme: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
        monkeypatch.setitem(sys.modules, "torchvision.models", None)
        with pytest.raises(
            ImportError, match=f"{scheme}://resnet50 needs torchvision: pip install"
        ):
            _load_checkpoint(f"{scheme}://resnet50")


@pytest.mark.parametrize("scheme", ["file", "memory", "local"])
def test_weights_are_loaded_from_any_file_back_end_with_their_names_mapped(
    tmp_path: Path, scheme: str
) -> None:
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    address = {
        "file": f"file://{tmp_path}/a.pth",
        "memory": f"memory://{tmp_path.name}/a.pth",
        "local": f"{tmp_path}/a.pth",
    }[scheme]
    save_checkpoint(
        {"state_dict": {f"net.{k}": v for k, v in source.state_dict().items()}}, address
    )
    load_checkpoint(target, address, strict=True, revise_keys=[(r"^net\.", "")])
    assert torch.equal(source.weight, target.weight)
