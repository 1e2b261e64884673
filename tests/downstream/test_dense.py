"""Segmentors and detectors train from their own configs with the numbers that MMEngine 0.10.7 gives."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def actual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process of its own does: the packages' registrations must outlive a test."""
    folder = tmp_path_factory.mktemp("dense")
    script = Path(__file__).parents[1] / "contract" / "downstream" / "dense.py"
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert 0 == done.returncode, done.stderr[-4000:]
    return json.loads((folder / "dense.json").read_text())


@pytest.mark.parametrize("name", ["fcn", "pspnet", "retinanet", "fcos"])
def test_four_iterations_have_every_bit(
    name: str, contract_folder: Path, actual: dict[str, Any]
) -> None:
    recorded = json.loads(gzip.decompress((contract_folder / "dense.json.gz").read_bytes()))
    if recorded["kernels"] != actual["kernels"]:
        pytest.skip("this machine's CPU kernels give other bits than the recorded ones")
    assert recorded["traces"][name] == actual["traces"][name]
