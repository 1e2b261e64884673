"""What the engine costs per iteration, beside a hand-written loop and other engines.

    python benchmarks/loop.py                      # competitors that this Python has
    python benchmarks/loop.py --also mmengine=/path/to/python
    python benchmarks/loop.py --rounds 3 --hooks   # also: cost per hook, per scalar, over run length

A small MLP on batches of 64 that lie in memory, one thread, CPU time of the process. Each
competitor lives in a process of its own and all are measured in turn, in shuffled order, round
after round; the figure is the slope between a short and a long run, so that start-up does not
count, and what is quoted is the median over rounds of the difference to the hand-written loop in
the same round. Before that, all must end with the same weights and find the same accuracy.

To add a competitor: write a function ``train_<name>(iters) -> weights`` and, if it validates,
``val_<name>(iters)``, and list it in COMPETITORS with the module that it needs.
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

SHORT, LONG = 300, 2300


# The task -------------------------------------------------------------------------------------


def batches(number):
    import torch

    generator = torch.Generator().manual_seed(0)
    pool = [
        {
            "x": torch.randn(64, 32, generator=generator),
            "y": torch.randint(0, 10, (64,), generator=generator),
        }
        for _ in range(16)
    ]
    return Batches(pool, number)


class Batches:
    """A data loader whose batches exist already."""

    def __init__(self, pool, number):
        self.pool, self.number = pool, number
        self.batch_size = 64
        self.dataset = Samples(number * 64)
        self.sampler = None
        self.batch_sampler = self  # MMEngine asks it for its sampler

    def __len__(self):
        return self.number

    def __iter__(self):
        pool, size = self.pool, len(self.pool)
        return (pool[i % size] for i in range(self.number))


class Samples:
    """Stands for the data set: engines ask for its length and its metainfo."""

    metainfo: dict = {}

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number


def network():
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def weights(net):
    return float(sum(p.detach().double().abs().sum() for p in net.parameters()))


# Competitors ----------------------------------------------------------------------------------


def train_hand(iters):
    import torch

    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    loss_of = torch.nn.functional.cross_entropy
    shown = 0.0
    for i, batch in enumerate(batches(iters)):
        loss = loss_of(net(batch["x"]), batch["y"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 50 == 49:
            shown = loss.item()
    assert shown == shown
    return weights(net)


def val_hand(iters):
    import torch

    net = network().eval()
    right = total = 0
    with torch.no_grad():
        for batch in batches(iters):
            scores = net(batch["x"])
            right += int((scores.argmax(1) == batch["y"]).sum())
            total += len(scores)
    return right / total


def _engine_parts(package):
    """Model and metric for mmx and MMEngine, which have the same interface."""
    import importlib

    from torch import nn

    base_model = importlib.import_module(f"{package}.model").BaseModel
    base_metric = importlib.import_module(f"{package}.evaluator").BaseMetric

    class Model(base_model):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, y, mode="tensor"):
            if mode == "loss":
                return {"loss": nn.functional.cross_entropy(self.net(x), y)}
            return [{"score": self.net(x), "y": y}]

    class Accuracy(base_metric):
        default_prefix = "acc"

        def process(self, data_batch, data_samples):
            for sample in data_samples:
                right = int((sample["score"].argmax(1) == sample["y"]).sum())
                self.results.append((right, len(sample["y"])))

        def compute_metrics(self, results):
            return {"top1": sum(r for r, _ in results) / sum(n for _, n in results)}

    return Model(), Accuracy()


def _engine_runner(package, iters, *, hooks=(), model=None, bare=False, **more):
    import importlib

    runner_class = importlib.import_module(f"{package}.runner").Runner
    own, metric = _engine_parts(package)
    model = model or own
    default_hooks = {
        "logger": {"type": "LoggerHook", "interval": 50},
        "checkpoint": {"type": "CheckpointHook", "interval": -1, "save_last": False},
    }
    if bare:
        default_hooks = dict.fromkeys(
            ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
        )
    settings = {
        "train_dataloader": batches(iters),
        "train_cfg": {"by_epoch": True, "max_epochs": 1},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
        "val_dataloader": batches(iters),
        "val_cfg": {},
        "val_evaluator": [metric],
        "default_hooks": default_hooks,
        "custom_hooks": list(hooks),
        "randomness": {"seed": 0},
        "work_dir": tempfile.mkdtemp(prefix="loop-"),
        "log_level": "INFO",
        "experiment_name": f"loop-{time.time_ns()}",
        **more,
    }
    return runner_class(model=model, **settings)


def _without_val(package, iters, **options):
    nothing = dict.fromkeys(("val_dataloader", "val_cfg", "val_evaluator"))
    runner = _engine_runner(package, iters, **nothing, **options)
    runner.train()
    return weights(runner.model.net)


def train_mmx(iters):
    return _without_val("mmx", iters)


def val_mmx(iters):
    return _engine_runner("mmx", iters).val()["acc/top1"]


def train_mmx_bare(iters):
    return _without_val("mmx", iters, bare=True)


def train_mmengine(iters):
    return _without_val("mmengine", iters)


def val_mmengine(iters):
    return _engine_runner("mmengine", iters).val()["acc/top1"]


def train_ignite(iters):
    import torch
    from ignite.engine import Engine, Events

    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step(engine, batch):
        loss = torch.nn.functional.cross_entropy(net(batch["x"]), batch["y"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    engine = Engine(step)
    engine.add_event_handler(Events.ITERATION_COMPLETED(every=50), lambda e: e.state.output.item())
    engine.run(batches(iters), max_epochs=1)
    return weights(net)


def val_ignite(iters):
    import torch
    from ignite.engine import Engine
    from ignite.metrics import Accuracy

    net = network().eval()

    def step(engine, batch):
        with torch.no_grad():
            return net(batch["x"]), batch["y"]

    engine = Engine(step)
    Accuracy().attach(engine, "top1")
    return engine.run(batches(iters)).metrics["top1"]


def train_accelerate(iters):
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    net, optimizer = accelerator.prepare(net, optimizer)
    for i, batch in enumerate(batches(iters)):
        with accelerator.accumulate(net):
            loss = torch.nn.functional.cross_entropy(net(batch["x"]), batch["y"])
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        if i % 50 == 49:
            loss.item()
    return weights(accelerator.unwrap_model(net))


def val_accelerate(iters):
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net = accelerator.prepare(network()).eval()
    right = total = 0
    with torch.no_grad():
        for batch in batches(iters):
            scores, y = accelerator.gather_for_metrics((net(batch["x"]), batch["y"]))
            right += int((scores.argmax(1) == y).sum())
            total += len(scores)
    return right / total


def train_fabric(iters):
    import torch
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    wrapped, optimizer = fabric.setup(net, optimizer)
    for i, batch in enumerate(batches(iters)):
        loss = torch.nn.functional.cross_entropy(wrapped(batch["x"]), batch["y"])
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        if i % 50 == 49:
            loss.item()
    return weights(net)


def val_fabric(iters):
    import torch
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    net = fabric.setup(network()).eval()
    right = total = 0
    with torch.no_grad():
        for batch in batches(iters):
            scores = net(batch["x"])
            right += int((scores.argmax(1) == batch["y"]).sum())
            total += len(scores)
    return right / total


def _lightning_module(log=True):
    import lightning
    import torch

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, index):
            loss = torch.nn.functional.cross_entropy(self.net(batch["x"]), batch["y"])
            if log:
                self.log("loss", loss)
            return loss

        def validation_step(self, batch, index):
            right = (self.net(batch["x"]).argmax(1) == batch["y"]).double().mean()
            self.log("top1", right, batch_size=len(batch["y"]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)

    return Module()


def _lightning_trainer(**settings):
    import lightning

    return lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        default_root_dir=tempfile.mkdtemp(prefix="loop-"),
        **settings,
    )


# As our engine here: the loss is logged, nothing is saved.
_LIGHTNING = {
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "log_every_n_steps": 50,
}


def train_lightning(iters):
    module = _lightning_module()
    _lightning_trainer(**_LIGHTNING).fit(module, batches(iters))
    return weights(module.net)


def val_lightning(iters):
    trainer = _lightning_trainer(**_LIGHTNING)
    return trainer.validate(_lightning_module(), batches(iters), verbose=False)[0]["top1"]


def train_lightning_default(iters):
    """With its own settings: also a progress bar, a summary, and a checkpoint at the end."""
    module = _lightning_module()
    _lightning_trainer().fit(module, batches(iters))
    return weights(module.net)


def train_lightning_bare(iters):
    """Without logging, and all that it can do without."""
    module = _lightning_module(log=False)
    _lightning_trainer(barebones=True).fit(module, batches(iters))
    return weights(module.net)


# Name -> the module that it needs.
COMPETITORS = {
    "hand": "torch",
    "mmx": "mmx",
    "mmx_bare": "mmx",
    "mmengine": "mmengine",
    "ignite": "ignite",
    "accelerate": "accelerate",
    "fabric": "lightning",
    "lightning": "lightning",
    "lightning_default": "lightning",
    "lightning_bare": "lightning",
}


# Growth ---------------------------------------------------------------------------------------


def growth_figures():
    """What a hook, a scalar and a long run cost: differences between slopes. Prints nothing."""
    import torch

    from mmx.hooks import Hook

    class Idle(Hook):
        def before_train_epoch(self, runner): ...

    class Nothing(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None): ...

    def model_with(scalars):
        model, _ = _engine_parts("mmx")
        values = {f"loss_{i}": torch.zeros(()) for i in range(scalars)}
        model.train_step = lambda data, optim_wrapper: values
        return model

    def slope(hooks=(), scalars=1, short=2000, long=22000):
        times = []
        for iters in (short, long):
            nothing = dict.fromkeys(("val_dataloader", "val_cfg", "val_evaluator"))
            runner = _engine_runner("mmx", iters, hooks=hooks, model=model_with(scalars), **nothing)
            begin = time.process_time()
            runner.train()
            times.append(time.process_time() - begin)
        return (times[1] - times[0]) / (long - short) * 1e6

    base = [slope() for _ in range(3)]
    floor = statistics.median(base)
    twenty = 20
    yield "engine alone, default hooks", floor
    yield "per idle hook", (slope([Idle() for _ in range(twenty)]) - floor) / twenty
    yield "per hook that does nothing", (slope([Nothing() for _ in range(twenty)]) - floor) / twenty
    yield "per logged scalar", (slope(scalars=1 + twenty) - floor) / twenty
    yield "10 times as long", slope(short=20000, long=220000) - floor


def train_growth(iters):
    return list(growth_figures())


# Measuring ------------------------------------------------------------------------------------


def worker(name):
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.NOTSET)
    out = os.fdopen(os.dup(1), "w")
    # Engines print; only results go to the parent.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for line in sys.stdin:
        mode, iters = line.split()
        function = globals().get(f"{mode}_{name}")
        if function is None:
            result = None
        else:
            begin = time.process_time()
            value = function(int(iters))
            result = [time.process_time() - begin, value]
        print(json.dumps(result), file=out, flush=True)


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

    def ask(self, mode, iters):
        print(mode, iters, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed")
        return json.loads(line)

    def slope(self, mode):
        short, long = self.ask(mode, SHORT), self.ask(mode, LONG)
        return None if short is None else (long[0] - short[0]) / (LONG - SHORT) * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worker")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--hooks", action="store_true", help="measure growth as well")
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return
    pythons = {name: sys.executable for name, module in COMPETITORS.items() if is_here(module)}
    pythons.update(pair.split("=", 1) for pair in args.also)
    for name in COMPETITORS:
        if name not in pythons:
            print(f"skipped: {name} (not installed)", file=sys.stderr)
    chosen = [n for n in pythons if not args.only or n in args.only or n == "hand"]
    field = {name: Competitor(name, pythons[name]) for name in chosen}
    for mode in ("train", "val"):
        answers = {name: one.ask(mode, SHORT) for name, one in field.items()}
        ends = {name: answer[1] for name, answer in answers.items() if answer is not None}
        for name, end in ends.items():
            if abs(end - ends["hand"]) > 1e-6 * abs(ends["hand"]):
                raise SystemExit(f"{name} computes something else: {end} against {ends['hand']}")
    figures = {}
    order = list(field)
    for _ in range(args.rounds):
        random.shuffle(order)
        for mode in ("train", "val"):
            slopes = {name: field[name].slope(mode) for name in order}
            for name, value in slopes.items():
                if value is not None:
                    figures.setdefault((mode, name), []).append((value, value - slopes["hand"]))
    for (mode, name), values in sorted(figures.items()):
        total = statistics.median(v for v, _ in values)
        extra = statistics.median(e for _, e in values)
        line = {"benchmark": "loop", "mode": mode, "competitor": name}
        print(json.dumps({**line, "us_per_iter": round(total, 2), "over_hand_us": round(extra, 2)}))
    if args.hooks:
        growth = Competitor("growth", sys.executable)
        for what, value in growth.ask("train", 0)[1]:
            print(json.dumps({"benchmark": "loop", "growth": what, "us": round(value, 3)}))


if __name__ == "__main__":
    main()
