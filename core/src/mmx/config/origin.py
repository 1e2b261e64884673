"""Where each value of a config is written: file and line, through inheritance and overrides.

Nothing is recorded while a config is read. Its files' texts are kept, and looked at without running
them when somebody asks.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.config import source
from mmx.config.config_dict import DELETE_KEY, ConfigDict, edits_of
from mmx.config.errors import ConfigError
from mmx.config.load import Layer
from mmx.config.merge import from_options
from mmx.config.template import Variables


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from.

    Attributes:
        file: The file, or "" if it is not from a file.
        line: The line, 1-based; 0 if it is not known.
        note: What else there is to say, such as ``"override"``.
    """

    file: str
    line: int = 0
    note: str = ""

    def __str__(self) -> str:
        if not self.file:
            return self.note
        name = os.path.relpath(self.file)
        name = self.file if name.startswith(f"..{os.sep}..") else name
        place = f"{name}:{self.line}" if self.line else name
        return f"{place} ({self.note})" if self.note else place


class Node:
    """What is known of one value: its origin, and what is known of what is in it."""

    __slots__ = ("children", "items", "origin")

    def __init__(
        self,
        origin: Origin,
        children: dict[Any, Node] | None = None,
        items: list[Node] | None = None,
    ) -> None:
        self.origin = origin
        # Of a dict; None if it is none, or not known.
        self.children = children
        # Of a list or tuple.
        self.items = items

    def at(self, origin: Origin) -> Node:
        """Return the same value, written elsewhere."""
        return Node(origin, self.children, self.items)

    def child(self, key: Any) -> Node | None:
        """Return what is known of one element."""
        if self.children is not None:
            return self.children.get(key, self.children.get(str(key)))
        if self.items is not None:
            try:
                return self.items[int(key)]
            except (ValueError, IndexError, TypeError):
                return None
        return None


def merged(child: Node, base: Node | None) -> Node:
    """Return what is known of ``child`` merged onto ``base``; as `mmx.config.merge.merge`."""
    if child.children is None:
        return child
    deleted = DELETE_KEY in child.children
    own = {key: node for key, node in child.children.items() if key != DELETE_KEY}
    if base is not None and base.items is not None and own and all(_is_index(k) for k in own):
        items = list(base.items)
        for key, node in own.items():
            if -len(items) <= int(key) < len(items):
                items[int(key)] = merged(node, items[int(key)])
        return Node(base.origin, None, items)
    if base is None or base.children is None or deleted:
        return Node(child.origin, {k: merged(n, None) for k, n in own.items()})
    result = dict(base.children)
    for key, node in own.items():
        result[key] = merged(node, result.get(key))
    return Node(child.origin, result)


def _is_index(key: Any) -> bool:
    return str(key).lstrip("-").isdigit()


def tree_of_config(cfg: Any) -> Node | None:
    """Return what is known of all values of a `Config`; None if it was not read from a file."""
    layer = getattr(cfg, "_layer", None)
    overrides = getattr(cfg, "_overrides", None)
    if layer is None and not overrides:
        return None
    root = tree_of_layer(layer) if layer is not None else Node(Origin("", 0, "set in code"), {})
    for options, note in overrides or ():
        root = merged(_plain_tree(from_options(options), Origin("", 0, note)), root)
    return root


def _plain_tree(value: Any, origin: Origin) -> Node:
    if isinstance(value, Mapping):
        pairs = dict.items(value) if isinstance(value, dict) else value.items()
        return Node(origin, {key: _plain_tree(item, origin) for key, item in pairs})
    if isinstance(value, (list, tuple)):
        return Node(origin, None, [_plain_tree(item, origin) for item in value])
    return Node(origin)


def keys_of(path: str | Sequence[Any]) -> list[Any]:
    """Return the keys of ``"model.layers.0.type"`` or ``"model.layers[0].type"``."""
    if not isinstance(path, str):
        return list(path)
    return [key for key in path.replace("[", ".").replace("]", "").split(".") if key]


def origin_of(cfg: Any, path: str | Sequence[Any]) -> Origin | None:
    """Return where a value of a config is written.

    Args:
        cfg: A `Config`.
        path: Its key, such as ``"model.backbone.depth"`` or ``"hooks.0.type"``.

    Returns:
        The origin of the value, or of the nearest that it is in if its own is computed; None if
        the config was made in code.
    """
    return Origins(cfg).find(path)


