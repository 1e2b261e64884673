"""Kill -9 at random moments, resume, and compare with a run that nobody disturbed."""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import victim
from children import in_child, kills, wait

sys.path.pop(0)

VARIANTS: dict[str, dict[str, Any]] = {
    "epoch": dict(by_epoch=True),
    "epoch, workers, bf16": dict(by_epoch=True, workers=2, dtype="bfloat16"),
    "iter, bf16, asynchronous": dict(by_epoch=False, dtype="bfloat16", async_save=True),
    "iter, workers": dict(by_epoch=False, workers=2),
    "iter, fp16 with a scaler": dict(by_epoch=False, dtype="float16"),
}


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    victim.warm_up()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: a killed process loses nothing that it had written."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="mmx-kill-", dir=memory) as name:
        yield Path(name)


def run(work_dir: Path, result: Path, options: dict[str, Any]) -> Callable[[], None]:
    def work() -> None:
        runner = victim.build(work_dir, **options)
        runner.train()
        torch.save(victim.final_state(runner), result.with_suffix(".part"))
        os.replace(result.with_suffix(".part"), result)

    return work


def finish(work_dir: Path, result: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Let a run come to its end; return the state that it ends with."""
    if not result.exists():
        assert wait(in_child(run(work_dir, result, options))) == 0
    return torch.load(result, weights_only=True)


def kill_at_random(
    work_dir: Path,
    result: Path,
    options: dict[str, Any],
    duration: float,
    kills: int,
    generator: random.Random,
) -> int:
    """Start the run again and again and kill it, until it ends; return how often it was killed."""
    hits = 0
    while hits < kills and not result.exists():
        pid = in_child(run(work_dir, result, options))
        time.sleep(generator.uniform(0.0, duration))
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not become a group of its own yet, or has ended
            os.kill(pid, signal.SIGKILL)
        hits += wait(pid) == -signal.SIGKILL
    return hits


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_killed_run_ends_with_the_same_bits(
    name: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    options = VARIANTS[name]
    expected = finish(folder / "whole", folder / "whole.pt", options)
    started = time.monotonic()
    again = finish(folder / "again", folder / "again.pt", options)
    duration = time.monotonic() - started
    assert victim.differing(expected, again) == []
    budget = kills(request.config.getoption("--torture"), len(VARIANTS), ranks=1) or 6
    hits = rounds = 0
    while hits < budget:
        work_dir, result = folder / f"killed{rounds}", folder / f"killed{rounds}.pt"
        generator = random.Random(f"{name} {rounds}")
        hits += kill_at_random(
            work_dir, result, options, duration, min(8, budget - hits), generator
        )
        actual = finish(work_dir, result, options)
        assert victim.differing(expected, actual) == [], f"round {rounds}"
        rounds += 1


@pytest.fixture(scope="module")
def cut() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A run that ended in the middle of an accumulation, and how the whole run ends."""
    options = VARIANTS["iter, fp16 with a scaler"]
    with tempfile.TemporaryDirectory(prefix="mmx-kill-") as name:
        folder = Path(name)

        # Not with the number of a checkpoint: iteration 22 is lost.
        work = run(folder / "cut", folder / "none.pt", {**options, "cut": 22})
        assert wait(in_child(work)) == -signal.SIGKILL
        yield folder, finish(folder / "whole", folder / "whole.pt", options)


def resumed(cut: tuple[Path, dict[str, Any]], folder: Path, **changes: Any) -> list[str]:
    """Go on with the run that was cut; return what is not as in the whole run."""
    shutil.copytree(cut[0] / "cut", folder / "cut")
    options = {**VARIANTS["iter, fp16 with a scaler"], **changes}
    return victim.differing(cut[1], finish(folder / "cut", folder / "cut.pt", options))


@pytest.mark.slow
def test_with_all_parts_of_the_state_the_end_is_the_same(
    cut: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    assert resumed(cut, folder) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forget", "what"),
    [
        ("state_dict/body.0.weight", "/state_dict/"),
        ("engine/random", "/engine/random/"),
        ("engine/loop/samples", "/state_dict/"),
        ("engine/hooks/EarlyStoppingHook", "/engine/hooks/EarlyStoppingHook"),
        ("optimizer/state", "/state_dict/"),
        ("param_schedulers/1/_global_step", "/param_schedulers/1/"),
        ("ema_state_dict", "/ema_state_dict/"),
        ("message_hub/log_scalars", "/message_hub/log_scalars/"),
    ],
)
def test_without_this_part_of_the_state_the_end_differs(
    forget: str, what: str, cut: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    """The negative control: the tests above can fail, for each part that they guard."""
    different = resumed(cut, folder, forget=forget)
    assert [key for key in different if key.startswith(what)]
