"""Asynchronous saving: one file at a time, and no error goes unseen."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmx.checkpoint import AsyncCheckpointSaver, CheckpointError, _load_checkpoint, save
from mmx.fileio.backends import FsspecBackend

# Long enough for the busiest machine; nothing waits that long unless it hangs.
PATIENCE_S = 60


def checkpoint(value: float) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((1000,), value)}}


def content(path: Path) -> torch.Tensor:
    return _load_checkpoint(path)["state_dict"]["w"]


class Scene:
    """A saver whose writing thread is held back, and what happens in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.saver = AsyncCheckpointSaver()
        self.held = threading.Event()
        self.news: queue.Queue[str] = queue.Queue()
        self.begun: list[str] = []
        write = save.write_plain

        def write_when_let_go(checkpoint: dict[str, Any], filename: str, *more: Any) -> None:
            self.begun.append(Path(filename).name)
            assert self.held.wait(PATIENCE_S)
            write(checkpoint, filename, *more)
            self.news.put(f"{Path(filename).name} is written")

        monkeypatch.setattr(save, "write_plain", write_when_let_go)

    def tell_when_waited_for(self) -> None:
        """Put it among the news when somebody waits for the file that is being written."""
        pending = self.saver._pending
        assert pending is not None
        result = pending.result

        def result_and_tell(*args: Any) -> None:
            self.news.put("somebody waits")
            return result(*args)

        pending.result = result_and_tell  # type: ignore[method-assign]

    def do_beside(self, act: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                act()
                self.news.put("it has returned")
            except BaseException as error:
                self.news.put(f"it has failed: {error}")

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def next(self) -> str:
        return self.news.get(timeout=PATIENCE_S)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(monkeypatch)
    yield made
    made.held.set()
    made.saver.close()


def test_a_save_returns_while_its_file_is_being_written(scene: Scene, tmp_path: Path) -> None:
    scene.saver.save(checkpoint(1), tmp_path / "a.pth")
    scene.saver.check()  # does not wait either
    assert not (tmp_path / "a.pth").exists()
    scene.held.set()
    scene.saver.wait()
    assert torch.equal(torch.full((1000,), 1.0), content(tmp_path / "a.pth"))


@pytest.mark.parametrize("way", ["save", "submit", "wait", "close"])
def test_what_comes_next_waits_for_the_file_that_is_being_written(
    scene: Scene, tmp_path: Path, way: str
) -> None:
    saver, done = scene.saver, []
    saver.save(checkpoint(1), tmp_path / "a.pth", then=lambda: done.append("a"))
    scene.tell_when_waited_for()
    acts: dict[str, Callable[[], None]] = {
        "save": lambda: saver.save(checkpoint(2), tmp_path / "b.pth"),
        "submit": lambda: saver.submit(lambda: done.append("b")),
        "wait": saver.wait,
        "close": saver.close,
    }
    thread = scene.do_beside(acts[way])
    assert "somebody waits" == scene.next()
    # Nothing more is under way or in the queue, and nothing is copied over what is being written.
    assert 0 == saver._thread._work_queue.qsize()
    assert scene.begun in ([], ["a.pth"])
    assert [] == done
    scene.held.set()
    assert "a.pth is written" == scene.next()
    news = {scene.next()}
    thread.join(PATIENCE_S)
    saver.wait()
    while not scene.news.empty():
        news.add(scene.next())
    assert news == {"it has returned"} | ({"b.pth is written"} if way == "save" else set())
    assert ["a", "b"] == done if way == "submit" else ["a"] == done
    assert torch.equal(torch.full((1000,), 1.0), content(tmp_path / "a.pth"))
    if way == "save":
        assert torch.equal(torch.full((1000,), 2.0), content(tmp_path / "b.pth"))


def test_without_waiting_the_second_would_overwrite_the_first(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AsyncCheckpointSaver, "wait", lambda self: None)
    scene.saver.save(checkpoint(1), tmp_path / "a.pth")
    scene.tell_when_waited_for()
    scene.do_beside(lambda: scene.saver.save(checkpoint(2), tmp_path / "b.pth"))
    assert "it has returned" == scene.next()
    scene.held.set()
    assert "a.pth is written" == scene.next()
    assert "b.pth is written" == scene.next()
    assert torch.equal(torch.full((1000,), 2.0), content(tmp_path / "a.pth"))


@pytest.mark.parametrize("way", ["save", "submit", "wait", "close", "check"])
def test_the_error_of_a_write_is_raised_by_whatever_comes_next(tmp_path: Path, way: str) -> None:
    (tmp_path / "file").touch()
    saver = AsyncCheckpointSaver()
    saver.save(checkpoint(1), tmp_path / "file" / "a.pth")
    pending = saver._pending
    assert pending is not None
    assert isinstance(pending.exception(PATIENCE_S), CheckpointError)
    acts: dict[str, Callable[[], None]] = {
        "save": lambda: saver.save(checkpoint(2), tmp_path / "b.pth"),
        "submit": lambda: saver.submit(lambda: None),
        "wait": saver.wait,
        "close": saver.close,
        "check": saver.check,
    }
    with pytest.raises(CheckpointError, match=r"file/a\.pth could not be written") as caught:
        acts[way]()
    assert str(tmp_path / "file" / "a.pth") == caught.value.filename
    # It is raised once, and nothing was written over the error.
    saver.close()
    assert not (tmp_path / "b.pth").exists()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_storage_that_takes_no_file_is_named(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    def put(self: FsspecBackend, obj: bytes, filepath: str) -> None:
        raise ConnectionError("the storage is not there")

    monkeypatch.setattr(FsspecBackend, "put", put)
    saver = AsyncCheckpointSaver()
    with pytest.raises(
        CheckpointError, match=r"memory://run/a\.pth could not be .*: the storage is not there"
    ) as caught:
        if asynchronous:
            saver.save(checkpoint(1), "memory://run/a.pth")
            saver.wait()
        else:
            save.save_checkpoint(checkpoint(1), "memory://run/a.pth")
    assert "memory://run/a.pth" == caught.value.filename
    saver.close()
