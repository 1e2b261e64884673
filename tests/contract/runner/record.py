"""Record what MMEngine does in each scenario, and in each example of its documents.

Run it with a Python that has MMEngine 0.10.7 and the version of torch that the tests run with::

    OMP_NUM_THREADS=1 PYTHON tests/contract/runner/record.py [NAME ...]

It writes ``golden/<name>.json`` for each (or for those named), and two checkpoints, beside itself;
the tests compare mmx with them.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import playing
import scenarios
import torch

HERE = Path(__file__).resolve().parent

# Kept beside the traces, to resume from.
CHECKPOINTS = {"epochs": ["epoch_2.pth"], "iterations": ["iter_5.pth"]}


def text_of(value: Any, depth: int = 0) -> str:
    """Return JSON that reads and compares well: a line for each entry of what is large."""
    value = _rounded(value) if depth == 0 else value
    flat = json.dumps(value, separators=(",", ":"))
    if depth and (len(flat) < 80 or depth > 2 or not isinstance(value, dict | list)):
        return flat
    if depth == 2 and not (isinstance(value, list) and all(isinstance(v, dict) for v in value)):
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
    """Record one scenario or example.

    In a process of its own, since registries and loggers are global.
    """
    torch.set_num_threads(1)
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # what MMEngine was written for
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)  # in a repository, versions would bear its state
        if name == "mixed_precision":
            wrapper = importlib.import_module("mmengine.optim.optimizer.amp_optimizer_wrapper")
            wrapper.is_cuda_available = lambda: True  # it takes any for its precision otherwise
        if name in playing.EXAMPLES:
            results = playing.run(name, directory)
        else:
            results = {name: scenarios.run(name, "mmengine", directory)}
        for part, result in results.items():
            (HERE / "golden" / f"{part}.json").write_text(text_of(result) + "\n")
        for kept in CHECKPOINTS.get(name, ()):
            checkpoint = torch.load(kept, weights_only=False)
            checkpoint["message_hub"]["runtime_info"]["last_ckpt"] = kept  # it was a whole path
            torch.save(checkpoint, HERE / f"mmengine_{kept}")


def main(names: list[str]) -> None:
    (HERE / "golden").mkdir(exist_ok=True)
    playing.load_all()
    for name in names or [*scenarios.SCENARIOS, *playing.EXAMPLES]:
        process = multiprocessing.get_context("fork").Process(target=record, args=(name,))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name}: recording failed")


if __name__ == "__main__":
    main(sys.argv[1:])
