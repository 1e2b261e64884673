"""Python configs that may hold data only, since a JSON, YAML or TOML config inherits them.

A text format cannot run code, so neither can what it names as its base: such a file is evaluated
here, literal by literal, and refused at the first thing that is more than data.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from mmx.config.config_dict import ParsedDict
from mmx.config.errors import ConfigParsingError
from mmx.config.source import (
    _STRING,
    _TEMPLATE,
    BASE_KEY,
    Names,
    Parsed,
    _namespace,
    base_assignments,
)

_NUMBERS = (int, float, complex)
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_BUILTIN = {"dict": dict, "list": list, "tuple": tuple, "set": set}
# Enough for any setting; keeps `1e9 * [0]` and its like from filling the memory.
_LIMIT = 10**6


def evaluate(parsed: Parsed, load_bases: Callable[[Any, int], Mapping[str, Any]]) -> Names:
    """Return what a Python config binds, without running it.

    Args:
        parsed: Its tree.
        load_bases: Called with the value of ``_base_`` and its line, returns the merged bases.

    Raises:
        ConfigParsingError: It is more than data.
    """
    evaluator = _Evaluator(parsed)
    # Bases first: templates above may name them.
    positions = base_assignments(parsed.tree)
    body = list(parsed.tree.body)
    for position in positions:
        node = body[position]
        assert isinstance(node, (ast.Assign, ast.AnnAssign))
        assert node.value is not None
        evaluator.names[BASE_KEY] = load_bases(evaluator.value(node.value), node.lineno)
    for position, node in enumerate(body):
        if position not in positions:
            evaluator.statement(node)
    values = {k: v for k, v in evaluator.names.items() if not k.startswith("__") and k != BASE_KEY}
    return Names(values)


class _Evaluator:
    def __init__(self, parsed: Parsed) -> None:
        self.parsed = parsed
        self.names: dict[str, Any] = _namespace(parsed)

    def error(self, node: ast.AST, what: str) -> ConfigParsingError:
        return ConfigParsingError(
            f"{what}, but a JSON, YAML or TOML config inherits this file, so it may hold data only "
            "(text formats cannot run code). Write the inheriting config as a Python file, or ship "
            "this one in a trusted package and name it as 'package::path'",
            filename=str(self.parsed.path),
            line=getattr(node, "lineno", None),
        )

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Pass) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            return
        if isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) for t in node.targets):
            value = self.value(node.value)
            for target in node.targets:
                assert isinstance(target, ast.Name)
                self.names[target.id] = value
            return
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.value is not None:
                self.names[node.target.id] = self.value(node.value)
            return
        raise self.error(node, f"this is code ({ast.unparse(node).splitlines()[0]!r})")

    def value(self, node: ast.expr) -> Any:
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            raise self.error(node, f"this is code ({ast.unparse(node)!r})")
        return method(node)

    def _Constant(self, node: ast.Constant) -> Any:
        return node.value

    def _Name(self, node: ast.Name) -> Any:
        if node.id in self.names and not node.id.startswith("__"):
            return self.names[node.id]
        raise self.error(node, f"{node.id!r} is no setting of this file")

    def _List(self, node: ast.List) -> Any:
        return self._items(node.elts)

    def _Tuple(self, node: ast.Tuple) -> Any:
        return tuple(self._items(node.elts))

    def _Set(self, node: ast.Set) -> Any:
        return set(self._items(node.elts))

    def _items(self, nodes: list[ast.expr]) -> list[Any]:
        result: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                result.extend(self.value(node.value))
            else:
                result.append(self.value(node))
        return result

    def _Dict(self, node: ast.Dict) -> Any:
        result: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                result.update(self._mapping(value))
            else:
                result[self.value(key)] = self.value(value)
        return result

    def _mapping(self, node: ast.expr) -> Any:
        value = self.value(node)
        if not isinstance(value, dict):
            raise self.error(node, f"{ast.unparse(node)!r} is no dict")
        return dict.items(value)

    def _Call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name):
            raise self.error(node, f"this is code ({ast.unparse(node)!r})")
        name = node.func.id
        if name in (_TEMPLATE, _STRING):
            return self.names[name](*(a.value for a in node.args if isinstance(a, ast.Constant)))
        kind = _BUILTIN.get(name)
        if kind is None or name in self.names or (node.keywords and kind is not dict):
            raise self.error(node, f"this is code ({ast.unparse(node)!r})")
        arguments = [self.value(argument) for argument in node.args]
        if len(arguments) > 1 or not all(
            isinstance(a, (dict, list, tuple, set, range)) for a in arguments
        ):
            raise self.error(node, f"this is code ({ast.unparse(node)!r})")
        result: Any = kind(*arguments)
        for keyword in node.keywords:
            if keyword.arg is None:
                result.update(self._mapping(keyword.value))
            else:
                result[keyword.arg] = self.value(keyword.value)
        return result

    def _Attribute(self, node: ast.Attribute) -> Any:
        return self._item(node, self.value(node.value), node.attr)

    def _Subscript(self, node: ast.Subscript) -> Any:
        return self._item(node, self.value(node.value), self.value(node.slice))

    def _item(self, node: ast.expr, value: Any, key: Any) -> Any:
        if not isinstance(
            value, ParsedDict if isinstance(node, ast.Attribute) else (dict, list, tuple)
        ):
            raise self.error(node, f"this is code ({ast.unparse(node)!r})")
        try:
            return value[key]
        except (KeyError, IndexError, TypeError):
            raise self.error(node, f"{ast.unparse(node)!r} is not set") from None

    def _UnaryOp(self, node: ast.UnaryOp) -> Any:
        operand = self.value(node.operand)
        function = _UNARY.get(type(node.op))
        if function is None or not isinstance(operand, _NUMBERS):
            raise self.error(node, f"this is code ({ast.unparse(node)!r})")
        return function(operand)

    def _BinOp(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        function = _BINARY.get(type(node.op))
        numbers = isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS)
        same = isinstance(node.op, ast.Add) and type(left) is type(right) in (str, list, tuple)
        repeated = isinstance(node.op, ast.Mult) and (
            (isinstance(left, (str, list, tuple)) and isinstance(right, int))
            or (isinstance(right, (str, list, tuple)) and isinstance(left, int))
        )
        if repeated:
            count, sequence = (right, left) if isinstance(right, int) else (left, right)
            repeated = count * len(sequence) <= _LIMIT
        if function is None or not (numbers or same or repeated):
            raise self.error(node, f"this is code ({ast.unparse(node)!r})")
        return function(left, right)

    def _IfExp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _JoinedStr(self, node: ast.JoinedStr) -> str:
        result = ""
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                value = self.value(part.value)
                plain = isinstance(value, (str, int, float)) and part.format_spec is None
                if not plain or part.conversion != -1:
                    raise self.error(part, f"this is code ({ast.unparse(node)!r})")
                result += str(value)
            else:
                result += str(self.value(part))
        return result
