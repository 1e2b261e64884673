"""Plugins: which scopes installed distributions announce, and how they come alive."""

from __future__ import annotations

import importlib
import sys
import threading
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mmx_registry import index, trust
from mmx_registry.registry import Registry, undo_on_error

GROUP = "mmx.plugins"

_lock = threading.RLock()
_entry_points: dict[str, EntryPoint] | None = None
_active: set[str] = set()


def discovered() -> dict[str, EntryPoint]:
    """Return the announced plugins by scope."""
    global _entry_points
    if _entry_points is None:
        with _lock:
            _entry_points = {point.name: point for point in entry_points(group=GROUP)}
    return _entry_points


def activate(scope: str) -> bool:
    """Make the registries of a scope exist; return whether anything declares it."""
    if scope in _active:
        return True
    point = discovered().get(scope)
    if point is not None:
        trust.add(point.module.partition(".")[0])
        with undo_on_error():
            point.load()
    else:
        spec = index.find_spec(f"{scope}.registry") if scope.isidentifier() else None
        if spec is None:
            return False
        with undo_on_error():
            importlib.import_module(f"{scope}.registry")
    _active.add(scope)
    return True


def owner_of(module: str) -> str:
    """Return the distribution that a module belongs to, or its top-level package."""
    return module.partition(".")[0]


def register_all_modules(node: Registry[Any]) -> None:
    """Call ``SCOPE.utils.register_all_modules(False)`` of packages that have no locations."""
    scope = node._scope
    if scope not in sys.modules or index.find_spec(f"{scope}.utils") is None:
        return
    function = getattr(importlib.import_module(f"{scope}.utils"), "register_all_modules", None)
    if function is not None:
        function(False)
