"""What configs cost: reading, attribute access, copying, pickling, writing.

    python benchmarks/config.py                              # competitors that this Python has
    python benchmarks/config.py --also mmengine=/path/to/python --also omegaconf=/path/to/python
    python benchmarks/config.py --rounds 3 --json

One thread. Each competitor lives in a process of its own; all are measured in turn, in shuffled
order, round after round, in CPU time (median of many chunks); ratios to the floor are taken within
a round, and their median is quoted. The floor is what the task costs with no config system at all:
``exec`` of the three files into plain dicts, attributes of nested objects, ``copy.deepcopy``,
``pickle`` and ``pprint`` of plain dicts. Before anything is timed, all must have read the same
values (``digest``).

To add a competitor: write a class with the methods of `Floor` (those that it has), and list it in
COMPETITORS with the module it needs.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import logging
import pickle
import pprint
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from peers import is_here

# The config: three files, each on top of the other, 300 lines in all ------------------------------


def block(name, depth):
    return (
        f"{name} = dict(\n"
        f"    type='Thing{depth}',\n"
        "    lr=0.1, momentum=0.9, name='abc',\n"
        f"    nested=dict(type='X', depth={depth}, out=[1, 2, 3], flag=True),\n"
        "    pipeline=[dict(type='A', scale=(1, 2)), dict(type='B')])\n"
    )


def write_files(folder):
    """Write the config; return the path of its last file."""
    parts = (("one", 0, 20, ""), ("two", 15, 35, "one"), ("three", 30, 50, "two"))
    for name, first, last, base in parts:
        text = f"_base_ = ['./{base}.py']\n" if base else ""
        text += "".join(block(f"block{i}", i) for i in range(first, last))
        Path(folder, f"{name}.py").write_text(text)
    return str(Path(folder, "three.py"))


def same(settings):
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# The competitors ----------------------------------------------------------------------------------


class Floor:
    """No config system: plain dicts and plain objects."""

    def read(self, path):
        settings = {}
        for name in ("one", "two", "three"):
            file = Path(path).with_name(f"{name}.py")
            exec(compile(file.read_text(), str(file), "exec"), settings)
        return {key: value for key, value in settings.items() if key.startswith("block")}

    def plain(self, config):
        return config

    def nested(self):
        class Object:
            pass

        a = Object()
        a.a = Object()
        a.a.b = Object()
        a.a.b.c = 1
        return a

    def text(self, config):
        return pprint.pformat(config)

    def dump(self, config, path):
        Path(path).write_text(pprint.pformat(config))


class Mmx:
    def __init__(self):
        from mmx.config import Config

        self.Config = Config

    def read(self, path):
        return self.Config.fromfile(path)

    def plain(self, config):
        return config.to_dict()

    def nested(self):
        return self.Config({"a": {"b": {"c": 1, "d": 2}, "e": 3}})

    def text(self, config):
        return config.pretty_text

    def dump(self, config, path):
        config.dump(path)


class Mmengine(Mmx):
    def __init__(self):
        from mmengine.config import Config

        self.Config = Config


class Omegaconf:
    """It reads YAML only, so the files are given to it as such, and merged by it."""

    def __init__(self):
        from omegaconf import OmegaConf

        self.OmegaConf = OmegaConf

    def read(self, path):
        import yaml

        files = []
        for name in ("one", "two", "three"):
            file = Path(path).with_name(f"{name}.yaml")
            if not file.exists():
                settings = {}
                exec(file.with_suffix(".py").read_text(), settings)
                settings = {k: v for k, v in settings.items() if k.startswith("block")}
                file.write_text(yaml.safe_dump(json.loads(json.dumps(settings))))
            files.append(self.OmegaConf.load(file))
        return self.OmegaConf.merge(*files)

    def plain(self, config):
        return self.OmegaConf.to_container(config)

    def nested(self):
        return self.OmegaConf.create({"a": {"b": {"c": 1, "d": 2}, "e": 3}})

    def text(self, config):
        return self.OmegaConf.to_yaml(config)

    def dump(self, config, path):
        self.OmegaConf.save(config, path)


COMPETITORS = {
    "floor": (Floor, "json"),
    "mmx": (Mmx, "mmx"),
    "mmengine": (Mmengine, "mmengine"),
    "omegaconf": (Omegaconf, "omegaconf"),
}

# Measuring ----------------------------------------------------------------------------------------


def chunk_ns(function, calls):
    start = time.process_time_ns()
    for _ in range(calls):
        function()
    return (time.process_time_ns() - start) / calls


def median_us(function, budget_ms):
    calls = 1
    while chunk_ns(function, calls) * calls < 500_000 and calls < 100_000:
        calls *= 2
    chunks, end = [], time.perf_counter() + budget_ms / 1000
    while len(chunks) < 3 or time.perf_counter() < end:
        chunks.append(chunk_ns(function, calls))
    return statistics.median(chunks) / 1000


def access(nested):
    def hundred():
        for _ in range(100):
            nested.a.b.c  # noqa: B018

    return hundred


def measure(name):
    """Answer each line of standard input with all figures of a competitor, in microseconds."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    competitor = COMPETITORS[name][0]()
    with tempfile.TemporaryDirectory() as folder:
        path = write_files(folder)
        config = competitor.read(path)
        print(json.dumps([same(competitor.plain(config))]), flush=True)
        out = str(Path(folder, "out.py"))
        tasks = {
            "read three files, 300 lines": lambda: competitor.read(path),
            "100 times cfg.a.b.c": access(competitor.nested()),
            "deepcopy": lambda: copy.deepcopy(config),
            "pickle and back": lambda: pickle.loads(pickle.dumps(config)),
            "as text": lambda: competitor.text(config),
            "dump to a file": lambda: competitor.dump(config, out),
        }
        for _ in sys.stdin:
            figures = {task: median_us(function, 150) for task, function in tasks.items()}
            print(json.dumps(figures), flush=True)


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
        # Config systems may print something of their own.
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--also", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON line per figure")
    parser.add_argument("--worker", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        measure(arguments.worker)
        return
    also = dict(pair.split("=", 1) for pair in arguments.also)
    workers = {}
    for name, (_, module) in COMPETITORS.items():
        if name in also:
            workers[name] = Worker(name, also[name])
        elif is_here(module):
            workers[name] = Worker(name, sys.executable)
        else:
            print(f"{name}: not installed, skipped", file=sys.stderr)
    digests = {name: worker.digest for name, worker in workers.items()}
    if len({tuple(digest) for digest in digests.values()}) != 1:
        raise SystemExit(f"not the same values were read: {digests}")
    rounds = []
    for _ in range(arguments.rounds):
        order = list(workers)
        random.shuffle(order)
        rounds.append({name: workers[name].ask() for name in order})
    for worker in workers.values():
        worker.close()
    tasks = list(rounds[0]["floor"])
    if not arguments.json:
        print(f"{'':30}" + "".join(f"{name:>22}" for name in workers))
    for task in tasks:
        row = f"{task:30}"
        for name in workers:
            figure = statistics.median(r[name][task] for r in rounds)
            ratio = statistics.median(r[name][task] / r["floor"][task] for r in rounds)
            if arguments.json:
                line = {"task": task, "competitor": name, "us": figure, "ratio": ratio}
                print(json.dumps(line))
            row += f"{figure:12.1f} us {ratio:6.2f}"
        if not arguments.json:
            print(row)


if __name__ == "__main__":
    main()
