"""Reading a printed config as data, without running it."""

from __future__ import annotations

import ast
import math
from typing import Any

_NAMES = {"inf": math.inf, "nan": math.nan}
_CONTAINERS: dict[str, Any] = {
    "dict": dict,
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "float": float,
}


def parse_config_text(text: str, source: str) -> dict[str, Any]:
    """Return the settings of a config's ``pretty_text``.

    A checkpoint is data from somebody else, so its config must not run. Allowed are assignments of
    literals, and calls of ``dict``, the other built-in containers and ``float``.

    Args:
        text: Python source.
        source: Where it is from, for messages.

    Raises:
        ValueError: The text has anything else in it.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as e:
        raise ValueError(f"the config in {source} is no Python text: {e}") from e
    settings: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if (
            not isinstance(statement, ast.Assign)
            or len(statement.targets) != 1
            or not isinstance(statement.targets[0], ast.Name)
        ):
            raise _refused(statement, source)
        settings[statement.targets[0].id] = _value(statement.value, source)
    return settings


def _value(node: ast.expr, source: str) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _value(node.operand, source)
        if isinstance(value, (int, float, complex)):
            return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.List):
        return [_value(item, source) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item, source) for item in node.elts)
    if isinstance(node, ast.Set):
        return {_value(item, source) for item in node.elts}
    if isinstance(node, ast.Dict):
        merged: dict[Any, Any] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            if key is None:
                merged.update(_value(item, source))
            else:
                merged[_value(key, source)] = _value(item, source)
        return merged
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        container = _CONTAINERS.get(node.func.id)
        if container is dict:
            merged = {}
            for argument in node.args:
                merged.update(_value(argument, source))
            for keyword in node.keywords:
                item = _value(keyword.value, source)
                merged.update(item if keyword.arg is None else {keyword.arg: item})
            return merged
        if container is not None and not node.keywords:
            return container(*(_value(argument, source) for argument in node.args))
    raise _refused(node, source)


def _refused(node: ast.AST, source: str) -> ValueError:
    return ValueError(
        f"the config in {source} has code in line {getattr(node, 'lineno', '?')} "
        f"({ast.unparse(node)[:80]!r}), which is not run: pass the config itself, model=..."
    )
