"""Counting what is registered, and the console script ``count-registered-modules``."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmx_registry import lookup, plugins
from mmx_registry.registry import Registry

FILE_NAME = "modules_statistic_results.json"


def traverse_registry_tree(registry: Registry[Any], verbose: bool = True) -> list[dict[str, Any]]:
    """Return, for each node of a registry's tree, its scope, its size and its names by folder.

    Nothing is imported; names that only running a file can tell are missing until it has run.

    Args:
        registry: Any node of the tree.
        verbose: Print a line for each node.
    """
    result = []
    pending = [registry.root]
    while pending:
        node = pending.pop(0)
        names = lookup.known(node)
        row: dict[str, Any] = {"num_modules": len(names), "scope": node._scope}
        for name, found in names.items():
            folder = "/".join(found.module.split(".")[:-1])
            row.setdefault(folder, []).append(name)
        result.append(row)
        if verbose:
            print(f"Find {len(names)} modules in {node._scope}'s '{node._name}' registry")
        pending[:0] = node._children.values()
    return result


def count_registries(
    registries: Mapping[str, Registry[Any]], save_path: str | None = None, verbose: bool = True
) -> dict[str, Any]:
    """Return what is registered in the trees of the registries given, with the date.

    Args:
        registries: Root registries by the name to report them under.
        save_path: A folder for ``modules_statistic_results.json``.
        verbose: Print a line for each node.
    """
    result: dict[str, Any] = {
        "scan_date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        "registries": {
            name: traverse_registry_tree(registry, verbose) for name, registry in registries.items()
        },
    }
    if save_path is not None:
        path = save(result, save_path)
        if verbose:
            print(f"Result has been saved to {path}")
    return result


def save(result: Mapping[str, Any], folder: str) -> Path:
    """Write a count as JSON into a folder; return the file."""
    path = Path(folder) / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2), encoding="utf-8")
    return path


def root_registries() -> dict[str, Registry[Any]]:
    """Return the root registries that plugins declare, by the name of their variable.

    Every plugin that may be used is made active, so that its child registries are in the trees.
    """
    found: dict[str, Registry[Any]] = {}
    # Plugins import the roots under names of their own.
    seen: set[Registry[Any]] = set()
    for plugin in plugins.activate_all():
        if plugin.state != "active":
            continue
        module = sys.modules.get(plugin.module.partition(":")[0])
        for name, value in sorted(vars(module).items() if module is not None else ()):
            if isinstance(value, Registry) and value._parent is None and value not in seen:
                seen.add(value)
                # Two trees may call their roots the same.
                found[f"{value.scope}.{name}" if name in found else name] = value
    return dict(sorted(found.items()))


def unread(registries: Mapping[str, Registry[Any]]) -> list[str]:
    """Return files that may register more names than a count without imports can see."""
    files: set[str] = set()
    for registry in registries.values():
        pending = [registry.root]
        while pending:
            node = pending.pop()
            files |= {
                item.file
                for item in lookup.opaque_files(node)
                if item.module not in sys.modules and item.target
            }
            pending.extend(node._children.values())
    return sorted(files)


def table(result: Mapping[str, Any]) -> str:
    """Return a count as a table: one row for each registry, one column for each scope."""
    scopes: dict[str, None] = {}
    rows: list[tuple[str, dict[str, int]]] = []
    for name, nodes in result["registries"].items():
        counts: dict[str, int] = {}
        for node in nodes:
            scopes[node["scope"]] = None
            counts[node["scope"]] = counts.get(node["scope"], 0) + node["num_modules"]
        rows.append((name, counts))
    head = ["registry", *scopes, "total"]
    lines = [
        [name, *(str(counts.get(scope, "")) for scope in scopes), str(sum(counts.values()))]
        for name, counts in rows
    ]
    sums = [sum(counts.get(scope, 0) for _, counts in rows) for scope in scopes]
    lines.append(["total", *map(str, sums), str(sum(sums))])
    width = [max(len(row[i]) for row in [head, *lines]) for i in range(len(head))]

    def text(row: list[str]) -> str:
        first, *rest = row
        cells = [first.ljust(width[0])]
        cells += [cell.rjust(w) for cell, w in zip(rest, width[1:], strict=True)]
        return "  ".join(cells).rstrip()

    rule = "-" * len(text(["-" * w for w in width]))
    return "\n".join([text(head), rule, *map(text, lines[:-1]), rule, text(lines[-1])])


def _import_everything(registries: Mapping[str, Registry[Any]]) -> None:
    """Import all files of all locations; say on standard error which cannot be."""
    for registry in registries.values():
        pending = [registry.root]
        while pending:
            node = pending.pop()
            try:
                node.import_from_location()
            except Exception as error:  # noqa: BLE001 - the rest is counted all the same
                print(
                    f"{node._scope}::{node._name}: {type(error).__name__}: {error}", file=sys.stderr
                )
            pending.extend(node._children.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``count-registered-modules``."""
    parser = argparse.ArgumentParser(
        prog="count-registered-modules",
        description="Count what is registered in each registry and scope, without importing it.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", metavar="DIR", help=f"write {FILE_NAME} into this folder")
    parser.add_argument(
        "--imports",
        action="store_true",
        help="import everything first, to count computed names too",
    )
    arguments = parser.parse_args(argv)
    roots = root_registries()
    if arguments.imports:
        _import_everything(roots)
    result = count_registries(roots, verbose=False)
    if arguments.save is not None:
        path = save(result, arguments.save)
        print(f"Result has been saved to {path}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(result, indent=2))
    elif sys.stdout.isatty():
        print(table(result))
    else:
        for name, nodes in result["registries"].items():
            for node in nodes:
                print(
                    f"Find {node['num_modules']} modules in {node['scope']}'s "
                    f"'{roots[name].name}' registry"
                )
    for problem in plugins.problems():
        print(f"plugin {problem.scope!r} is {problem.state}: {problem.reason}", file=sys.stderr)
    files = unread(roots)
    if files and not arguments.json:
        print(
            f"{len(files)} files compute the names that they register; --imports counts them too.",
            file=sys.stderr,
        )
    return 0
