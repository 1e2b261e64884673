"""Record what MMEngine does in each scenario, and in each example of its documents.

Run it with a Python that has MMEngine 0.10.7 and the version of torch that the tests run with::

    OMP_NUM_THREADS=1 PYTHON tests/contract/runner/record.py [NAME ...]

It writes ``golden/<name>.json`` for each (or for those named), and two checkpoints, beside itself;
the tests compare mmx with them.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import scenarios
import torch

HERE = Path(__file__).parent

# Kept beside the traces, to resume from.
CHECKPOINTS = {"epochs": ["epoch_2.pth"], "iterations": ["iter_5.pth"]}


def text_of(value: Any, depth: int = 0) -> str:
    """Return JSON that reads and compares well: a line for each entry of what is large."""
    value = _rounded(value) if depth == 0 else value
    flat = json.dumps(value, separators=(",", ":"))
    if depth and (len(flat) < 80 or depth > 2 or not isinstance(value, dict | list)):
        return flat
    if depth == 2 and not (isinstance(value, list) and isinstance(value[0], dict)):
        return flat
    if isinstance(value, dict):
        inner = [f"{json.dumps(k)}: {text_of(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(inner) + "\n}"
    return "[\n" + ",\n".join(text_of(v, depth + 1) for v in value) + "\n]"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def record(name: str) -> None:
    """Record one scenario; in a process of its own, since registries and loggers are global."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        result = scenarios.run(name, "mmengine", directory)
        (HERE / "golden" / f"{name}.json").write_text(text_of(result) + "\n")
        for kept in CHECKPOINTS.get(name, ()):
            shutil.copy(Path(directory, kept), HERE / f"mmengine_{kept}")


def main(names: list[str]) -> None:
    (HERE / "golden").mkdir(exist_ok=True)
    for name in names or scenarios.SCENARIOS:
        process = multiprocessing.get_context("fork").Process(target=record, args=(name,))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name}: recording failed")


if __name__ == "__main__":
    main(sys.argv[1:])
