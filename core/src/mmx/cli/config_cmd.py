"""``mmx config``: show, compare and check configs."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Iterator
from typing import Any

import click

from mmx.cli.options import ManyOptionsCommand, cfg_options, load_config


@click.group()
def command() -> None:
    """Show, check and compare configs."""


@command.command(cls=ManyOptionsCommand)
@click.argument("config")
@click.option("--origin", is_flag=True, help="Each value with the file and line that set it.")
@click.option("--diff", "other", metavar="OTHER", help="Only what OTHER sets differently.")
@click.option("--resolve", is_flag=True, help="Each type with the class and file it stands for.")
@cfg_options
def show(
    config: str, origin: bool, other: str | None, resolve: bool, cfg_options: tuple[str, ...]
) -> None:
    """Print CONFIG with all that it inherits.

    CONFIG is a file, or `package::path` of an installed package.
    """
    cfg = load_config(config, cfg_options)
    if other is not None:
        _show_differences(cfg, load_config(other), with_origin=origin)
    elif origin:
        _show_origins(cfg)
    elif resolve:
        _show_resolved(cfg)
    else:
        click.echo(cfg.pretty_text, nl=False)


@command.command()
@click.argument("config")
@click.argument("other")
@click.option("--origin", is_flag=True, help="Also print where each value is set.")
def diff(config: str, other: str, origin: bool) -> None:
    """Print in what OTHER differs from CONFIG. Exits with 1 if it does."""
    if _show_differences(load_config(config), load_config(other), with_origin=origin):
        raise click.exceptions.Exit(1)


@command.command(cls=ManyOptionsCommand)
@click.argument("configs", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Unknown top-level keys are errors; so are warnings.")
@click.option(
    "--ignore",
    metavar="PATTERN",
    multiple=True,
    help="Leave out findings of keys like this, for example 'model.neck.*'; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print findings as JSON lines.")
@cfg_options
def check(
    configs: tuple[str, ...],
    strict: bool,
    ignore: tuple[str, ...],
    as_json: bool,
    cfg_options: tuple[str, ...],
) -> None:
    """Verify CONFIGS without running them: types, arguments, values, contradictions.

    Exits with 1 if there are errors.
    """
    from mmx.config.check import check_config, report

    failed = False
    for config in configs:
        try:
            cfg = load_config(config, cfg_options)
        except click.ClickException as error:
            if len(configs) == 1 and not as_json:
                raise
            failed = True
            if as_json:
                _echo_json(config, "", error.message, is_error=True)
            else:
                click.echo(f"{config}: {error.message}")
            continue
        findings = check_config(cfg, strict, ignore)
        failed |= any(finding.is_error or strict for finding in findings)
        if as_json:
            for finding in findings:
                place = str(finding.origin) if finding.origin is not None else ""
                _echo_json(config, finding.path, finding.message, finding.is_error, place)
        else:
            click.echo(f"{config}: {report(findings)}")
    if failed:
        raise click.exceptions.Exit(1)


def _echo_json(config: str, key: str, message: str, is_error: bool, origin: str = "") -> None:
    level = "error" if is_error else "warning"
    line = {"config": config, "key": key, "level": level, "origin": origin, "message": message}
    click.echo(json.dumps(line, ensure_ascii=False))


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, (list, tuple)) and any(
        isinstance(item, (dict, list, tuple)) for item in value
    ):
        for i, item in enumerate(value):
            yield from _leaves(item, (*path, i))
    else:
        yield path, value


def _show_origins(cfg: Any) -> None:
    from mmx.config.origin import Origins

    origins = Origins(cfg)
    rows = []
    for path, value in _leaves(cfg.to_dict()):
        found = origins.find(path)
        rows.append((f"{'.'.join(map(str, path))} = {value!r}", str(found) if found else "?"))
    width = min(max((len(text) for text, _ in rows), default=0), 60)
    for text, place in rows:
        click.echo(f"{text:<{width}}  # {place}")


def _show_differences(first: Any, second: Any, *, with_origin: bool) -> bool:
    from mmx.config.changes import ABSENT, diff
    from mmx.config.origin import Origins

    changes = diff(first, second)
    before, after = (Origins(first), Origins(second)) if with_origin else (None, None)
    for change in changes:
        places = []
        if before is not None and change.old is not ABSENT:
            places.append(str(before.find(change.path)))
        if after is not None and change.new is not ABSENT:
            places.append(str(after.find(change.path)))
        click.echo(f"{change}{'  # ' + ' -> '.join(places) if places else ''}")
    return bool(changes)


def _show_resolved(cfg: Any) -> None:
    from mmx.config.check.api import check_config
    from mmx.config.check.parts import PartChecker
    from mmx.config.format import dotted_name

    found: dict[str, Any] = {}
    resolve = PartChecker._resolve

    class Resolver(PartChecker):
        """Remembers what each type stands for."""

        def _resolve(self, kind: Any, place: Any) -> Any:
            target = resolve(self, kind, place)
            found[place.path] = target
            return target

    check_config(cfg, checker=Resolver())
    for path, value in _leaves(cfg.to_dict()):
        key = ".".join(map(str, path))
        line = f"{key} = {value!r}"
        target = found.get(key.removesuffix(".type")) if key.endswith(".type") else None
        if target is not None:
            place = ""
            with contextlib.suppress(TypeError, OSError):
                number = inspect.getsourcelines(target)[1]
                place = f" ({inspect.getsourcefile(target)}:{number})"
            line += f"  # {dotted_name(target)}{place}"
        click.echo(line)
