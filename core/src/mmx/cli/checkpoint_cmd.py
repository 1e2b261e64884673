"""``mmx checkpoint``: look into checkpoint files, verify and convert them."""

from __future__ import annotations

import json
from typing import Any

import click


@click.group()
def command() -> None:
    """Inspect, verify and convert checkpoints."""


@command.command()
@click.argument("files", nargs=-1, required=True)
def verify(files: tuple[str, ...]) -> int:
    """Check every checksum in FILES; exit with 1 if one is damaged."""
    from mmx.checkpoint import CheckpointError, verify_checkpoint

    damaged = 0
    for file in files:
        try:
            verify_checkpoint(file)
        except (CheckpointError, OSError) as error:
            click.echo(f"{file}: {error}", err=True)
            damaged += 1
        else:
            click.echo(f"{file}: ok")
    return 1 if damaged else 0


@command.command()
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--keys", is_flag=True, help="List every tensor of the state dict.")
def show(file: str, as_json: bool, keys: bool) -> None:
    """Print what FILE holds: its parts, where in training it was saved, and the number of weights."""
    import torch

    checkpoint = _load(file)
    state = checkpoint.get("state_dict", checkpoint)
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    meta = checkpoint.get("meta", {}) if "state_dict" in checkpoint else {}
    summary: dict[str, Any] = {
        "parts": sorted(checkpoint) if "state_dict" in checkpoint else ["state_dict"],
        "meta": {k: v for k, v in meta.items() if isinstance(v, (str, int, float)) and k != "cfg"},
        "tensors": len(tensors),
        "parameters": sum(v.numel() for v in tensors.values()),
        "megabytes": round(sum(v.numel() * v.element_size() for v in tensors.values()) / 1e6, 3),
    }
    if keys:
        summary["state_dict"] = {
            k: f"{str(v.dtype).removeprefix('torch.')} {tuple(v.shape)}" for k, v in tensors.items()
        }
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    for name, value in summary.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for key, item in value.items():
                click.echo(f"  {key}: {item}")
        else:
            click.echo(f"{name}: {', '.join(value) if isinstance(value, list) else value}")


@command.command()
@click.argument("source")
@click.argument("target")
@click.option(
    "--to",
    "form",
    type=click.Choice(["full", "sharded", "safetensors"]),
    help="Form of TARGET; by default its suffix tells (none: sharded).",
)
@click.option(
    "--all", "everything", is_flag=True, help="Keep all that resuming needs, not the weights alone."
)
@click.option("--ema", is_flag=True, help="Take the averaged weights of the EMA hook.")
@click.option("--raw", is_flag=True, help="Take the weights in training, not their average.")
def convert(
    source: str, target: str, form: str | None, everything: bool, ema: bool, raw: bool
) -> None:
    """Write the weights of SOURCE alone to TARGET, or with --all the whole checkpoint.

    Either is a file (.pth), a .safetensors file, or the folder of a sharded checkpoint. Tensors are
    taken one after the other; no process group is needed.

    Of a checkpoint with an average these are the averaged weights, which --ema insists on.
    """
    import os

    from mmx.checkpoint import CheckpointError
    from mmx.checkpoint.sharded_convert import form_of, opened, write_as
    from mmx.model import averaged_state_dict, source_state_dict

    if ema and raw:
        raise click.UsageError("--ema and --raw exclude each other")
    if everything and (ema or raw):
        raise click.UsageError("--all keeps both weights and average: drop --ema or --raw")
    form = form or form_of(target)
    if everything and form == "safetensors":
        raise click.UsageError("a safetensors file holds weights only: drop --all, or take .pth")
    beside = os.path.dirname(os.path.abspath(target)) if "://" not in target else None
    if beside is not None:
        os.makedirs(beside, exist_ok=True)
    try:
        with opened(source, beside) as checkpoint:
            written = checkpoint
            if not everything:
                if (ema or raw) and "ema_state_dict" not in checkpoint:
                    raise click.ClickException(
                        f"{source} holds no averaged weights (no 'ema_state_dict')"
                    )
                pick = source_state_dict if raw else averaged_state_dict
                meta = checkpoint.get("meta", {}) if "state_dict" in checkpoint else {}
                written = {"meta": meta, "state_dict": pick(checkpoint)}
            write_as(written, target, form)
            count = len(written.get("state_dict", written))
    except (CheckpointError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{target}: {count} tensors")


def _load(file: str) -> dict[str, Any]:
    from mmx.checkpoint import CheckpointError, CheckpointLoader

    try:
        checkpoint = CheckpointLoader.load_checkpoint(file, "cpu", logger="silent")
    except (CheckpointError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if not isinstance(checkpoint, dict):
        raise click.ClickException(f"{file} holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint
