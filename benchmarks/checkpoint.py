"""What saving costs a training loop, and how long loading takes.

    python benchmarks/checkpoint.py --rounds 5 --millions 100

A model of 100 million parameters with the state of Adam, 1.2 GB. Saving: how long the loop is held
up by each save from the second on, with nothing else under way, beside a plain copy of the same
tensors into memory that is there already; torch.save, and torch's distributed checkpoint in its
asynchronous form, are measured along. Loading for inference: a checkpoint's weights into a
model, beside ``torch.load(mmap=True)`` followed by ``load_state_dict``, without and with all
checksums verified; also how much memory the process grows by at most, beside the weights
themselves. All in turn, round after round; quoted are medians of the ratios within a round.
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
import warnings

import torch
from torch import nn

from mmx.checkpoint import AsyncCheckpointSaver, load_checkpoint

WIDTH = 1000


def network(millions):
    return nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(millions))


def training_state(millions):
    torch.manual_seed(0)
    model = network(millions)
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return {
        "meta": {"epoch": 1},
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_of(part)


# Saving: each returns a function that holds the loop up, and one that waits for the rest. -------


def save_copy(state, folder):
    pairs = [(torch.empty_like(t), t) for t in tensors_of(state)]

    def block():
        for target, source in pairs:
            target.copy_(source)

    return block, lambda: None


def save_mmx(state, folder):
    saver = AsyncCheckpointSaver()
    path = os.path.join(folder, "mmx.pth")
    return (lambda: saver.save(state, path)), saver.wait


def save_torch(state, folder):
    path = os.path.join(folder, "torch.pth")
    return (lambda: torch.save(state, path)), lambda: None


def save_dcp(state, folder):
    """torch's distributed checkpoint, which copies into memory that it keeps, then writes."""
    import torch.distributed as dist
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    warnings.filterwarnings("ignore", "Detected an existing checkpoint")
    if not dist.is_initialized():
        store = dist.FileStore(os.path.join(folder, "store"), 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    writer = dcp.FileSystemWriter(os.path.join(folder, "dcp"), overwrite=True)
    # As it is set up for the CPU: memory that is kept, and no pages pinned for a device.
    options = StagingOptions(
        use_pinned_memory=False,
        use_shared_memory=True,
        use_async_staging=False,
        use_non_blocking_copy=False,
    )
    stager = DefaultStager(options)
    pending = []

    def block():
        pending.append(dcp.async_save(state, storage_writer=writer, async_stager=stager))

    return block, lambda: pending.pop().result()


# Loading --------------------------------------------------------------------------------------


def load_torch(path, model):
    checkpoint = torch.load(path, mmap=True, weights_only=True, map_location="cpu")
    model.load_state_dict(checkpoint["state_dict"])


def load_mmx(path, model):
    load_checkpoint(model, path, map_location="cpu", strict=True)


def load_mmx_verified(path, model):
    load_checkpoint(model, path, map_location="cpu", strict=True, verify=True)


def private_memory():
    """Return the bytes that belong to this process alone: what is mapped from files is not."""
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["RssAnon"].split()[0]) * 1024


def load_worker(name, path, millions):
    model = network(millions)
    before = private_memory()
    seconds = []
    for _ in range(3):  # others use this machine too
        start = time.perf_counter()
        globals()[f"load_{name}"](path, model)
        seconds.append(time.perf_counter() - start)
    print(json.dumps([min(seconds), private_memory() - before]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--millions", type=int, default=100)
    parser.add_argument("--load", nargs=2, metavar=("NAME", "PATH"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.load:
        load_worker(*args.load, args.millions)
        return
    with tempfile.TemporaryDirectory() as folder:
        state = training_state(args.millions)
        savers = {
            name: globals()[f"save_{name}"](state, folder)
            for name in ("copy", "mmx", "torch", "dcp")
        }
        for block, wait in savers.values():  # the first save of each makes its buffers
            block()
            wait()
        held: dict[str, list[float]] = {name: [] for name in savers}
        for _ in range(args.rounds):
            for name in random.sample(list(savers), len(savers)):
                os.sync()  # what the one before wrote is not to be waited for by the next
                block, wait = savers[name]
                start = time.perf_counter()
                block()
                held[name].append(time.perf_counter() - start)
                wait()
        report("saving", "times_copy", held, held["copy"])
        weights = sum(t.nbytes for t in state["state_dict"].values())
        del state, savers
        loads: dict[str, list[float]] = {"torch": [], "mmx": [], "mmx_verified": []}
        grown: dict[str, list[float]] = {name: [] for name in loads}
        for _ in range(args.rounds):
            for name in random.sample(list(loads), len(loads)):
                command = [sys.executable, __file__, "--load", name, f"{folder}/mmx.pth"]
                command += ["--millions", str(args.millions)]
                output = subprocess.run(command, check=True, capture_output=True, text=True)
                seconds, more = json.loads(output.stdout.splitlines()[-1])
                loads[name].append(seconds)
                grown[name].append(more / weights)
        report("loading", "times_torch_mmap", loads, loads["torch"])
        for name, values in grown.items():
            print(json.dumps({"benchmark": "checkpoint", "what": "loading", "competitor": name,
                              "memory_over_weights": round(max(values), 3)}))  # fmt: skip


def report(what, unit, figures, base):
    for name, values in figures.items():
        ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
        line = {"benchmark": "checkpoint", "what": what, "competitor": name}
        print(json.dumps({**line, "seconds": round(min(values), 3), unit: round(ratio, 2)}))


if __name__ == "__main__":
    main()
