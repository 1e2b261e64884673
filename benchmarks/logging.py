"""What logging costs: scalars per iteration with a line each 50, growth with the run, start-up.

    python benchmarks/logging.py                              # competitors that this Python has
    python benchmarks/logging.py --also mmengine=/path/to/python
    python benchmarks/logging.py --rounds 3 --json

One thread. Competitors run in processes of their own, in turn and in shuffled order, round after
round; ratios are taken within a round, and their median over rounds is quoted. CPU time counts.

What is logged: ten scalars per iteration, as numbers or as tensors, and after each 50 iterations
the text of a log line with the mean of each over the last ten. `floor` keeps the rows in a list,
reads the tensors, and formats the same line by hand. All competitors make the same line.

To add a competitor: write a function ``setup_<name>() -> (log, line, update)``: ``log(row)`` takes
a dict of ten scalars, ``line()`` returns the text, ``update(value)`` adds one value to one history
(None if there is none); and list it in COMPETITORS with the module that it needs.
"""

from __future__ import annotations

import os
import sys

from peers import is_here

# The folder of a program comes first in Python's path, so this file stands before the standard
# library's module of its name, for the other programs of the folder as well.
_FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != _FOLDER]
if __name__ == "logging":
    del sys.modules["logging"]
    import logging  # noqa: F401 the standard library's: whoever imports this file gets it

    sys.path.insert(0, _FOLDER)

import argparse  # noqa: E402
import json  # noqa: E402
import random  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402

KEYS = [f"loss_{i}" for i in range(10)]
EVERY, WINDOW = 50, 10
GROWTH = (10_000, 100_000, 1_000_000)


def setup_floor():
    rows, history = [], []

    def log(row):
        rows.append([v if v.__class__ is float else v.item() for v in row.values()])

    def line():
        means = (sum(column) / WINDOW for column in zip(*rows[-WINDOW:], strict=True))
        rows.clear()
        return "  ".join(f"{k}: {m:.4f}" for k, m in zip(KEYS, means, strict=True))

    return log, line, history.append


def _hub_and_processor(hub, processor):
    class Loop:
        dataloader = [0] * EVERY

    class Runner:
        train_loop = _train_loop = Loop()
        epoch = iter = 0
        max_epochs, max_iters, world_size, model = 1, EVERY, 1, None
        message_hub = hub

    def line():
        _, text = processor.get_log_after_iter(Runner, EVERY - 1, "train")
        return text.split("]  ", 1)[1].strip()

    return line


def setup_mmx():
    from mmx.logging import HistoryBuffer, MessageHub
    from mmx.runner.log_processor import LogProcessor

    hub = MessageHub.get_instance("benchmark")
    line = _hub_and_processor(hub, LogProcessor(WINDOW))
    buffer = HistoryBuffer(max_length=10_000)
    # What the hook of each training iteration calls.
    return (lambda row: hub.update_row("train/", row)), line, buffer.update


def setup_mmengine():
    import warnings

    warnings.simplefilter("ignore")
    from mmengine.logging import HistoryBuffer, MessageHub
    from mmengine.runner import LogProcessor

    hub = MessageHub.get_instance("benchmark")
    line = _hub_and_processor(hub, LogProcessor(WINDOW))

    def log(row):  # as its hook of each training iteration does
        for key, value in row.items():
            hub.update_scalar(f"train/{key}", value)

    return log, line, HistoryBuffer().update


COMPETITORS = {"floor": None, "mmx": "mmx", "mmengine": "mmengine"}


