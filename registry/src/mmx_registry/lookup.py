"""How a key is found: the search order of a tree, and the imports that it takes."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmx_registry import index, plugins, trust
from mmx_registry.errors import NotDeliveredError, PluginError, UnknownScopeError
from mmx_registry.index import Entry, Opaque
from mmx_registry.registry import Registry, all_registries, undo_on_error
from mmx_registry.scope import true_scope

logger = logging.getLogger("mmx_registry")


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a registered name without importing it.

    Attributes:
        name: The name.
        registry: Its registry.
        module: The module that registers it.
        file: Its file, or "" if it was not defined in one.
        line: The line, 1-based, or 0.
        qualname: The class or function, or "".
        object: The object, if it has been imported.
    """

    name: str
    registry: Registry[Any]
    module: str
    file: str
    line: int
    qualname: str
    object: Any


# --------------------------------------------------------------------------- names


def find(registry: Registry[Any], key: str) -> Any:
    """Return what a key stands for, or None. The search order is that of MMEngine.

    A name without a prefix: the registry, then its ancestors. ``scope.Name`` with the registry's
    own scope: the registry only. With another scope: the node of that scope, from there up. Last,
    the dotted path of an object in a trusted package.
    """
    # The dict of now: if the tree changes meanwhile, it is replaced and the result not kept.
    cache = registry._cache
    found = _find(registry, key)
    if found is not None:
        cache[key] = found
        return found
    if "." not in key:
        return None
    found = trust.resolve(key)
    if found is not None and trust.is_lasting(key):
        cache[key] = found
    return found


def _find(registry: Registry[Any], key: str) -> Any:
    scope, rest = Registry.split_scope_key(key)
    if scope is None:
        return _find_in_chain(registry, key)
    if true_scope(scope) == registry._scope:
        if "." not in rest:
            return _find_own(registry, rest, late=True)
        child = registry._children.get(rest.partition(".")[0])
        return None if child is None else _find(child, rest.partition(".")[2])
    node = node_for_prefix(registry, scope)
    if node is None:
        return None
    if node._parent is None and "." not in rest:
        # As if asked at the root with the root's own prefix.
        return _find_own(node, rest, late=True)
    return _find(node, rest)


def node_for_prefix(registry: Registry[Any], scope: str) -> Registry[Any] | None:
    """Return the node that a prefix names, activating the plugin of that scope; or None."""
    node = _search(registry, scope)
    if node is None and plugins.activate(scope):
        node = _search(registry, scope)
    return node


def _search(registry: Registry[Any], scope: str) -> Registry[Any] | None:
    """The registry's own child first, then its ancestors' nearest, then anywhere in the tree."""
    # Here, since activating a plugin may have given the scope a meaning.
    scope = true_scope(scope)
    node: Registry[Any] | None = registry
    while node is not None:
        if scope == node._scope:
            return node
        if scope in node._children:
            return node._children[scope]
        node = node._parent
    return registry.root._search_child(scope)


def node_of(registry: Registry[Any], scope: str) -> Registry[Any]:
    """Return the node that a build in a scope looks names up in.

    Raises:
        UnknownScopeError: Nothing declares the scope.
        PluginError: Its plugin failed or may not be used.
    """
    if true_scope(scope) == registry._scope:
        return registry
    root = registry.root
    node = root._search_child(scope)
    if node is not None:
        return node
    if plugins.activate(scope):
        if true_scope(scope) == registry._scope:
            return registry
        node = root._search_child(scope)
        # An empty registry is false, so `or` would not do.
        return registry if node is None else node
    if any(other._scope == true_scope(scope) for other in all_registries()):
        # The scope has no node in this tree: a plugin without parts of this kind.
        return registry
    from mmx_registry import explain

    raise explain.unknown_scope(registry, scope)


def chain(registry: Registry[Any]) -> Iterator[Registry[Any]]:
    """Yield the registry and its ancestors."""
    node: Registry[Any] | None = registry
    while node is not None:
        yield node
        node = node._parent


def _find_in_chain(registry: Registry[Any], name: str) -> Any:
    failures: list[Exception] = []
    for node in chain(registry):
        found = _find_own(node, name, failures=failures)
        if found is not None:
            return _despite(failures, found)
    # Registrations that leave no trace in the files of a location, such as those of a helper that
    # its `__init__` calls: import the locations themselves, once.
    for node in chain(registry):
        if node._imported:
            continue
        _import_locations(node, failures)
        found = node._module_dict.get(name)
        if found is not None:
            return _despite(failures, found)
    if failures:
        raise failures[0]
    return None