class Origins:
    """The origins of the values of one config; for asking often."""

    def __init__(self, cfg: Any) -> None:
        self._settings = getattr(cfg, "_cfg_dict", None)
        try:
            self.root = tree_of_config(cfg)
        except (ConfigError, SyntaxError, ValueError):  # a text that was not a file's
            self.root = None

    def find(self, path: str | Sequence[Any]) -> Origin | None:
        """Return the origin of a value; see `origin_of`."""
        node = self.root
        value = self._settings
        found: Origin | None = None
        edited: Origin | None = None
        for key in keys_of(path):
            if isinstance(value, ConfigDict):
                edits = edits_of(value) or {}
                name = key if key in edits else str(key)
                if name in edits:
                    edit = edits[name]
                    edited = None if edit is None else in_code(edit)
            elif isinstance(value, (list, tuple)) and _has_other_length(node, value):
                node = None  # code has added elements, or taken some away
            value = _inside(value, key)
            if type(value) is dict:
                # What a config reads has dicts of its own.
                edited = edited or Origin("", 0, "set in code")
            node = None if node is None else node.child(key)
            if node is not None:
                found = node.origin
        return edited or found


def in_code(edit: tuple[str, int]) -> Origin:
    """Return the origin of a value that code has set at a file and line."""
    return Origin(*edit, "set in code")


def _has_other_length(node: Node | None, value: Sequence[Any]) -> bool:
    return node is not None and node.items is not None and len(node.items) != len(value)


def _inside(value: Any, key: Any) -> Any:
    """Return an element of a value as it is kept, or None."""
    try:
        if isinstance(value, dict):
            return dict.get(value, key, dict.get(value, str(key)))
        return value[int(key)] if isinstance(value, (list, tuple)) else None
    except (ValueError, IndexError, TypeError):
        return None


class Source:
    """Finds where values of a config are written, for the dicts in it.

    Args:
        layer: The config's files.
        overrides: What was merged since.
    """

    def __init__(self, layer: Layer, overrides: Sequence[tuple[dict[str, Any], str]] = ()) -> None:
        self._layer = layer
        self._overrides = overrides
        self._found: Origins | None = None

    def __call__(self, path: tuple[Any, ...]) -> str:
        """Return ``"file:line"``, or ""."""
        if self._found is None:
            self._found = Origins(self)
        found = self._found.find(path)
        return "" if found is None else str(found)


# --------------------------------------------------------------------------- files


def tree_of_layer(layer: Layer) -> Node:
    """Return what is known of the values of one file and its bases."""
    base: Node | None = None
    if layer.bases and layer.kind != "lazy":
        base = Node(Origin(layer.path), {})
        for below in layer.bases.values():
            base = merged(tree_of_layer(below), base)
    suffix = Path(layer.path).suffix
    if suffix == ".py":
        own = _PythonTree(layer, base).build()
    elif suffix == ".toml":
        own = _toml_tree(layer)
    else:
        own = _yaml_tree(layer)
    return merged(own, base)


