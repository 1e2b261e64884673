"""What several processes cost: per iteration beside hand-written DDP, at the start beside torchrun.

    python benchmarks/distributed.py               # both parts
    python benchmarks/distributed.py --only start --rounds 9

*loop*: two gloo ranks train a small MLP under DDP on batches of 64 that lie in memory. Both ranks
take turns of 50 iterations, in step, by hand and with the engine and its default hooks (see
pairs.py); so both loops live in the same processes, and use the same process group and buckets of
the same sizes. A figure of the round is the median over quiet turns of the difference, the mean of
both ranks; each round has new processes. Quoted is the median over rounds, with the least and the
most. All must end with the same weights. `hand_again` is hand-written DDP beside itself: what it
shows is the error of measurement. There are three clocks: processor time of the main thread, where
an engine's own work is done, and which scatters the least; processor time of the process, with the
threads of gloo; and time. The engine's ranks ask each other every 64 iterations, or every 0.2 s,
whether to stop; as turns by hand take time as well, they do so a bit more often here than alone.

*start*: ``mmx launch --nproc 2 train`` of the toy config until before the first iteration, beside
``torchrun --nproc-per-node 2`` of a script that imports torch and does nothing; compiled byte code
at hand as in an installed package. Quoted is the median over rounds of the ratio. Runs leave where
they are measured, without Python's taking down of modules; the same script that leaves so, too, is
the stricter base. Then, of runs and of hand-written DDP, until after the first iteration, in which
torch imports its compiler for the optimizer's step (DDP by itself does when a model is wrapped).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from loop import _engine_parts
from pairs import HandTraining, Turns, weights
from startup import CONFIG, PROBE

RANKS = 2
ITERS = 5000
CLOCKS = {
    "main thread": time.thread_time_ns,
    "processor": time.process_time_ns,
    "clock": time.perf_counter_ns,
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]
LAUNCH = [sys.executable, "-m", "mmx", "launch", "--nproc", str(RANKS), "train"]
START = {
    "torchrun, import torch": [*TORCHRUN, "empty.py"],
    "torchrun, import torch, leave at once": [*TORCHRUN, "leave.py"],
    "mmx launch train, first iteration": [*LAUNCH, "config.py", "--work-dir", "work"],
    "torchrun, hand-written DDP, after the first iteration": [*TORCHRUN, "ddp.py"],
    "mmx launch train, after the first iteration": [*LAUNCH, "after.py", "--work-dir", "work"],
}
DDP = """
import os
import torch
torch.distributed.init_process_group("gloo")
net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
net(torch.ones(2, 2)).sum().backward()
optimizer.step()
os._exit(0)
"""
AFTER = """
import os
from mmx.hooks import Hook
from mmx.registry import HOOKS

@HOOKS.register_module()
class LeaveAfterFirstIteration(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        os._exit(0)
"""


# Per iteration --------------------------------------------------------------------------------


def hand_training():
    import torch

    # The engine differs in buffers alone, of which there are none; buckets have default sizes.
    return HandTraining(torch.nn.parallel.DistributedDataParallel)


def train_hand_again(loader):
    hand = hand_training()
    hand.run(loader)
    return hand.result()


def train_mmx(loader):
    from mmx.runner import Runner

    model, _ = _engine_parts("mmx")
    runner = Runner(
        model=model,
        train_dataloader=loader,
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
        default_hooks={
            "logger": {"type": "LoggerHook", "interval": 50},
            "checkpoint": {"type": "CheckpointHook", "interval": -1, "save_last": False},
        },
        launcher="pytorch",
        env_cfg={"dist_cfg": {"backend": "gloo"}},
        randomness={"seed": 0},
        work_dir=tempfile.mkdtemp(prefix="distributed-"),
        experiment_name=f"distributed-{time.time_ns()}",
    )
    runner.train()
    return weights(model.net)


def rank(name):
    """Train in turns with a hand-written loop, and print what that took."""
    import torch

    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w")
    # Engines print; only results go to the parent.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.distributed.init_process_group("gloo")
    turns = Turns(ITERS, hand_training(), CLOCKS.values())
    for batch in turns.pool:  # which differ between ranks
        batch["x"] += torch.distributed.get_rank()
    end = globals()[f"train_{name}"](turns)
    if abs(end - turns.hand.result()) > 1e-6 * abs(end):
        raise SystemExit(f"{name} computes something else: {end} against {turns.hand.result()}")
    print(json.dumps(turns.figures()), file=out, flush=True)
    torch.distributed.destroy_process_group()


def ranks(name):
    """Return the figures of each clock: the mean over ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank", name],
            stdout=subprocess.PIPE,
            stderr=None if i == 0 else subprocess.DEVNULL,
            text=True,
            env={**common, "RANK": str(i), "LOCAL_RANK": str(i)},
        )
        for i in range(RANKS)
    ]
    lines = [process.communicate()[0] for process in processes]
    if not all(lines):
        raise SystemExit(f"{name} failed")
    return [
        {key: statistics.fmean(figures[key] for figures in of_ranks) for key in of_ranks[0]}
        for of_ranks in zip(*map(json.loads, lines), strict=True)
    ]


def loop(rounds):
    names = ["hand_again", "mmx"]
    figures = {name: [] for name in names}
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            figures[name].append(ranks(name))
    for name, rows in figures.items():
        for i, what in enumerate(CLOCKS):
            extra = [row[i]["extra"] for row in rows]
            line = {"benchmark": "distributed", "part": "loop", "time": what, "ranks": RANKS}
            line.update(
                competitor=name,
                hand_us=round(statistics.median(row[i]["hand"] for row in rows), 2),
                over_hand_us=round(statistics.median(extra), 2),
                least_us=round(min(extra), 2),
                most_us=round(max(extra), 2),
                mean_us=round(statistics.median(row[i]["mean"] for row in rows), 2),
            )
            print(json.dumps(line), flush=True)


# Start ----------------------------------------------------------------------------------------


def seconds(command, folder, environment):
    """Return processor time of all processes and time."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    clock = time.perf_counter() - clock
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


def start(rounds):
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "probe.py": PROBE,
            "config.py": CONFIG,
            "probe_after.py": AFTER,
            "after.py": CONFIG.replace("probe", "probe_after").replace("Before", "After"),
            "empty.py": "import torch\n",
            "leave.py": "import os\nimport torch\nos._exit(0)\n",
            "ddp.py": DDP,
        }
        for name, text in files.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment.update(
            PYTHONPATH=folder, OMP_NUM_THREADS="1", PYTHONPYCACHEPREFIX=os.path.join(folder, "pyc")
        )
        for command in START.values():  # compiles
            seconds(command, folder, environment)
        names, rows = list(START), []
        for _ in range(rounds):
            random.shuffle(names)
            rows.append({name: seconds(START[name], folder, environment) for name in names})
    bare = next(iter(START))
    for name in START:
        line = {"benchmark": "distributed", "part": "start", "what": name, "ranks": RANKS}
        for i, what in enumerate(("processor", "clock")):
            line[f"{what}_s"] = round(statistics.median(row[name][i] for row in rows), 3)
            ratio = statistics.median(row[name][i] / row[bare][i] for row in rows)
            line[f"{what}_ratio"] = round(ratio, 3)
        print(json.dumps(line))


PARTS = {"loop": loop, "start": start}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    if args.rank:
        rank(args.rank)
        return
    for name, part in PARTS.items():
        if args.only in (None, name):
            part(args.rounds)


if __name__ == "__main__":
    main()
