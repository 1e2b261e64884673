"""What one update of an exponential moving average costs, beside one multi-tensor operation.

    python benchmarks/ema.py                      # competitors that this Python has
    python benchmarks/ema.py --also mmengine=/path/to/python
    python benchmarks/ema.py --rounds 3 --only mmx

300 small tensors, where calls count, and 20 large ones, where memory does; one thread, CPU time of
the process. The floor is one ``torch._foreach_lerp_`` over the tensors. Each competitor lives in a
process of its own and all are measured in turn, in shuffled order, round after round; a figure is
the median of chunks, what is quoted is the median over rounds of the ratio to the floor in the same
round. Before that, all must end with the same average.

To add a competitor: write a function ``make_<name>(model)`` that returns a function which updates
the average once, and one that returns the averaged tensors, and list it in COMPETITORS with the
module that it needs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
import warnings

from peers import is_here

MOMENTUM = 0.0002
# Name -> number of tensors, their shape, updates per chunk, chunks.
SIZES = {
    "300 tensors of 16 x 16": (300, (16, 16), 20, 15),
    "300 tensors of 64 x 64": (300, (64, 64), 20, 15),
    "20 tensors of 1024 x 1024": (20, (1024, 1024), 3, 9),
}


def model_of(count, shape):
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Block(nn.Module):
        """Two parameters, as most layers have."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(shape))
            self.bias = nn.Parameter(torch.randn(shape))

    return nn.Sequential(*[Block() for _ in range(count // 2)])


def move(model):
    import torch

    with torch.no_grad():
        for param in model.parameters():
            param.add_(1)


# Competitors ----------------------------------------------------------------------------------


def make_floor(model):
    import torch

    values = [param.detach() for param in model.parameters()]
    averages = [value.clone() for value in values]
    return lambda: torch._foreach_lerp_(averages, values, MOMENTUM), lambda: averages


def _engine(name, model):
    package = importlib.import_module(f"{name}.model")
    average = package.ExponentialMovingAverage(model, momentum=MOMENTUM)
    average.update_parameters(model)
    return lambda: average.update_parameters(model), lambda: list(average.module.parameters())


def make_mmx(model):
    return _engine("mmx", model)


def make_mmengine(model):
    return _engine("mmengine", model)


def make_torch(model):
    """torch's own, in its fastest form."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - MOMENTUM))
    average.update_parameters(model)
    return lambda: average.update_parameters(model), lambda: list(average.module.parameters())


# Name -> the module that it needs.
COMPETITORS = {
    "floor": "torch",
    "mmx": "mmx",
    "torch": "torch",
    "mmengine": "mmengine",
}


# Measuring ------------------------------------------------------------------------------------


def result_of(name):
    model = model_of(20, (16, 16))
    update, averages = globals()[f"make_{name}"](model)
    for _ in range(10):
        move(model)
        update()
    return float(sum(value.double().abs().sum() for value in averages()))


def time_of(name, size):
    count, shape, per_chunk, chunks = SIZES[size]
    update, _ = globals()[f"make_{name}"](model_of(count, shape))
    update()
    times = []
    for _ in range(chunks):
        begin = time.process_time()
        for _ in range(per_chunk):
            update()
        times.append((time.process_time() - begin) / per_chunk)
    return statistics.median(times) * 1e6


def worker(name):
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for line in sys.stdin:
        size = line.strip()
        value = time_of(name, size) if size in SIZES else result_of(name)
        print(json.dumps(value), file=out, flush=True)


class Competitor:
    """A worker process."""

    def __init__(self, name, python):
        self.name = name
        self.process = subprocess.Popen(
            [python, __file__, "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )

    def ask(self, what):
        print(what, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed")
        return json.loads(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worker")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=PYTHON")
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return
    pythons = {name: sys.executable for name, module in COMPETITORS.items() if is_here(module)}
    pythons.update(pair.split("=", 1) for pair in args.also)
    for name in COMPETITORS:
        if name not in pythons:
            print(f"skipped: {name} (not installed)", file=sys.stderr)
    chosen = [n for n in pythons if not args.only or n in args.only or n == "floor"]
    field = {name: Competitor(name, pythons[name]) for name in chosen}
    ends = {name: one.ask("result") for name, one in field.items()}
    for name, end in ends.items():
        if abs(end - ends["floor"]) > 1e-6 * abs(ends["floor"]):
            raise SystemExit(f"{name} computes something else: {end} against {ends['floor']}")
    figures = {}
    order = list(field)
    for _ in range(args.rounds):
        random.shuffle(order)
        for size in SIZES:
            times = {name: field[name].ask(size) for name in order}
            for name, value in times.items():
                figures.setdefault((size, name), []).append((value, value / times["floor"]))
    for (size, name), values in sorted(figures.items()):
        line = {"benchmark": "ema", "size": size, "competitor": name}
        line["us"] = round(statistics.median(v for v, _ in values), 1)
        line["ratio"] = round(statistics.median(r for _, r in values), 3)
        print(json.dumps(line))


if __name__ == "__main__":
    main()
