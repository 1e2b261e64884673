"""Runs that MMEngine began are gone on with: each part of its checkpoints is taken up."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmx.logging import MessageHub
from mmx.strategy import BaseStrategy

RECORDED = Path(__file__).parents[2] / "contract" / "runner"


def go_on(name: str, file: str, work_dir: Path) -> dict[str, Any]:
    """Resume a recorded run of MMEngine; return what is compared with how it went on there."""
    sys.path.insert(0, str(RECORDED))
    try:
        scenarios = importlib.import_module("scenarios")
    finally:
        sys.path.remove(str(RECORDED))
    end = scenarios.run(name, "mmx", str(work_dir), str(RECORDED / f"mmengine_{file}"))
    history, _ = MessageHub.get_current_instance().get_scalar("train/loss").data
    return compared(end, 0, torch.as_tensor(history))


def recorded(name: str, begin: int) -> dict[str, Any]:
    golden = json.loads((RECORDED / "golden" / f"{name}.json").read_text())
    return compared(golden, begin, torch.tensor([step[0]["loss"] for step in golden["losses"]]))


def compared(run: dict[str, Any], begin: int, history: torch.Tensor) -> dict[str, Any]:
    steps = run["losses"][begin:]
    return {
        "position": run["max"],
        "losses": torch.tensor([step[0]["loss"] for step in steps]),
        "learning rates": torch.tensor([step[1]["lr"] for step in steps]),
        "history": history,
        **{key: torch.tensor(value) for key, value in run["weights"].items()},
    }


def differing(expected: dict[str, Any], actual: dict[str, Any]) -> set[str]:
    assert expected.keys() == actual.keys()
    return {
        key
        for key, value in expected.items()
        if not (
            value.shape == actual[key].shape
            and torch.allclose(value.double(), actual[key].double(), rtol=1e-4, atol=1e-5)
            if isinstance(value, torch.Tensor)
            else value == actual[key]
        )
    }


def no_weights(saved: dict[str, Any]) -> None:
    saved["state_dict"]["net.0.weight"].zero_()


def no_momentum(saved: dict[str, Any]) -> None:
    for state in saved["optimizer"]["state"].values():
        state["momentum_buffer"].zero_()


def no_schedule(saved: dict[str, Any]) -> None:
    for state in saved["param_schedulers"]:
        state.update(_global_step=0, last_step=0)


def no_counters(saved: dict[str, Any]) -> None:
    saved["meta"].update(iter=0, epoch=0)


def no_history(saved: dict[str, Any]) -> None:
    saved["message_hub"]["log_scalars"].clear()


CONTROLS: dict[Callable[[dict[str, Any]], None], str] = {
    no_weights: "losses",
    no_momentum: "net.0.weight",
    no_schedule: "learning rates",
    no_counters: "losses",
    no_history: "history",
}


RUNS = [("epochs", "epoch_2.pth", 10), ("iterations", "iter_5.pth", 5)]
CASES = [
    (*run, left_out)
    for run in RUNS
    for left_out in (None, *CONTROLS)
    # All its steps lie before the checkpoint.
    if (run[0], left_out) != ("epochs", no_schedule)
]


@pytest.mark.parametrize(("name", "file", "begin", "left_out"), CASES)
def test_each_part_of_a_checkpoint_of_mmengine_is_taken_up(
    name: str,
    file: str,
    begin: int,
    left_out: Callable[[dict[str, Any]], None] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its negative controls: a part that is not taken up would be noticed."""
    if left_out is not None:
        read = BaseStrategy.read_checkpoint

        def forgetful(self: BaseStrategy, *args: Any, **kwargs: Any) -> Any:
            saved = read(self, *args, **kwargs)
            # What is read from a file that is mapped must not be written to.
            saved["state_dict"] = {k: v.clone() for k, v in saved["state_dict"].items()}
            left_out(saved)
            return saved

        monkeypatch.setattr(BaseStrategy, "read_checkpoint", forgetful)
    different = differing(recorded(name, begin), go_on(name, file, tmp_path))
    if left_out is None:
        assert different == set()
    else:
        assert CONTROLS[left_out] in different
