"""What a run shows once at its start: a banner and a table of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def startup_banner(facts: Mapping[str, Any], title: str = "mmx", width: int | None = None) -> str:
    """Return a box with the facts of a run, a line each.

    Args:
        facts: Name -> value; None is left out.
        title: In the box's upper edge.
        width: Longest line; None does not cut.

    Returns:
        The text, without a final new line.
    """
    rows = [(str(name), str(value)) for name, value in facts.items() if value is not None]
    label = max((len(name) for name, _ in rows), default=0)
    lines = [f"{name:<{label}}  {value}" for name, value in rows]
    if width is not None:
        lines = [line if len(line) <= width - 4 else line[: width - 5] + "…" for line in lines]
    inner = max([len(line) for line in lines] + [len(title) + 2])
    top = f"╭─ {title} " + "─" * (inner - len(title) - 1) + "╮"
    return "\n".join([top, *(f"│ {line:<{inner}} │" for line in lines), f"╰{'─' * (inner + 2)}╯"])


def run_facts(
    *,
    version: str,
    torch_version: str,
    experiment: str,
    work_dir: str,
    device: str,
    world_size: int = 1,
    precision: str | None = None,
    strategy: str | None = None,
    seed: int | None = None,
    resumed_from: str | None = None,
) -> dict[str, Any]:
    """Return what a start-up banner says, in its order.

    Args:
        version: Version of mmx.
        torch_version: Version of torch.
        experiment: Name of the run.
        work_dir: Where it writes.
        device: Device of this process.
        world_size: Number of processes.
        precision: For example ``float32`` or ``bfloat16 (autocast)``.
        strategy: Name of the strategy.
        seed: The seed.
        resumed_from: Checkpoint that the run goes on from.
    """
    ranks = "1 process" if world_size == 1 else f"{world_size} processes"
    return {
        "version": f"mmx {version}, torch {torch_version}",
        "experiment": experiment,
        "device": f"{device}, {ranks}" + (f", {strategy}" if strategy else ""),
        "precision": precision,
        "seed": seed,
        "work dir": work_dir,
        "resumed from": resumed_from,
    }


def model_summary(model: torch.nn.Module, max_depth: int = 2, width: int | None = None) -> str:
    """Return a table of a model's modules with their parameters.

    Args:
        model: The model. Parameters that modules share are counted once.
        max_depth: How deep modules are listed.
        width: Longest line; None does not cut.

    Returns:
        The table, and a line with the totals.
    """
    rows: list[Sequence[str]] = []
    for name, module in model.named_modules():
        depth = name.count(".") + 1 if name else 0
        if depth > max_depth:
            continue
        total, trainable = count_parameters(module)
        label = "  " * max(depth - 1, 0) + (name.rpartition(".")[2] if name else "(model)")
        state = "" if trainable == total else ("frozen" if not trainable else "partly frozen")
        rows.append((label, type(module).__name__, f"{total:,}" if total else "-", state))
    header = ("module", "type", "parameters", "")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(4)]

    def line(row: Sequence[str]) -> str:
        text = (
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}"
        ).rstrip()
        return text if width is None or len(text) <= width else text[: width - 1] + "…"

    total, trainable = count_parameters(model)
    sizes = [p.numel() * p.element_size() for p in model.parameters() if not _is_lazy(p)]
    megabytes = sum(sizes) / 2**20
    last = f"{total:,} parameters, {trainable:,} trainable, {megabytes:.1f} MB"
    rule = "─" * max(len(line(row)) for row in [header, *rows])
    return "\n".join([line(header), rule, *map(line, rows), rule, last])


def count_parameters(module: torch.nn.Module) -> tuple[int, int]:
    """Return how many numbers a module's parameters hold, and how many of them are trained."""
    total = trainable = 0
    for parameter in module.parameters():
        # Not materialised yet: nobody knows.
        size = 0 if _is_lazy(parameter) else parameter.numel()
        total += size
        trainable += size if parameter.requires_grad else 0
    return total, trainable


def _is_lazy(parameter: Any) -> bool:
    from torch.nn.parameter import UninitializedParameter

    return isinstance(parameter, UninitializedParameter)
