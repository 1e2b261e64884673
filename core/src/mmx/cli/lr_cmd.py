"""``mmx plot lr`` and ``mmx lr-find``: learning rates, planned and to be found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from mmx.cli.options import ManyOptionsCommand, cfg_options, load_config

# Points of a curve that are kept: more than a picture has.
_MAX_POINTS = 4000


@click.command(cls=ManyOptionsCommand)
@click.argument("config")
@click.option("--param", "params", multiple=True, help="Setting to plot, lr by default.")
@click.option("--epoch-length", type=int, help="Iterations in an epoch; else the data tells.")
@click.option("--out", metavar="FILE", default="lr.png", show_default=True, help="The picture.")
@click.option("--text-only", is_flag=True, help="Draw in the terminal only.")
@cfg_options
def plot_lr(
    config: str,
    params: tuple[str, ...],
    epoch_length: int | None,
    out: str,
    text_only: bool,
    cfg_options: tuple[str, ...],
) -> int:
    """Plot the learning rate over the training that CONFIG describes.

    The model is not built: the curve is that of a parameter without settings of its own.
    """
    cfg = load_config(config, cfg_options)
    names = list(params) or ["lr"]
    curves = planned_curves(cfg, names, epoch_length)
    for name, points in curves.items():
        click.echo(terminal_chart(points, name))
    if text_only:
        return 0
    try:
        path = _draw(curves, out)
    except ImportError as error:
        raise click.ClickException(f"{error}; or use --text-only") from error
    click.echo(path)
    return 0


@click.command(cls=ManyOptionsCommand)
@click.argument("config")
@click.option("--start-lr", type=float, default=1e-7, show_default=True, help="First rate.")
@click.option("--end-lr", type=float, default=10.0, show_default=True, help="Last rate.")
@click.option("--num-steps", type=int, default=100, show_default=True, help="Optimizer steps.")
@click.option("--work-dir", metavar="DIR", help="Where the curve goes.")
@click.option("--load-from", metavar="PATH", help="Start from the weights of a checkpoint.")
@click.option("--seed", type=int, help="Seed of all random numbers.")
@cfg_options
def lr_find(
    config: str,
    start_lr: float,
    end_lr: float,
    num_steps: int,
    work_dir: str | None,
    load_from: str | None,
    seed: int | None,
    cfg_options: tuple[str, ...],
) -> int:
    """Look for a good learning rate for the model and data of CONFIG.

    Trains a while with a rising rate, draws the loss over it into lr_find.png, and suggests the
    rate at which the loss falls fastest. Nothing is trained or saved beside that.
    """
    from mmx.cli.run_cmd import _set_work_dir, build_runner
    from mmx.hooks import LRFinderHook

    cfg = load_config(config, cfg_options)
    _set_work_dir(cfg, work_dir, config)
    if load_from is not None:
        cfg.load_from = load_from
    if seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": seed}
    cfg.resume = False
    # Only the search: no validation, no checkpoints, no hooks of the run's own.
    for part in ("dataloader", "cfg", "evaluator"):
        for kind in ("val", "test"):
            cfg[f"{kind}_{part}"] = None
    cfg.default_hooks = {**(cfg.get("default_hooks") or {}), "checkpoint": None}
    cfg.custom_hooks = []
    try:
        hook = LRFinderHook(start_lr=start_lr, end_lr=end_lr, num_steps=num_steps, train=False)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    runner = build_runner(cfg)
    runner.register_hook(hook)
    runner.train()
    result = hook.result
    if result is None or result.suggestion is None:
        raise click.ClickException(
            "the loss fell at no learning rate; try another range (--start-lr, --end-lr)"
        )
    points = list(zip(result.lrs, result.losses, strict=True))
    click.echo(terminal_chart(points, "loss over learning rate", log_x=True))
    click.echo(f"{result.suggestion:.3g}")
    return 0


def planned_curves(
    cfg: Any, names: Sequence[str], epoch_length: int | None = None
) -> dict[str, list[tuple[float, float]]]:
    """Return the values that settings of the optimizer will have, by simulating the schedulers.

    Args:
        cfg: A config of a run.
        names: Settings, such as ``lr`` and ``momentum``.
        epoch_length: Iterations in an epoch; None builds the data loader and asks it.

    Returns:
        Label -> points (iteration, value). Several optimizers have a curve each.

    Raises:
        click.ClickException: The config describes no training, or has no such setting.
    """
    from mmx.strategy.building import param_schedulers_from

    lengths = _lengths(cfg, epoch_length)
    scope = cfg.get("default_scope", "mmx")
    wrappers = _wrappers(cfg, scope)
    curves: dict[str, list[tuple[float, float]]] = {}
    planned = cfg.get("param_scheduler")
    for label, wrapper in wrappers.items():
        mine = planned.get(label) if _is_by_name(planned) else planned
        schedulers: Any = (
            [] if mine is None else param_schedulers_from(mine, wrapper, default_args=lengths)
        )
        group = wrapper.optimizer.param_groups[0]
        for name in names:
            if not isinstance(group.get(name), int | float):
                numbers = sorted(k for k, v in group.items() if type(v) in (int, float))
                raise click.ClickException(
                    f"{type(wrapper.optimizer).__name__} has no number {name!r} in its settings; "
                    f"it has {', '.join(numbers)}"
                )
        for name, points in _simulated(wrapper, schedulers, names, lengths).items():
            curves[f"{label}.{name}" if label else name] = points
    return curves


def _is_by_name(planned: Any) -> bool:
    return isinstance(planned, dict) and "type" not in planned and bool(planned)


def _lengths(cfg: Any, epoch_length: int | None) -> dict[str, Any]:
    train_cfg = cfg.get("train_cfg")
    if not train_cfg:
        raise click.ClickException("the config has no train_cfg: it describes no training")
    by_epoch = train_cfg.get("by_epoch", "max_epochs" in train_cfg)
    max_epochs, max_iters = train_cfg.get("max_epochs"), train_cfg.get("max_iters")
    if epoch_length is None and (by_epoch or _counts_epochs(cfg.get("param_scheduler"))):
        epoch_length = _ask_data(cfg)
    if by_epoch:
        max_iters = max_epochs * epoch_length
    elif epoch_length:
        max_epochs = -(-max_iters // epoch_length)
    return {"max_epochs": max_epochs, "max_iters": max_iters, "epoch_length": epoch_length}


def _counts_epochs(planned: Any) -> bool:
    if planned is None:
        return False
    if _is_by_name(planned):
        return any(map(_counts_epochs, planned.values()))
    several = [planned] if isinstance(planned, dict) else planned
    return any(one.get("by_epoch", True) for one in several)


def _ask_data(cfg: Any) -> int:
    from mmx.registry import init_default_scope
    from mmx.runner import Runner

    loader = cfg.get("train_dataloader")
    if not loader:
        raise click.ClickException("the config has no train_dataloader; give --epoch-length")
    init_default_scope(cfg.get("default_scope", "mmx"))
    try:
        return len(Runner.build_dataloader(loader))
    except (OSError, TypeError, ValueError, LookupError, ImportError) as error:
        raise click.ClickException(
            f"the length of an epoch is not known: the data of training could not be built "
            f"({error}). Give --epoch-length"
        ) from error


def _wrappers(cfg: Any, scope: str) -> dict[str, Any]:
    """Return the optimizer wrappers of a config, on a parameter that stands for the model's."""
    import torch

    from mmx.optim import OptimWrapper
    from mmx.registry import OPTIMIZERS, init_default_scope

    init_default_scope(scope)
    described = cfg.get("optim_wrapper")
    if not described:
        raise click.ClickException("the config has no optim_wrapper: it describes no training")
    parts = (
        {"": described}
        if "optimizer" in described
        else {k: v for k, v in described.items() if isinstance(v, dict) and "optimizer" in v}
    )
    if not parts:
        raise click.ClickException(
            "optim_wrapper has no optimizer, and no dicts that have one by name"
        )
    scale = _scale(cfg)
    wrappers = {}
    for label, part in parts.items():
        optimizer = dict(part["optimizer"])
        # Of two axes: some optimizers are for matrices only.
        optimizer["params"] = [torch.nn.Parameter(torch.zeros(1, 1))]
        built = OPTIMIZERS.build(optimizer)
        for group in built.param_groups:
            group["lr"] = group["lr"] * scale
        wrappers[label] = OptimWrapper(built)
    return wrappers