class _PythonTree:
    """Follows the statements of a Python config, as far as that goes without running them."""

    def __init__(self, layer: Layer, base: Node | None) -> None:
        self.layer = layer
        self.names: dict[str, Node] = {}
        self.trees: dict[int, Node] = {}
        if base is not None:
            self.names[source.BASE_KEY] = base
        path = Path(layer.path)
        self.parsed = source.parse(layer.text, path, Variables(path, environment=True))

    def build(self) -> Node:
        self.body(self.parsed.tree.body)
        names = {k: n for k, n in self.names.items() if k != source.BASE_KEY}
        return Node(self.origin(1), names)

    def origin(self, line: int) -> Origin:
        return Origin(self.layer.path, line)

    def body(self, body: Iterable[ast.stmt]) -> None:
        for node in body:
            self.statement(node)

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign):
            value = self.value(node.value)
            for target in node.targets:
                self.assign(target, value.at(self.origin(node.lineno)))
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self.assign(node.target, self.value(node.value).at(self.origin(node.lineno)))
        elif isinstance(node, ast.AugAssign):
            self.assign(node.target, Node(self.origin(node.lineno)))
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                self.delete(target)
        elif isinstance(node, ast.With):
            if any(self._is_import(statement) for statement in node.body):
                self.bases(node.body)
            else:
                self.body(node.body)
        elif isinstance(node, ast.Expr):
            if isinstance(node.value, ast.Call):
                self.call(node.value)
        elif isinstance(node, (ast.If, ast.For, ast.While)):
            if isinstance(node, ast.For):
                self.assign(node.target, Node(self.origin(node.lineno)))
            self.body(node.body)
            if isinstance(node, ast.If) and self.names.keys():
                # Which branch ran is not known; what only the other one sets is.
                before = dict(self.names)
                self.body(node.orelse)
                self.names = {**self.names, **before}
        elif isinstance(node, ast.Try):
            self.body(node.body)

    @staticmethod
    def _is_import(node: ast.stmt) -> bool:
        return isinstance(node, ast.ImportFrom)

    def bases(self, body: Iterable[ast.stmt]) -> None:
        for node in body:
            if not isinstance(node, ast.ImportFrom):
                continue
            below = self.layer.bases.get(f"{'.' * node.level}{node.module or ''}")
            if below is None:
                continue
            # Each base is run once, so that what two imports of it bind is shared.
            tree = self.trees.get(id(below)) or self.trees.setdefault(
                id(below), tree_of_layer(below)
            )
            for alias in node.names:
                if alias.name == "*":
                    self.names.update(tree.children or {})
                elif (found := tree.child(alias.name)) is not None:
                    self.names[alias.asname or alias.name] = found

    def assign(self, target: ast.expr, value: Node) -> None:
        if isinstance(target, ast.Name):
            if target.id != source.BASE_KEY:
                self.names[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            for i, part in enumerate(target.elts):
                found = value.child(i)
                self.assign(part, found if found is not None else Node(value.origin))
        elif isinstance(target, (ast.Attribute, ast.Subscript)):
            holder = self.look_up(target.value)
            key = self.key(target)
            if holder is None or key is None:
                return
            if holder.children is not None:
                holder.children[key] = value
            elif (
                holder.items is not None
                and isinstance(key, int)
                and -len(holder.items) <= key < len(holder.items)
            ):
                holder.items[key] = value

    def delete(self, target: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.names.pop(target.id, None)
        elif isinstance(target, (ast.Attribute, ast.Subscript)):
            holder = self.look_up(target.value)
            if holder is not None and holder.children is not None:
                holder.children.pop(self.key(target), None)

    @staticmethod
    def key(node: ast.Attribute | ast.Subscript) -> Any:
        if isinstance(node, ast.Attribute):
            return node.attr
        index = node.slice
        if isinstance(index, ast.UnaryOp) and isinstance(index.operand, ast.Constant):
            value = index.operand.value
            return -value if isinstance(value, int) else None
        return index.value if isinstance(index, ast.Constant) else None

    def look_up(self, node: ast.expr) -> Node | None:
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            holder = self.look_up(node.value)
            key = self.key(node)
            return None if holder is None or key is None else holder.child(key)
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "__mmx_template__"
            and isinstance(node.args[0], ast.Constant)
        ):
            item = self.parsed.templates[int(str(node.args[0].value))]
            found = self.names.get(source.BASE_KEY)
            for part in source.base_path(item.name) if item.kind == "base" else ():
                found = found.child(part) if found is not None else None
            return found if item.kind == "base" else None
        return None

    def call(self, node: ast.Call) -> None:
        """Follow ``x.update(...)``, ``x.merge(...)``, ``x.append(...)`` and their like."""
        if not isinstance(node.func, ast.Attribute):
            return
        holder = self.look_up(node.func.value)
        if holder is None:
            return
        method = node.func.attr
        if method in ("update", "merge") and holder.children is not None:
            given = [self.value(argument) for argument in node.args]
            if node.keywords:
                given.append(self.value(ast.Call(ast.Name("dict"), [], node.keywords)))
            for value in given:
                result = merged(value, holder)
                if result.children is not None:
                    holder.children.clear()
                    holder.children.update(result.children)
        elif method in ("pop", "__delitem__") and holder.children is not None and node.args:
            if isinstance(node.args[0], ast.Constant):
                holder.children.pop(node.args[0].value, None)
        elif method == "append" and holder.items is not None and node.args:
            holder.items.append(self.value(node.args[0]))
        elif method == "extend" and holder.items is not None and node.args:
            holder.items.extend(self.value(node.args[0]).items or ())
        elif (
            method == "insert"
            and holder.items is not None
            and len(node.args) == 2
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, int)
        ):
            holder.items.insert(node.args[0].value, self.value(node.args[1]))

    def value(self, node: ast.expr) -> Node:
        origin = self.origin(getattr(node, "lineno", 0))
        if isinstance(node, ast.Dict):
            children: dict[Any, Node] = {}
            for key, item in zip(node.keys, node.values, strict=True):
                if key is None:
                    children.update(self.value(item).children or {})
                elif isinstance(key, ast.Constant):
                    children[key.value] = self.value(item).at(self.origin(key.lineno))
            return Node(origin, children)
        if isinstance(node, (ast.List, ast.Tuple)):
            items: list[Node] = []
            for item in node.elts:
                if isinstance(item, ast.Starred):
                    items.extend(self.value(item.value).items or ())
                else:
                    items.append(self.value(item))
            return Node(origin, None, items)
        if isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else None
            name = node.func.id if isinstance(node.func, ast.Name) else function
            if name in ("dict", "ConfigDict", "OrderedDict"):
                children = {}
                for argument in node.args:
                    children.update(self.value(argument).children or {})
                for keyword in node.keywords:
                    found = self.value(keyword.value)
                    if keyword.arg is None:
                        children.update(found.children or {})
                    else:
                        line = getattr(keyword, "lineno", origin.line)
                        children[keyword.arg] = found.at(self.origin(line))
                return Node(origin, children)
            if name in ("deepcopy", "copy", "list", "tuple") and len(node.args) == 1:
                return _copied(self.value(node.args[0])).at(origin)
            if function in ("copy", "deepcopy") and isinstance(node.func, ast.Attribute):
                found_ = self.look_up(node.func.value)
                return Node(origin) if found_ is None else _copied(found_).at(origin)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.BitOr)):
            left, right = self.value(node.left), self.value(node.right)
            if left.items is not None and right.items is not None:
                return Node(origin, None, [*left.items, *right.items])
            if left.children is not None and right.children is not None:
                return Node(origin, {**left.children, **right.children})
        known = self.look_up(node)
        return Node(origin) if known is None else known.at(origin)


