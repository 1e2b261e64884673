"""Record what MMEngine does in each scenario: ``python record.py`` where MMEngine is installed.

Writes golden.json and two checkpoints beside itself; the tests compare mmx with it. Recorded with mmengine 0.10.7.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import scenarios
import torch

HERE = Path(__file__).parent

# Kept beside the traces, to resume from.
CHECKPOINTS = {"epochs": ["epoch_2.pth"], "iterations": ["iter_5.pth"]}


def main() -> None:
    torch.set_num_threads(1)
    golden = {}
    for name in scenarios.SCENARIOS:
        with tempfile.TemporaryDirectory() as directory:
            golden[name] = scenarios.run(name, "mmengine", directory)
            for kept in CHECKPOINTS.get(name, ()):
                shutil.copy(Path(directory, kept), HERE / f"mmengine_{kept}")
    (HERE / "golden.json").write_text(json.dumps(golden, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
