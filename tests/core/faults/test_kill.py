"""Kill -9 at random moments, resume, and compare with a run that nobody disturbed."""

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
from children import folder_in_memory, in_child, kills, wait

sys.path.pop(0)

pytestmark = pytest.mark.faults

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
    with folder_in_memory() as path:
        yield path


def run(
    work_dir: Path,
    result: Path,
    options: dict[str, Any],
    breaks: Callable[[], None] | None = None,
) -> Callable[[], None]:
    def work() -> None:
        if breaks is not None:
            breaks()
        runner = victim.build(work_dir, **options)
        runner.train()
        torch.save(victim.final_state(runner), result.with_suffix(".part"))
        os.replace(result.with_suffix(".part"), result)

    return work


def finish(
    work_dir: Path,
    result: Path,
    options: dict[str, Any],
    breaks: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Let a run come to its end, perhaps one that is broken; return the state that it ends with."""
    if not result.exists():
        assert wait(in_child(run(work_dir, result, options, breaks))) == 0
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
    expected_records = victim.log_records(folder / "whole")
    assert len(expected_records) >= 30
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
        # A line may be lost with the process that had not written it yet; what is there is right.
        records = victim.log_records(work_dir)
        assert [k for k, v in records.items() if expected_records[k] != v] == [], f"round {rounds}"
        rounds += 1


# Iterations at which runs die, and what is special there.
MIDDLE = 22  # goes on at 21, in the middle of an accumulation and of a smoothing window
BEFORE_VALIDATION = 31  # goes on at 30, with a validation that was due
NEAR_THE_END = 47  # goes on at 45, with no log line left to write

Cut = Callable[[str, int], tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def cut() -> Iterator[Cut]:
    """Runs that died, and how the undisturbed ones end, by variant and iteration."""
    known: dict[tuple[str, int], tuple[Path, dict[str, Any]]] = {}
    whole: dict[str, dict[str, Any]] = {}
    with folder_in_memory() as folder:

        def cut_at(variant: str, iters: int) -> tuple[Path, dict[str, Any]]:
            options = VARIANTS[variant]
            if variant not in whole:
                work_dir = folder / f"whole {variant}"
                end = finish(work_dir, work_dir.with_suffix(".pt"), options)
                whole[variant] = {**end, **victim.log_records(work_dir)}
            if (variant, iters) not in known:
                work_dir = folder / f"cut {variant} {iters}"
                work = run(work_dir, folder / "none.pt", {**options, "cut": iters})
                assert wait(in_child(work)) == -signal.SIGKILL
                known[variant, iters] = work_dir, whole[variant]
            return known[variant, iters]

        yield cut_at


SCALED = "iter, fp16 with a scaler"


def resumed(
    cut: Cut,
    folder: Path,
    variant: str,
    iters: int,
    breaks: Callable[[], None] | None = None,
    **changes: Any,
) -> list[str]:
    """Go on with a run that was cut; return what is not as in the undisturbed one."""
    work_dir, expected = cut(variant, iters)
    shutil.copytree(work_dir, folder / "cut")
    (folder / "cut" / "last_checkpoint").unlink()  # it names the folder that was copied
    options = {**VARIANTS[variant], **changes}
    end = finish(folder / "cut", folder / "cut.pt", options, breaks)
    return victim.differing(expected, {**end, **victim.log_records(folder / "cut")})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "iters"),
    [
        (SCALED, MIDDLE),
        (SCALED, BEFORE_VALIDATION),
        (SCALED, NEAR_THE_END),
        ("epoch", MIDDLE),
        ("iter, workers", MIDDLE),
    ],
)
def test_with_all_parts_of_the_state_the_end_is_the_same(
    variant: str, iters: int, cut: Cut, folder: Path
) -> None:
    """What the controls below leave one part out of."""
    assert resumed(cut, folder, variant, iters) == []


WEIGHTS = "/state_dict/"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forget", "what", "iters"),
    [
        ("state_dict/body.0.weight", WEIGHTS, MIDDLE),
        ("optimizer/state", WEIGHTS, MIDDLE),
        ("optimizer/accumulation/gradients", WEIGHTS, MIDDLE),
        ("optimizer/loss_scaler", "/optimizer/loss_scaler/scale", MIDDLE),
        ("optimizer/loss_scaler/_growth_tracker", "/optimizer/loss_scaler/", MIDDLE),
        ("param_schedulers/1/_global_step", "/param_schedulers/1/", MIDDLE),
        ("ema_state_dict", "/ema_state_dict/", MIDDLE),
        ("ema_state_dict/steps", "/ema_state_dict/steps", MIDDLE),
        ("engine/random", "/engine/random/", MIDDLE),
        ("engine/random/0/python", "/engine/random/0/python/", MIDDLE),
        ("engine/random/0/numpy", "/engine/random/0/numpy/", MIDDLE),
        ("engine/random/0/torch", "/engine/random/0/torch", MIDDLE),
        ("engine/loop/iter", "/state_dict/", MIDDLE),
        ("engine/loop/samples", WEIGHTS, MIDDLE),
        ("engine/loop/validation_due", "/message_hub/log_scalars/val/", BEFORE_VALIDATION),
        ("engine/hooks/EarlyStoppingHook", "/engine/hooks/EarlyStoppingHook", MIDDLE),
        ("engine/hooks/LoggerHook", "/engine/hooks/LoggerHook/last_step", NEAR_THE_END),
        ("message_hub/log_scalars", "/message_hub/log_scalars/", MIDDLE),
        ("message_hub/log_scalars", "log of iteration 25/loss", MIDDLE),
        ("message_hub/runtime_info", "/message_hub/runtime_info/best_score", MIDDLE),
        ("message_hub/runtime_info", "/message_hub/runtime_info/keep_ckpt_ids", NEAR_THE_END),
    ],
)
def test_without_this_part_of_the_state_the_end_differs(
    forget: str, what: str, iters: int, cut: Cut, folder: Path
) -> None:
    """The negative control: the tests above can fail, for each part that they guard."""
    different = resumed(cut, folder, SCALED, iters, forget=forget)
    assert [key for key in different if key.startswith(what)], different


@pytest.mark.slow
def test_without_streams_of_their_own_data_workers_draw_other_numbers(
    cut: Cut, folder: Path
) -> None:
    """The negative control: the numbers of a batch must depend on its place alone."""

    def breaks() -> None:
        from mmx.dataset import iteration

        iteration._reseed = lambda *key: None

    different = resumed(cut, folder, "iter, workers", MIDDLE, breaks)
    assert [key for key in different if key.startswith(WEIGHTS)]


@pytest.mark.slow
def test_without_the_phase_of_an_accumulation_steps_are_taken_elsewhere(
    cut: Cut, folder: Path
) -> None:
    """The negative control: counting must go on where it was, not begin anew."""

    def breaks() -> None:
        from mmx.optim import OptimWrapper

        count = OptimWrapper._set_counts
        OptimWrapper._set_counts = lambda self, inner, most: count(self, 0, most)

    different = resumed(cut, folder, SCALED, MIDDLE, breaks)
    assert [key for key in different if key.startswith(WEIGHTS)]
