"""Record what the released packages do under the reference engine.

Run it with a Python that has ``mmengine`` 0.10.7 and what requirements/downstream*.txt name::

    OMP_NUM_THREADS=1 PYTHON tests/contract/downstream/record.py

It writes the JSON files and checkpoints beside it.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import configs
import dense
import training

HERE = Path(__file__).parent


def write(name: str, value: Any) -> None:
    data = (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()
    (HERE / name).write_bytes(gzip.compress(data, mtime=0))


def record_configs() -> None:
    write(
        "configs.json.gz",
        {package: configs.fingerprints(package) for package in configs.PACKAGES.values()},
    )


def record_training() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table: dict[str, Any] = {
            "kernels": training.kernel_fingerprint(),
            "mmengine": importlib.metadata.version("mmengine"),
            "trajectories": training.trajectories(folder),
            "continuations": {},
        }
        for scenario in training.RESUMED:
            saved = HERE / f"{scenario}_epoch_1.pth"
            saved.write_bytes((folder / scenario / "epoch_1.pth").read_bytes())
            table["continuations"][scenario] = training.continuation(scenario, folder, saved)
    write("training.json.gz", table)


def record_dense() -> None:
    with tempfile.TemporaryDirectory() as name:
        table = {"kernels": training.kernel_fingerprint(), "traces": dense.traces(Path(name))}
    write("dense.json.gz", table)


if __name__ == "__main__":
    # The reference engine cannot load its own checkpoints with the default of today's torch.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    training.prepare()
    record_training()
    record_dense()
    if "--training" not in sys.argv:
        record_configs()
