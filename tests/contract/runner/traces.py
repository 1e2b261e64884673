"""What a run leaves behind, written down so that two engines can be compared.

Nothing here imports an engine at module level.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import torch

STAMP = re.compile(r"\d{8}_\d{6}")
_HEAD = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d - (\w+) - (\w+) - ")
_ENVIRONMENT = re.compile(r"\n-{60}\nSystem environment:.*?\n-{60}\n", re.DOTALL)
_CONFIG = re.compile(rf"Config:\n.*?(?=\n{_HEAD.pattern}|\Z)", re.DOTALL)
_WEIGHTS = "Name of parameter - Initialization information\n"
_HASH = re.compile(r"-[0-9a-f]{8}(?=\.pth)")
_TIMES = ("time", "data_time")


def tracer(package: str, name: str | None = None) -> Any:
    """Return a hook that writes down each stage it sees, and what an iteration left.

    Args:
        package: The engine's import name.
        name: Name of the hook's class, as the list of hooks shows it.
    """
    base = importlib.import_module(f"{package}.hooks").Hook
    cls = type(name or "Tracer", (base,), {"priority": "LOWEST"})

    def stage(name: str) -> Any:
        def method(self: Any, runner: Any, *args: Any, **kwargs: Any) -> None:
            # MMEngine's runner builds its training loop when it is asked for its epoch.
            loop = runner._train_loop
            is_built = loop is not None and not isinstance(loop, dict)
            entry = [name, *((runner.epoch, runner.iter) if is_built else (0, 0))]
            if "batch_idx" in kwargs:
                entry.append(kwargs["batch_idx"])
            if "checkpoint" in kwargs:
                entry.append(sorted(k for k in kwargs["checkpoint"] if k != "engine"))
            if "metrics" in kwargs:
                entry.append(plain(kwargs["metrics"]))
            self.trace.append(entry)
            if name == "after_train_iter":
                wrapper = runner.optim_wrapper
                rates = {**wrapper.get_lr(), **wrapper.get_momentum()}
                weight = next(p for p in runner.model.parameters() if p.requires_grad)
                self.losses.append(
                    [plain(kwargs["outputs"]), plain(rates), plain(weight.flatten()[:3])]
                )

        return method

    for method in base.stages:
        setattr(cls, method, stage(method))
    hook = cls()
    hook.trace, hook.losses = [], []
    return hook


def hooks(runner: Any) -> dict[str, list[str]]:
    """Return stage -> the lines that the list of hooks has for it.

    Raises:
        ValueError: The list is laid out in another way than MMEngine's.
    """
    found = {}
    for block in runner.get_hooks_info().split("\n -------------------- "):
        if not block:
            continue
        stage, *lines = block.removeprefix("\n").splitlines()
        if not stage.endswith(":") or not all(
            re.fullmatch(r"\([A-Z_0-9 ]+\) \w+ *", x) for x in lines
        ):
            raise ValueError(f"this is not how MMEngine lists hooks: {block!r}")
        found[stage.removesuffix(":")] = [line.rstrip() for line in lines]
    return found


def plain(value: Any) -> Any:
    """Return tensors and arrays as numbers, all through."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, torch.Tensor):
        return value.detach().tolist()
    return value.tolist() if hasattr(value, "tolist") else value


def files(directory: str, package: str) -> dict[str, Any]:
    """Return name -> what is in it, for each checkpoint of a directory, by name."""
    is_ours = importlib.import_module(f"{package}.runner").Runner.__module__.startswith("mmx.")
    found = {}
    for path in sorted(Path(directory).rglob("*.pth")):
        saved = torch.load(path, weights_only=is_ours)
        steps = saved.get("param_schedulers", [])
        name = _HASH.sub("-<hash>", str(path.relative_to(directory)))
        if set(saved) <= {"meta", "state_dict"}:  # a published one
            found[name] = {"keys": sorted(saved), "meta": sorted(saved["meta"])}
            continue
        found[name] = {
            "keys": sorted(saved),
            "meta": sorted(saved["meta"]),
            "message_hub": sorted(saved["message_hub"]),
            "scalars": sorted(saved["message_hub"]["log_scalars"]),
            "infos": sorted(saved["message_hub"]["runtime_info"]),
            "epoch": saved["meta"]["epoch"],
            "iter": saved["meta"]["iter"],
            "dataset_meta": str(saved["meta"].get("dataset_meta")),
            "state_dict": list(saved["state_dict"]),
            "optimizer": sorted(saved.get("optimizer", {})),
            "steps": plain(
                {name: [s["last_step"] for s in each] for name, each in steps.items()}
                if isinstance(steps, dict)
                else [s["last_step"] for s in steps]
            ),
        }
    return found


def lines(log_dir: str, hooks_info: str, directory: str) -> list[str]:
    """Return the log's lines, with a placeholder wherever two runs differ.

    Times are ``#``, digit for digit after the point; the directory, dates, the description of the
    machine and the list of hooks (which is compared by itself) are names in angle brackets.
    Files that are copied to another place are named in the order of their names.
    A message of several lines stays one entry. What is told of initial weights has no head.
    """
    found: list[str] = []
    for path in sorted(Path(log_dir).glob("*.log")):
        text = path.read_text().replace(hooks_info, "<hooks>\n")
        text = text.replace(directory, "<directory>")
        text = _ENVIRONMENT.sub("\n<environment>\n", text)
        text = _HASH.sub("-<hash>", text)
        text = _CONFIG.sub("Config:\n<config>\n", text)
        text = STAMP.sub("<timestamp>", text)
        heads = list(_HEAD.finditer(text))
        if heads and heads[0].start() != 0:
            raise ValueError(f"this log does not begin with a date: {text[:80]!r}")
        ends = [head.start() for head in heads[1:]] + [len(text)]
        for head, end in zip(heads, ends, strict=True):
            message = text[head.end() : end].removesuffix("\n")
            message, _, weights = _without_times(message).partition(f"\n{_WEIGHTS}")
            found.append(f"<date> - {head[1]} - {head[2]} - {message}")
            if weights:
                found.append(_WEIGHTS + weights)
    copied = [i for i, line in enumerate(found) if " has been uploaded to " in line]
    for i, line in zip(copied, sorted(found[i] for i in copied), strict=True):
        found[i] = line
    return found


def _without_times(line: str) -> str:
    line = re.sub(r"\beta: (?:\d+ days?, )?\d+:\d\d:\d\d", "eta: #:##:##", line)
    return re.sub(r"\b((?:data_)?time: )\d+\.(\d+)", lambda m: f"{m[1]}#.{'#' * len(m[2])}", line)


def records(directory: str) -> dict[str, list[dict[str, Any]]]:
    """Return what programs read: file -> one dict a line, with ``"#"`` for times.

    The two files of a visualizer, where they say the same, are one entry.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(Path(directory).rglob("*.json")):
        name = STAMP.sub("<timestamp>", str(path.relative_to(directory)))
        found[name] = [
            {k: "#" if k.split("/")[-1] in _TIMES else v for k, v in json.loads(line).items()}
            for line in path.read_text().splitlines()
        ]
    for name in [name for name in found if name.endswith("/scalars.json")]:
        folder = name.removesuffix("scalars.json")
        if found[name] == found.get(f"{folder}<timestamp>.json"):
            del found[f"{folder}<timestamp>.json"]
            found[f"{folder}{{scalars,<timestamp>}}.json"] = found.pop(name)
    return found
