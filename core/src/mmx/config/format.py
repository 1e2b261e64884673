"""Settings as text: Python, YAML, JSON and TOML."""

from __future__ import annotations

import datetime
import json
import keyword
import math
import types
import unicodedata
from collections.abc import Mapping
from typing import Any

from mmx.config.errors import ConfigError
from mmx.config.lazy import LAZY_TYPES

WIDTH = 79
INDENT = 4

_PLAIN = frozenset({int, bool, type(None), bytes})


def to_python(settings: Mapping[str, Any]) -> str:
    """Return settings as a Python config: one assignment for each, nested dicts as ``dict(…)``.

    Names of settings that are no Python names go into ``globals().update({…})``.
    """
    lines = []
    odd = {}
    for key, value in settings.items():
        if _is_name(key):
            lines.append(f"{key} = {_value(value, 0, len(key) + 3)}\n")
        else:
            odd[key] = value
    if odd:
        lines.append(f"globals().update({_literal_dict(odd, 0, 17)})\n")
    return "".join(lines)


def _is_name(key: Any) -> bool:
    if type(key) is not str or not key.isidentifier() or keyword.iskeyword(key):
        return False
    # Python reads names in a normal form, so that one in another form would come back changed.
    return key.isascii() or unicodedata.is_normalized("NFKC", key)


