"""What gathering the results of an evaluation on 2 ranks costs, beside other ways to do it.

    python benchmarks/collect.py                                 # competitors that this Python has
    python benchmarks/collect.py --also mmengine=/path/to/python
    python benchmarks/collect.py --rounds 3

Two tasks: 100,000 plain dicts of three numbers, and 5,000 dicts of three 0-d tensors, half of them
on each rank. Wall time from a barrier to a barrier, since the ranks wait for each other. Each
competitor is a pair of processes of its own under torchrun; all are measured in turn, in shuffled
order, round after round; the ratio to the baseline (torch's `gather_object`) is taken within a
round, and the median over rounds is quoted. Before that, all must return the same rows.

`columns` is the floor: a program that holds its results as tensors from the start.

To add a competitor: write a function `collect_<name>(rows, size) -> rows on rank 0, else None`, and
list it in COMPETITORS with the module that it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

from peers import is_here

REPEATS = 7
TASKS = ("100k plain dicts", "5k dicts of tensors")


def make_rows(task, rank, world_size):
    import torch

    if task == TASKS[0]:
        return [
            {"pred": i % 10, "label": i * 7 % 10, "score": i / 3}
            for i in range(rank, 100_000, world_size)
        ]
    return [
        {
            "pred": torch.tensor(i % 10),
            "label": torch.tensor(i * 7 % 10),
            "score": torch.tensor(i / 3),
        }
        for i in range(rank, 5_000, world_size)
    ]


# The competitors ------------------------------------------------------------------------------


def collect_torch(rows, size):
    """torch's gather of objects, and an interleaving by hand."""
    import torch.distributed as dist

    here = dist.get_rank() == 0
    parts = [None] * dist.get_world_size() if here else None
    dist.gather_object(rows, parts)
    return [row for turn in zip(*parts, strict=True) for row in turn][:size] if here else None


def collect_mmx(rows, size):
    from mmx.dist import collect_results

    return collect_results(rows, size)


def collect_mmengine(rows, size):
    from mmengine.dist import collect_results

    return collect_results(rows, size)


def collect_columns(rows, size):
    """The floor: three tensors, gathered as they are. `rows` are made before the clock starts."""
    import torch
    import torch.distributed as dist

    data = rows["columns"]
    parts = [torch.empty_like(data) for _ in range(dist.get_world_size())]
    dist.gather(data, parts if dist.get_rank() == 0 else None)
    return torch.stack(parts, 1).reshape(-1, 3) if dist.get_rank() == 0 else None


COMPETITORS = {
    "torch": (collect_torch, "torch"),
    "mmx": (collect_mmx, "mmx"),
    "mmengine": (collect_mmengine, "mmengine"),
    "columns": (collect_columns, "torch"),
}


# A competitor's processes ---------------------------------------------------------------------


def work(name, output):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    collect = COMPETITORS[name][0]
    figures = {}
    for task in TASKS:
        rows = make_rows(task, rank, world_size)
        size = len(rows) * world_size
        given = rows
        if name == "columns":
            given = {"columns": torch.tensor([[float(v) for v in row.values()] for row in rows])}
        times = []
        collected = None
        for _ in range(REPEATS):
            # Freeing the rows of the time before is nobody's cost.
            del collected
            dist.barrier()
            start = time.perf_counter()
            collected = collect(given, size)
            dist.barrier()
            times.append(1000 * (time.perf_counter() - start))
        if rank == 0:
            check(task, collected, name)
        # The first warms up.
        figures[task] = statistics.median(times[1:])
    if rank == 0:
        with open(output, "w", encoding="utf-8") as file:
            json.dump(figures, file)
    dist.destroy_process_group()


def check(task, collected, name):
    expected = make_rows(task, 0, 1)
    assert len(expected) == len(collected)
    for index in (0, 1, 2, len(expected) // 2, len(expected) - 1):
        row = collected[index]
        values = row.tolist() if name == "columns" else [float(v) for v in row.values()]
        wanted = [float(v) for v in expected[index].values()]
        assert all(abs(a - b) <= 1e-3 * abs(b) for a, b in zip(values, wanted, strict=True)), name
        if name != "columns":
            assert list(row) == list(expected[index])


def measure(name, python):
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "figures.json")
        command = [python, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", os.path.abspath(__file__)]
        command += ["--worker", name, "--output", output]
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        with open(output, encoding="utf-8") as file:
            return json.load(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--worker")
    parser.add_argument("--output")
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.output)
        return
    pythons = dict(pair.split("=", 1) for pair in args.also)
    for name, (_, module) in COMPETITORS.items():
        if name in pythons:
            continue
        if not is_here(module):
            print(f"skipped: {name} ({module} is not installed)", file=sys.stderr)
        else:
            pythons[name] = sys.executable
    rounds = []
    for _ in range(args.rounds):
        order = list(pythons)
        random.shuffle(order)
        rounds.append({name: measure(name, pythons[name]) for name in order})
    for task in TASKS:
        for name in pythons:
            figure = {
                "benchmark": "collect",
                "task": task,
                "competitor": name,
                "ms": round(statistics.median(r[name][task] for r in rounds), 2),
                "ratio_to_torch": round(
                    statistics.median(r[name][task] / r["torch"][task] for r in rounds), 4
                ),
            }
            if "mmengine" in pythons:
                figure["ratio_to_mmengine"] = round(
                    statistics.median(r[name][task] / r["mmengine"][task] for r in rounds), 4
                )
            print(json.dumps(figure))


if __name__ == "__main__":
    main()
