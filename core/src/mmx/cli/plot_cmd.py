"""``mmx plot``: pictures of learning rates and logs."""

from __future__ import annotations

import click

from mmx.cli.main import LazyGroup


@click.group(
    cls=LazyGroup,
    table={
        "lr": ("mmx.cli.lr_cmd", "plot_lr", "Plot the schedules of a config."),
        "log": ("mmx.cli.plot_log_cmd", "command", "Plot what runs logged."),
    },
)
def command() -> None:
    """Plot learning rates and logs."""
