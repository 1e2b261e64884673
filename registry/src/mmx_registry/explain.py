"""Error messages: what was looked for and where, what is near, and where in the config it stood."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from mmx_registry import index, lookup, plugins, trust
from mmx_registry.errors import (
    NotFoundError,
    RegistryError,
    UnknownScopeError,
    UntrustedError,
)
from mmx_registry.registry import Registry, all_registries, is_config

# Looking for a name in the sources of all plugins that are installed but not in use may take long
# where there are thousands; the message is then made of what was seen so far.
SEARCH_LIMIT_S = 1.0


def known_scopes() -> list[str]:
    """Return the scopes that plugins announce and registries have."""
    return sorted({*plugins.discovered(), *(r._scope for r in all_registries())})


def unknown_scope(registry: Registry[Any], scope: str, key: str = "") -> UnknownScopeError:
    """Return the error of a scope that nothing declares."""
    scopes = known_scopes()
    near = difflib.get_close_matches(scope, scopes, n=2, cutoff=0.7)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    asked = f", which {key!r} asks for" if key else ""
    return UnknownScopeError(
        f"there is no scope {scope!r}{asked}: no installed plugin, package or registry declares it."
        f"{hint} Scopes: {', '.join(scopes)}. Is the package of {scope!r} installed in this "
        "environment?",
        scope=scope,
        known=scopes,
        key=key,
        registry=registry._name,
        near=[(name, "") for name in near],
    )


# --------------------------------------------------------------------------- not found


def _nodes(registry: Registry[Any]) -> Iterator[Registry[Any]]:
    pending = [registry.root]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(node._children.values())


class _Elsewhere:
    """A name that stands in the sources of a plugin that has not been imported."""

    def __init__(self, plugin: plugins.Plugin, entry: index.Entry) -> None:
        self.plugin = plugin
        self.entry = entry


def _elsewhere(registry: Registry[Any]) -> Iterator[_Elsewhere]:
    """Yield the registrations of plugins that are not active, as their sources have them."""
    attributes = {name for node in _nodes(registry) for name in lookup._attribute_names(node)}
    if not attributes:
        # A tree that no module has under a name: no source file can register there.
        return
    deadline = time.monotonic() + SEARCH_LIMIT_S
    for plugin in plugins.states():
        if plugin.state == "active" or plugin.scope == plugins.CORE:
            continue
        if time.monotonic() > deadline:
            return
        listing = index.index_of(plugin.package)
        if listing is None:
            continue
        for entries in listing.entries.values():
            for entry in entries:
                if entry.target.rpartition(":")[2] in attributes:
                    yield _Elsewhere(plugin, entry)


def _closeness(name: str) -> Callable[[str], float]:
    lower = name.lower()
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(lower)

    def score(other: str) -> float:
        candidate = other.lower()
        if candidate == lower:
            return 1.0
        matcher.set_seq1(candidate)
        if matcher.real_quick_ratio() < 0.6 or matcher.quick_ratio() < 0.6:
            return 0.0
        return matcher.ratio()

    return score


def near_names(registry: Registry[Any], name: str) -> list[tuple[str, str]]:
    """Return close names in every scope of the tree as (scope, name), nearest first.

    Names of plugins that have not been imported count too. Nothing is imported.
    """
    score = _closeness(name)
    scored: set[tuple[float, str, str]] = set()
    for node in _nodes(registry):
        scored |= {(-score(other), node._scope, other) for other in lookup.known_names(node)}
    for item in _elsewhere(registry):
        if item.plugin.state == "enabled":
            scored.add((-score(item.entry.name), item.plugin.scope, item.entry.name))
    best = sorted(item for item in scored if item[0] <= -0.6)
    return [(scope, other) for _, scope, other in best[:5]]


def plugin_problems(registry: Registry[Any], name: str) -> list[str]:
    """Return a line for each plugin that registers a name but cannot be used."""
    lines = []
    for item in _elsewhere(registry):
        plugin = item.plugin
        if item.entry.name == name and plugin.state in ("disabled", "incompatible", "failed"):
            lines.append(
                f"{item.entry.file}:{item.entry.line} registers it for the plugin {plugin.scope!r}, "
                f"which is {plugin.state}: {plugin.reason}"
            )
    return lines


def not_found(registry: Registry[Any], key: str) -> NotFoundError:
    """Return the error of a key that `Registry.get` does not find."""
    scope, name = Registry.split_scope_key(key)
    node: Registry[Any] | None = registry
    while scope is not None and node is not None:
        node = lookup.node_for_prefix(node, scope) if scope != node._scope else node
        if node is not None and "." in name:
            scope, name = Registry.split_scope_key(name)
        else:
            break
    if node is None:
        return _no_node(registry, key)
    own_only = scope is not None and (node is registry or node._parent is None)
    searched = [other._scope for other in ([node] if own_only else lookup.chain(node))]
    near = near_names(registry, name)
    problems = plugin_problems(registry, name)
    parts = [
        f"{name} is not in the {node.scope}::{node._name} registry; searched the scopes in this "
        f"order: {', '.join(searched)}."
    ]
    exact = [f"{s}.{n}" for s, n in near if n == name]
    if exact:
        parts.append(f"The name exists in another scope: write {' or '.join(map(repr, exact))}.")
    elif near:
        parts.append("Close names: " + ", ".join(f"{s}.{n}" for s, n in near) + ".")
    parts += [f"{line}." for line in problems]
    parts += _broken_files(node)
    if key.count(".") and trust.is_trusted(key.rpartition(".")[0]):
        parts.append(f"As a dotted path: {trust.look_up(key).reason}.")
    if not exact and not problems:
        parts.append(
            "Is the name right? Is the file that registers it in the registry's locations "
            f"({', '.join(node._locations) or 'it has none'}), or imported (custom_imports)?"
        )
    return NotFoundError(
        " ".join(parts),
        key=key,
        registry=node._name,
        scope=node._scope,
        searched=searched,
        near=near,
        problems=problems,
    )


def _broken_files(node: Registry[Any]) -> list[str]:
    """Return a sentence for each file of the locations searched that could not be parsed."""
    lines = []
    for other in lookup.chain(node):
        for location in other._locations:
            listing = index.index_of(location)
            for file, why in listing.failures if listing is not None else ():
                lines.append(f"{file} of scope {other._scope!r} could not be read: {why}.")
    return lines


def _no_node(registry: Registry[Any], key: str) -> NotFoundError:
    """Return the error of a prefix that names no scope of the tree."""
    scope = key.partition(".")[0]
    is_trusted = any(p.partition(".")[0] == scope for p in trust.trusted_packages())
    verdict = trust.look_up(key)
    if is_trusted and verdict.is_refused:
        return UntrustedError(
            f"{key!r} is refused: {verdict.reason}. Use the object itself in a Python config, or "
            "register it.",
            path=key,
            package=scope,
            registry=registry._name,
            scope=registry._scope,
        )
    if scope in plugins.discovered() and scope != plugins.CORE:
        near = near_names(registry, key.rpartition(".")[2])
        hint = " Close names: " + ", ".join(f"{s}.{n}" for s, n in near) + "." if near else ""
        return NotFoundError(
            f"{key!r} is not in the {registry._name!r} registry: the plugin {scope!r} has no "
            f"{registry._name!r} registry.{hint}",
            key=key,
            registry=registry._name,
            scope=registry._scope,
            near=near,
        )
    if is_trusted:
        return NotFoundError(
            f"{key!r} is not in the {registry._name!r} registry, and as a dotted path it leads "
            f"nowhere: {verdict.reason}.",
            key=key,
            registry=registry._name,
            scope=registry._scope,
        )
    if scope in _importable(scope):
        return UntrustedError(
            f"{key!r} is refused: no plugin declares a scope {scope!r}, and as a dotted path it "
            f"leads into the package {scope!r}, which is not trusted. If you trust it, say so by "
            f"--trust {scope} or MMX_TRUST={scope}, or use the object itself in a Python config.",
            path=key,
            package=scope,
            registry=registry._name,
            scope=registry._scope,
        )
    return unknown_scope(registry, scope, key)


def _importable(name: str) -> tuple[str, ...]:
    return (name,) if name.isidentifier() and index.find_spec(name) is not None else ()


# --------------------------------------------------------------------------- errors of a build


class _Trail:
    """Where in a config an error came from; it grows as the error passes builds outwards."""

    def __init__(self, cfg: Any, steps: list[str], detail: list[str]) -> None:
        self.cfg = cfg
        # Keys from the outermost build inwards.
        self.keys: list[str] = []
        # Types built, from the outermost inwards.
        self.steps = steps
        self.detail = detail
        self.note = ""

    def path(self) -> str:
        return "".join(k if k.startswith("[") else f".{k}" for k in self.keys).lstrip(".")

    def write(self, error: BaseException) -> None:
        """Put the note on the error, in place of what this trail wrote before."""
        lines = []
        path = self.path()
        where = f"{path!r} of the config" if path else "the config"
        lines.append(f"while building {where}: {' > '.join(self.steps)}")
        lines += [f"  {line}" for line in self.detail]
        note = "\n".join(lines)
        notes = getattr(error, "__notes__", None)
        if self.note and isinstance(notes, list) and self.note in notes:
            notes[notes.index(self.note)] = note
        else:
            error.add_note(note)
        self.note = note
        if isinstance(error, RegistryError):
            error.config_path = path


def annotate(
    error: Exception, cfg: Any, kind: Any, make: Any, args: Mapping[str, Any], node: Registry[Any]
) -> None:
    """Add to an error where in the config it came from: path, class, file and accepted arguments.

    Args:
        error: What was raised while the config was built.
        cfg: The config as it was given to `build_from_cfg`.
        kind: Its ``type``, or None if that was missing.
        make: What was called, or None if ``type`` was not found.
        args: The arguments of the call.
        node: The registry.
    """
    step = f"{node._scope}.{kind}" if isinstance(kind, str) and "." not in kind else _title(kind)
    trail = getattr(error, "__mmx_trail__", None)
    if not isinstance(trail, _Trail):
        detail = _source_of(cfg) + ([] if make is None else _describe(error, make, args))
        trail = _Trail(cfg, [step], detail)
        with suppress(AttributeError):
            error.__mmx_trail__ = trail  # type: ignore[attr-defined]  # kept with the error
    elif trail.cfg is not cfg:
        trail.keys[:0] = _keys_to(trail.cfg, cfg)
        trail.steps.insert(0, step)
        trail.cfg = cfg
    trail.write(error)


@contextmanager
def config_path(key: str, file: str | None = None) -> Iterator[None]:
    """Put a key before the config path in the notes of errors raised inside the ``with`` block.

    Whoever builds a part of a larger config says which, and in which file it is written::

        with config_path("model", cfg.filename):
            model = MODELS.build(cfg.model)

    Args:
        key: The key of the part.
        file: The file that the whole config was read from; of a Python file, the line is told too.
    """
    try:
        yield
    except Exception as error:
        trail = getattr(error, "__mmx_trail__", None)
        if isinstance(trail, _Trail):
            trail.keys.insert(0, key)
            if file and not any(text.startswith("written in ") for text in trail.detail):
                line = line_of(file, trail.keys)
                trail.detail.append(f"written in {file}:{line}" if line else f"written in {file}")
            trail.write(error)
        raise


def line_of(file: str, keys: Sequence[str]) -> int:
    """Return the line (1-based) where a Python config sets a nested key, or 0 if it does not.

    Args:
        file: The file.
        keys: Keys from the outermost inwards; an index of a list is written ``"[2]"``.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            tree = ast.parse(stream.read())
    except (OSError, ValueError, SyntaxError):
        return 0
    line = 0
    value: ast.expr | None = None
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == keys[0] for t in node.targets
        ):
            line, value = node.lineno, node.value
    for key in keys[1:]:
        found: ast.expr | None = None
        if isinstance(value, ast.Call):
            found = next((k.value for k in value.keywords if k.arg == key), None)
        elif isinstance(value, ast.Dict):
            found = next(
                (
                    item
                    for name, item in zip(value.keys, value.values, strict=True)
                    if isinstance(name, ast.Constant) and name.value == key
                ),
                None,
            )
        elif isinstance(value, (ast.List, ast.Tuple)) and key.strip("[]").isdigit():
            position = int(key.strip("[]"))
            found = value.elts[position] if position < len(value.elts) else None
        if found is None:
            # Further in it is computed, or inherited from another file.
            break
        line, value = found.lineno, found
    return line


