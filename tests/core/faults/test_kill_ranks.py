"""Kill -9 of one rank or of both at random moments, resume, and compare with an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import victim
from children import folder_in_memory, kills, start_ranks, wait

sys.path.pop(0)

pytestmark = pytest.mark.faults

VARIANTS: dict[str, dict[str, Any]] = {
    "epoch": dict(by_epoch=True, ranks=2),
    "iter, workers, fp16 with a scaler, asynchronous": dict(
        by_epoch=False, ranks=2, workers=1, dtype="float16", async_save=True
    ),
}
# Ranks that are killed at once; who is left may do its worst for a while, as under a launcher.
VICTIMS = ((0,), (1,), (0, 1))
LEFT_ALONE_S = 1.0


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    victim.warm_up()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with folder_in_memory() as path:
        yield path


def run(work_dir: Path, options: dict[str, Any]) -> Callable[[int], None]:
    def work(rank: int) -> None:
        runner = victim.build(work_dir, **options)
        runner.train()
        # The last checkpoint is rank 0's to read: it has written it.
        state: dict[str, Any] = {f"random of rank {rank} after the run": torch.get_rng_state()}
        for key, value in runner.model.module.state_dict().items():
            state[f"rank {rank}: {key}"] = value
        if rank == 0:
            state.update(victim.final_state(runner))
        torch.save(state, result_of(work_dir, rank).with_suffix(".part"))
        os.replace(result_of(work_dir, rank).with_suffix(".part"), result_of(work_dir, rank))

    return work


def result_of(work_dir: Path, rank: int) -> Path:
    return work_dir.with_name(f"{work_dir.name}-{rank}.pt")


def has_ended(work_dir: Path) -> bool:
    return all(result_of(work_dir, rank).exists() for rank in (0, 1))


def finish(work_dir: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Let a run come to its end; return the state that it ends with, on both ranks."""
    if not has_ended(work_dir):
        assert [wait(pid) for pid in start_ranks(run(work_dir, options))] == [0, 0]
    states = [torch.load(result_of(work_dir, rank), weights_only=True) for rank in (0, 1)]
    return {**states[0], **states[1]}


def kill(pid: int) -> None:
    """Kill a rank with its data workers."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has not become a group of its own yet, or has ended
        os.kill(pid, signal.SIGKILL)


def ended_within(pid: int, limit_s: float) -> bool:
    """Tell whether a child ends by itself; it still is to be waited for."""
    deadline = time.monotonic() + limit_s
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def kill_at_random(
    work_dir: Path, options: dict[str, Any], duration: float, victims: tuple[int, ...], delay: float
) -> bool:
    """Start the run, and kill ranks of it after a share of its time; return whether they ran."""
    pids = start_ranks(run(work_dir, options))
    time.sleep(delay * duration)
    for rank in victims:
        kill(pids[rank])
    for rank in {0, 1} - set(victims):
        if not ended_within(pids[rank], LEFT_ALONE_S):
            kill(pids[rank])
    codes = [wait(pid) for pid in pids]
    return any(codes[rank] == -signal.SIGKILL for rank in victims)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Callable[[str], tuple[dict[str, Any], float]]:
    """How a variant ends that nobody disturbs, and how long it runs."""
    known: dict[str, tuple[dict[str, Any], float]] = {}

    def end_of(name: str) -> tuple[dict[str, Any], float]:
        if name not in known:
            started = time.monotonic()
            state = finish(folder / f"whole {name}", VARIANTS[name])
            known[name] = state, time.monotonic() - started
        return known[name]

    return end_of


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_of_two_ranks_ends_with_the_same_bits_whichever_of_them_are_killed(
    name: str,
    folder: Path,
    whole: Callable[[str], tuple[dict[str, Any], float]],
    request: pytest.FixtureRequest,
) -> None:
    options = VARIANTS[name]
    expected, duration = whole(name)
    states = [key for key in expected if key.startswith("/engine/random/1/")]
    assert len(states) >= 3, "the state of rank 1 is compared, too"
    budget = kills(request.config.getoption("--torture"), len(VARIANTS), ranks=2) or 3
    generator = random.Random(name)
    hits = rounds = 0
    while hits < budget:
        work_dir = folder / f"killed {name} {rounds}"
        for _ in range(min(6, budget - hits)):
            if has_ended(work_dir):
                break
            victims = VICTIMS[hits % len(VICTIMS)]
            delay = generator.uniform(0.0, 1.0)
            hits += kill_at_random(work_dir, options, duration, victims, delay)
        assert victim.differing(expected, finish(work_dir, options)) == [], f"round {rounds}"
        shutil.rmtree(work_dir)
        rounds += 1


@pytest.fixture(scope="module")
def cut(folder: Path) -> Path:
    """A run whose two ranks died in the middle of an epoch and of an accumulation."""
    options = {**VARIANTS["epoch"], "cut": 29}
    codes = [wait(pid) for pid in start_ranks(run(folder / "cut", options))]
    assert codes == [-signal.SIGKILL] * 2
    return folder / "cut"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forget", "what"),
    [
        (None, ()),
        ("engine/random/1", ("/state_dict/", "/engine/random/1/", "random of rank 1")),
        ("engine/random/0", ("/state_dict/", "/engine/random/0/", "random of rank 0")),
        ("engine/buffers/1", ("/message_hub/log_scalars/val/best_logit", "rank 1: body.1.running")),
    ],
)
def test_without_what_one_rank_has_of_its_own_the_end_differs(
    forget: str | None,
    what: tuple[str, ...],
    cut: Path,
    folder: Path,
    whole: Callable[[str], tuple[dict[str, Any], float]],
) -> None:
    """The negative control, and that with all parts the very same run ends as it should."""
    work_dir = folder / f"resumed without {forget}".replace("/", "-")
    shutil.copytree(cut, work_dir)
    with contextlib.suppress(FileNotFoundError):  # paths inside name the folder that it had
        (work_dir / "last_checkpoint").unlink()
    actual = finish(work_dir, {**VARIANTS["epoch"], "forget": forget})
    different = victim.differing(whole("epoch")[0], actual)
    if forget is None:
        assert different == []
    for prefix in what:
        assert [key for key in different if key.startswith(prefix)], prefix