def _despite(failures: list[Exception], found: Any) -> Any:
    for failure in failures:
        logger.warning("a file of a registry's locations failed to import: %s", failure)
    return found


def _find_own(
    node: Registry[Any],
    name: str,
    *,
    late: bool = False,
    failures: list[Exception] | None = None,
) -> Any:
    """Look in one node; import the file that registers the name, if the index knows it.

    Args:
        node: The node.
        name: The name, without a prefix.
        late: Import the locations whole if nothing else helps.
        failures: Where to put errors of files that need not concern this name; without it they
            are raised.
    """
    found = node._module_dict.get(name)
    if found is not None:
        return found
    missed: Entry | None = None
    for entry in _entries(node, name):
        if entry.module in node._seen and entry.conditional:
            missed = entry
            continue
        import_file(entry.module)
        found = node._module_dict.get(name)
        if found is not None:
            return found
        node._seen.add(entry.module)
        # Now that the file has run, its registry is known for certain.
        if _matches(entry.target, node):
            missed = entry
            if not entry.conditional:
                raise not_delivered(node, name, entry)
    own_failures: list[Exception] = []
    for item in opaque_files(node):
        if item.module in node._seen:
            continue
        try:
            import_file(item.module)
        except Exception as error:  # noqa: BLE001 - it may concern other names only
            own_failures.append(error)
            continue
        node._seen.add(item.module)
        found = node._module_dict.get(name)
        if found is not None:
            break
    if found is None and late and not node._imported:
        _import_locations(node, own_failures)
        found = node._module_dict.get(name)
    if found is not None:
        return _despite(own_failures, found)
    if failures is None:
        if own_failures:
            raise own_failures[0]
        if missed is not None:
            raise not_delivered(node, name, missed)
    else:
        failures += own_failures
        if missed is not None:
            failures.append(not_delivered(node, name, missed))
    return None


def not_delivered(node: Registry[Any], name: str, entry: Entry) -> NotDeliveredError:
    """Return the error of a name that the index promises and the import does not deliver."""
    why = (
        "The registration stands under a condition (`if` or `try`) that did not hold: is an "
        "optional package missing?"
        if entry.conditional
        else "Is the class registered into another registry, or removed afterwards?"
    )
    return NotDeliveredError(
        f"{entry.file}:{entry.line} registers {name!r} in the {node._name!r} registry of scope "
        f"{node._scope!r}, but importing {entry.module} did not. {why}",
        key=name,
        registry=node._name,
        scope=node._scope,
        file=entry.file,
        line=entry.line,
    )


# --------------------------------------------------------------------------- the index


def _matches(target: str, node: Registry[Any]) -> bool | None:
    """Whether ``"module:attribute"`` is this registry; None if that cannot be told yet."""
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        return None
    value: Any = None
    parts = attribute.split(".")
    # `import pkg.registry as r` and `from pkg import registry` name modules on the way.
    while True:
        known = sys.modules.get(module)
        if known is None:
            return None
        if not parts:
            return None
        value = vars(known).get(parts[0])
        if value is None:
            module, parts = f"{module}.{parts[0]}", parts[1:]
            continue
        break
    for part in parts[1:]:
        value = getattr(value, "__dict__", {}).get(part)
        if value is None:
            return None
    return value is node


def _entries(node: Registry[Any], name: str) -> list[Entry]:
    """Return the registrations of a name into this node; certain ones first."""
    certain: list[Entry] = []
    possible: list[Entry] = []
    for location in node._locations:
        found = index.index_of(location)
        if found is None:
            continue
        for entry in found.find(name):
            match = _matches(entry.target, node)
            if match:
                certain.append(entry)
            elif match is None and _is_likely(entry.target, node):
                possible.append(entry)
    return certain + possible


def _is_likely(target: str, node: Registry[Any]) -> bool:
    """Whether a registry that cannot be looked at yet is probably this one, by its name."""
    module, _, attribute = target.partition(":")
    return module.partition(".")[0] == node._origin.partition(".")[0] and attribute.rpartition(".")[
        2
    ] in _attribute_names(node)