def _copied(node: Node) -> Node:
    children = node.children
    items = node.items
    return Node(
        node.origin,
        None if children is None else {key: _copied(item) for key, item in children.items()},
        None if items is None else [_copied(item) for item in items],
    )


def _yaml_tree(layer: Layer) -> Node:
    """Read where the values of a YAML or JSON text (which is YAML, too) stand."""
    import yaml

    from mmx.config import template

    variables = Variables(Path(layer.path))
    is_json = layer.path.endswith(".json")
    hidden, _ = template.hide(layer.text, variables, source.json_strings if is_json else None)
    # Tabs may indent JSON, but not YAML.
    hidden = hidden.replace("\t", " ") if is_json else hidden
    try:
        root = yaml.compose(hidden, yaml.SafeLoader)
    except yaml.YAMLError:
        root = None
    return Node(Origin(layer.path, 1), {}) if root is None else _of_yaml(root, layer.path)


def _of_yaml(node: Any, path: str) -> Node:
    import yaml

    origin = Origin(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        children = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            children[key.value] = _of_yaml(value, path).at(Origin(path, line))
        return Node(origin, children)
    if isinstance(node, yaml.SequenceNode):
        return Node(origin, None, [_of_yaml(item, path) for item in node.value])
    return Node(origin)


def _toml_tree(layer: Layer) -> Node:
    """Read where the keys of a TOML text stand: those at the beginning of a line."""
    root = Node(Origin(layer.path, 1), {})
    table = root
    for number, line in _lines(layer.text):
        origin = Origin(layer.path, number)
        text = line.strip()
        if text.startswith("["):
            is_array = text.startswith("[[")
            name = text.strip("[] \t").partition("#")[0].strip("[] ")
            table = _descend(root, _toml_keys(name), origin, is_array)
        elif "=" in text and not text.startswith("#"):
            *path, last = _toml_keys(text.partition("=")[0].strip())
            holder = _descend(table, path, origin, False)
            if holder.children is not None:
                holder.children.setdefault(last, Node(origin))
    return root


def _toml_keys(text: str) -> list[str]:
    return [part.strip().strip("\"'") for part in text.split(".")]


def _descend(node: Node, path: list[str], origin: Origin, is_array: bool) -> Node:
    for i, key in enumerate(path):
        if node.items:
            node = node.items[-1]
        children = node.children if node.children is not None else {}
        node.children = children
        last = i == len(path) - 1
        if is_array and last:
            array = children.setdefault(key, Node(origin, None, []))
            items = array.items if array.items is not None else []
            array.items = items
            items.append(Node(origin, {}))
            return items[-1]
        node = children.setdefault(key, Node(origin, {}))
    return node.items[-1] if node.items else node


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a TOML text that are not inside a string of several lines."""
    spans = source.toml_strings(text)
    start = 0
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not any(begin < start < end for begin, end in spans):
            yield number, line
        start += len(line)
