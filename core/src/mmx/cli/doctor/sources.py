"""Reading Python files: imports, uses of names, calls, overriding methods, and configs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmx.cli.doctor import names, parts
from mmx.cli.doctor.findings import WARNING, Report
from mmx.cli.doctor.tables import MMCV, NOT_CALLED, OLD_KEYS, REFUSED_ARGUMENTS, REPLACED

# What catches a failed import.
_CATCHES = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
_DICTS = frozenset({"dict", "ConfigDict", "mmengine.ConfigDict", "mmengine.config.ConfigDict"})
CONFIG_KEYS = frozenset(
    {
        "_base_",
        "custom_hooks",
        "default_hooks",
        "default_scope",
        "env_cfg",
        "model",
        "optim_wrapper",
        "param_scheduler",
        "test_dataloader",
        "train_cfg",
        "train_dataloader",
        "val_dataloader",
        "visualizer",
    }
)


def close_name(name: str, candidates: list[str], what: str = "Did you mean") -> str:
    """Return a question with the nearest candidate, or ""."""
    from difflib import get_close_matches

    near = get_close_matches(name, candidates, n=1)
    return f"{what} {near[0]!r}?" if near else ""


class SourceReader:
    """Reads one file.

    Args:
        file: Its path.
        tree: Its syntax tree.
        around: What is declared around it.
        report: Where findings go.
    """

    def __init__(
        self, file: Path, tree: ast.Module, around: parts.Surroundings, report: Report
    ) -> None:
        self.file = file
        self.tree = tree
        self.around = around
        self.report = report
        # Name in this file -> dotted path, of imports of the old packages.
        self.imported: dict[str, str] = {}
        # Names that mean something else somewhere in the file.
        self.rebound: set[str] = set()
        # Lines inside `try:` blocks that catch a failed import.
        self.guarded: set[int] = set()

    def read(self) -> None:
        """Add all findings of the file."""
        self._collect()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                self._import(node)
            elif isinstance(node, ast.ImportFrom):
                self._import_from(node)
            elif isinstance(node, ast.Call):
                self._call(node)
            elif isinstance(node, ast.Dict):
                self._literal(node)
            elif isinstance(node, ast.ClassDef):
                self._class(node)
        self._attributes()
        if is_config(self.tree):
            self._config()

    # ------------------------------------------------------------------ names of the file

    def _collect(self) -> None:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self._bind(
                        alias.asname or alias.name.partition(".")[0],
                        alias.name if alias.asname else alias.name.partition(".")[0],
                    )
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    self._bind(alias.asname or alias.name, f"{node.module}.{alias.name}")
            elif isinstance(node, ast.ImportFrom):
                self.rebound.update(alias.asname or alias.name for alias in node.names)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
                self.rebound.add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                self.rebound.add(node.name)
            elif isinstance(node, ast.arg):
                self.rebound.add(node.arg)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                self.rebound.add(node.name)
            if isinstance(node, ast.Try) and any(map(_catches_import, node.handlers)):
                for statement in node.body:
                    self.guarded.update(range(statement.lineno, (statement.end_lineno or 0) + 1))

    def _bind(self, name: str, path: str) -> None:
        if path.partition(".")[0] not in (names.PACKAGE, "mmcv") or (
            self.imported.get(name, path) != path
        ):
            self.rebound.add(name)
        else:
            self.imported[name] = path

    def _path_of(self, node: ast.expr) -> str:
        """Return the dotted path that a name or attribute stands for, or ""."""
        trail: list[str] = []
        while isinstance(node, ast.Attribute):
            trail.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id in self.rebound:
            return ""
        start = self.imported.get(node.id)
        return ".".join([start, *reversed(trail)]) if start else ""

    # ------------------------------------------------------------------ imports and attributes

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._name(alias.name, node.lineno, f"import {alias.name}")

    def _import_from(self, node: ast.ImportFrom) -> None:
        if node.level or not node.module:
            return
        for alias in node.names:
            if alias.name == "*":
                self._name(node.module, node.lineno, f"from {node.module} import *")
            else:
                what = f"from {node.module} import {alias.name}"
                self._name(f"{node.module}.{alias.name}", node.lineno, what)

    def _attributes(self) -> None:
        inner = {id(n.value) for n in ast.walk(self.tree) if isinstance(n, ast.Attribute)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and id(node) not in inner:
                path = self._path_of(node)
                if path:
                    self._name(path, node.lineno, path)

    def _name(self, path: str, line: int, what: str) -> None:
        top = path.partition(".")[0]
        if top == "mmcv":
            self._mmcv(path, line, what)
            return
        if top != names.PACKAGE:
            return
        found = names.look_up(path)
        if not found.missing:
            return
        guarded = line in self.guarded
        text = f"{what}: {found.parent} has no {found.missing!r} in mmx"
        if guarded:
            text += " (the failed import is caught)"
        replacement = next(
            (f"Instead: {advice}" for place, advice in REPLACED.items() if path.startswith(place)),
            close_name(found.missing, names.names_of(found.parent)),
        )
        level = {"level": WARNING} if guarded else {}
        self.report.add(self.file, line, "import", path, text, replacement, **level)

    def _mmcv(self, path: str, line: int, what: str) -> None:
        place = path
        while place not in MMCV:
            place = place.rpartition(".")[0]
            if not place:
                return
        replacement = MMCV[place]
        if replacement.startswith("mmengine") and place != path and "," not in replacement:
            # A whole module has moved.
            further = f"{replacement}{path.removeprefix(place)}"
            if names.look_up(further).is_known:
                replacement = further
        level = {"level": WARNING} if line in self.guarded else {}
        text = f"{what}: mmcv 2 has no {path!r}, which moved"
        self.report.add(self.file, line, "mmcv", path, text, f"Use {replacement}", **level)

    # ------------------------------------------------------------------ calls

    def _call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in _DICTS:
            given: dict[str, ast.expr] = {k.arg: k.value for k in node.keywords if k.arg}
            if "type" in given:
                self._part(given, _lines(node))
            return
        path = self._path_of(node.func)
        if not path.startswith(f"{names.PACKAGE}."):
            return
        accepted = names.arguments_of(path)
        if accepted is None:
            return
        value = names.look_up(path).value
        short = path.rpartition(".")[2]
        for keyword in node.keywords:
            if keyword.arg is None:
                continue
            if keyword.arg not in accepted.hints and not accepted.is_open:
                self.report.add(
                    self.file,
                    keyword.value.lineno,
                    "argument",
                    f"{path}({keyword.arg})",
                    f"{short}() takes no argument {keyword.arg!r} in mmx",
                    close_name(keyword.arg, list(accepted.hints)),
                )
            self._refused(value, keyword)
        limit = names.num_positional(path)
        count = len(node.args)
        if limit is not None and count > limit and not _has_star(node):
            self.report.add(
                self.file,
                node.lineno,
                "argument",
                path,
                f"{short}() takes {limit} arguments by place in mmx, and {count} are given",
                "Give the further ones by name",
            )

    def _refused(self, value: Any, keyword: ast.keyword) -> None:
        why = REFUSED_ARGUMENTS.get(names.home_of(value), {}).get(str(keyword.arg))
        if why and isinstance(keyword.value, ast.Constant) and not keyword.value.value:
            text = f"{keyword.arg}={keyword.value.value!r} is refused in mmx: {why}"
            self.report.add(self.file, keyword.value.lineno, "argument", str(keyword.arg), text)

    # ------------------------------------------------------------------ classes

    def _class(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            path = self._path_of(base)
            found = names.look_up(path) if path.startswith(f"{names.PACKAGE}.") else None
            if found is None or not isinstance(found.value, type):
                continue
            homes = {names.home_of(cls) for cls in found.value.__mro__}
            for home, methods in NOT_CALLED.items():
                for item in node.body if home in homes else ():
                    if isinstance(item, ast.FunctionDef) and item.name in methods:
                        self.report.add(
                            self.file,
                            item.lineno,
                            "override",
                            f"{node.name}.{item.name}",
                            f"{node.name} overrides {item.name}, which {home.rpartition('.')[2]} "
                            "of mmx does not call",
                            f"Instead: {methods[item.name]}",
                        )

    # ------------------------------------------------------------------ configs

    def _literal(self, node: ast.Dict) -> None:
        given = {
            key.value: value
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
        if "type" in given:
            self._part(given, _lines(node))

    def _part(self, given: dict[str, ast.expr], lines: dict[str, int]) -> None:
        kind = given["type"]
        scope = given.get("_scope_")
        if isinstance(scope, ast.Constant) and isinstance(scope.value, str):
            check_scope(self.file, lines["_scope_"], scope.value, self.around, self.report)
        if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
            foreign = isinstance(scope, ast.Constant) and scope.value not in ("mmengine", "mmx")
            check_part(self.file, kind.value, lines, foreign, self.around, self.report)
            return
        path = self._path_of(kind)
        if not path.startswith(f"{names.PACKAGE}."):
            return
        found = names.look_up(path)
        name = path.rpartition(".")[2]
        same = [p for p in parts.core_parts().get(name, ()) if p.value is found.value]
        if found.is_known and same:
            add_unknown(self.file, name, lines, self.report)

    def _config(self) -> None:
        for node in self.tree.body:
            for name, value in _assigned(node):
                if name in OLD_KEYS and not self._is_used(name):
                    add_old_key(self.file, node.lineno, name, self.report)
                if value is not None:
                    add_settings(self.file, name, _lines(value), self.report)
                if name == "default_scope" and isinstance(value, ast.Constant):
                    scope = value.value
                    if isinstance(scope, str):
                        check_scope(self.file, node.lineno, scope, self.around, self.report)

    def _is_used(self, name: str) -> bool:
        return any(
            isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
            for node in ast.walk(self.tree)
        )


# ---------------------------------------------------------------------- configs of every kind


def check_part(
    file: Path,
    kind: str,
    lines: dict[str, int],
    foreign: bool,
    around: parts.Surroundings,
    report: Report,
) -> None:
    """Check a dict whose type is a string.

    Args:
        file: The file.
        kind: The type.
        lines: Key -> line.
        foreign: The dict names another scope for itself.
        around: What is declared around the file.
        report: Where findings go.
    """
    from mmx_registry import trust

    scope, dot, name = kind.partition(".")
    if not dot:
        if not foreign and kind not in around.names:
            add_unknown(file, kind, lines, report)
        return
    if scope in ("mmengine", "mmx") and "." not in name:
        add_unknown(file, name, lines, report)
        return
    if around.knows_scope(scope) or trust.is_trusted(scope):
        return
    if "." in name or parts.is_importable(scope):
        text = (
            f"type {kind!r} is a dotted path into {scope!r}; mmx follows these in trusted packages "
            "only"
        )
        advice = (
            f"Register the object, write the class itself, or trust the package (MMX_TRUST={scope})"
        )
        report.add(file, lines["type"], "scope", kind, text, advice, WARNING)
        return
    check_scope(file, lines["type"], scope, around, report)


def check_scope(
    file: Path, line: int, scope: str, around: parts.Surroundings, report: Report
) -> None:
    """Check that something declares a scope."""
    if not around.knows_scope(scope):
        text = (
            f"no installed package declares the scope {scope!r}: mmx raises an error where MMEngine "
            "fell back to the root"
        )
        report.add(file, line, "scope", scope, text, f"Install what declares {scope!r}", WARNING)


def add_unknown(file: Path, name: str, lines: dict[str, int], report: Report) -> None:
    """Add the keys of a dict that the core's part of this name does not take."""
    unknown, taken = parts.unknown_arguments(name, lines)
    for key in unknown:
        text = f"{name} takes no argument {key!r} in mmx"
        report.add(file, lines[key], "config", f"{name}.{key}", text, close_name(key, taken))