def _attribute_names(node: Registry[Any]) -> set[str]:
    """Return the attributes of the defining module that hold this registry."""
    module = sys.modules.get(node._origin)
    if module is None:
        return set()
    return {name for name, value in list(vars(module).items()) if value is node}


def opaque_files(node: Registry[Any]) -> list[Opaque]:
    """Return the files that may register names into this node which parsing cannot tell."""
    found: list[Opaque] = []
    for location in node._locations:
        listing = index.index_of(location)
        if listing is None:
            found.append(Opaque("", location, "", 1))
            continue
        found += [item for item in listing.opaque if _matches(item.target, node) is not False]
    return found


def import_file(module: str) -> None:
    """Import one module of a location; if it fails, take back what it had registered."""
    if module in sys.modules and not _is_initializing(module):
        return
    with undo_on_error(), plugins.random_kept():
        importlib.import_module(module)


def _is_initializing(module: str) -> bool:
    spec = getattr(sys.modules[module], "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def _import_locations(node: Registry[Any], failures: list[Exception]) -> None:
    """Import the locations of a node themselves, and call what older packages have for that."""
    node._imported = True
    for location in node._locations:
        try:
            import_file(location)
        except Exception as error:  # noqa: BLE001 - reported by the caller
            failures.append(error)
    if not node._locations:
        try:
            plugins.register_all_modules(node)
        except Exception as error:  # noqa: BLE001 - reported by the caller
            failures.append(error)


def import_all(node: Registry[Any]) -> None:
    """Import every file of a node's locations that registers into it.

    Raises:
        Exception: The first error, after the rest has been imported.
    """
    failures: list[Exception] = []
    modules: dict[str, None] = {}
    for location in node._locations:
        modules[location] = None
        listing = index.index_of(location)
        if listing is None:
            continue
        for entries in listing.entries.values():
            for entry in entries:
                if _matches(entry.target, node) is not False:
                    modules[entry.module] = None
    for item in opaque_files(node):
        modules[item.module] = None
    for module in modules:
        try:
            import_file(module)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)
        else:
            node._seen.add(module)
    node._imported = True
    if not node._locations:
        plugins.register_all_modules(node)
    if failures:
        for other in failures[1:]:
            failures[0].add_note(f"also: {type(other).__name__}: {other}")
        raise failures[0]


def known(node: Registry[Any]) -> dict[str, Known]:
    """Return what is known of a node's own names, without importing anything."""
    result: dict[str, Known] = {}
    for location in node._locations:
        listing = index.index_of(location)
        if listing is None:
            continue
        for name, entries in listing.entries.items():
            for entry in entries:
                match = _matches(entry.target, node)
                if match or (match is None and _is_likely(entry.target, node)):
                    result[name] = Known(
                        name,
                        node,
                        entry.module,
                        entry.file,
                        entry.line,
                        entry.qualname,
                        node._module_dict.get(name),
                    )
                    break
    for name, obj in list(node._module_dict.items()):
        if name in result:
            continue
        module = getattr(obj, "__module__", None) or ""
        file = getattr(sys.modules.get(module), "__file__", None) or ""
        code = getattr(obj, "__code__", None)
        line = code.co_firstlineno if code is not None else 0
        result[name] = Known(
            name, node, module, file, line, getattr(obj, "__qualname__", name), obj
        )
    return result


def known_names(node: Registry[Any]) -> set[str]:
    """Return the node's own names, without importing anything."""
    return set(known(node))


def has(registry: Registry[Any], key: str) -> bool:
    """Whether `find` would find a key; imports only what parsing cannot tell."""
    if key in registry._cache:
        return True
    scope, rest = Registry.split_scope_key(key)
    if scope is None:
        for node in chain(registry):
            if key in node._module_dict or any(not e.conditional for e in _entries(node, key)):
                return True
    elif "." not in rest:
        try:
            is_own = true_scope(scope) == registry._scope
            target = registry if is_own else node_for_prefix(registry, scope)
        except PluginError:
            return False
        if target is not None:
            own = target is registry or target is registry.root
            for node in [target] if own else chain(target):
                if rest in node._module_dict or any(
                    not e.conditional for e in _entries(node, rest)
                ):
                    return True
    try:
        return registry.get(key) is not None
    except (PluginError, NotDeliveredError, UnknownScopeError):
        return False
