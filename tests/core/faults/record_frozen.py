"""Write what this release's checkpoints look like; run once for each release, from the root.

    python tests/core/faults/record_frozen.py

Later releases must go on from these files (test_frozen.py), so that none is ever written anew, and
``victim.py`` keeps its model, data and settings.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
import torch
import victim
from children import in_child, wait

from mmx import __version__

FOLDER = Path(__file__).parent / "frozen"
VARIANTS = {
    "epoch": dict(by_epoch=True),
    "iter": dict(by_epoch=False, dtype="float16"),
}
CUT, SAVED = 22, "iter_21.pth"
# Of the end, what a user would miss; the rest is in the checkpoint that is gone on from.
PARTS = (
    "/state_dict",
    "/ema_state_dict",
    "/param_schedulers",
    "/message_hub/log_scalars/train/loss",
)


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name, options in VARIANTS.items():
        target = FOLDER / f"mmx_{__version__}_{name}.pth"
        if target.exists():
            raise SystemExit(f"{target} exists; frozen files are not written anew")
        with tempfile.TemporaryDirectory() as folder:
            work_dir = Path(folder) / "run"

            def begin(work_dir: Path = work_dir, options: dict = options) -> None:
                victim.build(work_dir, cut=CUT, **options).train()

            assert wait(in_child(begin)) < 0
            shutil.copy(work_dir / SAVED, target)
            runner = victim.build(work_dir, **options)
            runner.train()
            end = {k: v for k, v in victim.final_state(runner).items() if k.startswith(PARTS)}
            torch.save(end, target.with_suffix(".end"))


if __name__ == "__main__":
    main()
