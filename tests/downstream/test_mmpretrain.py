"""mmpretrain trains from its own configs with the numbers that it has under MMEngine 0.10.7."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCENARIOS = ["resnet", "resnet_mixup", "vit_layer_decay", "beit_layer_decay", "convnext_ema"]


@pytest.fixture(scope="module")
def actual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process of its own does: the packages' registrations must outlive a test."""
    folder = tmp_path_factory.mktemp("mmpretrain")
    child = Path(__file__).parent / "train_in_child.py"
    command = [sys.executable, str(child), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert 0 == done.returncode, done.stderr[-4000:]
    return json.loads((folder / "traces.json").read_text())


@pytest.fixture
def recorded(contract_folder: Path, training: ModuleType, actual: dict[str, Any]) -> dict[str, Any]:
    table = json.loads(gzip.decompress((contract_folder / "training.json.gz").read_bytes()))
    if table["kernels"] != actual["kernels"]:
        pytest.skip(
            "this machine's CPU kernels give other bits than the recorded ones; record again here with "
            "tests/contract/downstream/record.py and the reference engine to compare"
        )
    return table


@pytest.mark.parametrize("name", SCENARIOS)
def test_training_has_every_bit_that_it_has_under_mmengine(
    name: str, recorded: dict[str, Any], actual: dict[str, Any], training: ModuleType
) -> None:
    expected = recorded["trajectories"][f"{name}/no_validation"]
    found = actual["trajectories"][f"{name}/no_validation"]
    # Both validate once at the very end, after which we put the stream back.
    del expected["random_after"], found["random_after"]

    assert training.first_difference(expected, found) is None


@pytest.mark.parametrize("name", SCENARIOS)
def test_training_validating_saving_and_testing_have_every_bit_but_for_the_kept_stream(
    name: str, recorded: dict[str, Any], actual: dict[str, Any], training: ModuleType
) -> None:
    expected = recorded["trajectories"][name]

    assert training.first_difference(expected, actual["old_streams"][name]) is None


def test_training_with_workers_has_every_bit_but_for_the_seeds_of_batches(
    recorded: dict[str, Any], actual: dict[str, Any], training: ModuleType
) -> None:
    key = "vit_layer_decay/workers"

    difference = training.first_difference(
        recorded["trajectories"][key], actual["old_streams"][key]
    )

    assert difference is None


@pytest.mark.parametrize("name", ["vit_layer_decay", "convnext_ema"])
def test_a_checkpoint_of_mmengine_resumes_to_what_mmengine_goes_on_with(
    name: str, recorded: dict[str, Any], actual: dict[str, Any], training: ModuleType
) -> None:
    expected = recorded["continuations"][name]
    found = actual["continuations"][name]
    del expected["random_after"], found["random_after"]

    assert training.first_difference(expected, found) is None


@pytest.mark.parametrize("key", ["resumed/0", "resumed/2"])
def test_a_resumed_run_of_ours_ends_at_the_bits_of_the_whole_run(
    key: str, actual: dict[str, Any]
) -> None:
    whole, resumed = actual[key]

    assert 5 == resumed["start_iter"]
    assert whole["iterations"][5:] == resumed["iterations"]
    assert whole["final"] == resumed["final"]
    assert whole["optimizer"] == resumed["optimizer"]
