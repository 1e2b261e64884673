"""The name by which the engine calls itself in log lines, default instances and default scopes."""

from __future__ import annotations

from collections.abc import Mapping

_name = "mmx"
_versions: dict[str, str] = {}


def engine_name() -> str:
    """Return the name: ``"mmx"``, unless the process uses the engine under another one."""
    return _name


def set_engine_name(name: str, versions: Mapping[str, str] | None = None) -> None:
    """Let the engine go by another name, for packages that stand in for an older one.

    Args:
        name: The name; it should be a scope too (see `mmx_registry.scope.alias_scope`).
        versions: What lists of versions show beside our own: title -> version.
    """
    global _name, _versions
    _name = name
    _versions = dict(versions or {})


def other_versions() -> dict[str, str]:
    """Return the versions that `set_engine_name` was told of."""
    return dict(_versions)
