"""What data costs: batching, indexing instances, gathering results, validating, worker memory.

    python benchmarks/data.py                              # competitors that this Python has
    python benchmarks/data.py --also mmengine=/path/to/python
    python benchmarks/data.py --rounds 3 --json
    python benchmarks/data.py --memory                     # also: memory of workers, 1 M annotations

One thread. Each competitor lives in a process of its own; all are measured in turn, in shuffled
order, round after round; ratios are taken within a round, and their median is quoted. Short calls
are timed in chunks of CPU time, of which the median counts. Gathering waits, so its wall time
counts: the fastest of several gatherings in each round. Before anything is timed, all must give
the same results (``digest``).

To add a competitor: write a class ``<Name>`` with the methods that it has of ``batches``,
``instances``, ``collect`` and ``validation``, and list it in COMPETITORS with the module it needs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

from peers import is_here

BATCH, SAMPLES = 64, 4096


# The tasks --------------------------------------------------------------------------------------


def tensors():
    import torch

    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 32, generator=generator) for _ in range(SAMPLES)]


def fields(size=100):
    import numpy as np
    import torch

    return {
        "boxes": torch.arange(4.0 * size).view(size, 4),
        "scores": torch.arange(float(size)),
        "labels": torch.arange(size),
        "areas": np.arange(size),
        "names": [str(i) for i in range(size)],
        "masks": torch.zeros(size, 8, 8),
    }


def plain_results(rank):
    return [{"id": i, "score": i / 7, "label": i % 10} for i in range(rank, 100_000, 2)]


def tensor_results(rank):
    import torch

    return [
        {"score": torch.tensor(i / 7), "label": torch.tensor(i % 10), "ok": torch.tensor(True)}
        for i in range(rank, 5_000, 2)
    ]


class Torch:
    """The floor: torch alone, or what a hand would write."""

    def batches(self):
        from torch.utils.data import DataLoader

        loader = DataLoader(tensors(), batch_size=BATCH, shuffle=False)
        return lambda: iter(loader)

    def instances(self):
        import numpy as np

        data = fields()

        def index(item):
            array = np.asarray(item)
            chosen = array.nonzero()[0] if array.dtype == bool else array
            return {
                k: [v[i] for i in chosen] if isinstance(v, list) else v[item]
                for k, v in data.items()
            }

        return index

    def collect(self, results, size):
        """Columns, as one would send them who planned for it from the start."""
        import torch
        import torch.distributed as dist

        columns = {k: torch.as_tensor([float(row[k]) for row in results]) for k in results[0]}
        gathered = [None, None] if dist.get_rank() == 0 else None
        dist.gather_object(columns, gathered, 0)
        return size if gathered is None else sum(len(next(iter(g.values()))) for g in gathered)


class Mmx(Torch):
    def batches(self):
        from mmx.dataset import build_dataloader, iterate_from

        config = {
            "dataset": tensors(),
            "batch_size": BATCH,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "default_collate"},
        }
        loader = build_dataloader(config, seed=0)
        return lambda: iterate_from(loader, epoch=0, seed=0)

    def instances(self):
        from mmx.structures import InstanceData

        data = InstanceData(metainfo={"size": (1, 2)}, **fields())
        return lambda item: data[item]

    def collect(self, results, size):
        from mmx.dist import collect_results

        gathered = collect_results(results, size)
        return size if gathered is None else len(gathered)

    def validation(self, iterations):
        from mmx.evaluator import BaseMetric
        from mmx.model import BaseModel
        from mmx.runner import Runner
        from mmx.structures import BaseDataElement, InstanceData

        return _validation(iterations, BaseMetric, BaseModel, Runner, BaseDataElement, InstanceData)


class Mmengine(Torch):
    def batches(self):
        from mmengine.runner import Runner

        config = {
            "dataset": tensors(),
            "batch_size": BATCH,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "default_collate"},
        }
        loader = Runner.build_dataloader(config, seed=0)
        return lambda: iter(loader)

    def instances(self):
        from mmengine.structures import InstanceData

        data = InstanceData(metainfo={"size": (1, 2)}, **fields())
        return lambda item: data[item]

    def collect(self, results, size):
        from mmengine.dist import collect_results

        gathered = collect_results(results, size, "cpu")
        return size if gathered is None else len(gathered)

    def validation(self, iterations):
        from mmengine.evaluator import BaseMetric
        from mmengine.model import BaseModel
        from mmengine.runner import Runner
        from mmengine.structures import BaseDataElement, InstanceData

        return _validation(iterations, BaseMetric, BaseModel, Runner, BaseDataElement, InstanceData)


COMPETITORS = {
    "torch": (Torch, "torch"),
    "mmx": (Mmx, "mmx"),
    "mmengine": (Mmengine, "mmengine"),
}


def _validation(iterations, base_metric, base_model, runner_class, element, instances):
    """Return a function that validates ``iterations`` batches of 64 data elements."""
    import torch

    samples = [
        element(
            metainfo={"img_id": i, "ori_shape": (480, 640), "img_path": f"{i}.jpg"},
            gt_instances=instances(bboxes=torch.zeros(3, 4), labels=torch.zeros(3)),
            pred_instances=instances(
                bboxes=torch.zeros(9, 4), labels=torch.zeros(9), scores=torch.zeros(9)
            ),
        )
        for i in range(BATCH)
    ]

    class Model(base_model):
        def forward(self, inputs, data_samples=None, mode="tensor"):
            return data_samples

        def val_step(self, data):
            return samples

    class Metric(base_metric):
        default_prefix = "m"

        def process(self, data_batch, data_samples):
            self.results.append(data_samples[0]["img_id"])

        def compute_metrics(self, results):
            return {"n": len(results)}

    class Batches:
        dataset = range(iterations * BATCH)
        sampler = batch_sampler = None

        def __len__(self):
            return iterations

        def __iter__(self):
            return iter([{"inputs": [], "data_samples": samples}] * iterations)

    loader = Batches()
    runner = runner_class(
        model=Model(),
        work_dir=tempfile.mkdtemp(),
        val_dataloader=loader,
        val_cfg={},
        val_evaluator=[Metric()],
        default_hooks={"logger": {"type": "LoggerHook", "interval": 10**9}},
        log_level="ERROR",
        experiment_name=f"bench{iterations}",
    )
    return runner.val


# Measuring --------------------------------------------------------------------------------------


def chunk_ns(function, calls):
    clock = time.process_time_ns
    loop = range(calls)
    start = clock()
    for _ in loop:
        function()
    return (clock() - start) / calls


def median_ns(function, chunks=60):
    calls = 1
    while chunk_ns(function, calls) * calls < 400_000:
        calls *= 2
    return statistics.median(chunk_ns(function, calls) for _ in range(chunks))


def one_pass_us(batches):
    start = time.process_time_ns()
    for _ in batches():
        pass
    return (time.process_time_ns() - start) / 1000 / (SAMPLES // BATCH)


def measure(name):
    """Answer each line of standard input with all figures of a competitor, in microseconds."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(1)
    competitor = COMPETITORS[name][0]()
    batches, index = competitor.batches(), competitor.instances()
    mask = torch.arange(100) % 3 == 0
    items = {"mask": mask, "slice": slice(10, 60), "list": list(range(0, 100, 2))}
    # A dict of the fields as a hand would index it.
    chosen = index(mask)
    get = chosen.get
    digest = [float(sum(batch.sum() for batch in batches()))]
    digest += [float(get("boxes").sum()), int(get("areas").sum()), get("names")[:3]]
    validations = {}
    if hasattr(competitor, "validation"):
        validations = {n: competitor.validation(n) for n in (100, 600)}
        for validate in validations.values():
            validate()
    print(json.dumps(digest), flush=True)
    for _ in sys.stdin:
        result = {"batch of 64 tensors": min(one_pass_us(batches) for _ in range(15))}
        for kind, item in items.items():
            if kind == "slice" and name == "torch":
                continue
            result[f"index 6 fields, {kind}"] = median_ns(lambda item=item: index(item)) / 1000
        if validations:
            times = {}
            for count, validate in validations.items():
                best = []
                for _ in range(5):
                    start = time.process_time_ns()
                    validate()
                    best.append(time.process_time_ns() - start)
                times[count] = min(best)
            result["validate 64 elements"] = (times[600] - times[100]) / 500 / 1000
        print(json.dumps(result), flush=True)