def add_settings(file: Path, name: str, lines: dict[str, int], report: Report) -> None:
    """Add the keys that a dict at the top of a config does not have in mmx."""
    known = parts.keys_of_setting(name)
    if not known or "type" in lines:
        return
    for key, line in lines.items():
        if key not in known | parts.EVERYWHERE:
            text = f"{name} has no key {key!r} in mmx"
            report.add(file, line, "config", f"{name}.{key}", text, close_name(key, sorted(known)))


def add_old_key(file: Path, line: int, name: str, report: Report) -> None:
    """Add a key at the top of a config that nothing reads."""
    text = f"{name!r} is a key of configs for mmcv 1.x, which nothing reads"
    report.add(file, line, "config", name, text, f"Use {OLD_KEYS[name]}")


def is_config(tree: ast.Module) -> bool:
    """Whether a file sets what configs set at the top."""
    named = {name for node in tree.body for name, _ in _assigned(node)}
    has_code = any(isinstance(n, (ast.ClassDef, ast.FunctionDef)) for n in tree.body)
    return bool(named & CONFIG_KEYS) and not has_code


def registered(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a file registers, as far as its text tells."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and _is_register(decorator):
                    yield node.name
        if isinstance(node, ast.Call) and _is_register(node):
            for value in [*node.args, *(k.value for k in node.keywords)]:
                for inner in value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]:
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                        yield inner.value
                    elif isinstance(inner, ast.Name):
                        yield inner.id
                    elif isinstance(inner, ast.Attribute):
                        yield inner.attr


def declared_scopes(tree: ast.Module) -> Iterator[str]:
    """Yield the scopes that a file gives its registries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Registry"):
            for keyword in node.keywords:
                if keyword.arg == "scope" and isinstance(keyword.value, ast.Constant):
                    yield str(keyword.value.value)


def _lines(node: ast.expr) -> dict[str, int]:
    """Return the keys of a dict, written in either way, with their lines."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _DICTS:
        return {k.arg: k.value.lineno for k in node.keywords if k.arg}
    if isinstance(node, ast.Dict):
        return {
            key.value: key.lineno
            for key in node.keys
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
    return {}


def _is_register(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "register_module"


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr | None]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, node.value


def _catches_import(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(t, ast.Name) and t.id in _CATCHES for t in types)


def _has_star(node: ast.Call) -> bool:
    return any(isinstance(argument, ast.Starred) for argument in node.args)
