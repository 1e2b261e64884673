"""How long it takes until something happens, beside ``import torch``.

    python benchmarks/startup.py --rounds 7

Processor time of whole processes, compiled byte code at hand as in an installed package, measured
in turn; quoted is the median over rounds of the ratio to ``import torch`` in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile

PROBE = """
import os
from mmx.hooks import Hook
from mmx.registry import HOOKS

@HOOKS.register_module()
class LeaveBeforeFirstIteration(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        os._exit(0)
"""
CONFIG = """
_base_ = "mmx_toy::two_rings.py"
custom_imports = dict(imports=["probe"])
custom_hooks = [dict(type="LeaveBeforeFirstIteration")]
"""
COMPETITORS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch and make an optimizer": [
        sys.executable, "-c", "import torch; torch.optim.SGD([torch.zeros(1)])",
    ],
    "from mmx.runner import Runner": [sys.executable, "-c", "from mmx.runner import Runner"],
    "mmx train, first iteration": [
        sys.executable, "-m", "mmx", "train", "config.py", "--work-dir", "work",
    ],
}  # fmt: skip


def seconds(command: list[str], folder: str, environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("probe.py", PROBE), ("config.py", CONFIG)):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment.update(
            PYTHONPATH=folder, OMP_NUM_THREADS="1", PYTHONPYCACHEPREFIX=os.path.join(folder, "pyc")
        )
        for command in COMPETITORS.values():  # compiles
            seconds(command, folder, environment)
        names = list(COMPETITORS)
        figures: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            random.shuffle(names)
            for name in names:
                figures[name].append(seconds(COMPETITORS[name], folder, environment))
    base = figures["import torch"]
    for name, values in figures.items():
        ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
        line = {"benchmark": "startup", "what": name, "seconds": round(min(values), 3)}
        print(json.dumps({**line, "times_import_torch": round(ratio, 3)}))


if __name__ == "__main__":
    main()
