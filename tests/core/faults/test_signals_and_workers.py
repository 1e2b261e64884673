"""Signals at awkward moments and dead data workers, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmx.checkpoint import find_latest_checkpoint
from mmx.hooks import Hook

sys.path.insert(0, str(Path(__file__).parent))
import victim
from children import folder_in_memory, in_child, wait

sys.path.pop(0)

pytestmark = pytest.mark.faults

OPTIONS: dict[str, Any] = dict(by_epoch=True)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    victim.warm_up()


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as path:
        yield path


def train(folder: Path, name: str, *hooks: Hook, **options: Any) -> Callable[[], None]:
    def work() -> None:
        sys.stderr = (folder / f"{name}.err").open("w", buffering=1)
        runner = victim.build(folder / name, **{**OPTIONS, **options})
        for hook in hooks:
            runner.register_hook(hook, priority="LOWEST")
        runner.train()
        torch.save(victim.final_state(runner), folder / f"{name}.pt")

    return work


def end_of(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    assert wait(in_child(train(folder, name, **options))) == 0
    return torch.load(folder / f"{name}.pt", weights_only=True)


class InTrainIter(Hook):
    """Sends this process signals in its N-th iteration."""

    def __init__(self, number: int, *signals: int) -> None:
        self.number, self.signals = number, signals

    def count(self) -> None:
        self.number -= 1
        if self.number == 0:
            for signum in self.signals:
                os.kill(os.getpid(), signum)

    def before_train_iter(self, runner, *args, **kwargs):  # type: ignore[no-untyped-def]  # a hook
        self.count()


class InValIter(InTrainIter):
    """Does so in its N-th iteration of validation."""

    def before_train_iter(self, runner, *args, **kwargs):  # type: ignore[no-untyped-def]  # a hook
        pass

    def before_val_iter(self, runner, *args, **kwargs):  # type: ignore[no-untyped-def]  # a hook
        self.count()


class WhileSaving(Hook):
    """Sends signals while a checkpoint's file is half written."""

    def __init__(self, number: int, *signals: int) -> None:
        self.number, self.signals = number, signals

    def before_run(self, runner: Any) -> None:
        real = os.fsync

        def fsync(descriptor: int) -> None:
            self.number -= 1
            if self.number == 0:
                for signum in self.signals:
                    os.kill(os.getpid(), signum)
            real(descriptor)

        os.fsync = fsync


