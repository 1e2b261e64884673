"""SIGTERM to one of two ranks or to both: both stop after the same step, with the code 143."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmx.checkpoint import find_latest_checkpoint
from mmx.dist import all_gather_object
from mmx.hooks import Hook

sys.path.insert(0, str(Path(__file__).parent))
import victim
from children import folder_in_memory, start_ranks, wait

sys.path.pop(0)

pytestmark = pytest.mark.faults

OPTIONS: dict[str, Any] = dict(by_epoch=True, ranks=2)
ITERS = 48


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    victim.warm_up()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with folder_in_memory() as path:
        yield path


class Sends(Hook):
    """Rank 0 sends SIGTERM to ranks at a moment of its own; all note which step was their last."""

    priority = "LOWEST"

    def __init__(self, moment: str, targets: tuple[int, ...], note: Path) -> None:
        self.moment, self.targets, self.note = moment, targets, note
        self.left = {"a step": 8, "a validation": 1, "saving": 5}[moment]
        self.pids: list[int] = []

    def before_run(self, runner: Any) -> None:
        self.pids = all_gather_object(os.getpid())
        self.note = Path(f"{self.note}-{runner.rank}")
        if runner.rank > 0:
            self.left = 0
        elif self.moment == "saving":
            real = os.fsync

            def fsync(descriptor: int) -> None:
                # A file is written, but has not got its name yet.
                self.count()
                real(descriptor)

            os.fsync = fsync

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            for rank in self.targets:
                os.kill(self.pids[rank], signal.SIGTERM)

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if self.moment == "a step":
            self.count()

    def before_val_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if self.moment == "a validation":
            self.count()

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        self.note.write_text(f"{runner.iter + 1}")


def train(work_dir: Path, *hooks: Hook, **options: Any) -> Callable[[int], None]:
    def work(rank: int) -> None:
        runner = victim.build(work_dir, **{**OPTIONS, **options})
        for hook in hooks:
            runner.register_hook(hook)
        runner.train()

    return work


def codes_of(work: Callable[[int], None]) -> list[int]:
    return [wait(pid) for pid in start_ranks(work)]


def end_of(work_dir: Path) -> dict[str, Any]:
    assert [0, 0] == codes_of(train(work_dir))
    state: dict[str, Any] = {}
    victim._flatten(torch.load(work_dir / f"iter_{ITERS}.pth", weights_only=True), "", state)
    return state


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    """How the run ends that nobody disturbs, on both ranks."""
    state = end_of(folder / "whole")
    assert len([key for key in state if key.startswith("/engine/random/1/")]) >= 3
    return state


@pytest.mark.slow
@pytest.mark.parametrize("targets", [(1,), (0, 1)], ids=["to rank 1", "to both"])
@pytest.mark.parametrize("moment", ["a step", "a validation", "saving"])
def test_sigterm_stops_both_ranks_after_one_step_and_they_go_on_to_the_same_bits(
    moment: str, targets: tuple[int, ...], folder: Path, expected: dict[str, Any]
) -> None:
    work_dir = folder / f"{moment} {targets}"
    hook = Sends(moment, targets, folder / f"last of {moment} {targets}")
    assert [143, 143] == codes_of(train(work_dir, hook))
    last = [int(Path(f"{hook.note}-{rank}").read_text()) for rank in (0, 1)]
    assert last[0] == last[1] < ITERS
    assert last[0] >= {"a step": 8, "a validation": 12, "saving": 6}[moment]
    # Saved where they stopped, not at the checkpoint hook's last multiple of 3.
    latest = find_latest_checkpoint(work_dir)
    assert latest is not None
    assert last[0] == torch.load(latest, weights_only=True)["meta"]["iter"]
    actual = end_of(work_dir)
    different = victim.differing(expected, actual)
    # The first run's additional checkpoint counts for nothing in the end.
    assert [] == [key for key in different if "stop_ckpt" not in key]
    shutil.rmtree(work_dir)


@pytest.mark.slow
def test_without_agreeing_the_rank_that_was_told_stops_alone(folder: Path) -> None:
    """The negative control: the other one goes on, and ends with an error."""

    def work(rank: int) -> None:
        from mmx.runner import checkpointing
        from mmx.runner.signals import StopAgreement

        begin = StopAgreement.__init__

        def alone(self: StopAgreement, state: Any) -> None:
            begin(self, state)
            self.alone = True

        StopAgreement.__init__ = alone
        # Which every rank must call: alone it would wait for ever.
        checkpointing.save_on_stop = lambda runner: None
        train(folder / "alone", Sends("a step", (1,), folder / "last alone"))(rank)

    assert [1, 143] == codes_of(work)