def _value(value: Any, indent: int, used: int) -> str:
    """Return a value as source text.

    Args:
        value: The value.
        indent: Columns before the line that it starts on.
        used: Columns used on that line, before and behind it.
    """
    kind = type(value)
    if kind is str:
        return repr(value)
    if kind in _PLAIN:
        return repr(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f"float('{value}')"
    if isinstance(value, dict):
        return _dict(value, indent, used)
    if kind is list:
        return _sequence("[", value, "]", indent, used)
    if kind is tuple:
        if len(value) == 1:
            return f"({_value(value[0], indent, used + 4)}, )"
        return _sequence("(", value, ")", indent, used)
    if kind is set or kind is frozenset:
        if not value:
            return f"{kind.__name__}()"
        items = sorted(value, key=lambda item: (type(item).__name__, repr(item)))
        text = _sequence("{", items, "}", indent, used)
        return text if kind is set else f"frozenset({text})"
    if kind is complex or kind is range:
        return repr(value)
    if isinstance(value, LAZY_TYPES):
        return repr(value.dotted_path)
    named = dotted_name(value)
    return repr(value if isinstance(value, str) else named if named else str(value))


def dotted_name(value: Any) -> str:
    """Return the dotted path of a class, function or module, by which a registry finds it; or ""."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None)
    if not module or not name or not (isinstance(value, type) or callable(value)):
        return ""
    return f"{module}.{name}"


def _dict(value: dict[Any, Any], indent: int, used: int) -> str:
    if not value:
        return "dict()"
    if not all(map(_is_name, dict.keys(value))):
        return f"dict({_literal_dict(value, indent, used + 6)})"
    pairs = [(f"{key}=", item) for key, item in dict.items(value)]
    return _join("dict(", pairs, ")", indent, used, glue=True)


def _literal_dict(value: Mapping[Any, Any], indent: int, used: int) -> str:
    raw = dict.items(value) if isinstance(value, dict) else value.items()
    pairs = [(f"{_value(key, indent, 0)}: ", item) for key, item in raw]
    return _join("{", pairs, "}", indent, used, glue=True)


def _sequence(start: str, items: Any, end: str, indent: int, used: int) -> str:
    if not items:
        return start + end
    return _join(start, [("", item) for item in items], end, indent, used, glue=False)


def _join(
    start: str, pairs: list[tuple[str, Any]], end: str, indent: int, used: int, *, glue: bool
) -> str:
    """Write a container on one line if it fits, else an item a line."""
    room = WIDTH - indent - used - len(start) - len(end)
    flat: list[str] = []
    for head, item in pairs:
        text = _flat(item, room - len(head))
        if text is None:
            break
        text = head + text
        room -= len(text) + 2
        if room < -2:
            break
        flat.append(text)
    else:
        return f"{start}{', '.join(flat)}{end}"
    inner = indent + INDENT
    pad = " " * inner
    lines = [
        f"{pad}{head}{_value(item, inner, len(head) + 1 + (len(end) if glue else 0))}"
        for head, item in pairs
    ]
    body = ",\n".join(lines)
    return f"{start}\n{body}{end}" if glue else f"{start}\n{body},\n{' ' * indent}{end}"


def _flat(value: Any, room: int) -> str | None:
    """Return a value on one line, or None if it needs more than ``room`` columns."""
    kind = type(value)
    if kind is str or kind in _PLAIN:
        text = repr(value)
        return text if len(text) <= room else None
    if isinstance(value, dict):
        if room < 6:
            return None
        if all(map(_is_name, dict.keys(value))):
            start, end, heads = "dict(", ")", [f"{key}=" for key in dict.keys(value)]
        else:
            start, end = "dict({", "})"
            heads = [f"{_value(key, 0, 0)}: " for key in dict.keys(value)]
        items: Any = list(dict.values(value))
    elif kind is list:
        start, end, items, heads = "[", "]", value, None
    elif kind is tuple:
        start, end, items, heads = "(", ", )" if len(value) == 1 else ")", value, None
    else:
        text = _value(value, 0, 0)
        return text if len(text) <= room and "\n" not in text else None
    room -= len(start) + len(end)
    parts = []
    for i, item in enumerate(items):
        head = heads[i] if heads is not None else ""
        part = _flat(item, room - len(head))
        if part is None:
            return None
        room -= len(head) + len(part) + (2 if i else 0)
        if room < 0:
            return None
        parts.append(head + part)
    return f"{start}{', '.join(parts)}{end}"


# --------------------------------------------------------------------------- data formats


def to_text(settings: Mapping[str, Any], suffix: str) -> str:
    """Return settings as text.

    Args:
        settings: Plain dicts and values.
        suffix: ``".py"``, ``".json"``, ``".yaml"``, ``".yml"`` or ``".toml"``.

    Raises:
        TypeError: The format is not known.
        ConfigError: The format cannot express a value; the message names its key.
    """
    suffix = suffix.lower()
    if suffix == ".py":
        return to_python(settings)
    if suffix == ".json":
        data = _data(settings, "", "JSON")
        return json.dumps(data, ensure_ascii=False, indent=2) + "\n"
    if suffix in (".yaml", ".yml"):
        import yaml

        from mmx.config.data import Dumper

        return str(
            yaml.dump(
                _data(settings, "", "YAML"),
                Dumper=Dumper,
                sort_keys=False,
                allow_unicode=True,
                default_flow_style=False,
            )
        )
    if suffix == ".toml":
        import tomli_w

        return tomli_w.dumps(_data(settings, "", "TOML"))
    raise TypeError(f"Unsupported format: {suffix.lstrip('.')}; use py, json, yaml, yml or toml")


def _data(value: Any, path: str, form: str) -> Any:
    """Return a value as what a data format has."""
    kind = type(value)
    if kind in (str, int, bool) or (kind is float and (form != "JSON" or math.isfinite(value))):
        return value
    if kind is float:
        # As Python's own `json` reads them back.
        return value
    if value is None:
        if form == "TOML":
            raise ConfigError(f"{path} is None, which TOML cannot express; dump to another format")
        return None
    if isinstance(value, Mapping):
        items = dict.items(value) if isinstance(value, dict) else value.items()
        result = {}
        for key, item in items:
            allowed = {"YAML": object, "TOML": str}.get(form, (str, int, float, bool, type(None)))
            if not isinstance(key, allowed):
                raise ConfigError(
                    f"{path or 'the config'} has the key {key!r}, but keys in {form} are strings"
                )
            name = f"{path}.{key}" if path else str(key)
            result[_key(key, name) if form == "YAML" else key] = _data(item, name, form)
        return result
    if isinstance(value, tuple):
        items_ = [_data(item, f"{path}.{i}", form) for i, item in enumerate(value)]
        return tuple(items_) if form == "YAML" else items_
    if isinstance(value, list):
        return [_data(item, f"{path}.{i}", form) for i, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        items_ = sorted(value, key=lambda item: (type(item).__name__, repr(item)))
        if form == "YAML":
            return {_data(item, path, form) for item in items_}
        return [_data(item, path, form) for item in items_]
    if isinstance(value, range):
        return list(value)
    if isinstance(value, bytes) and form == "YAML":
        return value
    # Of days and times of day YAML has the former, TOML both.
    if isinstance(value, datetime.date) and form != "JSON":
        return value
    if isinstance(value, datetime.time) and form == "TOML":
        return value
    if isinstance(value, LAZY_TYPES):
        return value.dotted_path
    number = getattr(value, "item", None)
    if callable(number) and type(value).__module__ == "numpy":
        return number()
    name = dotted_name(value)
    if name:
        return name
    raise ConfigError(f"{path} is a {kind.__name__}, which {form} cannot express: {value!r}")


def _key(key: Any, path: str) -> Any:
    if key is None or isinstance(key, (str, int, float, bool, bytes)):
        return key
    if isinstance(key, tuple):
        return tuple(_key(part, path) for part in key)
    raise ConfigError(f"the key {path} is a {type(key).__name__}, which YAML cannot express")
