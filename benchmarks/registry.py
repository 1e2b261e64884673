"""What names cost: building by name, first builds out of large packages, discovery, start-up.

    python benchmarks/registry.py                              # competitors that this Python has
    python benchmarks/registry.py --also mmengine=/path/to/python
    python benchmarks/registry.py --rounds 3 --json

One thread. Competitors run in processes of their own, in turn and in shuffled order, round after
round; ratios are taken within a round, and their median over rounds is quoted. Calls are timed in
chunks of a fraction of a millisecond of CPU time, of which the median counts. What a process does
once (a first build, discovery, start-up) is timed in a fresh process each time.

To add a competitor for builds: write a function ``setup_<name>() -> {form: callable}`` that builds
the same object as ``setup_call``, and list it in BUILDERS with the module that it needs.
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
import textwrap
import time
from pathlib import Path

from peers import is_here

FORMS = ("root", "child", "prefix", "scope")
MODULES = 300
DISTRIBUTIONS = 1000


class Part:
    """Trivial: what is measured is the way to it."""

    def __init__(self, width=1):
        self.width = width


# Builds -----------------------------------------------------------------------------------------


def setup_call():
    cfg = dict(width=2)
    # A registry must not change the config, so it cannot do without one copy.
    return dict.fromkeys(FORMS, lambda: Part(**cfg))


def _trees(registry_class):
    root = registry_class("part", scope="benchroot")
    child = registry_class("part", parent=root, scope="benchchild")
    root.register_module(module=Part)
    child.register_module("Own", module=Part)
    plain, own = dict(type="Part", width=2), dict(type="Own", width=2)
    prefix, scope = dict(type="benchchild.Own", width=2), dict(own, _scope_="benchchild")
    return {
        "root": lambda: root.build(plain),
        "child": lambda: child.build(own),
        "prefix": lambda: root.build(prefix),
        "scope": lambda: root.build(scope),
    }


def setup_mmx():
    from mmx_registry import Registry

    return _trees(Registry)


def setup_mmengine():
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from mmengine.registry import Registry

    return _trees(Registry)


BUILDERS = {"call": None, "mmx": "mmx_registry", "mmengine": "mmengine"}


def chunk(function, calls):
    clock = time.process_time_ns
    loop = range(calls)
    start = clock()
    for _ in loop:
        function()
    return (clock() - start) / calls


def measure_builds(name):
    """Answer each line of standard input with the nanoseconds of one call of each form."""
    functions = globals()[f"setup_{name}"]()
    assert all(f().width == 2 for f in functions.values())
    calls = {}
    for form, function in functions.items():
        number = 10
        while chunk(function, number) * number < 300_000:
            number *= 2
        calls[form] = number
    print("ready", flush=True)
    for _ in sys.stdin:
        result = {}
        for form, function in functions.items():
            result[form] = statistics.median(chunk(function, calls[form]) for _ in range(100))
        print(json.dumps(result), flush=True)


class Worker:
    def __init__(self, python, *arguments):
        self.process = subprocess.Popen(
            [python, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"the worker {arguments} did not start")

    def ask(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def builds(pythons, rounds):
    workers = {name: Worker(python, "--builds", name) for name, python in pythons.items()}
    history = {name: {form: [] for form in FORMS} for name in workers}
    for _ in range(rounds):
        for name in random.sample(list(workers), len(workers)):
            for form, value in workers[name].ask().items():
                history[name][form].append(value)
    for worker in workers.values():
        worker.close()
    figures = []
    for name in workers:
        for form in FORMS:
            own, floor = history[name][form], history["call"][form]
            figure = {
                "figure": f"build, {form}",
                "competitor": name,
                "us": statistics.median(own) / 1000,
                "us_over_call": statistics.median(a - b for a, b in zip(own, floor, strict=True))
                / 1000,
            }
            if "mmengine" in history:
                figure["share_of_mmengine"] = statistics.median(
                    a / b for a, b in zip(own, history["mmengine"][form], strict=True)
                )
            figures.append(figure)
    return figures


# Things that a process does once ----------------------------------------------------------------


def once(python, code, *arguments, env=None):
    """Run code in a fresh process; return the JSON that it prints."""
    result = subprocess.run(
        [python, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        check=False,
    )
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout)


def write_location(folder):
    """Write a package of 300 modules of some 60 lines each."""
    parts = Path(folder, "bigpkg", "parts")
    parts.mkdir(parents=True)
    Path(folder, "bigpkg", "__init__.py").touch()
    Path(folder, "bigpkg", "registry.py").write_text(
        "from mmx_registry import Registry\n"
        "PARTS = Registry('part', scope='bigpkg', locations=['bigpkg.parts'])\n"
    )
    (parts / "__init__.py").touch()
    methods = "\n".join(
        f"""
    def method{j}(self, first, second=None, *, third={j}):
        \"\"\"Do the thing of number {j}, as the paper says.\"\"\"
        values = [first + k * third for k in range({j + 3})]
        if second is not None:
            values = [v for v in values if v != second]
        return sum(values) / max(len(values), 1)
