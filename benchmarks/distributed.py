"""What several processes cost: per iteration beside hand-written DDP, at the start beside torchrun.

    python benchmarks/distributed.py               # both parts
    python benchmarks/distributed.py --only start --rounds 9

*loop*: two gloo ranks train a small MLP under DDP on batches of 64 that lie in memory, by a
hand-written loop and by the engine with its default hooks. Both live in the same two processes and
are measured in turn, in shuffled order; a figure is the slope between a short and a long run, in
processor time of a process (threads of autograd and of gloo included) and on the clock, the slower
rank counting. Quoted is the median over rounds of the difference to the hand-written loop in the
same round. Before that, both must end with the same weights.

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
from pairs import Batches, network, weights
from startup import CONFIG, PROBE

RANKS = 2
SHORT, LONG = 200, 1700
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


def own_share(iters):
    """The batches of this rank, which differ from those of the others."""
    rank, share = int(os.environ["RANK"]), Batches(iters)
    for batch in share.pool:
        batch["x"] += rank
    return share


def train_hand(iters):
    import torch

    net = network()
    wrapped = torch.nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    loss_of = torch.nn.functional.cross_entropy
    shown = 0.0
    for i, batch in enumerate(own_share(iters)):
        loss = loss_of(wrapped(batch["x"]), batch["y"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 50 == 49:
            shown = loss.item()
    assert shown == shown
    return weights(net)


def train_mmx(iters):
    from mmx.runner import Runner

    model, _ = _engine_parts("mmx")
    runner = Runner(
        model=model,
        train_dataloader=own_share(iters),
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


def rank():
    """Train what the parent names, and tell it how long that took."""
    import torch

    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w")
    # Engines print; only results go to the parent.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        name, iters = line.split()
        cpu, clock = time.process_time(), time.perf_counter()
        end = globals()[f"train_{name}"](int(iters))
        result = time.process_time() - cpu, time.perf_counter() - clock, end
        print(json.dumps(result), file=out, flush=True)
    torch.distributed.destroy_process_group()


class Ranks:
    """Processes that do the same in step."""

    def __init__(self):
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
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--rank"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if i == 0 else subprocess.DEVNULL,
                text=True,
                env={**common, "RANK": str(i), "LOCAL_RANK": str(i)},
            )
            for i in range(RANKS)
        ]

    def ask(self, name, iters):
        """Return processor time and time, those of the slower rank, and the weights."""
        for process in self.processes:
            print(name, iters, file=process.stdin, flush=True)
        lines = [process.stdout.readline() for process in self.processes]
        if not all(lines):
            raise SystemExit(f"{name} failed")
        return [max(values) for values in zip(*map(json.loads, lines), strict=True)]

    def slopes(self, name):
        """Return microseconds per iteration: of the processor, on the clock."""
        short, long = self.ask(name, SHORT), self.ask(name, LONG)
        return [(long[i] - short[i]) / (LONG - SHORT) * 1e6 for i in (0, 1)]

    def close(self):
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait()


def loop(rounds):
    ranks = Ranks()
    names = ["mmx", "hand"]  # the engine opens the process group
    ends = {name: ranks.ask(name, SHORT)[2] for name in names}
    if abs(ends["mmx"] - ends["hand"]) > 1e-6 * abs(ends["hand"]):
        raise SystemExit(f"the engine computes something else: {ends}")
    figures = []
    for _ in range(rounds):
        random.shuffle(names)
        slopes = {name: ranks.slopes(name) for name in names}
        figures.append((*slopes["hand"], *slopes["mmx"]))
    ranks.close()
    for what, i in (("processor", 0), ("clock", 1)):
        base = statistics.median(row[i] for row in figures)
        extra = statistics.median(row[2 + i] - row[i] for row in figures)
        line = {"benchmark": "distributed", "part": "loop", "time": what, "ranks": RANKS}
        print(json.dumps({**line, "hand_us": round(base, 2), "over_hand_us": round(extra, 2)}))


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
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    if args.rank:
        rank()
        return
    for name, part in PARTS.items():
        if args.only in (None, name):
            part(args.rounds)


if __name__ == "__main__":
    main()
