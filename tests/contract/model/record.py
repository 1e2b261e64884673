"""Record what MMEngine does in each case: ``python record.py`` where MMEngine is installed.

Writes golden.json beside itself; the tests compare mmx with it. Recorded with mmengine 0.10.7.
"""

from __future__ import annotations

import json
from pathlib import Path

import cases
import torch

HERE = Path(__file__).parent


def main() -> None:
    torch.set_num_threads(1)
    golden = {case.__name__: case("mmengine") for case in cases.ALL}
    (HERE / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
