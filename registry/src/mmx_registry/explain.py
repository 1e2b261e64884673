"""Error messages: what was looked for and where, what is near, and where in the config it stood."""

from __future__ import annotations

import difflib
from typing import Any

from mmx_registry import index, plugins, trust
from mmx_registry.errors import NotFoundError, UnknownScopeError, UntrustedError
from mmx_registry.registry import Registry, all_registries


def known_scopes() -> list[str]:
    """Return the scopes that plugins announce and registries have."""
    return sorted({*plugins.discovered(), *(r._scope for r in all_registries())})


def unknown_scope(registry: Registry[Any], scope: str) -> UnknownScopeError:
    """Return the error of a scope that nothing declares."""
    scopes = known_scopes()
    near = difflib.get_close_matches(scope, scopes, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return UnknownScopeError(
        f"there is no scope {scope!r}: no installed plugin, package or registry declares it."
        f"{hint} Scopes: {', '.join(scopes)}. Is the package of {scope!r} installed?",
        scope=scope,
        known=scopes,
        registry=registry._name,
    )


def near_names(registry: Registry[Any], name: str) -> list[tuple[str, str]]:
    """Return close names in every scope of the tree as (scope, name), nearest first."""
    from mmx_registry import lookup

    found: list[tuple[str, str]] = []
    pending = [registry.root]
    while pending:
        node = pending.pop()
        found += [(node._scope, known) for known in lookup.known_names(node)]
        pending.extend(node._children.values())
    lower = name.lower()
    scored = [
        (difflib.SequenceMatcher(None, lower, other.lower()).ratio(), scope, other)
        for scope, other in found
    ]
    best = sorted((item for item in scored if item[0] >= 0.6), key=lambda item: (-item[0], item))
    return [(scope, other) for _, scope, other in best[:5]]


def not_found(registry: Registry[Any], key: str) -> NotFoundError:
    """Return the error of a key that `Registry.get` does not find."""
    from mmx_registry import lookup

    scope, rest = Registry.split_scope_key(key)
    node = registry if scope is None else lookup.node_for_prefix(registry, scope)
    if node is None:
        assert scope is not None
        if index.find_spec(scope) is not None and scope not in trust.trusted_packages():
            return UntrustedError(
                f"{key!r} is neither registered nor allowed as a dotted path: there is no scope "
                f"{scope!r}, and the package {scope!r} is not trusted. Trust it by --trust {scope} "
                f"or MMX_TRUST={scope}, or use the class itself in a Python config.",
                path=key,
                package=scope,
                registry=registry._name,
                scope=registry._scope,
            )
        if scope in trust.trusted_packages():
            return NotFoundError(
                f"{key!r} is not in the {registry._name!r} registry, and {scope!r} has no such object",
                key=key,
                registry=registry._name,
                scope=registry._scope,
            )
        return unknown_scope(registry, scope)
    searched = [other._scope for other in lookup.chain(node)]
    near = near_names(registry, rest)
    message = (
        f"{rest} is not in the {node._scope}::{registry._name} registry; searched the scopes "
        f"{', '.join(searched)}."
    )
    if near:
        message += " Close names: " + ", ".join(f"{s}.{n}" for s, n in near) + "."
    message += (
        " Is the name right, and is the file that registers it in one of the registry's locations "
        "or imported (custom_imports)?"
    )
    return NotFoundError(
        message,
        key=key,
        registry=registry._name,
        scope=node._scope,
        searched=searched,
        near=near,
    )


def annotate(
    error: Exception, cfg: Any, kind: Any, make: Any, args: dict[str, Any], node: Registry[Any]
) -> None:
    """Add to an error where in the config it came from."""
