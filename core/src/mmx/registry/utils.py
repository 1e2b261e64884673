"""Counting and listing what is registered, and the default scope."""

from __future__ import annotations

from typing import Any

from mmx_registry import count_registries, init_default_scope, traverse_registry_tree
from mmx_registry.registry import Registry

__all__ = ["count_registered_modules", "init_default_scope", "traverse_registry_tree"]


def count_registered_modules(save_path: str | None = None, verbose: bool = True) -> dict[str, Any]:
    """Return what is registered in all trees of mmx's root registries.

    Nothing is imported; names that only running a file can tell are missing until it has run.

    Args:
        save_path: A folder for ``modules_statistic_results.json``.
        verbose: Print a line for each registry.
    """
    from mmx.registry import root

    roots = {name: value for name, value in vars(root).items() if isinstance(value, Registry)}
    return count_registries(dict(sorted(roots.items())), save_path, verbose)
