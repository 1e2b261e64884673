"""What MMEngine's registry finds, ours finds: recorded by ``tests/contract/record_registry.py``."""

import importlib.util
import json
from pathlib import Path

import pytest

from mmx_registry import DefaultScope, Registry

CONTRACT = Path(__file__).parents[1] / "contract"
CASES = json.loads((CONTRACT / "registry_lookups.json").read_text())


@pytest.fixture(scope="module")
def recorder():
    spec = importlib.util.spec_from_file_location("recorder", CONTRACT / "record_registry.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    # The recorder silences the log of the system that it records.
    import logging

    logging.disable(logging.NOTSET)


def test_whatever_mmengine_finds_we_find(recorder):
    for case in CASES:
        ours = recorder.answer(case["rows"], case["questions"], Registry, DefaultScope)
        scopes = {row[1]: row[0] for row in case["rows"]}
        for question, theirs, own in zip(case["questions"], case["answers"], ours, strict=True):
            key = question[1].split(".")
            for expected, got in zip(theirs, own, strict=True):
                # Where MMEngine finds nothing, we may: scopes that are no children of the root
                # are found from anywhere, and a path through scopes may begin anywhere.
                further = len(key) > 2 or (len(key) == 2 and scopes[key[0]] not in (-1, 0))
                if expected is not None or not further:
                    assert got == expected, (case["rows"], question)
