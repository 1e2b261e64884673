"""A folder that replaces a checkpoint of the same name: the old or the new one is always found."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from mmx.checkpoint import (
    CheckpointError,
    CheckpointLoader,
    find_latest_checkpoint,
    is_sharded,
    load_checkpoint,
    read_sharded,
    remove_checkpoint,
    remove_stale_temporaries,
    save_checkpoint,
    save_sharded,
    verify_checkpoint,
    write_last_checkpoint,
)
from mmx.checkpoint.durable import aside_of

NAME = "epoch_1.pth"


def state(value: float) -> dict:
    return {"meta": {"epoch": 1}, "state_dict": {"weight": torch.full((2, 3), value)}}


def value_of(checkpoint: dict) -> float:
    return float(checkpoint["state_dict"]["weight"][0, 0])


def killed_at(rename: int, act) -> int:
    """Do something in a process that is killed just before its N-th rename; return the exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        count, real = 0, os.rename

        def counted(*args) -> None:
            nonlocal count
            count += 1
            if count == rename:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args)

        os.rename = counted
        act()
    finally:
        os._exit(0)


@pytest.fixture
def between(tmp_path: Path) -> Path:
    """A directory whose process was killed when the old folder had gone and the new not come."""
    save_sharded(state(1.0), tmp_path / NAME)
    write_last_checkpoint(tmp_path, str(tmp_path / NAME))
    code = killed_at(2, lambda: save_sharded(state(2.0), tmp_path / NAME))
    assert -signal.SIGKILL == code
    assert not (tmp_path / NAME).exists()
    return tmp_path


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("pointer", [False, True])
def test_between_the_renames_the_old_one_is_found(
    between: Path, clean: bool, pointer: bool
) -> None:
    if not pointer:
        (between / "last_checkpoint").unlink()
    if clean:  # as the next run does first; the unfinished new one may go, the old one not
        (between / f".{NAME}.999999999.0123abcd.tmp").mkdir()
        assert remove_stale_temporaries(between)
    found = find_latest_checkpoint(between)
    assert str(between / f".{NAME}.replaced") == found
    verify_checkpoint(found)
    assert 1.0 == value_of(CheckpointLoader.load_checkpoint(found))


def test_between_the_renames_its_own_name_loads_it(between: Path) -> None:
    path = between / NAME
    assert is_sharded(path)
    verify_checkpoint(path)
    assert 1.0 == value_of(read_sharded(path))
    assert 1.0 == value_of(CheckpointLoader.load_checkpoint(str(path)))
    model = torch.nn.Linear(3, 2, bias=False)
    load_checkpoint(model, path, strict=True)
    assert torch.equal(torch.ones(2, 3), model.weight)


def test_in_a_directory_that_was_moved_it_is_found_as_well(between: Path, tmp_path: Path) -> None:
    moved = between.with_name(between.name + "-moved")
    between.rename(moved)
    assert str(moved / f".{NAME}.replaced") == find_latest_checkpoint(moved)


@pytest.mark.parametrize("form", ["folder", "file"])
def test_the_next_save_takes_the_name_again(between: Path, form: str) -> None:
    save = save_sharded if form == "folder" else save_checkpoint
    save(state(3.0), between / NAME)
    remove_stale_temporaries(between)
    assert [NAME, "last_checkpoint"] == sorted(p.name for p in between.iterdir())
    assert 3.0 == value_of(CheckpointLoader.load_checkpoint(str(between / NAME)))


def test_a_kill_before_the_first_or_after_the_second_rename_leaves_one(tmp_path: Path) -> None:
    save_sharded(state(1.0), tmp_path / NAME)
    assert -signal.SIGKILL == killed_at(1, lambda: save_sharded(state(2.0), tmp_path / NAME))
    assert 1.0 == value_of(CheckpointLoader.load_checkpoint(str(tmp_path / NAME)))
    # The new one is there, its predecessor not yet deleted.
    save_sharded(state(2.0), tmp_path / NAME)
    save_sharded(state(1.0), aside_of(tmp_path / NAME))
    assert str(tmp_path / NAME) == find_latest_checkpoint(tmp_path)
    assert 2.0 == value_of(CheckpointLoader.load_checkpoint(str(tmp_path / NAME)))
    remove_stale_temporaries(tmp_path)
    assert [NAME] == [p.name for p in tmp_path.iterdir()]


@pytest.mark.parametrize("before", ["folder", "file"])
@pytest.mark.parametrize("after", ["folder", "file"])
def test_files_and_folders_replace_each_other(tmp_path: Path, before: str, after: str) -> None:
    forms = {"folder": save_sharded, "file": save_checkpoint}
    forms[before](state(1.0), tmp_path / NAME)
    forms[after](state(2.0), tmp_path / NAME)
    assert [NAME] == [p.name for p in tmp_path.iterdir()]
    assert (after == "folder") == is_sharded(tmp_path / NAME)
    assert 2.0 == value_of(CheckpointLoader.load_checkpoint(str(tmp_path / NAME)))


def test_a_replacement_that_fails_leaves_the_old_one_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_sharded(state(1.0), tmp_path / NAME)
    rename = os.rename

    def fail(source, target) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(CheckpointError, match="Input/output error"):
        save_sharded(state(2.0), tmp_path / NAME)
    assert [NAME] == [p.name for p in tmp_path.iterdir()]
    assert 1.0 == value_of(read_sharded(tmp_path / NAME))


def test_what_is_removed_does_not_come_back(between: Path) -> None:
    remove_checkpoint(between / NAME)
    assert not is_sharded(between / NAME)
    assert not aside_of(between / NAME).exists()


def test_without_the_aside_name_the_checkpoint_would_be_lost(
    between: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a look at the names alone finds nothing."""
    monkeypatch.setattr("mmx.checkpoint.find.aside_of", lambda path: between / "elsewhere")
    monkeypatch.setattr("pathlib.Path.glob", lambda self, pattern: iter(()))
    found = find_latest_checkpoint(between)
    assert found is not None
    assert not os.path.exists(found)
