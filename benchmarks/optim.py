"""What updating, scheduling, averaging and building cost, beside plain PyTorch and other engines.

    python benchmarks/optim.py                      # competitors that this Python has
    python benchmarks/optim.py --also mmengine=/path/to/python
    python benchmarks/optim.py --rounds 5 --figure update

One thread, CPU time of the process, the median of many short chunks. Each competitor lives in a
process of its own; all are measured in turn, in shuffled order, round after round; what is quoted
is the median over rounds of the ratio, or difference, to the hand-written one in the same round.
Before that, all must compute the same.

To add a competitor: write a function ``<figure>_<name>()`` that returns what is to be timed and a
function that returns a number for comparison after some calls, and list the name in COMPETITORS
with the module that it needs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
import warnings

from peers import is_here

GROUPS, PARAMS = 300, 1000

# Name -> the module that it needs.
COMPETITORS = {
    "hand": "torch",
    "torch": "torch",
    "mmx": "mmx",
    "mmx_merged": "mmx",
    "mmengine": "mmengine",
}

# Figure -> calls in a chunk, calls before the comparison, how it is quoted, and the bar.
FIGURES = {
    "update": (200, 20, "difference", "at most 5 us over hand"),
    "update_clipped": (100, 20, "difference", ""),
    "schedule": (200, 50, "ratio", "at most 2.5 times hand"),
    "ema_small": (20, 20, "ratio", "at most 1.25 times hand"),
    "ema_large": (2, 5, "ratio", "at most 1.1 times hand"),
    "build": (1, 1, "value", "at most 10000 us"),
}


# Updating ---------------------------------------------------------------------------------------


def _linear():
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    return model, torch.ones(2, 4), torch.optim.SGD(model.parameters(), lr=1e-3)


def _sum(tensors):
    return float(sum(t.detach().double().abs().sum() for t in tensors))


def update_hand(clip=False):
    import torch

    model, x, optimizer = _linear()

    def run():
        loss = model(x).sum()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()

    return run, lambda: _sum(model.parameters())


def _update_engine(package, clip=False):
    model, x, optimizer = _linear()
    wrapper_class = importlib.import_module(f"{package}.optim").OptimWrapper
    wrapper = wrapper_class(optimizer, clip_grad={"max_norm": 1.0} if clip else None)
    return (lambda: wrapper.update_params(model(x).sum())), lambda: _sum(model.parameters())


def update_mmx():
    return _update_engine("mmx")


def update_mmengine():
    return _update_engine("mmengine")


def update_clipped_hand():
    return update_hand(clip=True)


def update_clipped_mmx():
    return _update_engine("mmx", clip=True)


def update_clipped_mmengine():
    return _update_engine("mmengine", clip=True)


# Scheduling -------------------------------------------------------------------------------------

WARM_UP, LENGTH = 10**6, 10**7


def _groups():
    import torch

    params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(GROUPS)]
    return torch.optim.SGD([{"params": [p], "lr": 0.1 + i * 1e-3} for i, p in enumerate(params)])


def _rate(optimizer):
    return lambda: float(sum(group["lr"] for group in optimizer.param_groups))


def schedule_hand():
    import math

    optimizer = _groups()
    first = [group["lr"] for group in optimizer.param_groups]
    step = 0

    def run():
        nonlocal step
        step += 1
        factor = (1 + math.cos(math.pi * step / LENGTH)) / 2
        factor *= 0.1 + 0.9 * min(step, WARM_UP) / WARM_UP
        for group, lr in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = lr * factor

    return run, _rate(optimizer)


def _schedule_engine(package):
    optimizer = _groups()
    module = importlib.import_module(f"{package}.optim.scheduler")
    # Both take effect all the time: that is what is measured.
    warm = module.LinearLR(optimizer, start_factor=0.1, end=WARM_UP + 1, by_epoch=False)
    cosine = module.CosineAnnealingLR(optimizer, T_max=LENGTH, by_epoch=False)
    optimizer.step()

    def run():
        warm.step()
        cosine.step()

    return run, _rate(optimizer)


def schedule_mmx():
    return _schedule_engine("mmx")


def schedule_mmengine():
    return _schedule_engine("mmengine")


def schedule_torch():
    from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LinearLR

    optimizer = _groups()
    warm = LinearLR(optimizer, start_factor=0.1, total_iters=WARM_UP)
    chained = ChainedScheduler([warm, CosineAnnealingLR(optimizer, T_max=LENGTH)])
    optimizer.step()
    return chained.step, _rate(optimizer)


# Averaging --------------------------------------------------------------------------------------


def _tensors(large):
    import torch

    torch.manual_seed(1)
    sizes = [4_000_000] * 3 if large else [64] * GROUPS
    module = torch.nn.Module()
    for i, size in enumerate(sizes):
        module.register_parameter(f"p{i}", torch.nn.Parameter(torch.randn(size)))
    return module


def _ema_hand(large):
    import torch

    model = _tensors(large)
    source = [p.detach() for p in model.parameters()]
    average = [t.clone() for t in source]
    for tensor in source:
        tensor.mul_(2)
    return (lambda: torch._foreach_lerp_(average, source, 0.1)), lambda: _sum(average)


def _ema_engine(package, large):
    import torch

    model = _tensors(large)
    average = importlib.import_module(f"{package}.model").ExponentialMovingAverage(
        model, momentum=0.1
    )
    # The first update copies.
    average.update_parameters(model)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(2)
    return (lambda: average.update_parameters(model)), lambda: _sum(average.module.parameters())


def _ema_torch(large):
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = _tensors(large)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(2)
    return (lambda: average.update_parameters(model)), lambda: _sum(average.module.parameters())


def ema_small_hand():
    return _ema_hand(False)


def ema_small_mmx():
    return _ema_engine("mmx", False)


def ema_small_mmengine():
    return _ema_engine("mmengine", False)


def ema_small_torch():
    return _ema_torch(False)


def ema_large_hand():
    return _ema_hand(True)


def ema_large_mmx():
    return _ema_engine("mmx", True)


def ema_large_mmengine():
    return _ema_engine("mmengine", True)


def ema_large_torch():
    return _ema_torch(True)


# Building ---------------------------------------------------------------------------------------


def _deep():
    import torch
    from torch import nn

    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)) for _ in range(PARAMS // 4)]
    return nn.Sequential(*blocks)


def _decay(found):
    return lambda: float(sum(g["weight_decay"] * len(g["params"]) for g in found[-1].param_groups))


def build_hand():
    import torch
    from torch import nn

    model, found = _deep(), []

    def run():
        # Two groups, as one would by hand.
        plain, decayed = [], []
        for module in model.modules():
            for name, param in module.named_parameters(recurse=False):
                kind = plain if name == "bias" or isinstance(module, nn.LayerNorm) else decayed
                kind.append(param)
        groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed}]
        found[:] = [torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1)]

    return run, _decay(found)


def build_torch():
    """A group per parameter."""
    import torch
    from torch import nn

    model, found = _deep(), []

    def run():
        groups = []
        for module in model.modules():
            for name, param in module.named_parameters(recurse=False):
                group = {"params": [param]}
                if name == "bias" or isinstance(module, nn.LayerNorm):
                    group["weight_decay"] = 0.0
                groups.append(group)
        found[:] = [torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1)]

    return run, _decay(found)


def _build_engine(package, **more):
    model, found = _deep(), []
    build = importlib.import_module(f"{package}.optim").build_optim_wrapper
    cfg = {
        "optimizer": {"type": "AdamW", "lr": 0.1, "weight_decay": 0.1},
        "paramwise_cfg": {"norm_decay_mult": 0, "bias_decay_mult": 0, **more},
    }

    def run():
        # Both engines log a line per setting: that is part of it, showing it is not.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            found[:] = [build(model, cfg).optimizer]

    return run, _decay(found)


def build_mmx():
    return _build_engine("mmx")


def build_mmx_merged():
    return _build_engine("mmx", merge_groups=True)


def build_mmengine():
    return _build_engine("mmengine")


# Measuring --------------------------------------------------------------------------------------


def serve(name):
    """Answer requests, a line each: a figure to compare, or to measure."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    answers, ready = os.fdopen(os.dup(1), "w"), {}
    sys.stdout = sys.stderr
    for line in sys.stdin:
        figure, what = line.split()
        size, calls, *_ = FIGURES[figure]
        answer = None
        if what == "check":
            run, check = globals()[f"{figure}_{name}"]()
            for _ in range(calls):
                run()
            answer, ready[figure] = check(), run
        else:
            run, times = ready[figure], []
            for _ in range(20):
                begin = time.process_time_ns()
                for _ in range(size):
                    run()
                times.append((time.process_time_ns() - begin) / size / 1000)
            answer = statistics.median(times)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def ask(process, figure, what):
    process.stdin.write(f"{figure} {what}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a competitor died: run with --worker NAME to see why")
    return json.loads(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--figure", choices=FIGURES, action="append")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(args.worker)
        return
    pythons = dict(item.split("=", 1) for item in args.also)
    workers = {}
    for name, module in COMPETITORS.items():
        python = pythons.get(name, sys.executable)
        if name not in pythons and not is_here(module):
            print(f"skipped: {name} ({module} is not installed)", file=sys.stderr)
            continue
        workers[name] = subprocess.Popen(
            [python, os.path.abspath(__file__), "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    rows = []
    for figure in args.figure or FIGURES:
        _, _, quoted, bar = FIGURES[figure]
        names = [name for name in workers if f"{figure}_{name}" in globals()]
        results = {name: ask(workers[name], figure, "check") for name in names}
        for name, result in results.items():
            if abs(result - results["hand"]) > 1e-5 * abs(results["hand"]):
                raise SystemExit(f"{figure}: {name} computes {result}, hand {results['hand']}")
        rounds = []
        for _ in range(args.rounds):
            random.shuffle(names)
            rounds.append({name: ask(workers[name], figure, "time") for name in names})
        for name in [n for n in workers if n in names]:
            row = {
                "figure": figure,
                "competitor": name,
                "us": round(statistics.median(r[name] for r in rounds), 2),
            }
            if name != "hand":
                row["ratio"] = round(statistics.median(r[name] / r["hand"] for r in rounds), 2)
                row["over_us"] = round(statistics.median(r[name] - r["hand"] for r in rounds), 2)
            row["bar"] = bar if name == "mmx" else ""
            rows.append({**row, "quoted": quoted})
            print(json.dumps(rows[-1]), flush=True)
    for process in workers.values():
        process.stdin.close()
        process.wait()
    print(
        f"\n{'figure':16}{'competitor':18}{'us':>10}{'ratio':>8}{'over us':>10}  bar",
        file=sys.stderr,
    )
    for row in rows:
        print(
            f"{row['figure']:16}{row['competitor']:18}{row['us']:>10}{row.get('ratio', ''):>8}"
            f"{row.get('over_us', ''):>10}  {row['bar']}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
