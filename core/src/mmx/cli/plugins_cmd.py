"""``mmx plugins``: list plugins and find out what ails them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click


@click.group()
def command() -> None:
    """List plugins and find out what ails them."""


def complete_scopes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the scopes of plugins that begin with what was typed."""
    from mmx_registry import plugins

    return [scope for scope in sorted(plugins.discovered()) if scope.startswith(incomplete)]


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List the installed plugins with their state. Nothing is imported."""
    from mmx_registry import plugins

    rows = [plugin.facts() for plugin in plugins.states()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    columns = ("scope", "state", "distribution", "version", "module", "reason")
    click.echo(table(columns, [[str(row[c]) for c in columns] for row in rows]))
    for name in plugins.unknown_choices():
        click.echo(f"MMX_PLUGINS names {name!r}, but no plugin is called so", err=True)


@command.command()
@click.argument("name", shell_complete=complete_scopes)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the plugin NAME (a scope): its state, its registries and its hooks."""
    from mmx_registry import doctor, lookup, plugins
    from mmx_registry.errors import PluginError

    if name not in plugins.discovered():
        from difflib import get_close_matches

        near = get_close_matches(name, plugins.discovered(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise click.ClickException(
            f"no plugin has the scope {name!r}.{hint} Installed: {', '.join(plugins.discovered())}"
        )
    # If it fails, its state tells.
    with suppress(PluginError):
        plugins.activate(name)
    plugin = next(p for p in plugins.states() if p.scope == name)
    facts: dict[str, Any] = plugin.facts()
    facts["registries"] = {
        registry.name: sorted(lookup.known(registry))
        for registry in doctor.registries_of(plugin)
        if registry._scope == name
    }
    facts["hooks"] = plugins.hooks_of(name)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if key == "registries":
            for registry, names in value.items():
                click.echo(f"{registry} registry: {', '.join(names) or '(nothing)'}")
        elif key == "import_time_s":
            if value is not None:
                click.echo(f"import time: {value * 1000:.0f} ms")
        elif isinstance(value, list):
            click.echo(f"{key}: {', '.join(value) or '(none)'}")
        elif value != "":
            click.echo(f"{key}: {value}")
    if plugin.error is not None:
        import traceback

        click.echo("".join(traceback.format_exception(plugin.error)).rstrip())


@command.command()
@click.option("--imports", is_flag=True, help="Import everything that plugins register, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(imports: bool, as_json: bool) -> int:
    """Look for what is wrong with the plugins; exit with 1 if something is."""
    from mmx_registry import doctor as physician
    from mmx_registry import plugins

    findings = physician.examine(imports=imports)
    if as_json:
        click.echo(json.dumps([finding.facts() for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.level}: {finding.scope or 'environment'}: {finding.text}")
        count = sum(finding.level == "error" for finding in findings)
        if not count:
            click.echo(f"{len(plugins.discovered())} plugins, no errors")
    return 1 if any(finding.level == "error" for finding in findings) else 0


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text in columns."""
    width = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join(lines)
