"""``mmx plot``: pictures of learning rates and logs."""

from __future__ import annotations

import click

from mmx.cli.lr_cmd import plot_lr
from mmx.cli.plot_log_cmd import command as plot_log


@click.group()
def command() -> None:
    """Plot learning rates and logs."""


command.add_command(plot_lr, "lr")
command.add_command(plot_log, "log")
