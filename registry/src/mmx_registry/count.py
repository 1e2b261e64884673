"""Counting what is registered."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmx_registry import lookup
from mmx_registry.registry import Registry

logger = logging.getLogger("mmx_registry")


def traverse_registry_tree(registry: Registry[Any], verbose: bool = True) -> list[dict[str, Any]]:
    """Return, for each node of a registry's tree, its scope, its size and its names by folder.

    Nothing is imported; names that only running a file can tell are missing until it has run.

    Args:
        registry: Any node of the tree.
        verbose: Log a line for each node.
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
            logger.info(
                "Find %d modules in %s's '%s' registry ", len(names), node._scope, node._name
            )
        pending[:0] = node._children.values()
    return result


def count_registries(
    registries: Mapping[str, Registry[Any]], save_path: str | None = None, verbose: bool = True
) -> dict[str, Any]:
    """Return what is registered in the trees of the registries given, with the date.

    Args:
        registries: Root registries by the name to report them under.
        save_path: A folder for ``modules_statistic_results.json``.
        verbose: Log a line for each node.
    """
    result: dict[str, Any] = {
        "scan_date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        "registries": {
            name: traverse_registry_tree(registry, verbose) for name, registry in registries.items()
        },
    }
    if save_path is not None:
        path = Path(save_path) / "modules_statistic_results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2), encoding="utf-8")
        if verbose:
            logger.info("Result has been saved to %s", path)
    return result
