"""``mmx predict``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import click

from mmx.cli.options import ManyOptionsCommand, cfg_options, load_config


@click.command(cls=ManyOptionsCommand)
@click.argument("config")
@click.argument("checkpoint")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--device", metavar="DEVICE", help="Where to run; by default the accelerator, if any."
)
@click.option("--out", metavar="FILE", help="Write all predictions to this JSON file instead.")
@cfg_options
def command(
    config: str,
    checkpoint: str,
    inputs: tuple[str, ...],
    batch_size: int,
    device: str | None,
    out: str | None,
    cfg_options: tuple[str, ...],
) -> int:
    """Run the model of CONFIG with the weights of CHECKPOINT on each INPUT.

    An INPUT is a file, an address, or a folder, which stands for all files in it. One line of JSON is
    printed for each. The config may name an inferencer of its own: `inferencer=dict(type=...)`.
    """
    cfg = load_config(config, cfg_options)
    if "://" not in checkpoint and not os.path.exists(checkpoint):
        raise click.ClickException(f"there is no checkpoint {checkpoint!r}")
    for item in inputs:
        if "://" not in item and not os.path.exists(item):
            raise click.ClickException(f"there is no input {item!r}")

    from mmx.registry import INFERENCERS

    settings = {"type": "PipelineInferencer", **(cfg.get("inferencer") or {})}
    # Standard output is for predictions alone.
    with contextlib.redirect_stdout(sys.stderr):
        with INFERENCERS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
            inferencer: Any = registry.build(
                {**settings, "model": cfg, "weights": checkpoint, "device": device},
                default_args={"show_progress": out is not None},
            )
        paths = [path for item in inputs for path in inferencer._inputs_to_list(item)]
        try:
            predictions = inferencer(paths, batch_size=batch_size)["predictions"]
        except ValueError as error:
            raise click.ClickException(str(error)) from error
    rows = [{"input": p, "prediction": r} for p, r in zip(paths, predictions, strict=True)]
    if out is not None:
        from mmx.fileio import dump

        dump(rows, out, file_format="json")
        click.echo(f"{len(rows)} predictions are in {out}.")
        return 0
    for row in rows:
        click.echo(json.dumps(row))
    return 0
