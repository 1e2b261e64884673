"""Configs as text."""

from __future__ import annotations

import inspect
import json
from typing import Any

WIDTH = 88


def to_python(settings: dict[str, Any]) -> str:
    """Return settings as a Python config that reads back equal."""
    lines = []
    for key, value in settings.items():
        if not _is_name(key):
            # A key that is no name cannot be a variable: the file then sets it through its globals.
            lines.append(f"globals()[{key!r}] = {_python(value, 0, len(key) + 14)}")
            continue
        lines.append(f"{key} = {_python(value, 0, len(key) + 3)}")
    return "\n".join(lines) + ("\n" if lines else "")


def _is_name(key: Any) -> bool:
    import keyword

    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)


def _python(value: Any, indent: int, used: int) -> str:
    """Return a value as an expression, on one line where it fits.

    Args:
        value: Value.
        indent: Columns by which the line is indented.
        used: Columns that are taken on the first line.
    """
    flat = _flat(value)
    if indent + used + len(flat) <= WIDTH and "\n" not in flat:
        return flat
    inner, pad = indent + 4, " " * (indent + 4)
    if isinstance(value, dict) and value:
        if all(_is_name(key) for key in value):
            rows = [f"{pad}{k}={_python(v, inner, len(k) + 1)}," for k, v in value.items()]
            return "dict(\n" + "\n".join(rows) + f"\n{' ' * indent})"
        rows = [f"{pad}{k!r}: {_python(v, inner, len(repr(k)) + 2)}," for k, v in value.items()]
        return "{\n" + "\n".join(rows) + f"\n{' ' * indent}" + "}"
    if isinstance(value, (list, tuple)) and value:
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
        rows = [f"{pad}{_python(item, inner, 0)}," for item in value]
        return f"{opening}\n" + "\n".join(rows) + f"\n{' ' * indent}{closing}"
    return flat


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        if all(_is_name(key) for key in value):
            return f"dict({', '.join(f'{k}={_flat(v)}' for k, v in value.items())})"
        return "{" + ", ".join(f"{k!r}: {_flat(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flat, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_flat, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, set):
        return "{" + ", ".join(sorted(map(_flat, value))) + "}" if value else "set()"
    if isinstance(value, float) and value != value:
        return "float('nan')"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f"float('{value}')"
    if inspect.isclass(value) or inspect.isroutine(value):
        # The dotted name, which `type` resolves to the same object.
        return repr(f"{value.__module__}.{value.__qualname__}")
    return repr(value)


def to_data(value: Any) -> Any:
    """Return settings as what YAML, JSON and TOML can hold: classes by their dotted names."""
    if isinstance(value, dict):
        return {k: to_data(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_data(v) for v in value]
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value


def to_text(settings: dict[str, Any], suffix: str) -> str:
    """Return settings in the format of a file ending.

    Raises:
        ValueError: The ending is not known.
    """
    if suffix == ".py":
        return to_python(settings)
    data = to_data(settings)
    if suffix == ".json":
        return json.dumps(data, indent=2)
    if suffix in (".yaml", ".yml"):
        import yaml

        text: str = yaml.safe_dump(data, sort_keys=False)
        return text
    if suffix == ".toml":
        import tomli_w

        return tomli_w.dumps(_without_none(data))
    raise ValueError(f"a config is a .py, .yaml, .json or .toml file, not {suffix!r}")


def _without_none(value: Any) -> Any:
    # TOML has no null; an absent key means the same to every reader of a config.
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value]
    return value
