"""Runs that earlier releases began are gone on with."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmx import __version__
from mmx.checkpoint import load_checkpoint, verify_checkpoint
from mmx.checkpoint.find import write_last_checkpoint

sys.path.insert(0, str(Path(__file__).parent))
import victim
from record_frozen import SAVED, VARIANTS

sys.path.pop(0)

FROZEN = sorted((Path(__file__).parent / "frozen").glob("*.pth"))


def test_this_release_is_frozen_too() -> None:
    assert {f"mmx_{__version__}_{name}" for name in VARIANTS} <= {file.stem for file in FROZEN}


def close(a: Any, b: Any) -> bool:
    """Whether values agree as far as another version of torch lets them."""
    if isinstance(a, torch.Tensor):
        return torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5)
    return bool(a == pytest.approx(b) if isinstance(a, float) else a == b)


def go_on(file: Path, work_dir: Path, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how the run ended that saved the file, and how it ends now."""
    work_dir.mkdir()
    shutil.copy(file, work_dir / SAVED)
    write_last_checkpoint(work_dir, str(work_dir / SAVED))
    runner = victim.build(work_dir, **VARIANTS[file.stem.rsplit("_", 1)[1]], **more)
    runner.train()
    return torch.load(file.with_suffix(".end"), weights_only=True), victim.final_state(runner)


@pytest.mark.parametrize("file", FROZEN, ids=lambda file: file.stem)
def test_a_run_of_an_earlier_release_comes_to_the_same_end(file: Path, tmp_path: Path) -> None:
    verify_checkpoint(file)
    expected, actual = go_on(file, tmp_path / "w")
    assert len(expected) > 20
    assert [key for key, value in expected.items() if not close(value, actual.get(key))] == []


@pytest.mark.parametrize("forget", ["optimizer/state", "engine/random", "ema_state_dict"])
def test_a_part_that_is_not_taken_up_would_be_noticed(forget: str, tmp_path: Path) -> None:
    """The negative control."""
    expected, actual = go_on(FROZEN[0], tmp_path / "w", forget=forget)
    assert [key for key, value in expected.items() if not close(value, actual.get(key))] != []


@pytest.mark.parametrize("file", FROZEN, ids=lambda file: file.stem)
def test_the_weights_of_an_earlier_release_load_for_inference(file: Path) -> None:
    net = victim.Net()
    load_checkpoint(net, file, map_location="cpu", strict=True)
    saved = torch.load(file, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[key]) for key, value in net.state_dict().items())
