"""``make demo``: train the shipped config as a user would, then show what came of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

CONFIG = "mmx_vision::digits_resnet.py"
WORK_DIR = Path("work_dirs/digits_resnet")
GOAL = 98.0


def main(work_dir: Path = WORK_DIR) -> int:
    """Run the demo; return an exit status: 1 if the accuracy falls short."""
    shutil.rmtree(work_dir, ignore_errors=True)  # each demo is a run of its own
    command = [sys.executable, "-m", "mmx"]
    print(f"$ mmx train {CONFIG}\n", flush=True)
    started = time.monotonic()
    options = [
        "--work-dir",
        str(work_dir),
        "--cfg-options",
        f"val_evaluator.1.out_file={work_dir}/confusion.png",
    ]
    # A network this small is no faster on two threads, and far slower where they are not free.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    training = subprocess.run([*command, "train", CONFIG, *options], check=False, env=environment)
    status = training.returncode
    if status:
        return status
    seconds = time.monotonic() - started
    run = max(p for p in work_dir.iterdir() if (p / "vis_data").is_dir())
    curve = work_dir / "curves.png"
    keys = "loss,lr,accuracy/top1"
    subprocess.run(
        [*command, "plot", "log", str(run), "--keys", keys, "--out", str(curve)], check=True
    )
    accuracy = final_accuracy(run / "vis_data" / "scalars.json")
    best = next(work_dir.glob("best_*.pth"), None)
    print(f"\nTrained in {seconds:.0f} s. Validation accuracy: {accuracy:.2f} %")
    print(f"  log         {next(run.glob('*.log'))}")
    print(f"  checkpoint  {(work_dir / 'last_checkpoint').read_text()}")
    if best is not None:
        print(f"  best        {best}")
    print(f"  curves      {curve}")
    print(f"  confusion   {work_dir / 'confusion.png'}")
    print("\n$ count-registered-modules\n", flush=True)
    subprocess.run([str(Path(sys.executable).parent / "count-registered-modules")], check=True)
    if accuracy < GOAL:
        print(f"The accuracy is below {GOAL} %: something is wrong.", file=sys.stderr)
        return 1
    return 0


def final_accuracy(scalars: Path) -> float:
    """Return the accuracy of the last validation, in per cent."""
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    return float([line["accuracy/top1"] for line in lines if "accuracy/top1" in line][-1])


if __name__ == "__main__":
    sys.exit(main())
