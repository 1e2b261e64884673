"""JSON Schema of what a registry can build, for editors that complete and check YAML or JSON."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import types
import typing
from contextlib import suppress
from pathlib import PurePath
from typing import Any

from mmx_registry import lookup
from mmx_registry.registry import Registry

DRAFT = "https://json-schema.org/draft/2020-12/schema"

_SIMPLE: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    PurePath: {"type": "string"},
}


def json_schema(registry: Registry[Any], *, prefixed: bool = True) -> dict[str, Any]:
    """Return a JSON Schema of the configs that a registry builds.

    The files of the locations are imported to read the signatures. A name whose file cannot be
    imported is in the schema without its arguments, and says why in its description.

    Args:
        registry: Names of this node and of its ancestors are taken as they are.
        prefixed: Take the names of all other nodes of the tree too, with their scope as prefix.

    Returns:
        A schema (draft 2020-12) with one definition for each name: arguments with types, defaults
        and the first line of the docstring.
    """
    definitions: dict[str, Any] = {}
    seen: set[str] = set()
    for node in lookup.chain(registry):
        for name in sorted(_names(node) - seen):
            seen.add(name)
            definitions[name] = _definition(node, name, name)
    if prefixed:
        pending = [registry.root]
        while pending:
            node = pending.pop(0)
            for name in sorted(_names(node)):
                key = f"{node._scope}.{name}"
                definitions[key] = _definition(node, name, key)
            pending.extend(node._children.values())
    return {
        "$schema": DRAFT,
        "title": f"{registry.scope}::{registry.name}",
        "type": "object",
        "properties": {"type": {"enum": sorted(definitions)}, "_scope_": {"type": "string"}},
        "required": ["type"],
        # A branch applies to its own type only, so that an editor completes the arguments of the
        # type that was chosen and reports errors of that type alone.
        "allOf": [
            {
                "if": {"properties": {"type": {"const": key}}, "required": ["type"]},
                "then": {"$ref": f"#/$defs/{key}"},
            }
            for key in sorted(definitions)
        ],
        "$defs": dict(sorted(definitions.items())),
    }


def _names(node: Registry[Any]) -> set[str]:
    # Each name that could not be imported says why.
    with suppress(Exception):
        node.import_from_location()
    return lookup.known_names(node)


def _definition(node: Registry[Any], name: str, key: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "type": "object",
        "properties": {"type": {"const": key}, "_scope_": {"type": "string"}},
        "required": ["type"],
    }
    try:
        obj = node.resolve(name) if name not in node._module_dict else node._module_dict[name]
        signature = inspect.signature(obj)
    except Exception as error:  # noqa: BLE001 - part of the answer
        result["description"] = f"arguments unknown: {type(error).__name__}: {error}"
        return result
    document = (inspect.getdoc(obj) or "").strip()
    if document:
        result["description"] = document.splitlines()[0]
    hints = _hints(obj)
    open_ended = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            continue
        entry = _type_schema(hints.get(parameter.name, parameter.annotation))
        if parameter.default is not parameter.empty:
            value = _plain(parameter.default)
            if value is not _NOT_PLAIN:
                entry["default"] = value
        result["properties"][parameter.name] = entry
    # Not "required": whoever builds it may add arguments (`params`, `optimizer`).
    result["x-required"] = [
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    result["additionalProperties"] = open_ended
    return result


def _hints(obj: Any) -> dict[str, Any]:
    target = vars(obj).get("__init__", obj.__init__) if isinstance(obj, type) else obj  # type: ignore[misc]  # the class itself
    try:
        return typing.get_type_hints(target)
    except Exception:  # noqa: BLE001 - names that exist for type checkers only
        return {}


_NOT_PLAIN = object()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else _NOT_PLAIN
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return _NOT_PLAIN if any(item is _NOT_PLAIN for item in items) else items
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        pairs = {key: _plain(item) for key, item in value.items()}
        return _NOT_PLAIN if any(item is _NOT_PLAIN for item in pairs.values()) else pairs
    return _NOT_PLAIN


def _type_schema(hint: Any) -> dict[str, Any]:
    """Return the schema of a type hint; ``{}``, which allows anything, if it says too little."""
    if hint is inspect.Parameter.empty or hint is Any:
        return {}
    if hint in (None, type(None)):
        return {"type": "null"}
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is typing.Literal:
        return {"enum": [a for a in arguments if _plain(a) is not _NOT_PLAIN]}
    if origin in (typing.Union, types.UnionType):
        options = [_type_schema(a) for a in arguments]
        if any(not option for option in options):
            return {}
        unique: list[dict[str, Any]] = []
        for option in options:
            if option not in unique:
                unique.append(option)
        return unique[0] if len(unique) == 1 else {"anyOf": unique}
    if origin is typing.Annotated:
        return _type_schema(arguments[0])
    if origin is tuple:
        # Text formats have lists only.
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _array(arguments[:1])
        if arguments:
            return {
                "type": "array",
                "prefixItems": [_type_schema(a) for a in arguments],
                "minItems": len(arguments),
                "maxItems": len(arguments),
            }
        return {"type": "array"}
    plain = origin if origin is not None else hint
    if not isinstance(plain, type):
        return {}
    if plain in _SIMPLE:
        return dict(_SIMPLE[plain])
    if issubclass(plain, enum.Enum):
        return {"enum": [m.value for m in plain if _plain(m.value) is not _NOT_PLAIN]}
    if issubclass(plain, PurePath):
        return {"type": "string"}
    if issubclass(plain, (dict, collections.abc.Mapping)):
        value = _type_schema(arguments[1]) if len(arguments) == 2 else {}
        return {"type": "object", **({"additionalProperties": value} if value else {})}
    if plain in (list, set, frozenset, tuple) or plain in (
        collections.abc.Sequence,
        collections.abc.Iterable,
        collections.abc.Collection,
        collections.abc.Set,
    ):
        return _array(arguments)
    # An object: in a config it stands as a dict with its own `type`, or as something a subclass
    # or a converter takes.
    return {}


def _array(arguments: tuple[Any, ...]) -> dict[str, Any]:
    items = _type_schema(arguments[0]) if arguments else {}
    return {"type": "array", **({"items": items} if items else {})}