"""
        for j in range(8)
    )
    for i in range(MODULES):
        (parts / f"part{i}.py").write_text(
            "import math\n\nfrom bigpkg.registry import PARTS\n\n\n@PARTS.register_module()\n"
            f"class Part{i}:\n    '''Part {i}.'''\n\n    def __init__(self, width=1):\n"
            f"        self.width = math.sqrt(width)\n{methods}\n"
        )


FIRST_BUILD = """
import json, sys, time, tracemalloc
sys.path.insert(0, sys.argv[1])
import bigpkg.registry, bigpkg.parts
from mmx_registry import lookup, explain, plugins
PARTS = bigpkg.registry.PARTS
if sys.argv[3] == "memory":
    tracemalloc.start()
start = time.process_time_ns()
if sys.argv[2] == "all":
    import importlib
    for i in range(300):
        importlib.import_module(f"bigpkg.parts.part{i}")
    PARTS.module_dict["Part200"](width=4)
else:
    PARTS.build(dict(type="Part200", width=4))
ns = time.process_time_ns() - start
peak = tracemalloc.get_traced_memory()[0] if sys.argv[3] == "memory" else 0
modules = sum(name.startswith("bigpkg.parts.") for name in sys.modules)
print(json.dumps({"ms": ns / 1e6, "kb": peak / 1e3, "modules": modules}))
"""


def first_build(python, rounds):
    with tempfile.TemporaryDirectory() as folder:
        write_location(folder)
        env = {"MMX_CACHE_DIR": os.path.join(folder, "cache")}
        # Compiled files exist, as they do in an installed package.
        once(python, FIRST_BUILD, folder, "all", "time", env=env)
        once(python, FIRST_BUILD, folder, "one", "time", env=env)
        rows = {"all": [], "warm": [], "cold": []}
        memory = {"all": [], "warm": [], "cold": []}
        for i in range(rounds):
            for kind in random.sample(list(rows), len(rows)):
                for what, table in (("time", rows), ("memory", memory)):
                    cache = env
                    if kind == "cold":
                        cache = {"MMX_CACHE_DIR": os.path.join(folder, f"cold{i}{what}")}
                    mode = "all" if kind == "all" else "one"
                    table[kind].append(once(python, FIRST_BUILD, folder, mode, what, env=cache))
        return [
            {
                "figure": f"first build out of {MODULES} modules, {kind}",
                "ms": statistics.median(r["ms"] for r in rows[kind]),
                "kb": statistics.median(r["kb"] for r in memory[kind]),
                "modules": rows[kind][0]["modules"],
                "times_less_time": statistics.median(
                    a["ms"] / b["ms"] for a, b in zip(rows["all"], rows[kind], strict=True)
                ),
                "times_less_memory": statistics.median(
                    a["kb"] / b["kb"] for a, b in zip(memory["all"], memory[kind], strict=True)
                ),
            }
            for kind in rows
        ]


DISCOVERY = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import mmx_registry.plugins, mmx_registry.lookup, importlib.metadata
from mmx_registry import Registry
root = Registry("part", scope="discoroot")
sys.modules["discoroot"] = type(sys)("discoroot")
sys.modules["discoroot"].ROOT = root
start = time.process_time_ns()
if sys.argv[2] == "bare":
    found = importlib.metadata.entry_points(group="mmx.plugins")
    assert len(found) >= 1000
else:
    assert root.get("plug500.Part").__name__ == "Part"
print(json.dumps({"ms": (time.process_time_ns() - start) / 1e6}))
"""


