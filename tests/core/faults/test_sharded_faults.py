"""Checkpoints of which each of two ranks writes its part, on disks that fail and in runs that die."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmx.checkpoint import (
    AsyncCheckpointSaver,
    CheckpointError,
    find_latest_checkpoint,
    is_sharded,
    read_sharded,
    remove_checkpoint,
    remove_stale_temporaries,
    save_sharded,
    sharded,
    verify_checkpoint,
    write_last_checkpoint,
)
from mmx.dist import barrier, get_rank, init_dist
from mmx.evaluator import BaseMetric
from mmx.model import BaseModel
from mmx.runner import Runner
from mmx.testing.distributed import run_distributed

sys.path.insert(0, str(Path(__file__).parent))
import victim
from children import in_child, start_ranks, wait
from test_disk import Disk, dies, no_space

sys.path.pop(0)

pytestmark = pytest.mark.faults

# What a failing disk is injected into: the folder's files, its name, its predecessor's removal.
OTHERS = ("mkdir", "rename", "rmdir")


class Shards(Disk):
    """As :class:`Disk`, for the operations on folders as well."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, happens: Callable[[str], None]) -> None:
        super().__init__(patch, at, happens)
        for name in OTHERS:
            patch.setattr(os, name, self._counted(name, getattr(os, name)))
        patch.setattr(sharded, "open", self._counted("open", self._open), raising=False)


def checkpoint(step: int) -> dict[str, Any]:
    return {
        "meta": {"iter": step},
        "state_dict": {f"w{i}": torch.full((4, 4), float(step)) for i in range(2)},
    }


def save(work_dir: Path, step: int, saver: AsyncCheckpointSaver | None = None) -> None:
    """Save, note the latest, then delete the one before: as the hook does."""

    def then() -> None:
        if get_rank() == 0:
            write_last_checkpoint(work_dir, str(work_dir / f"iter_{step}.pth"))
            remove_checkpoint(work_dir / f"iter_{step - 1}.pth")

    save_sharded(checkpoint(step), work_dir / f"iter_{step}.pth", saver=saver, then=then)
    if saver is None:
        then()
    else:
        saver.wait()


def assert_one_is_whole(work_dir: Path, at: int, steps: tuple[int, ...]) -> int:
    latest = find_latest_checkpoint(work_dir)
    assert latest is not None, f"operation {at}"
    verify_checkpoint(latest)
    found = read_sharded(latest)
    step = found["meta"]["iter"]
    assert step in steps, f"operation {at}"
    assert {step} == {float(w.mean()) for w in found["state_dict"].values()}
    return step


# The disk fails -----------------------------------------------------------------------------


def fail_at_each_operation(folder: str, asynchronous: bool) -> list[tuple[int, str, str | None]]:
    """Per rank that fails and operation: what this rank heard of it."""
    heard = []
    for faulty in (0, 1):
        at = 1
        while True:
            work_dir = Path(folder, f"{faulty}-{at}")
            save(work_dir, 1)
            barrier()
            saver = AsyncCheckpointSaver() if asynchronous else None
            error = None
            with pytest.MonkeyPatch.context() as patch:
                mine = get_rank() == faulty
                disk = Shards(patch, at if mine else 0, no_space)
                try:
                    save(work_dir, 2, saver)
                except CheckpointError as caught:
                    error = str(caught)
                count = torch.tensor(len(disk.names) if mine else 0)
            if saver is not None:
                saver.close()
            torch.distributed.all_reduce(count)
            if get_rank() == 0:
                assert_one_is_whole(work_dir, at, (1, 2))
                # What the system could not remove goes with the next start.
                remove_stale_temporaries(work_dir)
                left = [p.name for p in work_dir.iterdir() if p.name.startswith(".")]
                assert all(str(os.getpid()) in name for name in left), left
            name = disk.names[at - 1] if mine and at <= len(disk.names) else ""
            heard.append((faulty, name, error))
            barrier()
            if at > count.item():
                break
            # The writing is the same; beside the loop, only how it is heard of is another matter.
            at += 4 if asynchronous else 1
    return heard


