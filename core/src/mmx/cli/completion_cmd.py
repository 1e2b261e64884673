"""``mmx completion``: the script that makes a shell complete ``mmx`` commands."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL; put it where your shell reads such scripts.

    For bash: mmx completion bash > ~/.local/share/bash-completion/completions/mmx
    """
    from click.shell_completion import get_completion_class

    from mmx.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "mmx", "_MMX_COMPLETE").source())
