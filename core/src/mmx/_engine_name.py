"""The name by which the engine calls itself in log lines, default instances and default scopes."""

from __future__ import annotations

_name = "mmx"


def engine_name() -> str:
    """Return the name: ``"mmx"``, unless the process uses the engine under another one."""
    return _name


def set_engine_name(name: str) -> None:
    """Let the engine go by another name, for packages that stand in for an older one.

    Args:
        name: The name; it should be a scope too (see `mmx_registry.scope.alias_scope`).
    """
    global _name
    _name = name
