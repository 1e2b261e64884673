"""From the text of a config to its own settings, before anything is inherited."""

from __future__ import annotations

import ast
import json
import os
import re
import tomllib
import types
from pathlib import Path
from typing import Any

import yaml

from mmx.config.errors import ConfigParsingError

BASE_KEY = "_base_"
_VARIABLE = re.compile(
    r"\{\{\s*(?P<name>fileDirname|fileBasename|fileBasenameNoExtension|fileExtname)\s*\}\}"
)
_ENVIRONMENT = re.compile(r"\{\{\s*\$(?P<name>\w+)\s*:(?P<default>[^{}]*)\}\}")
_BASE_VALUE = re.compile(r"^\s*\{\{\s*_base_\.(?P<path>[\w.]+)\s*\}\}\s*$")


def predefined_variables(path: Path) -> dict[str, str]:
    """Return what ``{{ fileDirname }}`` and its kin stand for in a file."""
    full = path.absolute()
    return {
        "fileDirname": str(full.parent),
        "fileBasename": full.name,
        "fileBasenameNoExtension": full.stem,
        "fileExtname": full.suffix,
    }


def fill_text(text: str, variables: dict[str, str], used: dict[str, str]) -> str:
    """Replace predefined variables and ``{{$ENV:default}}`` in one string.

    Args:
        text: The string.
        variables: Predefined variables.
        used: Filled with the environment variables that were asked for.
    """
    text = _VARIABLE.sub(lambda found: variables[found["name"]], text)

    def environment(found: re.Match[str]) -> str:
        value = os.environ.get(found["name"])
        if value is None:
            value = found["default"].strip()
        used[found["name"]] = value
        return value

    return _ENVIRONMENT.sub(environment, text)


class _Filler(ast.NodeTransformer):
    """Replaces templates in the strings of a syntax tree, and ``{{ _base_.x }}`` by ``_base_.x``."""

    def __init__(self, variables: dict[str, str], used: dict[str, str]) -> None:
        self.variables, self.used = variables, used

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, str) or "{{" not in node.value:
            return node
        found = _BASE_VALUE.match(node.value)
        if found:
            expression = ast.parse(f"{BASE_KEY}.{found['path']}", mode="eval").body
            return ast.fix_missing_locations(ast.copy_location(expression, node))
        value = fill_text(node.value, self.variables, self.used)
        return ast.copy_location(ast.Constant(value), node)

    def visit_Set(self, node: ast.Set) -> ast.AST:
        # Unquoted, `{{ _base_.x }}` reads as a set in a set.
        inner = node.elts[0] if len(node.elts) == 1 else None
        if isinstance(inner, ast.Set) and len(inner.elts) == 1 and _is_base_value(inner.elts[0]):
            return inner.elts[0]
        return self.generic_visit(node)


def _is_base_value(node: ast.AST) -> bool:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return isinstance(node, ast.Name) and node.id == BASE_KEY


def parse_python(text: str, path: Path, used: dict[str, str]) -> tuple[ast.Module, Any]:
    """Return the syntax tree of a text config, without its ``_base_``, and what that says.

    Raises:
        ConfigParsingError: The text is no Python, or ``_base_`` cannot be told without running it.
    """
    try:
        tree = ast.parse(text, str(path))
    except SyntaxError as error:
        raise ConfigParsingError(
            f"this is no valid Python: {error.msg}: {(error.text or '').strip()}",
            filename=str(path),
            line=error.lineno,
        ) from error
    tree = _Filler(predefined_variables(path), used).visit(tree)
    base: Any = None
    body = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == BASE_KEY for target in node.targets
        ):
            base = _evaluate_base(node.value, path)
            continue
        body.append(node)
    tree.body = body
    return ast.fix_missing_locations(tree), base


def _evaluate_base(node: ast.expr, path: Path) -> Any:
    """Evaluate what ``_base_`` is set to: literals, f-strings and arithmetic of them, no names."""
    code = compile(ast.Expression(node), str(path), "eval")
    try:
        return eval(code, {"__builtins__": {"len": len, "range": range, "str": str, "list": list}})  # noqa: S307  # a config is code
    except NameError as error:
        raise ConfigParsingError(
            f"_base_ is read before the rest of the file runs, so it cannot use names: {error}",
            filename=str(path),
            line=node.lineno,
        ) from error


def run_python(tree: ast.Module, path: Path, base: Any) -> dict[str, Any]:
    """Run a text config and return its settings.

    Args:
        tree: Syntax tree.
        path: File, for errors.
        base: Merged base configs, seen as ``_base_``.
    """
    namespace: dict[str, Any] = {"__file__": str(path), "__name__": "mmx_config"}
    if base is not None:
        namespace[BASE_KEY] = base
    exec(compile(tree, str(path), "exec"), namespace)  # noqa: S102  # a Python config is code, as its user wants
    return {
        key: value
        for key, value in namespace.items()
        if not key.startswith("__")
        and key != BASE_KEY
        and not isinstance(value, (types.ModuleType, types.FunctionType, types.BuiltinFunctionType))
    }


def parse_data(text: str, path: Path, used: dict[str, str]) -> dict[str, Any]:
    """Return the settings of a YAML, JSON or TOML config. Nothing in it can run code.

    Raises:
        ConfigParsingError: The text is not valid, or no mapping.
    """
    suffix = path.suffix
    try:
        if suffix == ".json":
            data: Any = json.loads(text)
        elif suffix == ".toml":
            data = tomllib.loads(text)
        else:
            data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigParsingError(
            f"this is no valid YAML: {getattr(error, 'problem', None) or error}",
            filename=str(path),
            line=None if mark is None else mark.line + 1,
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigParsingError(
            f"this is no valid JSON: {error.msg}", filename=str(path), line=error.lineno
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigParsingError(f"this is no valid TOML: {error}", filename=str(path)) from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigParsingError(
            f"a config is a mapping of settings, but this is a {type(data).__name__}",
            filename=str(path),
        )
    variables = predefined_variables(path)
    result: dict[str, Any] = _fill(data, variables, used)
    return result


def _fill(value: Any, variables: dict[str, str], used: dict[str, str]) -> Any:
    if isinstance(value, str):
        return fill_text(value, variables, used) if "{{" in value else value
    if isinstance(value, dict):
        return {k: _fill(v, variables, used) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, variables, used) for v in value]
    return value


def fill_base_values(value: Any, base: Any, path: Path) -> Any:
    """Replace strings ``{{ _base_.x.y }}`` in the settings of a data file by the base's values.

    Raises:
        ConfigParsingError: The base has no such value.
    """
    if isinstance(value, dict):
        return {k: fill_base_values(v, base, path) for k, v in value.items()}
    if isinstance(value, list):
        return [fill_base_values(v, base, path) for v in value]
    if isinstance(value, str) and (found := _BASE_VALUE.match(value)):
        result = base
        for part in found["path"].split("."):
            try:
                result = result[int(part)] if isinstance(result, (list, tuple)) else result[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise ConfigParsingError(
                    f"{value} names {part!r}, which the base configs do not set", filename=str(path)
                ) from None
        return result
    return value
