"""The command ``mmx``: a table of commands, each imported on use."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from mmx.version import __version__

# Command -> (module, attribute, the line that `mmx --help` shows). The line stands here so that
# listing the commands imports none of them.
COMMANDS = {
    "train": ("mmx.cli.run_cmd", "train", "Train the model of a config."),
    "val": ("mmx.cli.run_cmd", "val", "Validate a checkpoint on the validation set."),
    "test": ("mmx.cli.run_cmd", "test", "Test a checkpoint on the test set."),
    "launch": ("mmx.cli.launch_cmd", "command", "Run a command in several processes."),
    "plan": ("mmx.cli.plan_cmd", "command", "Plan memory and traffic of a run on many ranks."),
    "predict": ("mmx.cli.predict_cmd", "command", "Run a trained model on inputs."),
    "config": ("mmx.cli.config_cmd", "command", "Show, check and compare configs."),
    "registry": ("mmx.cli.registry_cmd", "command", "Search what is registered."),
    "plugins": ("mmx.cli.plugins_cmd", "command", "List plugins and find out what ails them."),
    "doctor": ("mmx.cli.doctor_cmd", "command", "Look for what MMEngine code lacks here."),
    "new": ("mmx.cli.new_cmd", "command", "Write a new plugin to start from."),
    "plot": ("mmx.cli.plot_cmd", "command", "Plot learning rates and logs."),
    "report": ("mmx.cli.report_cmd", "command", "Write a run's report as one HTML page."),
    "lr-find": ("mmx.cli.lr_cmd", "lr_find", "Look for a good learning rate."),
    "checkpoint": ("mmx.cli.checkpoint_cmd", "command", "Inspect, verify and convert checkpoints."),
    "completion": ("mmx.cli.completion_cmd", "command", "Print a shell's completion script."),
}


Table = dict[str, tuple[str, str, str]]


class LazyGroup(click.Group):
    """A group whose commands stand in a table and are imported when they are called.

    Args:
        *args: As for :class:`click.Group`.
        table: Command -> (module, attribute, line of help).
        open_to_plugins: Whether plugins add commands of their own.
        **kwargs: As for :class:`click.Group`.
    """

    def __init__(
        self, *args: Any, table: Table, open_to_plugins: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.table = table
        self.open_to_plugins = open_to_plugins

    def _others(self) -> dict[str, click.Command]:
        """Return what plugins announce; it is looked up only when it is needed."""
        if not self.open_to_plugins:
            return {}
        return {n: c for n, c in _plugin_commands().items() if n not in self.table}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, ours in the order of the table."""
        return [*self.table, *sorted(self._others())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; one that is not ours may be a plugin's."""
        if cmd_name in self.table:
            module, attribute, _ = self.table[cmd_name]
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return self._others().get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click; an unknown name is answered with a near one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near or "Did you mean" in error.message:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing any command."""
        rows = [(name, text) for name, (_, _, text) in self.table.items()]
        rows += [(n, c.get_short_help_str()) for n, c in sorted(self._others().items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _plugin_commands() -> dict[str, click.Command]:
    """Return the commands that active plugins announce; a broken plugin never breaks ours."""
    from mmx.registry import plugin_commands

    return dict(plugin_commands())


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    open_to_plugins=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="mmx")
@click.option(
    "--no-plugin",
    "no_plugins",
    metavar="NAME",
    multiple=True,
    help="Leave this plugin out; may be repeated.",
)
@click.option(
    "--trust",
    "trusted",
    metavar="PACKAGE",
    multiple=True,
    help="Let configs name objects of this package by their dotted path; may be repeated.",
)
def cli(no_plugins: tuple[str, ...], trusted: tuple[str, ...]) -> None:
    """Train PyTorch models whose parts come from plugins."""
    apply_plugin_options(no_plugins, trusted)


def apply_plugin_options(no_plugins: tuple[str, ...], trusted: tuple[str, ...]) -> None:
    """Hand the options on by environment variables, which data workers and ranks inherit."""
    # An empty variable means no plugins already.
    if no_plugins and os.environ.get("MMX_PLUGINS") != "":
        others = [name for name in os.environ.get("MMX_PLUGINS", "").split(",") if name]
        os.environ["MMX_PLUGINS"] = ",".join([*others, *(f"-{name}" for name in no_plugins)])
    if trusted:
        others = [name for name in os.environ.get("MMX_TRUST", "").split(",") if name]
        os.environ["MMX_TRUST"] = ",".join([*others, *trusted])


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit. Ctrl-C exits with 130, without a traceback."""
    try:
        status = cli.main(argv, prog_name="mmx", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    sys.exit(status if isinstance(status, int) else 0)
