"""What the engine costs per iteration, beside a hand-written loop and other engines.

    python benchmarks/loop.py                      # competitors that this Python has
    python benchmarks/loop.py --also mmengine=/path/to/python
    python benchmarks/loop.py --rounds 3 --hooks   # also: cost per hook, per scalar, over run length
    python benchmarks/loop.py --only mmx hand_again --context
    python benchmarks/loop.py --apart              # processes of their own, as a cross-check
    python benchmarks/loop.py --run-length         # 10 k against 1 M iterations; some minutes

A small MLP on batches of 64 that lie in memory, one thread, CPU time of the process, a log line
each 50 iterations where there is a logger. A competitor and the hand-written loop take turns of 50
iterations in one process; the median over quiet blocks of the difference (see pairs.py) is a figure
of the round, and each round has new processes, in shuffled order. What is quoted is the median over
rounds, with the least and the most. `mean_us` counts all blocks, also what comes rarely, and noise.
`hand_again` is the hand-written loop beside itself: what it shows is the error of measurement. All
must end with the weights, and find the accuracy, of the hand-written loop beside them.

With `--apart` each competitor has processes of its own, in which nothing else runs. The figure is
the slope between a short and a long run, and what is quoted is the median over rounds of the
difference to the hand-written loop in the same round. That counts as well what an engine does to
the whole process, but scatters by some per cent of the hand-written loop.

`--run-length` measures nothing else: a run of 10 k and one of 1 M iterations (or as many as it is
given) of a step that is a few operations, each in a process of its own, with all that is recorded
and logged by default; the short one ten times. Of each it tells the time of an iteration (the
median over blocks of a thousand, and both quartiles), and the memory of the process before and
after, with how much of it the histories of logged numbers hold, which keep the latest ones only.

To add a competitor: write a function ``train_<name>(loader) -> weights`` and, if it validates,
``val_<name>(loader)``, and list it in COMPETITORS with the module that it needs.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import itertools
import json
import logging
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings

from pairs import Batches, HandTraining, HandValidation, Samples, Turns, network, weights
from peers import is_here

MODES = {"train": HandTraining, "val": HandValidation}
# Iterations, of the engine and as many by hand; and of the two runs that tell a slope.
PAIRED = {"train": 4000, "val": 10000}
SHORT, LONG = 300, 2300


# Competitors ----------------------------------------------------------------------------------


def train_hand(loader):
    hand = HandTraining()
    hand.run(loader)
    return hand.result()


def val_hand(loader):
    hand = HandValidation()
    hand.run(loader)
    return hand.result()


# The same beside itself: shows how exact the figures are.
train_hand_again, val_hand_again = train_hand, val_hand


class Minimal:
    """The least that is still an engine: timers, smoothed values, lines of text and of JSON."""

    def __init__(self, step):
        self.step = step
        folder = tempfile.mkdtemp(prefix="loop-")
        self.text = open(f"{folder}/log.txt", "w")  # noqa: SIM115 for as long as it lives
        self.json = open(f"{folder}/log.json", "w")  # noqa: SIM115
        self.values, self.times, self.waits = (collections.deque(maxlen=50) for _ in range(3))

    def run(self, loader):
        begin = time.perf_counter()
        for number, batch in enumerate(loader, 1):
            self.waits.append(time.perf_counter() - begin)
            self.values.append(self.step(batch))
            end = time.perf_counter()
            self.times.append(end - begin)
            begin = end
            if number % 50 == 0:
                self.log(number, len(loader))

    def log(self, number, total):
        columns = {"value": self.values, "time": self.times, "data_time": self.waits}
        row = {name: sum(column) / len(column) for name, column in columns.items()}
        eta = datetime.timedelta(seconds=int(row["time"] * (total - number)))
        now = time.strftime("%Y/%m/%d %H:%M:%S")
        shown = "  ".join(f"{name}: {value:.4f}" for name, value in row.items())
        self.text.write(f"{now} - INFO - [{number}/{total}]  eta: {eta}  {shown}\n")
        self.text.flush()
        self.json.write(json.dumps({**row, "iter": number}) + "\n")
        self.json.flush()


def train_minimal(loader):
    import torch

    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step(batch):
        loss = torch.nn.functional.cross_entropy(net(batch["x"]), batch["y"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    Minimal(step).run(loader)
    return weights(net)


def val_minimal(loader):
    import torch

    net = network().eval()
    right = total = 0

    def step(batch):
        nonlocal right, total
        scores = net(batch["x"])
        found = int((scores.argmax(1) == batch["y"]).sum())
        right += found
        total += len(scores)
        return found

    with torch.no_grad():
        Minimal(step).run(loader)
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


def _engine_runner(package, loader, *, hooks=(), model=None, bare=False, **more):
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
        "train_dataloader": loader,
        "train_cfg": {"by_epoch": True, "max_epochs": 1},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
        "val_dataloader": loader,
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


def _without_val(package, loader, **options):
    nothing = dict.fromkeys(("val_dataloader", "val_cfg", "val_evaluator"))
    runner = _engine_runner(package, loader, **nothing, **options)
    runner.train()
    return weights(runner.model.net)


def train_mmx(loader):
    return _without_val("mmx", loader)


def val_mmx(loader):
    return _engine_runner("mmx", loader).val()["acc/top1"]


def train_mmx_bare(loader):
    return _without_val("mmx", loader, bare=True)


def val_mmx_bare(loader):
    return _engine_runner("mmx", loader, bare=True).val()["acc/top1"]


def train_mmengine(loader):
    return _without_val("mmengine", loader)


def val_mmengine(loader):
    return _engine_runner("mmengine", loader).val()["acc/top1"]


def train_ignite(loader):
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
    engine.run(loader, max_epochs=1)
    return weights(net)


def val_ignite(loader):
    import torch
    from ignite.engine import Engine
    from ignite.metrics import Accuracy

    net = network().eval()

    def step(engine, batch):
        with torch.no_grad():
            return net(batch["x"]), batch["y"]

    engine = Engine(step)
    Accuracy().attach(engine, "top1")
    return engine.run(loader).metrics["top1"]


def train_accelerate(loader):
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    net, optimizer = accelerator.prepare(net, optimizer)
    for i, batch in enumerate(loader):
        with accelerator.accumulate(net):
            loss = torch.nn.functional.cross_entropy(net(batch["x"]), batch["y"])
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        if i % 50 == 49:
            loss.item()
    return weights(accelerator.unwrap_model(net))


def val_accelerate(loader):
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net = accelerator.prepare(network()).eval()
    right = total = 0
    with torch.no_grad():
        for batch in loader:
            scores, y = accelerator.gather_for_metrics((net(batch["x"]), batch["y"]))
            right += int((scores.argmax(1) == y).sum())
            total += len(scores)
    return right / total


def train_fabric(loader):
    import torch
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    wrapped, optimizer = fabric.setup(net, optimizer)
    for i, batch in enumerate(loader):
        loss = torch.nn.functional.cross_entropy(wrapped(batch["x"]), batch["y"])
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        if i % 50 == 49:
            loss.item()
    return weights(net)


def val_fabric(loader):
    import torch
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    net = fabric.setup(network()).eval()
    right = total = 0
    with torch.no_grad():
        for batch in loader:
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


def train_lightning(loader):
    module = _lightning_module()
    _lightning_trainer(**_LIGHTNING).fit(module, loader)
    return weights(module.net)


def val_lightning(loader):
    trainer = _lightning_trainer(**_LIGHTNING)
    return trainer.validate(_lightning_module(), loader, verbose=False)[0]["top1"]


def train_lightning_default(loader):
    """With its own settings: also a progress bar, a summary, and a checkpoint at the end."""
    module = _lightning_module()
    _lightning_trainer().fit(module, loader)
    return weights(module.net)


def train_lightning_bare(loader):
    """Without logging, and all that it can do without."""
    module = _lightning_module(log=False)
    _lightning_trainer(barebones=True).fit(module, loader)
    return weights(module.net)


# Name -> the module that it needs.
COMPETITORS = {
    "hand_again": "torch",
    "minimal": "torch",
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
    """What a hook, a scalar and a long run cost: differences between slopes. Prints nothing.

    Each slope is the median of several, which take turns.
    """
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
            nothing["model"] = model_with(scalars)
            runner = _engine_runner("mmx", Batches(iters), hooks=hooks, **nothing)
            begin = time.process_time()
            runner.train()
            times.append(time.process_time() - begin)
        return (times[1] - times[0]) / (long - short) * 1e6

    twenty = 20
    kinds = {
        "engine alone, default hooks": {},
        "per idle hook": {"hooks": [Idle() for _ in range(twenty)]},
        "per hook that does nothing": {"hooks": [Nothing() for _ in range(twenty)]},
        "per logged scalar": {"scalars": 1 + twenty},
    }
    slopes = {what: [] for what in kinds}
    for _ in range(5):
        for what, options in kinds.items():
            slopes[what].append(slope(**options))
    floor, *others = map(statistics.median, slopes.values())
    yield "engine alone, default hooks", floor
    for what, value in zip(list(kinds)[1:], others, strict=True):
        yield what, (value - floor) / twenty
    yield "10 times as long", slope(short=20000, long=220000) - floor


# Run length -----------------------------------------------------------------------------------

# Iterations whose time is taken together.
BLOCK = 1000


class Timed:
    """Hands out the same batches again and again, and takes the time every so many of them."""

    def __init__(self, number):
        import torch

        self.number = number
        self.batch = {"x": torch.ones(4, 4)}
        self.dataset = Samples(number * 4)
        self.batch_size = 4
        self.sampler = None
        self.times = []

    def __len__(self):
        return self.number

    def __iter__(self):
        batch, times, now = self.batch, self.times, time.process_time
        for i in range(self.number):
            if i % BLOCK == 0:
                times.append(now())
            yield batch
        times.append(now())


def resident_mb():
    """Return the memory of this process that is in RAM."""
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_of(name, mode, iters):
    """Return the times of a run's blocks of iterations, and the process's memory around it."""
    import gc

    import torch

    from mmx.model import BaseModel

    class Tiny(BaseModel):
        """Its gradient is known, so that most of what is timed is the engine."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(4))
            self.weight.grad = torch.full((4,), -1e-6)

        def forward(self, x, mode="tensor"):
            return (x @ self.weight).mean()

        def train_step(self, data, optim_wrapper):
            with torch.no_grad():
                loss = self(data["x"])
            optim_wrapper.step()
            return {"loss": loss}

    def run(loader):
        nothing = dict.fromkeys(("val_dataloader", "val_cfg", "val_evaluator"))
        runner = _engine_runner("mmx", loader, model=Tiny(), **nothing)
        runner.train()
        return runner

    # What the first iterations import, allocate and compile is there before the memory is looked at.
    run(Timed(2 * BLOCK))
    gc.collect()
    before = resident_mb()
    loader = Timed(iters)
    runner = run(loader)
    gc.collect()
    after = resident_mb()
    histories = runner.message_hub.log_scalars
    held = sum(len(history.data[0]) for history in histories.values()) * 8 / 2**20
    blocks = [(b - a) / BLOCK * 1e6 for a, b in itertools.pairwise(loader.times)]
    if iters % BLOCK:
        blocks.pop()
    return {"blocks": blocks, "before_mb": before, "after_mb": after, "histories_mb": held}


