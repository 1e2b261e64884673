"""``mmx registry``: search what is registered, in all plugins, without importing it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from mmx.cli.plugins_cmd import table

if TYPE_CHECKING:
    from mmx_registry import Registry
    from mmx_registry.lookup import Known


@click.group()
def command() -> None:
    """Search what is registered."""


def _nodes(root: Registry[Any]) -> Iterator[Registry[Any]]:
    pending = [root]
    while pending:
        node = pending.pop(0)
        yield node
        pending[:0] = node.children.values()


def _everything() -> Iterator[tuple[str, Known]]:
    """Yield (name of the root's variable, what is known) of every registration."""
    from mmx_registry import lookup
    from mmx_registry.count import root_registries

    for variable, root in root_registries().items():
        for node in _nodes(root):
            for _, known in sorted(lookup.known(node).items()):
                yield variable, known


def _row(variable: str, known: Known) -> dict[str, Any]:
    from mmx_registry import plugins

    return {
        "registry": variable,
        "scope": known.registry.scope,
        "name": known.name,
        "module": known.module,
        "file": known.file,
        "line": known.line,
        "distribution": plugins.owner_of(known.module),
    }


def complete_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return registered names, with their scope, that begin with what was typed.

    Only sources are read, so that completion imports no torch.
    """
    names = {f"{known.registry.scope}.{known.name}" for _, known in _everything()}
    matching = {name for name in names if name.startswith(incomplete)}
    if not matching:
        # Whoever typed a bare name gets it completed with its scope.
        matching = {name for name in names if name.partition(".")[2].startswith(incomplete)}
    return sorted(matching)


def complete_patterns(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return ``REGISTRY/name`` that begin with what was typed."""
    if "/" not in incomplete:
        found = {f"{variable}/" for variable, _ in _everything()}
    else:
        found = {f"{variable}/{known.name}" for variable, known in _everything()}
    return sorted(name for name in found if name.startswith(incomplete))


def complete_registries(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return names of root registries that begin with what was typed."""
    from mmx_registry.count import root_registries

    return [name for name in root_registries() if name.startswith(incomplete)]


def matches(pattern: str, variable: str, known: Known) -> bool:
    """Whether ``REGISTRY/name``, ``scope.name`` or ``name`` (with ``*`` and ``?``) fits.

    Letters match whatever their case.
    """
    registry, slash, name = pattern.lower().rpartition("/")
    if slash and not fnmatchcase(variable.lower(), registry):
        return False
    from mmx_registry.scope import names_of_scope, true_scope

    own = known.name.lower()
    scope = true_scope(known.registry.scope)
    return fnmatchcase(own, name) or any(
        fnmatchcase(f"{each.lower()}.{own}", name) for each in (scope, *names_of_scope(scope))
    )


@command.command("list")
@click.argument("pattern", default="*", shell_complete=complete_patterns)
@click.option("--imports", is_flag=True, help="Import files that compute the names they register.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(pattern: str, imports: bool, as_json: bool) -> int:
    """List names that fit PATTERN, such as 'MODELS/*res*' or 'mmx_vision.*'. Imports no torch."""
    if imports:
        _import_computed()
    rows = [_row(v, known) for v, known in _everything() if matches(pattern, v, known)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        lines = [
            [r["registry"], f"{r['scope']}.{r['name']}", _place(r["file"], r["line"])] for r in rows
        ]
        click.echo(table(("registry", "name", "file"), lines))
    else:
        from difflib import get_close_matches

        name = pattern.rpartition("/")[2].strip("*?")
        names = sorted({known.name for _, known in _everything()})
        near = get_close_matches(name, names, n=3)
        hint = f" Close names: {', '.join(near)}." if near else ""
        click.echo(f"nothing is registered that fits {pattern!r}.{hint}", err=True)
    return 0 if rows else 1


def _place(file: str, line: int) -> str:
    return f"{file}:{line}" if file and line else file


@command.command()
@click.argument("name", shell_complete=complete_names)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show what NAME stands for: signature, docstring, file, plugin, and who overrides it."""
    from mmx_registry import explain
    from mmx_registry.scope import true_scope

    scope, dot, own = name.rpartition(".")

    def look() -> list[tuple[str, Known]]:
        return [
            (variable, known)
            for variable, known in _everything()
            if known.name == own
            and (not dot or true_scope(known.registry.scope) == true_scope(scope))
        ]

    found = look()
    if not found:
        _import_computed()
        found = look()
    if not found:
        from difflib import get_close_matches

        names = sorted({k.name for _, k in _everything()})
        near = get_close_matches(own, names, n=3)
        hint = f" Close names: {', '.join(near)}." if near else ""
        raise click.ClickException(f"{name!r} is not registered.{hint}")
    entries = []
    for variable, known in found:
        entry = _row(variable, known)
        try:
            obj = known.registry.resolve(known.name)
        except Exception as error:  # noqa: BLE001 - shown instead of the signature
            entry["error"] = f"{type(error).__name__}: {error}"
        else:
            arguments = explain.accepted_arguments(obj)
            entry["signature"] = None if arguments is None else f"({', '.join(arguments)})"
            document = (getattr(obj, "__doc__", None) or "").strip()
            entry["doc"] = document.splitlines()[0] if document else ""
            file, line = explain.source_location(obj)
            if file:
                entry["file"], entry["line"] = file, line
            entry["defined_in"] = f"{obj.__module__}.{getattr(obj, '__qualname__', own)}"
        entry["overridden_by"] = _overriders(known)
        entries.append(entry)
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        title = f"{entry['scope']}.{entry['name']}"
        click.echo(f"{title}{entry.get('signature') or ''}")
        if entry.get("doc"):
            click.echo(f"  {entry['doc']}")
        if "error" in entry:
            click.echo(f"  cannot be imported: {entry['error']}")
        click.echo(f"  registry: {entry['registry']}")
        click.echo(f"  file: {_place(entry['file'], entry['line'])}")
        click.echo(f"  plugin: {entry['distribution']}")
        if entry["overridden_by"]:
            click.echo(f"  overridden by: {', '.join(entry['overridden_by'])}")


def _import_computed() -> None:
    """Import the files whose names only running them can tell."""
    from mmx_registry import lookup
    from mmx_registry.count import root_registries

    for root in root_registries().values():
        for node in _nodes(root):
            for item in lookup.opaque_files(node):
                try:
                    lookup.import_file(item.module)
                except Exception as error:  # noqa: BLE001 - the others are listed all the same
                    click.echo(f"{item.file}: {type(error).__name__}: {error}", err=True)


def _overriders(known: Known) -> list[str]:
    """Return names of descendants that hide this one in their scope."""
    from mmx_registry import lookup

    return [
        f"{node.scope}.{known.name}"
        for node in _nodes(known.registry)
        if node is not known.registry and known.name in lookup.known_names(node)
    ]


@command.command()
@click.argument("registry", required=False, shell_complete=complete_registries)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tree(registry: str | None, as_json: bool) -> None:
    """Print the tree of scopes below each root registry, or below REGISTRY, with counts."""
    from mmx_registry.count import root_registries

    roots = root_registries()
    if registry is not None:
        roots = {_root(registry): roots[_root(registry)]}
    if as_json:
        click.echo(json.dumps({name: _branch(root) for name, root in roots.items()}, indent=2))
        return
    for name, root in roots.items():
        click.echo(f"{name}")
        _print_branch(_branch(root), "")


def _root(name: str) -> str:
    from mmx_registry.count import root_registries

    roots = root_registries()
    for known in roots:
        if name.lower() in (known.lower(), roots[known].name.lower()):
            return known
    raise click.ClickException(f"there is no registry {name!r}; there are {', '.join(roots)}")


def _branch(node: Registry[Any]) -> dict[str, Any]:
    from mmx_registry import lookup

    return {
        "scope": node.scope,
        "num_modules": len(lookup.known_names(node)),
        "locations": list(node.locations),
        "children": [_branch(child) for child in node.children.values()],
    }


def _print_branch(branch: dict[str, Any], indent: str) -> None:
    click.echo(f"{indent}  {branch['scope']}: {branch['num_modules']}")
    for child in branch["children"]:
        _print_branch(child, f"{indent}  ")


@command.command()
@click.argument("registry", shell_complete=complete_registries)
@click.option("--output", "-o", metavar="FILE", help="Write to this file.")
def schema(registry: str, output: str | None) -> None:
    """Print a JSON Schema of what REGISTRY builds, for editors that check YAML or JSON."""
    from mmx_registry.count import root_registries
    from mmx_registry.schema import json_schema

    text = json.dumps(json_schema(root_registries()[_root(registry)]), indent=2)
    if output is None:
        click.echo(text)
        return
    from pathlib import Path

    Path(output).write_text(f"{text}\n", encoding="utf-8")
    click.echo(f"{output} written", err=True)
