"""Kill -9 at random moments, resume, and compare with a run that nobody disturbed."""

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import victim

sys.path.pop(0)


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process; return its pid. Forking spares the imports."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()  # so that data workers can be killed along
        torch.set_num_threads(1)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run(work_dir: Path, result: Path, options: dict) -> Callable[[], None]:
    def work() -> None:
        runner = victim.build(work_dir, **options)
        runner.train()
        torch.save(victim.final_state(runner), result)

    return work


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at_random(
    work_dir: Path, result: Path, options: dict, duration: float, kills: int, seed: int
) -> int:
    """Start the run again and again, killing it ``kills`` times, then let it finish.

    Returns how many of the kills hit a running process.
    """
    generator = random.Random(seed)
    hits = 0
    for _ in range(kills):
        pid = in_child(run(work_dir, result, options))
        time.sleep(generator.uniform(0.02, duration))
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(pid, signal.SIGKILL)
        hits += wait(pid) == -signal.SIGKILL
        if result.exists():
            break
    if not result.exists():
        assert wait(in_child(run(work_dir, result, options))) == 0
    return hits


VARIANTS = {
    "epoch": dict(by_epoch=True, workers=0, amp=False),
    "iter": dict(by_epoch=False, workers=0, amp=False),
    "epoch, workers": dict(by_epoch=True, workers=2, amp=False),
    "iter, bf16": dict(by_epoch=False, workers=0, amp=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_killed_run_ends_with_the_same_bits(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    options = VARIANTS[name]
    started = time.monotonic()
    assert wait(in_child(run(tmp_path / "whole", tmp_path / "whole.pt", options))) == 0
    duration = time.monotonic() - started
    expected = torch.load(tmp_path / "whole.pt", weights_only=True)
    torture = request.config.getoption("--torture")
    budget = torture // len(VARIANTS) if torture else 6
    hits = round_ = 0
    while hits < budget:
        work_dir, result = tmp_path / f"killed{round_}", tmp_path / f"killed{round_}.pt"
        hits += kill_at_random(
            work_dir, result, options, duration, min(6, budget - hits), seed=round_
        )
        actual = torch.load(result, weights_only=True)
        assert actual.keys() == expected.keys()
        different = [k for k, v in expected.items() if not torch.equal(actual[k], v)]
        assert different == [], f"round {round_}"
        round_ += 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "forget",
    ["engine.random", "optimizer.state", "param_schedulers.1._global_step", "ema_state_dict"],
)
def test_without_this_part_of_the_state_the_end_differs(forget: str, tmp_path: Path) -> None:
    """The negative control: the test above can fail, for each part that it guards."""
    options = VARIANTS["iter"]
    assert wait(in_child(run(tmp_path / "whole", tmp_path / "whole.pt", options))) == 0

    def stop_early() -> None:
        runner = victim.build(tmp_path / "cut", **options)
        runner.train_loop._max_iters = 21
        runner.train()

    assert wait(in_child(stop_early)) == 0
    assert (
        wait(in_child(run(tmp_path / "cut", tmp_path / "cut.pt", {**options, "forget": forget})))
        == 0
    )
    expected = torch.load(tmp_path / "whole.pt", weights_only=True)
    actual = torch.load(tmp_path / "cut.pt", weights_only=True)
    assert any(not torch.equal(actual[k], v) for k, v in expected.items() if k in actual)