def collect(name, rank, port):
    """Gather on two ranks; rank 0 prints milliseconds of wall time."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    competitor = COMPETITORS[name][0]()
    result = {}
    for kind, make, size, repeats in (
        ("gather 100,000 dicts", plain_results, 100_000, 9),
        ("gather 5,000 dicts of tensors", tensor_results, 5_000, 5),
    ):
        rows, times = make(rank), []
        for _ in range(repeats):
            dist.barrier()
            start = time.perf_counter()
            assert competitor.collect(rows, size) == size
            times.append((time.perf_counter() - start) * 1000)
        result[kind] = min(times)
    if rank == 0:
        print(json.dumps(result), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def run_collect(name, python):
    port = random.randint(20000, 60000)
    ranks = [
        subprocess.Popen(
            [python, __file__, "--collect", name, str(rank), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(2)
    ]
    lines = [rank.communicate()[0] for rank in ranks]
    return json.loads(lines[0].splitlines()[-1])


class Worker:
    def __init__(self, name, python):
        self.process = subprocess.Popen(
            [python, __file__, "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.digest = self._answer()

    def _answer(self):
        # Engines may print something of their own.
        for line in self.process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise SystemExit("a worker ended: run it alone with --worker NAME to see why")

    def ask(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# Memory of workers ------------------------------------------------------------------------------


def pss_mb(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total / 1024


def memory(annotations=1_000_000, workers=4, epochs=3):
    """Print the PSS of this process and its workers after the first and the last epoch, in MB."""
    warnings.simplefilter("ignore")
    import torch

    from mmx.dataset import BaseDataset, build_dataloader, iterate_from

    torch.set_num_threads(1)

    class Many(BaseDataset):
        def load_data_list(self):
            return [{"img_path": f"{i:08}.jpg", "label": i % 10} for i in range(annotations)]

    config = {
        "dataset": Many(pipeline=[lambda info: info["label"]]),
        "batch_size": 1000,
        "num_workers": workers,
        "persistent_workers": True,
        "sampler": {"type": "DefaultSampler"},
        "collate_fn": len,
    }
    loader = build_dataloader(config, seed=0)
    sizes = []
    batches = iterate_from(loader, epoch=0, seed=0)
    # Each worker has read something: what follows is growth.
    for _ in range(4 * workers):
        next(batches)
    pids = [os.getpid(), *(w.pid for w in loader._iterator._workers)]
    sizes.append(pss_mb(pids))
    for _ in batches:
        pass
    sizes.append(pss_mb(pids))
    for epoch in range(1, epochs):
        for _ in iterate_from(loader, epoch=epoch, seed=0):
            pass
        sizes.append(pss_mb(pids))
    print(json.dumps({"pss_mb": sizes, "growth": sizes[-1] / sizes[0] - 1}))


# ------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--json", action="store_true", help="one JSON line per figure")
    parser.add_argument("--memory", action="store_true", help="also measure memory of workers")
    arguments = parser.parse_args()
    pythons = {name: sys.executable for name, (_, module) in COMPETITORS.items() if is_here(module)}
    pythons.update(item.split("=", 1) for item in arguments.also)
    for name in set(COMPETITORS) - set(pythons):
        print(f"{name} is not installed: left out", file=sys.stderr)
    workers = {name: Worker(name, python) for name, python in pythons.items()}
    digests = {name: worker.digest for name, worker in workers.items()}
    if len({json.dumps(digest) for digest in digests.values()}) > 1:
        raise SystemExit(f"the competitors give different results: {digests}")
    history = {name: [] for name in workers}
    for _ in range(arguments.rounds):
        for name in random.sample(list(workers), len(workers)):
            figures = workers[name].ask()
            history[name].append({**figures, **run_collect(name, pythons[name])})
    for worker in workers.values():
        worker.close()
    rows = []
    for name, rounds in history.items():
        for figure in rounds[0]:
            own = [figures[figure] for figures in rounds]
            row = {"figure": figure, "competitor": name, "value": statistics.median(own)}
            row["unit"] = "ms" if figure.startswith("gather") else "us"
            for other in ("torch", "mmengine"):
                if other in history and other != name and figure in history[other][0]:
                    row[f"times_{other}"] = statistics.median(
                        a / b[figure] for a, b in zip(own, history[other], strict=True)
                    )
            rows.append(row)
    for row in sorted(rows, key=lambda r: r["figure"]):
        if arguments.json:
            print(json.dumps(row))
            continue
        ratios = "  ".join(f"{row[k]:7.3f} x {k[6:]}" for k in row if k.startswith("times_"))
        print(
            f"{row['figure']:32} {row['competitor']:9} {row['value']:10.2f} {row['unit']}  {ratios}"
        )
    if arguments.memory:
        subprocess.run([sys.executable, __file__, "--measure-memory"], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        measure(sys.argv[2])
    elif sys.argv[1:2] == ["--collect"]:
        collect(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["--measure-memory"]:
        memory()
    else:
        main()