MOMENTS: dict[str, Callable[..., Hook]] = {
    "a step": lambda *signals: InTrainIter(8, *signals),
    "a validation": lambda *signals: InValIter(3, *signals),
    "saving": lambda *signals: WhileSaving(5, *signals),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_sigterm_ends_with_143_and_what_was_saved_goes_on_exactly(
    moment: str, folder: Path
) -> None:
    expected = end_of(folder, "whole")
    assert wait(in_child(train(folder, "w", MOMENTS[moment](signal.SIGTERM)))) == 143
    assert not (folder / "w.pt").exists()
    # Saved where it stopped, not at the checkpoint hook's last multiple of 3.
    step = {"a step": 8, "a validation": 24, "saving": 6}[moment]
    latest = find_latest_checkpoint(folder / "w")
    assert latest is not None
    assert step == torch.load(latest, weights_only=True)["meta"]["iter"]
    # The first run's additional checkpoint counts for nothing in the end.
    actual = end_of(folder, "w")
    different = victim.differing(expected, actual)
    assert [key for key in different if "stop_ckpt" not in key] == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_second_signal_is_immediate_and_loses_no_checkpoint(moment: str, folder: Path) -> None:
    expected = end_of(folder, "whole")
    hook = MOMENTS[moment](signal.SIGTERM, signal.SIGTERM)
    assert wait(in_child(train(folder, "w", hook))) == -signal.SIGTERM
    before = {"a step": 6, "a validation": 24, "saving": 3}[moment]
    latest = find_latest_checkpoint(folder / "w")
    assert latest is not None
    assert before == torch.load(latest, weights_only=True)["meta"]["iter"]
    assert victim.differing(expected, end_of(folder, "w")) == []


@pytest.mark.slow
def test_without_saving_on_the_signal_steps_are_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    from mmx.runner import checkpointing

    monkeypatch.setattr(checkpointing, "save_on_stop", lambda runner: None)
    assert wait(in_child(train(folder, "w", MOMENTS["a step"](signal.SIGTERM)))) == 143
    latest = find_latest_checkpoint(folder / "w")
    assert latest is not None
    assert torch.load(latest, weights_only=True)["meta"]["iter"] < 8


# Data workers --------------------------------------------------------------------------------


class Deadly(victim.Noisy):
    """A data set in whose workers something happens at a sample."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.reads = how, 0

    def __getitem__(self, index: int):  # type: ignore[no-untyped-def]  # a test data set
        self.reads += 1
        if self.reads == 20 and torch.utils.data.get_worker_info().id == 1:
            if self.how == "exit":
                os._exit(3)
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def train_with_deadly(how: str, folder: Path) -> tuple[int, float]:
    """Train with a worker that dies; return the process, which has ended, and its time."""

    def work() -> None:
        victim.Noisy, noisy = (
            (lambda *a, **k: noisy(*a, **k) if a or k else Deadly(how)),
            victim.Noisy,
        )  # type: ignore[assignment,misc]  # in a child
        train(folder, "w", workers=2)()

    started = time.monotonic()
    pid = in_child(work)
    assert wait(pid) == 1
    return pid, time.monotonic() - started


def assert_named_and_nobody_left(pid: int, text: str, folder: Path) -> None:
    error = (folder / "w.err").read_text()
    assert re.search(text, error), error
    # The child is the leader of its session: whoever is left of it has its number as a group.
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("exit", r"worker 1 \(pid \d+\) exited with code 3"),
        ("kill", r"worker 1 \(pid \d+\) was ended by signal 9, SIGKILL"),
    ],
)
def test_a_dead_worker_ends_the_run_with_its_name_and_leaves_no_process(
    how: str, text: str, folder: Path
) -> None:
    pid, took = train_with_deadly(how, folder)
    assert took < 10
    assert_named_and_nobody_left(pid, text, folder)
    # The control: without the dead worker the very same run comes to its end, from what was saved.
    assert (
        victim.differing(end_of(folder, "whole", workers=2), end_of(folder, "w", workers=2)) == []
    )


@pytest.mark.slow
def test_without_watching_workers_a_dead_one_is_not_named_and_others_are_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    from mmx.dataset import iteration

    monkeypatch.setattr(iteration._Workers, "_dead_workers", lambda self, error: {})
    pid, _ = train_with_deadly("exit", folder)
    try:
        os.killpg(pid, 0)
        with pytest.raises(AssertionError):
            assert_named_and_nobody_left(pid, r"worker 1 \(pid \d+\) exited with code 3", folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


# Damage --------------------------------------------------------------------------------------


def flip_one_bit(data: bytearray) -> None:
    data[len(data) // 2] ^= 1


def truncate(data: bytearray) -> None:
    del data[-len(data) // 3 :]


def zero_a_hole(data: bytearray) -> None:
    data[len(data) // 3 : len(data) // 3 + 600] = bytes(600)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip_one_bit, truncate, zero_a_hole])
def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_says_so(
    damage: Callable[[bytearray], None], folder: Path
) -> None:
    expected = end_of(folder, "whole")
    assert wait(in_child(train(folder, "w", cut=20))) == -signal.SIGKILL
    newest = folder / "w" / "iter_18.pth"
    assert str(newest) == find_latest_checkpoint(folder / "w")
    data = bytearray(newest.read_bytes())
    damage(data)
    newest.write_bytes(data)
    actual = end_of(folder, "w", log_level="WARNING")
    text = "".join(file.read_text() for file in (folder / "w").glob("*/*.log"))
    assert f"Not resuming from {newest}: {newest} is damaged" in text
    assert f"Resuming from {folder / 'w' / 'iter_15.pth'} instead" in text
    assert victim.differing(expected, actual) == []


@pytest.mark.slow
def test_without_verification_a_flipped_bit_reaches_the_weights(folder: Path) -> None:
    """The negative control: loading alone does not notice, and the end is another one."""
    expected = end_of(folder, "whole")
    assert wait(in_child(train(folder, "w", cut=20))) == -signal.SIGKILL
    newest = folder / "w" / "iter_18.pth"
    saved = torch.load(newest, weights_only=True)
    weights = saved["state_dict"]["body.0.weight"].numpy().tobytes()
    data = bytearray(newest.read_bytes())
    place = data.index(weights)
    data[place + 1] ^= 1
    newest.write_bytes(data)

    def resume() -> None:
        from mmx.checkpoint import find

        find.verify_checkpoint = lambda path: None
        train(folder, "w")()

    assert wait(in_child(resume)) == 0
    actual = torch.load(folder / "w.pt", weights_only=True)
    assert victim.differing(expected, actual) != []