@pytest.mark.parametrize("asynchronous", [False, True], ids=["in the foreground", "beside"])
def test_whatever_operation_fails_on_either_rank_a_whole_one_is_left(
    asynchronous: bool, tmp_path: Path
) -> None:
    first, second = run_distributed(fail_at_each_operation, 2, str(tmp_path), asynchronous)
    for faulty, results in enumerate((first, second)):
        own = [(name, error) for rank, name, error in results if rank == faulty]
        other = [error for rank, _, error in (second, first)[faulty] if rank == faulty]
        names = {name for name, _ in own}
        assert asynchronous or {"open", "write", "fsync"} <= names
        for (name, error), there in zip(own, other, strict=True):
            if error is not None:
                assert "No space left on device" in error, name
            if error is not None and "last_checkpoint" not in error:
                assert f"rank {faulty}: " in error
                assert error == there
        # The last one had no operation to fail at; deleting what is old may fail in silence.
        assert (("", None), None) == (own[-1], other[-1])
    writing = [error for rank, name, error in first if rank == 0 and name in ("write", "rename")]
    assert None not in writing


# The process dies ---------------------------------------------------------------------------


def on_two_ranks(work: Callable[[int], None]) -> list[int]:
    """Do something in two forked ranks; return their exit codes. Who is left alone is ended."""
    return [wait(child) for child in start_ranks(work)]


def killed_save(work_dir: Path, faulty: int, at: int) -> Callable[[int], None]:
    def work(rank: int) -> None:
        init_dist("pytorch", "gloo", timeout=20)
        save(work_dir, 1)
        barrier()
        with pytest.MonkeyPatch.context() as patch:
            disk = Shards(patch, at if rank == faulty else 0, dies)
            save(work_dir, 2)
        (work_dir.parent / f"operations{rank}").write_text("\n".join(disk.names))
        barrier()

    return work


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    victim.warm_up()


@pytest.mark.slow
def test_a_rank_killed_at_any_operation_of_a_sharded_save_leaves_a_whole_one(
    tmp_path: Path,
) -> None:
    assert [0, 0] == on_two_ranks(killed_save(tmp_path / "counted", 0, 0))
    steps = set()
    for faulty in (0, 1):
        names = (tmp_path / f"operations{faulty}").read_text().split("\n")
        for at in range(1, len(names) + 1):
            work_dir = tmp_path / f"{faulty}-{at}"
            codes = on_two_ranks(killed_save(work_dir, faulty, at))
            assert -signal.SIGKILL == codes[faulty], (faulty, at)
            steps.add(assert_one_is_whole(work_dir, at, (1, 2)))
            remove_stale_temporaries(work_dir)
            assert [] == [p.name for p in work_dir.iterdir() if p.name.endswith(".tmp")]
    assert {1, 2} == steps


# Runs ---------------------------------------------------------------------------------------


class Net(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, mode="tensor"):
        loss = self.linear(self.dropout(x)).square().mean()
        return {"loss": loss} if mode == "loss" else [{}] * len(x)


class Rising(BaseMetric):
    """Best at the second validation."""

    scores = (1.0, 5.0, 3.0, 2.0)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [0] * len(data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        self.count += 1
        return {"score": self.scores[self.count - 1]}


def make_runner(
    work_dir: Path, *, validates: bool = True, async_save: bool = True, **more: Any
) -> Runner:
    loader = dict(
        dataset=[{"x": torch.arange(3.0) * i / 16} for i in range(16)],
        batch_size=4,
        sampler=dict(type="DefaultSampler", shuffle=True),
        collate_fn=dict(type="default_collate"),
    )
    validation = dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=Rising())
    return Runner(
        Net(),
        str(work_dir),
        train_dataloader=loader,
        **(validation if validates else {}),
        train_cfg=dict(by_epoch=True, max_epochs=4),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
        strategy=dict(type="DDPStrategy", state_dict_cfg="sharded"),
        default_hooks=dict(
            checkpoint=dict(
                type="CheckpointHook",
                interval=1,
                max_keep_ckpts=1,
                save_best="score" if validates else None,
                rule="greater",
                async_save=async_save,
            ),
            logger=None,
        ),
        launcher="pytorch",
        env_cfg=dict(dist_cfg=dict(backend="gloo", timeout=20)),
        randomness=dict(seed=5, diff_rank_seed=True),
        log_level="CRITICAL",
        experiment_name=work_dir.name,
        **more,
    )