def measure(name):
    """Answer each line of standard input with the µs per iteration as numbers and as tensors."""
    import torch

    torch.set_num_threads(1)
    rows = {
        "numbers": {key: i + 0.25 for i, key in enumerate(KEYS)},
        "tensors": {key: torch.tensor(i + 0.25) for i, key in enumerate(KEYS)},
    }
    expected = "  ".join(f"{key}: {i + 0.25:.4f}" for i, key in enumerate(KEYS))
    log, line, _ = globals()[f"setup_{name}"]()

    def block(row):
        for _ in range(EVERY):
            log(row)
        return line()

    for row in rows.values():
        assert block(row) == expected, line()
    print("ready", flush=True)
    for _ in sys.stdin:
        result = {}
        for kind, row in rows.items():
            times = []
            for _ in range(40):
                start = time.process_time_ns()
                block(row)
                times.append((time.process_time_ns() - start) / EVERY / 1000)
            result[kind] = statistics.median(times)
        print(json.dumps(result), flush=True)


def measure_growth(name):
    """Print µs per update and MB held after 10 k, 100 k, … updates of one history."""
    import resource

    _, _, update = globals()[f"setup_{name}"]()
    limits = GROWTH if name != "mmengine" else GROWTH[:2]  # a million takes it half an hour
    update(0.5)
    start_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done, result = 0, {}
    for limit in limits:
        while done < limit - 2000:
            update(0.5)
            done += 1
        start = time.process_time_ns()
        for _ in range(2000):
            update(0.5)
        done += 2000
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result[str(limit)] = {
            "us_per_update": (time.process_time_ns() - start) / 2000 / 1000,
            "grown_mb": (peak_kb - start_kb) / 1024,
        }
    print(json.dumps(result))


class Worker:
    def __init__(self, python, name):
        self.process = subprocess.Popen(
            [python, __file__, "--measure", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"the worker {name} did not start")

    def ask(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(pythons, rounds):
    workers = {name: Worker(python, name) for name, python in pythons.items()}
    history = {name: {"numbers": [], "tensors": []} for name in workers}
    for _ in range(rounds):
        for name in random.sample(list(workers), len(workers)):
            for kind, value in workers[name].ask().items():
                history[name][kind].append(value)
    for worker in workers.values():
        worker.close()
    figures = []
    for name, kinds in history.items():
        for kind, values in kinds.items():
            base = history["floor"][kind]
            ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
            figures.append(
                {
                    "figure": f"10 scalars as {kind}, per iteration",
                    "competitor": name,
                    "us": round(statistics.median(values), 2),
                    "times_floor": round(ratio, 2),
                }
            )
    return figures


def start_up(rounds):
    """Return what importing the logger and logging one line takes, beside Python itself."""
    programs = {
        "python": "pass",
        "mmx.logging": "from mmx.logging import MMLogger; MMLogger.get_instance('a').info('x')",
    }
    times = {name: [] for name in programs}
    for _ in range(rounds):
        for name in random.sample(list(programs), len(programs)):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", programs[name]], stdout=subprocess.DEVNULL)
            times[name].append(1000 * (time.perf_counter() - start))
    return [
        {"figure": "start-up, wall", "competitor": n, "ms": round(statistics.median(v), 1)}
        for n, v in times.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON line per figure")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--growth", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure)
    if options.growth:
        return measure_growth(options.growth)
    os.environ["OMP_NUM_THREADS"] = "1"
    pythons = {
        name: sys.executable
        for name, module in COMPETITORS.items()
        if module is None or is_here(module)
    }
    pythons.update(item.split("=", 1) for item in options.also)
    skipped = [name for name in COMPETITORS if name not in pythons]
    figures = compare(pythons, options.rounds)
    for name, python in pythons.items():
        command = [python, __file__, "--growth", name]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for updates, values in json.loads(output).items():
            figures.append(
                {
                    "figure": f"one update after {int(updates):,}",
                    "competitor": name,
                    **{key: round(value, 3) for key, value in values.items()},
                }
            )
    figures += start_up(options.rounds)
    for figure in figures:
        if options.json:
            print(json.dumps(figure))
        else:
            values = "  ".join(f"{k} {v}" for k, v in list(figure.items())[2:])
            print(f"{figure['figure']:42} {figure['competitor']:12} {values}")
    if skipped:
        print("skipped, not installed:", ", ".join(skipped), file=sys.stderr)
    return None


if __name__ == "__main__":
    main()
