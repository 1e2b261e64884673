"""Data elements print and index as MMEngine's do, by a recording of it."""

import importlib.util
import json
from pathlib import Path

import pytest

import mmx.structures

DATA = Path(__file__).parents[2] / "contract" / "data"
GOLDEN = json.loads((DATA / "structures.json").read_text())


@pytest.fixture(scope="module")
def ours():
    spec = importlib.util.spec_from_file_location(
        "record_structures", DATA / "record_structures.py"
    )
    recorder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorder)
    return dict(recorder.cases(mmx.structures))


@pytest.mark.parametrize("case", GOLDEN)
def test_behaves_as_recorded(ours, case):
    assert GOLDEN[case] == json.loads(json.dumps(ours[case]))


def test_every_case_is_recorded(ours):
    assert list(GOLDEN) == list(ours)