def _title(kind: Any) -> str:
    if isinstance(kind, str):
        return kind
    return getattr(kind, "__qualname__", None) or repr(kind)


def _source_of(cfg: Any) -> list[str]:
    """Return where a config was written, if it knows."""
    source = getattr(type(cfg), "__config_source__", None)
    if source is None:
        return []
    where = source(cfg)
    return [f"written in {where}"] if where else []


def _describe(error: Exception, make: Any, args: Mapping[str, Any]) -> list[str]:
    target = getattr(make, "__self__", make) if inspect.ismethod(make) else make
    lines = [f"{_kind(target)} {_full_name(target)}{_location(target)}"]
    if not isinstance(error, TypeError):
        return lines
    accepted = accepted_arguments(target)
    if accepted is None:
        return lines
    lines.append(f"it accepts ({', '.join(accepted)})")
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return lines
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return lines
    names = [
        n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    for given in args:
        if given not in names:
            near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
            hint = f": did you mean {near[0]!r}?" if near else ""
            lines.append(f"it does not take {given!r}{hint}")
    missing = [
        n
        for n, p in parameters.items()
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and n not in args
    ]
    if missing:
        lines.append(f"it needs {', '.join(map(repr, missing))}")
    return lines


def accepted_arguments(target: Any) -> list[str] | None:
    """Return the arguments of a class or function as text, or None if it does not tell."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return None
    result = []
    for parameter in signature.parameters.values():
        text = parameter.name
        if parameter.kind is parameter.VAR_POSITIONAL:
            text = f"*{text}"
        elif parameter.kind is parameter.VAR_KEYWORD:
            text = f"**{text}"
        elif parameter.default is not parameter.empty:
            value = repr(parameter.default)
            text += f"={value if len(value) <= 40 else '...'}"
        result.append(text)
    return result


def _kind(target: Any) -> str:
    return "class" if isinstance(target, type) else "function"


def _full_name(target: Any) -> str:
    name = getattr(target, "__qualname__", None) or repr(target)
    module = getattr(target, "__module__", None)
    return f"{module}.{name}" if module else name


def source_location(target: Any) -> tuple[str, int]:
    """Return file and line (1-based) of a class or function, or ("", 0)."""
    try:
        file = inspect.getsourcefile(target) or ""
        line = inspect.getsourcelines(target)[1]
    except (OSError, TypeError):
        return "", 0
    return file, line


def _location(target: Any) -> str:
    file, line = source_location(target)
    return f" ({file}:{line})" if file else ""


_SAFE = re.compile(r"\w+\Z")


def _keys_to(inner: Any, outer: Any) -> list[str]:
    """Return the keys that lead from one config to another inside it; ``["?"]`` if unknown."""
    found = _search(outer, lambda value: value is inner, 0)
    if found is None and hasattr(inner, "get"):
        # The class built a copy: a single config of the same type must be it.
        kind = inner.get("type")
        matches = list(_all(outer, lambda value: _type_of(value) == kind, 0))
        found = matches[0] if len(matches) == 1 else None
    return ["?"] if found is None else found


def _type_of(value: Any) -> Any:
    return value.get("type") if is_config(value) else None


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if is_config(value):
        for key, item in value.items():
            yield (str(key) if _SAFE.match(str(key)) else f"[{key!r}]"), item
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield f"[{i}]", item


def _search(value: Any, wanted: Callable[[Any], bool], depth: int) -> list[str] | None:
    return next(_all(value, wanted, depth), None)


def _all(value: Any, wanted: Callable[[Any], bool], depth: int) -> Iterator[list[str]]:
    if depth > 50:
        return
    for key, item in _items(value):
        if wanted(item):
            yield [key]
        else:
            for rest in _all(item, wanted, depth + 1):
                yield [key, *rest]
