"""A disk that fails, and a process that dies, at each single operation that saving makes."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmx.checkpoint import CheckpointError, find_latest_checkpoint, save_checkpoint
from mmx.checkpoint.load import verify_checkpoint
from mmx.fileio import paths
from mmx.model import BaseModel
from mmx.runner import Runner

sys.path.insert(0, str(Path(__file__).parent))
import victim
from children import folder_in_memory, in_child, wait

sys.path.pop(0)

pytestmark = pytest.mark.faults

ITERS = 4
# Operations that make a file or a name appear or vanish for good.
OPERATIONS = ("open", "write", "fsync", "replace", "unlink", "remove")


class Net(BaseModel):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(width, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, mode):  # type: ignore[no-untyped-def]  # a test model
        return {"loss": self.linear(self.dropout(x)).square().mean()}


def build(work_dir: Path, width: int = 3, **checkpoint: Any) -> Runner:
    return Runner(
        Net(width),
        str(work_dir),
        train_dataloader=dict(
            dataset=torch.arange(16.0 * width).reshape(16, width) / 48,
            batch_size=4,
            sampler=dict(type="DefaultSampler", shuffle=True),
            collate_fn=lambda rows: {"x": torch.stack(rows)},
        ),
        train_cfg=dict(by_epoch=False, max_iters=ITERS, val_interval=1000),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(
                type="CheckpointHook", interval=1, by_epoch=False, max_keep_ckpts=1, **checkpoint
            ),
            logger=None,
        ),
        randomness=dict(seed=5),
        resume=True,
        log_level="ERROR",
        experiment_name="disk",
    )


class Disk:
    """Counts the operations of durable writing, and lets something happen at the N-th."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, happens: Callable[[str], None]) -> None:
        self.names: list[str] = []
        self._at, self._happens = at, happens
        for name in ("fsync", "replace", "unlink", "remove"):
            patch.setattr(os, name, self._counted(name, getattr(os, name)))
        patch.setattr(paths, "open", self._counted("open", self._open), raising=False)

    def _counted(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.names.append(name)
            if len(self.names) == self._at:
                if name == "write":  # half of it arrives
                    operation(bytes(args[0])[: len(args[0]) // 2])
                self._happens(name)
            return operation(*args, **kwargs)

        return counted

    def _open(self, path: str, mode: str) -> Any:
        disk = self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                return disk._counted("write", super().write)(data)

        return io.BufferedWriter(File(path, mode))


def no_space(name: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def dies(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    victim.warm_up()


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as path:
        yield path


def train(work_dir: Path, result: Path, **options: Any) -> Callable[[], None]:
    def work() -> None:
        runner = build(work_dir, **options)
        runner.train()
        torch.save(victim.final_state(runner), result)

    return work


def disturbed(work_dir: Path, at: int, happens: Callable[[str], None], **options: Any) -> int:
    """Train in a process in which ``happens`` at the N-th operation; return its exit code."""

    def work() -> None:
        runner = build(work_dir, **options)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, at, happens)
            try:
                runner.train()
            finally:
                seen = (work_dir.parent / f"{work_dir.name}.operations").open("w")
                seen.write("\n".join(disk.names))
                seen.close()

    return wait(in_child(work))


def operations_of(folder: Path, **options: Any) -> list[str]:
    assert disturbed(folder / "counted", 0, no_space, **options) == 0
    names = (folder / "counted.operations").read_text().split("\n")
    saves = names.count("fsync") // 4  # a file and its directory, the pointer and its directory
    assert saves == ITERS, names
    assert {"open", "write", "fsync", "replace", "remove"} == set(names)
    return names


def assert_goes_on_exactly(work_dir: Path, at: int, expected: dict[str, Any]) -> None:
    """The invariant: once one checkpoint was saved there always is one, and it is resumed exactly."""
    first_save_done = (work_dir / "last_checkpoint").exists()
    latest = find_latest_checkpoint(work_dir)
    if first_save_done:
        assert latest is not None, f"operation {at}"
    if latest is not None:
        verify_checkpoint(latest)
    result = work_dir.with_suffix(".pt")
    assert wait(in_child(train(work_dir, result))) == 0, f"operation {at}"
    different = victim.differing(expected, torch.load(result, weights_only=True))
    # Which files wait to be deleted depends on what happened.
    assert [key for key in different if "keep_ckpt_ids" not in key] == [], f"operation {at}"
    files = sorted(p.name for p in work_dir.iterdir() if p.is_file() and p.suffix != ".py")
    # Nothing lies about: what was unfinished is gone, and rotation caught up.
    assert ["iter_4.pth", "last_checkpoint"] == files, f"operation {at}"


@pytest.fixture
def expected(folder: Path) -> dict[str, Any]:
    assert wait(in_child(train(folder / "whole", folder / "whole.pt"))) == 0
    return torch.load(folder / "whole.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("async_save", [False, True])
def test_a_run_killed_at_any_operation_of_saving_and_rotation_goes_on_exactly(
    async_save: bool, folder: Path, expected: dict[str, Any]
) -> None:
    names = operations_of(folder, async_save=async_save)
    for at in range(1, len(names) + 1):
        work_dir = folder / f"killed{at}"
        assert disturbed(work_dir, at, dies, async_save=async_save) == -signal.SIGKILL
        assert_goes_on_exactly(work_dir, at, expected)


@pytest.mark.slow
def test_a_run_whose_disk_fails_at_any_operation_ends_and_goes_on_exactly(
    folder: Path, expected: dict[str, Any]
) -> None:
    names = operations_of(folder)
    for at, name in enumerate(names, 1):
        work_dir = folder / f"failed{at}"
        # That an old file cannot be deleted is no reason to stop.
        assert disturbed(work_dir, at, no_space) == (0 if name == "remove" else 1), at
        assert_goes_on_exactly(work_dir, at, expected)


@pytest.mark.slow
def test_a_run_that_shall_go_on_does_so_whatever_operation_fails(
    folder: Path, expected: dict[str, Any]
) -> None:
    names = operations_of(folder)
    for at in range(1, len(names) + 1):
        work_dir = folder / f"went_on{at}"
        assert disturbed(work_dir, at, no_space, on_error="warn") == 0, at
        assert_goes_on_exactly(work_dir, at, expected)


def test_a_writer_that_renames_before_it_has_written_is_caught(
    folder: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any]
) -> None:
    """The negative control: writing in place leaves runs behind that cannot go on."""
    from mmx.checkpoint import find, save

    @contextlib.contextmanager
    def in_place(path: Any) -> Iterator[Any]:
        with paths.open(path, "wb") as file:  # type: ignore[attr-defined]  # what Disk puts there
            yield file

    monkeypatch.setattr(save, "atomic_writer", in_place)
    monkeypatch.setattr(find, "atomic_writer", in_place)
    monkeypatch.setattr(paths, "open", open, raising=False)
    broken = 0
    for at in range(2, 12):
        work_dir = folder / f"broken{at}"
        if disturbed(work_dir, at, dies) != -signal.SIGKILL:
            break
        try:
            assert_goes_on_exactly(work_dir, at, expected)
        except (AssertionError, CheckpointError):
            broken += 1
    assert broken > 0


def test_a_rotation_that_does_not_wait_is_caught(
    folder: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any]
) -> None:
    """The negative control: deleting the old file first leaves moments without any."""
    from mmx.hooks import CheckpointHook

    save = CheckpointHook._save_checkpoint

    def rotate_first(self: Any, runner: Any) -> None:
        for file in Path(runner.work_dir).glob("iter_*.pth"):
            file.unlink()
        save(self, runner)

    monkeypatch.setattr(CheckpointHook, "_save_checkpoint", rotate_first)
    broken = 0
    for at in range(12, 18):  # in the second save
        work_dir = folder / f"early{at}"
        assert disturbed(work_dir, at, dies) == -signal.SIGKILL
        broken += not list(work_dir.glob("iter_*.pth"))
    assert broken > 0


# Disks that are really full ------------------------------------------------------------------


def filled(work_dir: Path, on_error: str, breaks: Callable[[], None] | None = None) -> int:
    """Train where no file can become longer; return the exit code. ``said`` tells what it said."""

    def work() -> None:
        sys.stdout = sys.stderr = work_dir.with_suffix(".said").open("w", buffering=1)
        runner = build(work_dir, width=40_000, on_error=on_error)
        if breaks is not None:
            breaks()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        runner.train()

    return wait(in_child(work))


def said(work_dir: Path) -> str:
    return work_dir.with_suffix(".said").read_text()


def assert_the_old_one_is_left(
    work_dir: Path, before: dict[str, Any], on_error: str, code: int
) -> None:
    assert "File too large" in said(work_dir)
    assert "Earlier checkpoints are as they were" in said(work_dir)
    if on_error == "raise":
        assert code == 1
        assert "CheckpointError" in said(work_dir)
    else:
        assert code == 0, said(work_dir)
        assert "Training goes on without a new checkpoint" in said(work_dir)
    assert str(work_dir / "iter_2.pth") == find_latest_checkpoint(work_dir)
    after = torch.load(work_dir / "iter_2.pth", weights_only=True)
    assert torch.equal(before["state_dict"]["linear.weight"], after["state_dict"]["linear.weight"])
    assert [] == [p.name for p in work_dir.iterdir() if p.name.endswith(".tmp")]


def first_checkpoint(work_dir: Path) -> dict[str, Any]:
    """Put the checkpoint of an earlier, shorter run into ``work_dir``; return what it holds."""

    def work() -> None:
        runner = build(work_dir, width=40_000)
        runner.train_loop._max_iters = 2
        runner.train()

    assert wait(in_child(work)) == 0
    return torch.load(work_dir / "iter_2.pth", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_files_that_cannot_grow_leave_the_old_checkpoint_and_the_policy_decides(
    on_error: str, folder: Path
) -> None:
    before = first_checkpoint(folder / "w")
    code = filled(folder / "w", on_error)
    assert_the_old_one_is_left(folder / "w", before, on_error, code)


@pytest.mark.slow
def test_a_writer_that_hears_nothing_of_a_full_disk_is_caught(folder: Path) -> None:
    """The negative control: half a file gets the name, and the whole one before it is deleted."""
    from mmx.checkpoint import save

    class Careless(io.FileIO):
        def write(self, data: Any) -> int:
            with contextlib.suppress(OSError):
                super().write(data)
            return len(data)

    @contextlib.contextmanager
    def careless_writer(path: Any) -> Iterator[Any]:
        with Careless(f"{path}.tmp", "wb") as file:
            yield file
        os.replace(f"{path}.tmp", path)

    def breaks() -> None:
        save.atomic_writer = careless_writer  # type: ignore[attr-defined]  # in a child

    before = first_checkpoint(folder / "w")
    code = filled(folder / "w", "raise", breaks)
    assert code == 0, said(folder / "w")
    with pytest.raises(AssertionError, match="File too large"):
        assert_the_old_one_is_left(folder / "w", before, "raise", code)
    assert not (folder / "w" / "iter_2.pth").exists()
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged"):
        find_latest_checkpoint(folder / "w")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_device_that_is_always_full_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "full.pth").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint({"state_dict": {"w": torch.ones(100_000)}}, tmp_path / "full.pth")
    assert os.path.exists("/dev/full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("there is no mount command")
    target = tmp_path / "small"
    target.mkdir()
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {done.stderr.strip()}")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_disk_that_runs_full_leaves_the_old_checkpoint_and_the_policy_decides(
    on_error: str, small_disk: Path
) -> None:
    """Two checkpoints of 0.5 MB do not fit, because the old one is kept until the new one is whole."""
    work_dir = small_disk / "w"
    before = first_checkpoint(work_dir)
    runner = build(work_dir, width=40_000, on_error=on_error)
    blocks = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(max(0, blocks.f_bavail * blocks.f_frsize - 100_000)))
    if on_error == "raise":
        with pytest.raises(CheckpointError, match="No space left on device"):
            runner.train()
    else:
        runner.train()
        assert ITERS == runner.iter
    assert str(work_dir / "iter_2.pth") == find_latest_checkpoint(work_dir)
    after = torch.load(work_dir / "iter_2.pth", weights_only=True)
    assert torch.equal(before["state_dict"]["linear.weight"], after["state_dict"]["linear.weight"])
    (small_disk / "filler").unlink()
    gc.collect()
    build(work_dir, width=40_000).train()
    assert str(work_dir / "iter_4.pth") == find_latest_checkpoint(work_dir)
