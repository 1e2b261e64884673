"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

CFG_OPTIONS = "--cfg-options"


class ManyOptionsCommand(click.Command):
    """A command whose ``--cfg-options`` takes several ``key=value``, as argparse's ``nargs='+'``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each further ``key=value`` that follows it."""
        result: list[str] = []
        taking = False
        for argument in args:
            if argument == CFG_OPTIONS:
                taking = True
                continue
            if taking and "=" in argument and not argument.startswith("-"):
                result += [CFG_OPTIONS, argument]
                continue
            taking = False
            result.append(argument)
        return super().parse_args(ctx, result)


def cfg_options(function: F) -> F:
    """Add ``--cfg-options key=value …``, handed over as a tuple of strings."""
    return click.option(
        CFG_OPTIONS,
        "cfg_options",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override settings of the config, for example 'optim_wrapper.optimizer.lr=0.01 model.depth=[1,1]'.",
    )(function)


def load_config(path: str, overrides: tuple[str, ...] = ()) -> Any:
    """Load a config file, or ``package::path`` of an installed package, and apply overrides.

    Raises:
        click.ClickException: There is no such file, or the text is wrong; the message says where.
    """
    from mmx.config import Config, DictAction, resolve_config_path

    try:
        config = Config.fromfile(resolve_config_path(path))
        options: dict[str, Any] = {}
        for item in overrides:
            key, separator, value = item.partition("=")
            if not separator or not key:
                raise click.ClickException(f"{CFG_OPTIONS} takes KEY=VALUE, got {item!r}")
            options[key] = DictAction._parse_iterable(value)
        if options:
            config.merge_from_dict(options)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError) as error:
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise click.ClickException(f"{path}: {text}{notes}") from error
    return config