def _scale(cfg: Any) -> float:
    """Return what scaling by batch size multiplies the learning rate by on one process."""
    scale = cfg.get("auto_scale_lr") or {}
    batch_size = (cfg.get("train_dataloader") or {}).get("batch_size")
    if not scale.get("enable") or not batch_size or not scale.get("base_batch_size"):
        return 1.0
    return float(batch_size / scale["base_batch_size"])


def _simulated(
    wrapper: Any, schedulers: Sequence[Any], names: Sequence[str], lengths: dict[str, Any]
) -> dict[str, list[tuple[float, float]]]:
    group = wrapper.optimizer.param_groups[0]
    length, epoch_length = lengths["max_iters"], lengths["epoch_length"]
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    every = max(1, length // _MAX_POINTS)
    wrapper.step()
    for iteration in range(length):
        if iteration % every == 0 or iteration == length - 1:
            for name in names:
                points[name].append((iteration, group[name]))
        for scheduler in schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
        if epoch_length and (iteration + 1) % epoch_length == 0:
            for scheduler in schedulers:
                if scheduler.by_epoch:
                    scheduler.step()
    return points


def _draw(curves: dict[str, list[tuple[float, float]]], out: str) -> str:
    from mmx.visualization.curves import draw_panels

    figure = draw_panels({"": curves}, {name: [name] for name in curves})
    figure.savefig(out, dpi=120)
    return out


def terminal_chart(
    points: Sequence[tuple[float, float]],
    title: str,
    width: int = 64,
    height: int = 12,
    log_x: bool = False,
) -> str:
    """Return a curve as lines of text.

    Args:
        points: (x, y), x rising.
        title: The line above it.
        width: Columns of the curve.
        height: Lines of the curve.
        log_x: Space x by its logarithm.
    """
    import math

    if not points:
        return f"{title}: no points"
    positions = [math.log10(x) if log_x else x for x, _ in points]
    values = [y for _, y in points]
    low, high = min(values), max(values)
    left, right = positions[0], positions[-1]
    # The mean of what falls into a column.
    columns: list[list[float]] = [[] for _ in range(width)]
    for position, value in zip(positions, values, strict=True):
        share = (position - left) / (right - left) if right > left else 0.0
        columns[min(int(share * width), width - 1)].append(value)
    rows = [[" "] * width for _ in range(height)]
    for index, column in enumerate(columns):
        if column:
            share = (sum(column) / len(column) - low) / (high - low) if high > low else 0.5
            rows[height - 1 - min(int(share * height), height - 1)][index] = "•"
    labels = {0: f"{high:.3g}", height - 1: f"{low:.3g}"}
    lines = [title]
    lines += [f"{labels.get(i, ''):>10} │{''.join(row).rstrip()}" for i, row in enumerate(rows)]
    first, last = f"{points[0][0]:.6g}", f"{points[-1][0]:.6g}"
    lines.append(f"{'':>10} └{'─' * width}")
    lines.append(f"{'':>12}{first}{last:>{max(width - len(first), 1)}}")
    return "\n".join(lines)