def measure_run_length(short, long):
    """Yield a line for each length, and one that compares them.

    The short run is repeated before and after the long one, each time in a process of its own.
    """
    found = {short: [], long: []}
    for iters in [short] * 5 + [long] + [short] * 5:
        with contextlib.closing(Competitor("run_length", sys.executable)) as one:
            found[iters].append(one.ask("run_of", "train", iters))
    us, grown = {}, {}
    for iters, runs in found.items():
        quartiles = statistics.quantiles([us for run in runs for us in run["blocks"]], n=4)
        line = {"benchmark": "loop", "run_length": iters}
        line["quiet_us"], line["us"], line["noisy_us"] = quartiles
        for what in ("before_mb", "after_mb", "histories_mb"):
            line[what] = statistics.median(run[what] for run in runs)
        us[iters] = line["quiet_us"], line["us"]
        grown[iters] = line["after_mb"] - line["before_mb"]
        yield line
    blocks = found[long][0]["blocks"]
    tenth = max(len(blocks) // 10, 1)
    yield {
        "benchmark": "loop",
        "run_length": f"{long} against {short}",
        "quiet_ratio": us[long][0] / us[short][0],
        "ratio": us[long][1] / us[short][1],
        "last_tenth_against_first": statistics.median(blocks[-tenth:])
        / statistics.median(blocks[:tenth]),
        "grown_mb": grown[long] - grown[short],
    }


# Measuring ------------------------------------------------------------------------------------


def paired(name, mode, iters):
    """Return what the competitor's blocks took, beside those of the hand-written loop."""
    turns = Turns(iters, MODES[mode]())
    check(name, globals()[f"{mode}_{name}"](turns), turns.hand.result())
    return turns.figures()[0]


def apart(name, mode, iters):
    """Return the seconds of a run, and with what it ends."""
    loader = Batches(iters)
    begin = time.process_time()
    end = globals()[f"{mode}_{name}"](loader)
    return [time.process_time() - begin, end]


def growth(name, mode, iters):
    return list(growth_figures())


def check(name, end, expected):
    if abs(end - expected) > 1e-6 * abs(expected):
        raise SystemExit(f"{name} computes something else: {end} against {expected}")


def worker(name):
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.NOTSET)
    out = os.fdopen(os.dup(1), "w")
    # Engines print; only results go to the parent.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    errors = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for line in sys.stdin:
        how, mode, iters = line.split()
        known = how in ("growth", "run_of") or f"{mode}_{name}" in globals()
        try:
            result = globals()[how](name, mode, int(iters)) if known else None
        except BaseException:
            traceback.print_exc(file=errors)
            raise
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

    def ask(self, how, mode, iters):
        print(how, mode, iters, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed")
        return json.loads(line)

    def slope(self, mode):
        short, long = self.ask("apart", mode, SHORT), self.ask("apart", mode, LONG)
        return None if short is None else (long[0] - short[0]) / (LONG - SHORT) * 1e6

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def measure_paired(pythons, rounds):
    """Yield mode, competitor, and the hand-written loop's time and the difference per round."""
    figures = {(mode, name): [] for mode in MODES for name in pythons}
    order = list(pythons)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            with contextlib.closing(Competitor(name, pythons[name])) as one:
                for mode in MODES:
                    figures[mode, name].append(one.ask("paired", mode, PAIRED[mode]))
    for (mode, name), values in figures.items():
        if None not in values:
            yield mode, name, [v["hand"] for v in values], values


def measure_apart(pythons, rounds):
    field = {name: Competitor(name, python) for name, python in pythons.items()}
    field["hand"] = Competitor("hand", sys.executable)
    for mode in MODES:
        ends = {name: one.ask("apart", mode, SHORT) for name, one in field.items()}
        for name, end in ends.items():
            if end is not None:
                check(name, end[1], ends["hand"][1])
    figures = {(mode, name): [] for mode in MODES for name in field}
    order = list(field)
    for _ in range(rounds):
        random.shuffle(order)
        for mode in MODES:
            for name in order:
                figures[mode, name].append(field[name].slope(mode))
    for mode in MODES:
        hand = figures[mode, "hand"]
        for name in pythons:
            if None not in figures[mode, name]:
                values = [a - b for a, b in zip(figures[mode, name], hand, strict=True)]
                yield mode, name, hand, [{"extra": value} for value in values]
    for one in field.values():
        one.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--apart", action="store_true", help="let nobody share a process")
    parser.add_argument("--hooks", action="store_true", help="measure growth as well")
    parser.add_argument("--context", action="store_true", help="tell of the machine as well")
    parser.add_argument(
        "--run-length",
        nargs="*",
        type=int,
        metavar="ITERATIONS",
        help="only compare runs of two lengths; without numbers of 10000 and 1000000",
    )
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return
    if args.run_length is not None:
        lengths = args.run_length or [10_000, 1_000_000]
        if len(lengths) != 2 or lengths[0] >= lengths[1] or lengths[0] < 2 * BLOCK:
            parser.error(f"--run-length takes a short and a long one, of at least {2 * BLOCK}")
        for line in measure_run_length(*lengths):
            show(line)
        return
    pythons = {name: sys.executable for name, module in COMPETITORS.items() if is_here(module)}
    pythons.update(pair.split("=", 1) for pair in args.also)
    for name in COMPETITORS:
        if name not in pythons:
            print(f"skipped: {name} (not installed)", file=sys.stderr)
    if args.only:
        pythons = {name: python for name, python in pythons.items() if name in args.only}
    measure = measure_apart if args.apart else measure_paired
    by_hand = {mode: [] for mode in MODES}
    for mode, name, hand, values in measure(pythons, args.rounds):
        by_hand[mode] += hand
        extra = [value["extra"] for value in values]
        line = {"benchmark": "loop", "mode": mode, "competitor": name}
        line["hand_us"] = statistics.median(hand)
        line["over_hand_us"] = statistics.median(extra)
        line["least_us"], line["most_us"] = min(extra), max(extra)
        if not args.apart:
            line["mean_us"] = statistics.median(value["mean"] for value in values)
        show(line)
    if args.context:
        line = {"benchmark": "loop", "machine": processor(), "python": platform.python_version()}
        for mode, values in by_hand.items():
            line[f"hand_{mode}_us"] = statistics.median(values)
        show(line)
    if args.hooks:
        one = Competitor("growth", sys.executable)
        for what, value in one.ask("growth", "train", 0):
            show({"benchmark": "loop", "growth": what, "us": value})
        one.close()


def show(line):
    digits = 3 if "growth" in line else 2
    print(
        json.dumps({k: round(v, digits) if isinstance(v, float) else v for k, v in line.items()}),
        flush=True,
    )


def processor():
    """Return the processor's name, where the system tells it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
