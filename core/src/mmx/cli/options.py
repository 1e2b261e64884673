"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

CFG_OPTIONS = "--cfg-options"
_BARE = re.compile(r"[A-Za-z_]\w*(\.\w+)*=")


class ManyOptionsCommand(click.Command):
    """A command whose ``--cfg-options`` takes several ``key=value``, as argparse's ``nargs='+'``.

    A bare ``model.depth=50`` is an override, too.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the option before each ``key=value``."""
        result: list[str] = []
        taking = False
        # What follows one of these is its value; others do without one, or can.
        valued = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag and not option.count
            if not getattr(option, "_flag_needs_value", False)
            for name in option.opts
        }
        for argument in args:
            if argument == CFG_OPTIONS:
                taking = True
                continue
            is_pair = "=" in argument and not argument.startswith("-")
            follows = bool(result) and result[-1] in valued
            if is_pair and (taking or (not follows and _BARE.match(argument))):
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
    from mmx.config import Config
    from mmx.config.overrides import parse_overrides

    try:
        config = Config.fromfile(path)
        if overrides:
            config.merge_from_dict(parse_overrides(config, overrides))
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, ImportError) as error:
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise click.ClickException(f"{path}: {text}{notes}") from error
    return config
