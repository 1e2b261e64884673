"""Curves of runs, from the scalars that they left in their work directories."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from mmx.visualization.utils import require_matplotlib

#: Name -> points (step, value), by step.
Curves = dict[str, list[tuple[float, float]]]

# Which names a short key stands for when no curve has exactly that name.
_PATTERNS = {
    "accuracy": ("accuracy", "acc", "top1"),
    "acc": ("accuracy", "acc", "top1"),
    "loss": ("loss",),
    "lr": ("lr",),
}
# Names in a record that are no curves.
_POSITIONS = ("step", "iter", "epoch")


def find_scalar_files(run_dir: str | os.PathLike[str]) -> list[Path]:
    """Return the files of scalars below a work directory, oldest run first.

    Args:
        run_dir: A work directory, one run's folder in it, or a file of scalars.

    Raises:
        FileNotFoundError: There are none.
    """
    path = Path(run_dir)
    if path.is_file():
        return [path]
    # The folders of runs are named by the time at which they began.
    files = sorted(path.rglob("scalars.json")) if path.is_dir() else []
    if not files:
        raise FileNotFoundError(
            f"{os.fspath(run_dir)} holds no vis_data/scalars.json: give a work directory, a "
            "run's folder in it, or a file of scalars. Runs write it through LocalVisBackend"
        )
    return files


def read_scalars(run_dir: str | os.PathLike[str]) -> Curves:
    """Return all curves of a run, with what its resumed parts recorded joined to one.

    Where a resumed run recorded a step again, the later record counts. Steps are iterations, also
    those of a validation that was recorded by epoch; times of a validation are named
    ``val/time``.

    Args:
        run_dir: A work directory, one run's folder in it, or a file of scalars.

    Raises:
        FileNotFoundError: There are no scalars.
    """
    points: dict[str, dict[float, float]] = {}
    # The last iteration of each epoch that training has recorded so far.
    ends: dict[float, float] = {}
    for path in find_scalar_files(run_dir):
        for record in _records(path):
            step = record.get("step", record.get("iter"))
            if not _is_number(step):
                continue
            is_training = "iter" in record
            if is_training and _is_number(record.get("epoch")):
                ends[float(record["epoch"])] = float(step)
            elif not is_training:
                step = ends.get(float(step), step)
            for name, value in record.items():
                if name in _POSITIONS or not _is_number(value):
                    continue
                if not is_training and name in ("time", "data_time"):
                    name = f"val/{name}"
                points.setdefault(name, {})[float(step)] = float(value)
    return {name: sorted(by_step.items()) for name, by_step in points.items()}


def _records(path: Path) -> Iterable[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the run was killed while it wrote this line
                continue
            if isinstance(record, dict):
                yield record


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def choose_curves(names: Iterable[str], keys: Sequence[str] | None) -> dict[str, list[str]]:
    """Return panel -> names of the curves in it.

    Args:
        names: All curves.
        keys: Panels: the name of a curve, with or without its prefix, or ``loss``, ``lr`` or
            ``accuracy``. None takes these three and leaves out what the run has not.
    """
    names = list(names)
    panels: dict[str, list[str]] = {}
    for key in keys or ("loss", "lr", "accuracy"):
        exact = [n for n in names if n == key or n.endswith(f"/{key}")]
        found = exact or [
            n for n in names if any(p in n.split("/")[-1].lower() for p in _PATTERNS.get(key, ()))
        ]
        if found or keys is not None:
            panels[key] = found
    return panels


def plot_curves(
    run_dirs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    keys: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> str:
    """Draw curves of one or several runs into a picture, a panel per key.

    Args:
        run_dirs: Work directories.
        keys: As for :func:`choose_curves`; by default loss, learning rate and accuracy.
        out: The file, ``.png``, ``.svg`` or ``.pdf``; by default ``curves.png`` in the first
            work directory.

    Returns:
        Path of the picture.

    Raises:
        FileNotFoundError: A directory holds no scalars.
        KeyError: No run has a curve of a key that was asked for; the message lists what there is.
    """
    if isinstance(run_dirs, str | os.PathLike):
        run_dirs = [run_dirs]
    if not run_dirs:
        raise ValueError("plot_curves needs at least one work directory")
    if isinstance(keys, str):
        keys = [keys]
    runs = {os.fspath(run_dir): read_scalars(run_dir) for run_dir in run_dirs}
    every_name = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    panels = choose_curves(every_name, keys)
    if keys is None and not panels:
        panels = {name: [name] for name in every_name[:3]}
    absent = [key for key, names in panels.items() if not names]
    if absent or not panels:
        raise CurveNotFoundError(absent, every_name)
    if out is None:
        first = Path(os.fspath(run_dirs[0]))
        out = (first if first.is_dir() else first.parent) / "curves.png"
    figure = draw_panels(runs, panels)
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    figure.savefig(out, dpi=120)
    return os.fspath(out)


class CurveNotFoundError(KeyError):
    """No run has a curve of that name.

    Args:
        absent: What was asked for.
        names: The curves that there are.
    """

    def __init__(self, absent: Sequence[str], names: Sequence[str]) -> None:
        super().__init__(absent)
        self.absent, self.names = list(absent), list(names)

    def __str__(self) -> str:
        return (
            f"no curve is named {', '.join(map(repr, self.absent))}; "
            f"there are {', '.join(self.names) or 'none at all'}"
        )


def draw_panels(
    runs: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    panels: Mapping[str, Sequence[str]],
) -> Any:
    """Return a matplotlib figure with a panel per key, and in it a line per run and curve."""
    agg = require_matplotlib("matplotlib.backends.backend_agg")
    figure = require_matplotlib("matplotlib.figure").Figure(
        figsize=(5.2 * min(len(panels), 3), 3.6 * math.ceil(len(panels) / 3)), layout="constrained"
    )
    agg.FigureCanvasAgg(figure)
    grid = figure.subplots(math.ceil(len(panels) / 3), min(len(panels), 3), squeeze=False)
    labels = _short_names(list(runs))
    for axes, (key, names) in zip(grid.flat, panels.items(), strict=False):
        for label, curves in zip(labels, runs.values(), strict=True):
            for name in names:
                if not curves.get(name):
                    continue
                steps, values = zip(*curves[name], strict=True)
                parts = [label] * (len(runs) > 1) + [name] * (len(names) > 1 or len(runs) == 1)
                few = len(steps) < 30
                axes.plot(steps, values, label=" · ".join(parts), marker="." if few else None)
        axes.set_title(key)
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    return figure


def _short_names(paths: Sequence[str]) -> list[str]:
    """Return the shortest endings of paths that tell them apart."""
    parts = [Path(path).parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-count:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)
