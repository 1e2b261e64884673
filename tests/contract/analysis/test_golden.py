"""Figures, tables and listings are those of MMEngine 0.10.7."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def load(name: str, file: str) -> Any:
    """Import a file of this folder; the recorder imports the models by this name."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


GOLDEN = json.loads((HERE / "golden.json").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_figures_and_texts_are_those_of_mmengine(name: str) -> None:
    load("analysis_models", "analysis_models.py")
    recorder = load("analysis_recorder", "record.py")
    actual = json.loads(json.dumps(recorder.figures("mmx", name)))
    for key, expected in GOLDEN[name].items():
        assert expected == actual[key], key