def write_distributions(folder):
    for i in range(DISTRIBUTIONS):
        info = Path(folder, f"plug{i}-0.1.dist-info")
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: plug{i}\nVersion: 0.1\nRequires-Dist: mmx>=0.1\n"
        )
        (info / "entry_points.txt").write_text(f"[mmx.plugins]\nplug{i} = plug{i}.registry\n")
        (info / "RECORD").touch()
        package = Path(folder, f"plug{i}")
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "registry.py").write_text(
            "from discoroot import ROOT\nfrom mmx_registry import Registry\n"
            f"PARTS = Registry('part', parent=ROOT, scope='plug{i}', locations=['plug{i}.parts'])\n"
        )
        (package / "parts.py").write_text(
            f"from plug{i}.registry import PARTS\n@PARTS.register_module()\nclass Part: pass\n"
        )


def discovery(python, rounds):
    with tempfile.TemporaryDirectory() as folder:
        write_distributions(folder)
        env = {"MMX_CACHE_DIR": os.path.join(folder, "cache")}
        times = {"bare": [], "first look-up": []}
        for _ in range(rounds + 1):
            for kind in random.sample(list(times), len(times)):
                mode = "bare" if kind == "bare" else "lookup"
                times[kind].append(once(python, DISCOVERY, folder, mode, env=env)["ms"])
        # The first round warmed the file system's cache.
        return [
            {
                "figure": f"{DISTRIBUTIONS} distributions, {kind}",
                "ms": statistics.median(values[1:]),
                "times_bare": statistics.median(
                    a / b for a, b in zip(values[1:], times["bare"][1:], strict=True)
                ),
            }
            for kind, values in times.items()
        ]


def start_up(python, rounds):
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "import mmx_registry": [python, "-c", "import mmx_registry"],
        "mmx plugins list": [python, "-m", "mmx", "plugins", "list"],
        "count-registered-modules": [
            python,
            "-c",
            "from mmx_registry.count import main; main([])",
        ],
    }
    times = {name: [] for name in commands}
    for _ in range(3 * rounds):
        for name in random.sample(list(commands), len(commands)):
            start = os.times()
            subprocess.run(
                commands[name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
            )
            end = os.times()
            times[name].append(
                (end.children_user + end.children_system)
                - (start.children_user + start.children_system)
            )
    bare = times["python -c pass"]
    return [
        {
            "figure": f"start-up, {name}",
            "ms": 1000 * statistics.median(values),
            "times_bare": statistics.median(
                a / max(b, 0.005) for a, b in zip(values, bare, strict=True)
            ),
        }
        for name, values in times.items()
    ]


# Command line -----------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON line per figure, no table")
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME=PYTHON", help="another interpreter"
    )
    parser.add_argument("--only", choices=["builds", "first", "discovery", "start"])
    parser.add_argument("--builds", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.builds:
        measure_builds(arguments.builds)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    pythons = dict(item.split("=", 1) for item in arguments.also)
    for name, module in BUILDERS.items():
        if name in pythons:
            continue
        if module is None or is_here(module):
            pythons[name] = sys.executable
        else:
            print(f"{name} is not installed: left out", file=sys.stderr)
    steps = {
        "builds": lambda: builds(pythons, arguments.rounds),
        "first": lambda: first_build(sys.executable, arguments.rounds),
        "discovery": lambda: discovery(sys.executable, arguments.rounds),
        "start": lambda: start_up(sys.executable, arguments.rounds),
    }
    for step, function in steps.items():
        if arguments.only in (None, step):
            for figure in function():
                show(figure, arguments.json)


def show(figure, as_json):
    if as_json:
        print(json.dumps(figure), flush=True)
        return
    title = " ".join(str(figure[key]) for key in ("figure", "competitor") if key in figure)
    values = "  ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in figure.items()
        if key not in ("figure", "competitor")
    )
    print(f"{title:45s} {values}", flush=True)


if __name__ == "__main__":
    main()
