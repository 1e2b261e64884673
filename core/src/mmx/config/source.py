"""From the text of a Python config to the names that it binds.

Stages: `parse` (text → syntax tree), `split_base` (tree → what stands before ``_base_``, its value,
what stands after), `run_text` and `run_lazy` (tree → namespace). Nothing is written to disk.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmx.config import template
from mmx.config.config_dict import ParsedDict, near
from mmx.config.errors import (
    ConfigBaseImportError,
    ConfigKeyError,
    ConfigParsingError,
    ConfigSyntaxError,
)
from mmx.config.lazy import LAZY_TYPES, LazyObject
from mmx.config.template import Template, Variables

BASE_KEY = "_base_"
READ_BASE = "read_base"
MODULE_NAME = "__mmx_config__"

# Names that transformed code calls; a config cannot have them, since it would be refused.
_TEMPLATE, _STRING = "__mmx_template__", "__mmx_string__"
_LAZY, _FROM, _STAR = "__mmx_lazy__", "__mmx_from__", "__mmx_star__"


@dataclass
class Parsed:
    """The syntax tree of a Python config.

    Attributes:
        tree: The tree, in which calls stand for templates.
        path: The file.
        templates: The templates of the text.
        text: The text.
        variables: What templates stand for.
    """

    tree: ast.Module
    path: Path
    text: str
    variables: Variables
    templates: list[Template] = field(default_factory=list)


@dataclass
class Names:
    """What a config binds.

    Attributes:
        values: Its settings.
        helpers: Functions that it defines, which configs built on it may call.
        imported: Names of imports; they are no settings.
    """

    values: dict[str, Any]
    helpers: dict[str, Any] = field(default_factory=dict)
    imported: dict[str, Any] = field(default_factory=dict)


# --------------------------------------------------------------------------- text → tree


def parse(text: str, path: Path, variables: Variables) -> Parsed:
    """Return the syntax tree of a Python config.

    Raises:
        ConfigSyntaxError: It is no Python.
    """
    source = text
    templates: list[Template] = []
    if "{{" in text:
        source, templates = _hide(text, variables)
    try:
        tree = ast.parse(source, str(path))
    except (SyntaxError, ValueError) as error:
        raise _syntax_error(error, path) from error
    if templates:
        tree = ast.fix_missing_locations(_Strings().visit(tree))
    return Parsed(tree, path, text, variables, templates)


def _syntax_error(error: SyntaxError | ValueError, path: Path) -> ConfigSyntaxError:
    if not isinstance(error, SyntaxError):  # null bytes
        return ConfigSyntaxError(f"this is no valid Python: {error}", filename=str(path))
    return ConfigSyntaxError(
        f"this is no valid Python: {error.msg}: {(error.text or '').strip()}",
        filename=str(path),
        line=error.lineno,
    )


def _hide(text: str, variables: Variables) -> tuple[str, list[Template]]:
    """Replace templates: inside quotes by markers, bare ones by calls."""
    templates = [t for t in template.find(text) if variables.wants(t)]
    if not templates:
        return text, templates
    spans = python_strings(text)
    pieces, done = [], 0
    for number, item in enumerate(templates):
        pieces.append(text[done : item.start])
        if any(start < item.start < end for start, end in spans):
            pieces.append(template.marker(number))
        else:
            pieces.append(f"{_TEMPLATE}({number})")
        done = item.end
    pieces.append(text[done:])
    return "".join(pieces), templates


class _Strings(ast.NodeTransformer):
    """Replaces strings with markers by calls."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, str) or not template.is_hidden(node.value):
            return node
        call = ast.Call(ast.Name(_STRING, ast.Load()), [ast.Constant(node.value)], [])
        return ast.copy_location(call, node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        values: list[ast.expr] = []
        for value in node.values:
            new = self.visit(value)
            if isinstance(new, ast.Call):
                new = ast.FormattedValue(new, -1, None)
            values.append(ast.copy_location(new, value))
        return ast.copy_location(ast.JoinedStr(values), node)


def python_strings(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of the strings and comments of a Python text."""
    return _strings(text, quotes="\"'", triple=True, comment="#", raw_single=False)


def json_strings(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of the strings of a JSON text."""
    return _strings(text, quotes='"', triple=False, comment="", raw_single=False)


def toml_strings(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of the strings and comments of a TOML text."""
    return _strings(text, quotes="\"'", triple=True, comment="#", raw_single=True)


def _strings(
    text: str, *, quotes: str, triple: bool, comment: str, raw_single: bool
) -> list[tuple[int, int]]:
    spans = []
    i, size = 0, len(text)
    while i < size:
        char = text[i]
        if comment and char == comment:
            end = text.find("\n", i)
            end = size if end < 0 else end
            spans.append((i, end))
            i = end
        elif char in quotes:
            close = char * 3 if triple and text.startswith(char * 3, i) else char
            escapes = not (raw_single and char == "'")
            end = i + len(close)
            while end < size and not text.startswith(close, end):
                if text[end] == "\n" and len(close) == 1:
                    break
                end += 2 if escapes and text[end] == "\\" else 1
            end = min(size, end + len(close))
            spans.append((i, end))
            i = end
        else:
            i += 1
    return spans


# --------------------------------------------------------------------------- looking at the tree


def base_assignments(tree: ast.Module) -> list[int]:
    """Return the indices of the statements that set ``_base_``."""
    return [
        i
        for i, node in enumerate(tree.body)
        if (isinstance(node, ast.Assign) and any(_is_base_name(t) for t in node.targets))
        or (isinstance(node, ast.AnnAssign) and _is_base_name(node.target) and node.value)
    ]


def _is_base_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == BASE_KEY


def read_base_line(tree: ast.Module) -> int | None:
    """Return the line of the first ``with read_base():``, or None."""
    for node in ast.walk(tree):
        if _is_read_base(node):
            return node.lineno  # type: ignore[attr-defined,no-any-return]  # a With
    return None


def _is_read_base(node: ast.AST) -> bool:
    if not isinstance(node, ast.With):
        return False
    for item in node.items:
        call = item.context_expr
        function = call.func if isinstance(call, ast.Call) else call
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name == READ_BASE:
            return True
    return False


def is_lazy(tree: ast.Module) -> bool:
    """Whether a tree is that of a pure-Python config.

    It is if it has ``with read_base():``; or if it imports something else than the standard
    library and does not set ``_base_``.
    """
    if base_assignments(tree):
        return False
    if any(_is_read_base(node) for node in tree.body):
        return True
    for node in tree.body:
        if isinstance(node, ast.Import) and not all(_is_standard(a.name) for a in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and (node.level or not _is_standard(node.module or "")):
            return True
    return False


def is_lazy_text(text: str, path: Path) -> bool:
    """Whether a text is that of a pure-Python config.

    Raises:
        ConfigSyntaxError: It is no Python.
    """
    return is_lazy(parse(text, path, Variables(path)).tree)


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


# --------------------------------------------------------------------------- text configs


def is_plain(text: str) -> bool:
    """Whether a Python config can do without looking at its tree: no bases, imports, templates."""
    return not any(word in text for word in (BASE_KEY, READ_BASE, "import", "{{"))


def run_plain(text: str, path: Path) -> Names:
    """Run a config of which `is_plain` holds.

    Raises:
        ConfigSyntaxError: It is no Python.
        Exception: What the config's own code raises, with a note of the file and the line.
    """
    try:
        code = compile(text, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        raise _syntax_error(error, path) from error
    namespace: dict[str, Any] = {"__file__": str(path), "__name__": MODULE_NAME}
    try:
        exec(code, namespace)  # noqa: S102  # a Python config is code, as its user wants
    except Exception as error:
        _annotate(error, path)
        raise
    return _collect(namespace, set())


def run_text(parsed: Parsed, load_bases: Callable[[Any, int], Mapping[str, Any]]) -> Names:
    """Run a text config.

    Args:
        parsed: Its tree.
        load_bases: Called with the value of ``_base_`` and its line, returns the merged bases.

    Raises:
        ConfigParsingError: ``_base_`` is set twice, or cannot be told.
        Exception: What the config's own code raises, with a note of the file and the line.
    """
    body = parsed.tree.body
    positions = base_assignments(parsed.tree)
    # Walking a tree costs more than looking for a word.
    line = read_base_line(parsed.tree) if READ_BASE in parsed.text else None
    if line is not None:
        if positions:
            raise ConfigParsingError(
                f"`with read_base():` and `_base_ =` (line {body[positions[0]].lineno}) do not go "
                "together in one file: import what `_base_` names by `from ... import *` inside "
                "`with read_base():`, or list in `_base_` what it imports",
                filename=str(parsed.path),
                line=line,
            )
        raise ConfigParsingError(
            "`with read_base():` needs lazy_import; do not set `lazy_import=False`, or write "
            "`_base_ = [...]`",
            filename=str(parsed.path),
            line=line,
        )
    if len(positions) > 1:
        raise ConfigParsingError(
            f"_base_ is set twice, in line {body[positions[0]].lineno} too; write one list",
            filename=str(parsed.path),
            line=body[positions[1]].lineno,
        )
    namespace = _namespace(parsed)
    if positions:
        position = positions[0]
        node = body[position]
        before, after = body[:position], body[position + 1 :]
        if before and _uses_base(parsed, before, node.lineno):
            # What stands above uses the bases, so that they must be told without it.
            before, after = [], before + after
        _run(before, parsed, namespace)
        value = _base_value(node.value, parsed, namespace)  # type: ignore[attr-defined]  # Assign
        namespace[BASE_KEY] = load_bases(value, node.lineno)
    else:
        after = body
    _run(after, parsed, namespace)
    imported = _imported_names(parsed.tree) if "import" in parsed.text else set()
    return _collect(namespace, imported)


def _uses_base(parsed: Parsed, before: list[ast.stmt], position: int) -> bool:
    """Whether what stands above ``_base_`` uses it."""
    if any(_is_base_name(node) for statement in before for node in ast.walk(statement)):
        return True
    lines = 0
    done = 0
    for item in parsed.templates:
        if item.kind == "base":
            lines += parsed.text.count("\n", done, item.start)
            done = item.start
            if lines + 1 < position:
                return True
    return False


def _namespace(parsed: Parsed) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__file__": str(parsed.path), "__name__": MODULE_NAME}
    if parsed.templates:
        namespace[_TEMPLATE] = lambda number: template_value(
            parsed.templates[number], parsed, namespace
        )
        namespace[_STRING] = lambda text: template.reveal(
            text,
            parsed.templates,
            parsed.variables,
            lambda item: base_value(namespace.get(BASE_KEY), item, parsed.path),
            python_value,
        )
    return namespace


def template_value(item: Template, parsed: Parsed, namespace: Mapping[str, Any]) -> Any:
    """Return what a bare template of a Python config stands for."""
    if item.kind == "base":
        return base_value(namespace.get(BASE_KEY), item, parsed.path)
    text = parsed.variables.text_of(item)
    return python_value(text) if item.kind == "environment" else text


def python_value(text: str) -> Any:
    """Return the Python literal that a text is, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def base_value(base: Any, item: Template, path: Path) -> Any:
    """Return the value of a base that ``{{_base_.x.y}}`` names.

    Raises:
        ConfigKeyError: There is none.
    """
    value = base
    if base is None:
        raise ConfigKeyError(
            f"{{{{_base_{item.name}}}}} is used, but the config has no _base_", filename=str(path)
        )
    for part in base_path(item.name):
        try:
            if isinstance(value, dict):
                value = dict.__getitem__(value, part)
            else:
                value = value[int(part)]
        except (KeyError, IndexError, ValueError, TypeError):
            hint = near(part, value) if isinstance(value, dict) else ""
            raise ConfigKeyError(
                f"{{{{_base_{item.name}}}}}: the base configs set no {part!r} there{hint}",
                filename=str(path),
            ) from None
    return value


def base_path(path: str) -> list[str]:
    """Return the keys of ``.model.layers[0]['a']``."""
    return [
        part.strip("'\" ") for part in path.replace("[", ".").replace("]", "").split(".") if part
    ]


def _base_value(node: ast.expr, parsed: Parsed, namespace: dict[str, Any]) -> Any:
    code = compile(ast.Expression(node), str(parsed.path), "eval")
    try:
        return eval(code, namespace)  # noqa: S307  # a Python config is code, as its user wants
    except NameError as error:
        raise ConfigParsingError(
            f"_base_ uses a name that is not bound above it: {error}",
            filename=str(parsed.path),
            line=node.lineno,
        ) from error
    except Exception as error:
        _annotate(error, parsed.path)
        raise


def _run(body: list[ast.stmt], parsed: Parsed, namespace: dict[str, Any]) -> None:
    if not body:
        return
    code = compile(ast.Module(body, []), str(parsed.path), "exec")
    try:
        exec(code, namespace)  # noqa: S102  # a Python config is code, as its user wants
    except Exception as error:
        _annotate(error, parsed.path)
        raise


def _annotate(error: Exception, path: Path) -> None:
    """Add where in the config an error happened."""
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    if line is not None:
        error.add_note(f"in the config {path}:{line}")


def _imported_names(tree: ast.Module) -> set[str]:
    return {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def _collect(namespace: Mapping[str, Any], imported: set[str]) -> Names:
    names = Names({})
    for key, value in namespace.items():
        if key.startswith("__") or key == BASE_KEY or isinstance(value, types.ModuleType):
            continue
        if isinstance(value, _FUNCTIONS):
            names.helpers[key] = value
        elif key in imported and isinstance(value, (*LAZY_TYPES, type)):
            names.imported[key] = value
        else:
            names.values[key] = value
    return names


# --------------------------------------------------------------------------- pure-Python configs


def run_lazy(parsed: Parsed, load_module: Callable[[str, int, int], Names]) -> Names:
    """Run a pure-Python config: what it imports stays unimported, but for the standard library.

    Args:
        parsed: Its tree.
        load_module: Called with a module, the level of a relative import and the line, returns what
            that base binds.

    Raises:
        ConfigParsingError: An import stands where it means nothing.
        Exception: What the config's own code raises, with a note of the file and the line.
    """
    path = parsed.path
    for position in base_assignments(parsed.tree):
        raise ConfigParsingError(
            "`_base_ =` means nothing in a pure-Python config (lazy_import): import the base by "
            "`with read_base(): from .base import *`",
            filename=str(path),
            line=parsed.tree.body[position].lineno,
        )
    imports = _Imports(path)
    tree = ast.fix_missing_locations(imports.visit(parsed.tree))
    namespace = _namespace(parsed)
    loaded: dict[tuple[str, int], Names] = {}
    imported: dict[str, Any] = {}

    def base_of(module: str, level: int, line: int) -> Names:
        names = loaded.get((module, level))
        if names is None:
            names = loaded[module, level] = load_module(module, level, line)
            names.values = ParsedDict(names.values)
            imported.update(names.imported)
        return names

    def take(module: str, level: int, name: str, line: int) -> Any:
        names = base_of(module, level, line)
        for bound in (names.values, names.helpers, names.imported):
            if name in bound:
                return dict.__getitem__(bound, name)
        raise ConfigKeyError(
            f"the base config {'.' * level}{module} sets no {name!r}{near(name, names.values)}",
            filename=str(path),
            line=line,
        )

    def take_all(module: str, level: int, line: int) -> None:
        names = base_of(module, level, line)
        for bound in (names.imported, names.helpers, names.values):
            namespace.update(dict.items(bound))

    namespace[_FROM], namespace[_STAR] = take, take_all
    namespace[_LAZY] = lambda module, name, line: LazyObject(module, name, f"{path}, line {line}")
    _run(tree.body, parsed, namespace)
    names = _collect(namespace, imports.names | set(imported))
    names.imported = {**imported, **names.imported}
    return names


class _Imports(ast.NodeTransformer):
    """Replaces imports by assignments of lazy objects, and those of bases by look-ups."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: set[str] = set()
        # Package -> modules of it that `import` statements name.
        self.packages: dict[str, list[str]] = {}
        self.depth = 0

    def visit_Module(self, node: ast.Module) -> ast.AST:
        for child in ast.walk(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    if alias.asname is None and not _is_standard(alias.name):
                        modules = self.packages.setdefault(alias.name.partition(".")[0], [])
                        if alias.name not in modules:
                            modules.append(alias.name)
        body: list[ast.stmt] = []
        for statement in node.body:
            if _is_read_base(statement):
                assert isinstance(statement, ast.With)
                body += self._bases(statement)
                continue
            new = self.visit(statement)
            body += new if isinstance(new, list) else [new] if new is not None else []
        node.body = body
        return node

    def _error(self, message: str, node: ast.AST) -> ConfigParsingError:
        return ConfigParsingError(
            message, filename=str(self.path), line=getattr(node, "lineno", None)
        )

    def visit_With(self, node: ast.With) -> ast.AST:
        if _is_read_base(node):
            raise self._error("`with read_base():` must stand at the top level of the file", node)
        return self.generic_visit(node)

    def _bases(self, node: ast.With) -> list[ast.stmt]:
        result: list[ast.stmt] = []
        for statement in node.body:
            if isinstance(statement, ast.Pass):
                continue
            if not isinstance(statement, ast.ImportFrom):
                raise ConfigBaseImportError(
                    "Illegal syntax in config file! Only `from ... import ...` could be "
                    "implemented in `with read_base()`",
                    filename=str(self.path),
                    line=statement.lineno,
                )
            where: list[ast.expr] = [
                ast.Constant(statement.module or ""),
                ast.Constant(statement.level),
            ]
            line = ast.Constant(statement.lineno)
            for alias in statement.names:
                new: ast.stmt
                if alias.name == "*":
                    call = ast.Call(ast.Name(_STAR, ast.Load()), [*where, line], [])
                    new = ast.Expr(call)
                else:
                    call = ast.Call(
                        ast.Name(_FROM, ast.Load()), [*where, ast.Constant(alias.name), line], []
                    )
                    target = ast.Name(alias.asname or alias.name, ast.Store())
                    new = ast.Assign([target], call)
                result.append(ast.copy_location(new, statement))
        return result

    def _lazy(self, target: str, module: Any, name: str | None, node: ast.stmt) -> ast.stmt:
        modules: ast.expr = (
            ast.Constant(module)
            if isinstance(module, str)
            else ast.List([ast.Constant(m) for m in module], ast.Load())
        )
        call = ast.Call(
            ast.Name(_LAZY, ast.Load()),
            [modules, ast.Constant(name), ast.Constant(node.lineno)],
            [],
        )
        self.names.add(target)
        return ast.copy_location(ast.Assign([ast.Name(target, ast.Store())], call), node)

    def visit_Import(self, node: ast.Import) -> Any:
        result: list[ast.stmt] = []
        for alias in node.names:
            top = alias.name.partition(".")[0]
            if _is_standard(alias.name):
                self.names.add(alias.asname or top)
                result.append(ast.copy_location(ast.Import([alias]), node))
            elif alias.asname:
                result.append(self._lazy(alias.asname, alias.name, None, node))
            else:
                modules = self.packages[top]
                which: Any = top if modules == [top] else [top, *(m for m in modules if m != top)]
                result.append(self._lazy(top, which, None, node))
        return result

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        module = node.module or ""
        if node.level:
            raise self._error(
                f"`from {'.' * node.level}{module} import ...` of a config belongs into "
                "`with read_base():`; anything else is imported by its absolute name",
                node,
            )
        if module == "__future__":
            return node
        if _is_standard(module):
            self.names.update(alias.asname or alias.name for alias in node.names)
            return node
        result: list[ast.stmt] = []
        for alias in node.names:
            if alias.name == "*":
                raise self._error(
                    "Illegal syntax in config! `from xxx import *` is not allowed to appear outside "
                    "`with read_base():`; name what is to be imported",
                    node,
                )
            if alias.name == READ_BASE and module.endswith("config"):
                # It only marks the blocks.
                continue
            result.append(self._lazy(alias.asname or alias.name, module, alias.name, node))
        return result or ast.copy_location(ast.Pass(), node)
