"""Initialisation, losses, preprocessing, averages and the EMA hook do what MMEngine 0.10.7 does.

``record.py`` beside this file recorded them. Floating-point results are compared to seven digits,
because vector units round differently between processors; on one machine they are equal bit for
bit, which ``tests/core/model`` checks against formulas.
"""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden.json").read_text())


def _cases():
    spec = importlib.util.spec_from_file_location("model_cases", HERE / "cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = _cases()
_DONE = {}


def _actual(name):
    if name not in _DONE:
        _DONE[name] = getattr(CASES, name)("mmx")
    return _DONE[name]


def _differences(expected, actual, where=""):
    if isinstance(expected, dict):
        assert list(expected) == list(actual), where
        for key in expected:
            yield from _differences(expected[key], actual[key], f"{where}/{key}")
    elif isinstance(expected, list):
        assert isinstance(actual, list), where
        if len(expected) != len(actual):
            yield f"{where}: {expected} != {actual}"
            return
        for i, (a, b) in enumerate(zip(expected, actual, strict=True)):
            yield from _differences(a, b, f"{where}[{i}]")
    elif isinstance(expected, float) and isinstance(actual, float):
        if not math.isclose(expected, actual, rel_tol=1e-6, abs_tol=1e-7):
            yield f"{where}: {expected} != {actual}"
    elif expected != actual:
        yield f"{where}: {expected!r} != {actual!r}"


@pytest.mark.parametrize(
    ("area", "name"), [(area, name) for area, cases in GOLDEN.items() for name in cases]
)
def test_the_result_is_the_recorded_one(area, name):
    assert list(_differences(GOLDEN[area][name], _actual(area)[name])) == []


def test_every_recorded_case_is_run():
    assert {area: list(cases) for area, cases in GOLDEN.items()} == {
        case.__name__: list(_actual(case.__name__)) for case in CASES.ALL
    }
