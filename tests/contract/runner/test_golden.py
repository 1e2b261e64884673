"""Hook order, losses, schedules, checkpoints and metrics are those that MMEngine 0.10.7 has.

``record.py`` beside this file recorded them.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden.json").read_text())


def _scenarios():
    spec = importlib.util.spec_from_file_location("runner_scenarios", HERE / "scenarios.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCENARIOS = _scenarios()


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Each scenario is run once; the tests look at different sides of it."""
    done = {}

    def result(name):
        if name not in done:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                done[name] = SCENARIOS.run(name, "mmx", str(tmp_path_factory.mktemp(name)))
            finally:
                torch.set_num_threads(threads)
        return done[name]

    return result


@pytest.mark.parametrize("name", GOLDEN)
def test_hooks_are_called_in_the_same_order_with_the_same_counters(ours, name):
    golden = list(GOLDEN[name]["trace"])
    for expected, actual in zip(golden, ours(name)["trace"], strict=True):
        if expected[0].endswith("val_epoch") or expected[0].endswith("test_epoch"):
            assert expected[:3] == actual[:3]
            assert [pytest.approx(m) for m in expected[3:]] == actual[3:]
        else:
            assert expected == actual


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_learning_rates_and_weights_follow_the_same_trajectory(ours, name):
    for expected, actual in zip(GOLDEN[name]["losses"], ours(name)["losses"], strict=True):
        assert pytest.approx(expected[0], abs=1e-6) == actual[0]
        assert pytest.approx(expected[1]) == actual[1]
        assert pytest.approx(expected[2], abs=1e-6) == actual[2]
    for key, expected in GOLDEN[name]["weights"].items():
        actual = torch.tensor(ours(name)["weights"][key])
        torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_checkpoints_have_the_same_names_keys_and_counters(ours, name):
    files = ours(name)["files"]
    for file in files.values():
        # Ours also saves the gradients of an accumulation that is under way.
        file["optimizer"] = [key for key in file["optimizer"] if key != "accumulation"]
    assert GOLDEN[name]["files"] == files


@pytest.mark.parametrize("name", GOLDEN)
def test_metrics_and_totals_are_the_same(ours, name):
    assert pytest.approx(GOLDEN[name]["test"]) == ours(name)["test"]
    assert GOLDEN[name]["max"] == ours(name)["max"]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_list_of_hooks_reads_the_same(ours, name):
    """Ours has all lines of MMEngine's in its order, and more: some hooks use further stages."""
    lines = iter(line.rstrip() for line in ours(name)["hooks_info"].splitlines())
    for expected in GOLDEN[name]["hooks_info"].splitlines():
        assert expected.rstrip() in lines, expected


@pytest.mark.parametrize(
    ("name", "file", "begin"), [("epochs", "epoch_2.pth", 10), ("iterations", "iter_5.pth", 5)]
)
def test_a_checkpoint_of_mmengine_is_resumed_as_mmengine_would_go_on(tmp_path, name, file, begin):
    resumed = SCENARIOS.run(name, "mmx", str(tmp_path), str(HERE / f"mmengine_{file}"))
    golden = GOLDEN[name]
    assert golden["max"] == resumed["max"]
    assert len(resumed["losses"]) == len(golden["losses"]) - begin
    for expected, actual in zip(golden["losses"][begin:], resumed["losses"], strict=True):
        assert pytest.approx(expected[0], abs=1e-5) == actual[0]
        assert pytest.approx(expected[1]) == actual[1]
    for key, expected in golden["weights"].items():
        actual = torch.tensor(resumed["weights"][key])
        torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-4, atol=1e-5)