def keep_the_best(folder: str) -> list[str]:
    for asynchronous in (False, True):
        make_runner(Path(folder, str(asynchronous)), async_save=asynchronous).train()
    return []


def test_rotation_and_the_best_one_work_with_folders(tmp_path: Path) -> None:
    run_distributed(keep_the_best, 2, str(tmp_path), init=False)
    for kind in ("False", "True"):
        work_dir = tmp_path / kind
        names = sorted(p.name for p in work_dir.iterdir() if is_sharded(p))
        assert ["best_score_epoch_2.pth", "epoch_4.pth"] == names
        assert [] == [p.name for p in work_dir.iterdir() if p.name.startswith(".")]
        for name, epoch in zip(names, (2, 4), strict=True):
            verify_checkpoint(work_dir / name)
            found = read_sharded(work_dir / name)
            assert epoch == found["meta"]["epoch"]
            assert "optimizer" in found
        assert 5.0 == found["message_hub"]["runtime_info"]["best_score"]
        assert str(work_dir / "epoch_4.pth") == find_latest_checkpoint(work_dir)


def run(work_dir: Path, faulty: int = 0, at: int = 0) -> Callable[[int], None]:
    def work(rank: int) -> None:
        runner = make_runner(work_dir, validates=False, resume=True)
        with pytest.MonkeyPatch.context() as patch:
            Shards(patch, at if rank == faulty else 0, dies)
            runner.train()

    return work


def final(work_dir: Path) -> dict[str, Any]:
    found = read_sharded(work_dir / "epoch_4.pth")
    state: dict[str, Any] = {}
    victim._flatten(found, "", state)
    return state


@pytest.mark.slow
def test_a_sharded_run_that_is_killed_while_it_saves_goes_on_to_the_same_bits(
    tmp_path: Path,
) -> None:
    assert [0, 0] == on_two_ranks(run(tmp_path / "whole"))
    expected = final(tmp_path / "whole")
    for faulty, at in ((0, 30), (1, 5)):
        work_dir = tmp_path / f"killed-{faulty}-{at}"
        assert -signal.SIGKILL == on_two_ranks(run(work_dir, faulty, at))[faulty]
        assert not (work_dir / "epoch_4.pth").exists()
        assert [0, 0] == on_two_ranks(run(work_dir))
        different = victim.differing(expected, final(work_dir))
        assert [] == [key for key in different if "keep_ckpt_ids" not in key]
        assert ["epoch_4.pth"] == [p.name for p in work_dir.iterdir() if is_sharded(p)]
        assert [] == [p.name for p in work_dir.iterdir() if p.name.endswith(".tmp")]


def test_a_folder_that_gets_its_name_too_early_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: parts written in place leave a folder that is not whole."""

    def in_place(writer: Any, plans: list[Any]) -> list[Any]:
        import dataclasses

        writer._target.mkdir(parents=True)
        writer._temporary = writer._target
        return [
            dataclasses.replace(plan, storage_data=(os.fspath(writer._target), rank))
            for rank, plan in enumerate(plans)
        ]

    monkeypatch.setattr(sharded._Writer, "prepare_global_plan", in_place)
    monkeypatch.setattr(sharded._Writer, "clean", lambda writer: None)
    monkeypatch.setattr(sharded, "_replace", lambda folder, target: None)

    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            Shards(patch, 4, dies)
            save_sharded(checkpoint(1), tmp_path / "iter_1.pth")

    assert -signal.SIGKILL == wait(in_child(work))
    assert (tmp_path / "iter_1.pth").is_dir()
    with pytest.raises(CheckpointError):
        verify_checkpoint(tmp_path / "iter_1.pth")
