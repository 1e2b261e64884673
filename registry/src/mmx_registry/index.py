"""Which file registers which name, found by parsing the sources of a package, not by importing it.

A location is a module or a package whose modules register parts. Its index lists the registrations
that stand literally in the source (decorators, calls, lists of names, aliases). A file with
registrations whose names only running it can tell is *opaque*: look-up imports it when the name is
found nowhere in the index of its location.

Indexes are cached on disk, keyed by path, size and time of each file.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Part of every cache key: increase it when entries change their meaning.
FORMAT = 2

# Locations with more files than this are parsed bit by bit; see `LocationIndex`.
AT_ONCE = 32

REGISTER = frozenset({"register_module", "_register_module"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One registration in a source file.

    Attributes:
        name: The registered name.
        target: Where the registry is defined as ``"module:attribute"``.
        module: The module that registers.
        file: Its file.
        line: The line, 1-based.
        conditional: The registration stands under an ``if`` or a ``try``.
        qualname: The class or function registered, or "" where it is not defined in this file.
    """

    name: str
    target: str
    module: str
    file: str
    line: int
    conditional: bool
    qualname: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """A file that may register more names into a registry than parsing can tell.

    Attributes:
        target: Where the registry is defined as ``"module:attribute"``, or "" if unknown.
        module: The module that registers.
        file: Its file.
        line: The line of the first such registration, 1-based.
    """

    target: str
    module: str
    file: str
    line: int


class LocationIndex:
    """The registrations of one location.

    Files of a large location that are not in the cache are parsed when a name that stands in their
    text is asked for, or when everything is.
    """

    __slots__ = (
        "_cache_file",
        "_entries",
        "_failures",
        "_lock",
        "_opaque",
        "_pending",
        "_rows",
        "location",
    )

    def __init__(
        self,
        location: str,
        cache_file: Path,
        rows: list[tuple[_Source, list[Any]]],
        pending: list[_Source],
        opaque: list[Opaque],
    ) -> None:
        self.location = location
        self._cache_file = cache_file
        self._rows = {source.file: row for source, row in rows}
        self._pending = pending
        self._entries: dict[str, list[Entry]] = {}
        self._opaque = opaque
        # (file, why it could not be parsed)
        self._failures: list[tuple[str, str]] = []
        # Guards parsing; `_entries` only grows, by single operations.
        self._lock = threading.Lock()
        for source, row in rows:
            self._take(source, row[2])

    def _take(self, source: _Source, scan: dict[str, Any]) -> None:
        for name, target, line, conditional, qualname in scan["found"]:
            self._entries.setdefault(name, []).append(
                Entry(name, target, source.module, source.file, line, conditional, qualname)
            )
        for target, line in scan["opaque"]:
            self._opaque.append(Opaque(target, source.module, source.file, line))
        if scan["error"]:
            self._failures.append((source.file, scan["error"]))

    def _parse(self, name: str | None) -> None:
        """Parse pending files: those that hold a name, or all."""
        with self._lock:
            left: list[_Source] = []
            done = False
            for source in self._pending:
                text = _read(source)
                if text is None:
                    self._opaque.append(Opaque("", source.module, source.file, 1))
                    continue
                if name is not None and name not in (
                    text if isinstance(text, str) else text.decode("utf-8", "replace")
                ):
                    left.append(source)
                    continue
                scan = scan_source(text, source.module, source.is_package)
                self._rows[source.file] = [source.size, source.mtime_ns, scan]
                self._take(source, scan)
                done = True
            self._pending = left
            if done:
                _save_cache(self._cache_file, self._rows)

    def find(self, name: str) -> list[Entry]:
        """Return the registrations of a name."""
        found = self._entries.get(name)
        if found is None and self._pending:
            self._parse(name)
            found = self._entries.get(name)
        return found or []

    @property
    def entries(self) -> dict[str, list[Entry]]:
        """All registrations by name."""
        if self._pending:
            self._parse(None)
        return self._entries

    @property
    def opaque(self) -> list[Opaque]:
        """The files that may register more than parsing can tell."""
        if self._pending:
            self._parse(None)
        return self._opaque

    @property
    def failures(self) -> list[tuple[str, str]]:
        """(file, why it could not be parsed)."""
        if self._pending:
            self._parse(None)
        return self._failures


# --------------------------------------------------------------------------- parsing


class _Scanner:
    """Collects the registrations of one module from its syntax tree."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.module = module
        self.package = module if is_package else module.rpartition(".")[0]
        # Local name -> "module:attribute" (attribute may be dotted) or "module:" for a module.
        self.names: dict[str, str] = {}
        self.strings: dict[str, list[str]] = {}
        self.definitions: set[str] = set()
        # name, target, line, conditional, qualname
        self.found: list[tuple[str, str, int, bool, str]] = []
        # target, line
        self.opaque: list[tuple[str, int]] = []
        # How many registering calls were seen, and what was passed over unseen.
        self.calls = 0
        self.passed_over: list[ast.AST] = []

    # -- names

    def _import_from(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parts = self.package.split(".")
            kept = parts[: len(parts) - node.level + 1]
            base = ".".join([*kept, base] if base else kept)
        for alias in node.names:
            if alias.name != "*":
                self.names[alias.asname or alias.name] = f"{base}:{alias.name}"

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.asname:
                self.names[alias.asname] = f"{alias.name}:"
            else:
                top = alias.name.partition(".")[0]
                self.names[top] = f"{top}:"

    def _target(self, node: ast.expr) -> str | None:
        """Return where an expression's value is defined, or None if it is not a dotted name."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        base = self.names.get(node.id, f"{self.module}:{node.id}")
        module, _, attribute = base.partition(":")
        return f"{module}:{'.'.join([*([attribute] if attribute else []), *reversed(parts)])}"

    # -- statements

    def scan(self, tree: ast.Module, mentions: int) -> None:
        """Collect from a module whose text mentions registering so many times."""
        self._body(tree.body, conditional=False)
        # Walking through all bodies takes longer than parsing; mostly there is nothing in them.
        if mentions > self.calls:
            for node in self.passed_over:
                self._nested(node)

    def _body(self, body: Sequence[ast.stmt], *, conditional: bool) -> None:
        for node in body:
            self._statement(node, conditional)

    def _statement(self, node: ast.stmt, conditional: bool) -> None:
        if isinstance(node, ast.ImportFrom):
            self._import_from(node)
        elif isinstance(node, ast.Import):
            self._import(node)
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            self.definitions.add(node.name)
            for decorator in node.decorator_list:
                self._decorator(decorator, node, conditional)
            self.passed_over.append(node)
        elif isinstance(node, ast.Assign):
            self._assign(node.targets, node.value)
            self._expression(node.value, conditional)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._assign([node.target], node.value)
            self._expression(node.value, conditional)
        elif isinstance(node, ast.Expr):
            self._expression(node.value, conditional)
        elif isinstance(node, ast.If):
            if _is_type_checking(node.test):
                self._body(node.orelse, conditional=conditional)
                return
            self._body(node.body, conditional=True)
            self._body(node.orelse, conditional=True)
        elif isinstance(node, (ast.Try, ast.TryStar)):
            self._body(node.body, conditional=True)
            for handler in node.handlers:
                self._body(handler.body, conditional=True)
            self._body(node.orelse, conditional=True)
            self._body(node.finalbody, conditional=True)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            self._body(node.body, conditional=conditional)
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.While, ast.Match)):
            self._unknowable(node)

    def _assign(self, targets: Sequence[ast.expr], value: ast.expr) -> None:
        for target in targets:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                # With another `__name__`, it is registered under that.
                if target.attr == "__name__":
                    self.definitions.discard(target.value.id)
                continue
            if not isinstance(target, ast.Name):
                continue
            # `A = wrap(A)`: what its `__name__` is now, only running it tells.
            self.definitions.discard(target.id)
            source = self._target(value)
            if source is not None:
                self.names[target.id] = source
            else:
                self.names.pop(target.id, None)
            strings = self._strings(value)
            if strings is not None:
                self.strings[target.id] = strings
            else:
                self.strings.pop(target.id, None)

    def _strings(self, node: ast.expr | None) -> list[str] | None:
        """Return the literal names that an expression stands for, or None."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [node.value]
        if isinstance(node, (ast.List, ast.Tuple)):
            items = [self._strings(item) for item in node.elts]
            if all(item is not None and len(item) == 1 for item in items):
                return [item[0] for item in items if item]
        if isinstance(node, ast.Name):
            return self.strings.get(node.id)
        return None

    def _register_call(self, node: ast.expr) -> tuple[str | None, ast.Call] | None:
        """Return (target or None, call) if the node is ``REGISTRY.register_module(…)``."""
        if not isinstance(node, ast.Call):
            return None
        if isinstance(node.func, ast.Attribute) and node.func.attr in REGISTER:
            self.calls += 1
            return self._target(node.func.value), node
        if isinstance(node.func, ast.Name):
            # `reg = MODELS.register_module; @reg()`
            bound = self.names.get(node.func.id, "")
            base, _, last = bound.rpartition(".")
            if last in REGISTER and base:
                return base, node
        return None

    def _decorator(
        self,
        decorator: ast.expr,
        node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
        conditional: bool,
    ) -> None:
        call = self._register_call(decorator)
        if call is None:
            return
        target, expression = call
        names = self._names_of(expression, node.name)
        self._add(target, names, expression.lineno, conditional, node.name)

    def _names_of(self, call: ast.Call, default: str | None) -> list[str] | None:
        """Return the names that a call registers, or None if only running it can tell."""
        if any(isinstance(a, ast.Starred) for a in call.args):
            return None
        assert isinstance(call.func, (ast.Attribute, ast.Name))
        keywords = {k.arg: k.value for k in call.keywords}
        if None in keywords:
            return None
        private = isinstance(call.func, ast.Attribute) and call.func.attr == "_register_module"
        position = 1 if private else 0
        keyword = "module_name" if private else "name"
        node = keywords.get(keyword)
        if node is None and len(call.args) > position:
            node = call.args[position]
        if node is None or (isinstance(node, ast.Constant) and node.value is None):
            return [default] if default is not None else None
        return self._strings(node)

    def _add(
        self,
        target: str | None,
        names: list[str] | None,
        line: int,
        conditional: bool,
        qualname: str,
    ) -> None:
        if target is None or names is None:
            self.opaque.append((target or "", line))
            return
        for name in names:
            self.found.append((name, target, line, conditional, qualname))

    def _expression(self, node: ast.expr, conditional: bool) -> None:
        if isinstance(node, ast.Call):
            # `MODELS.register_module("name")(Class)`
            inner = self._register_call(node.func)
            if inner is not None:
                target, call = inner
                qualname = self._local(node.args[0]) if node.args else ""
                default = qualname or None
                self._add(target, self._names_of(call, default), node.lineno, conditional, qualname)
                return
            outer = self._register_call(node)
            if outer is not None:
                target, call = outer
                module = next((k.value for k in call.keywords if k.arg == "module"), None)
                private = isinstance(call.func, ast.Attribute) and call.func.attr.startswith("_")
                position = 0 if private else 2
                if module is None and len(call.args) > position:
                    module = call.args[position]
                if module is None:
                    if any(k.arg is None for k in call.keywords):
                        self._add(target, None, call.lineno, conditional, "")
                    return
                qualname = self._local(module)
                # An alias may be imported under another name: only a definition in this file has
                # a `__name__` that parsing knows.
                default = qualname or None
                self._add(target, self._names_of(call, default), call.lineno, conditional, qualname)
                return
            # A call that is handed a registry may register anything into it.
            for argument in [*node.args, *(k.value for k in node.keywords)]:
                source = self._target(argument)
                if source is not None and _looks_like_registry(source):
                    self.opaque.append((source, node.lineno))
            return
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            self._unknowable(node)

    def _local(self, node: ast.expr) -> str:
        return node.id if isinstance(node, ast.Name) and node.id in self.definitions else ""

    def _nested(self, node: ast.AST) -> None:
        """Registrations inside a function or a class body happen when it runs, if ever."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr) and child in getattr(node, "decorator_list", ()):
                continue
            self._unknowable(child)

    def _unknowable(self, node: ast.AST) -> None:
        for child in ast.walk(node):
            if (
                isinstance(child, ast.Call)
                and isinstance(child.func, ast.Attribute)
                and child.func.attr in REGISTER
            ):
                self.opaque.append((self._target(child.func.value) or "", child.lineno))


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _looks_like_registry(target: str) -> bool:
    name = target.rpartition(":")[2].rpartition(".")[2]
    return len(name) > 2 and name.isupper()


def scan_source(source: bytes | str, module: str, is_package: bool) -> dict[str, Any]:
    """Parse one module; return its registrations as plain data.

    Args:
        source: The text of the module.
        module: Its dotted name, by which relative imports are resolved.
        is_package: Whether it is the ``__init__`` of a package.

    Returns:
        ``found``: rows ``[name, target, line, conditional, qualname]``; ``opaque``: rows
        ``[target, line]``; ``error``: why it does not parse, or "".
    """
    marker: bytes | str = b"register_module" if isinstance(source, bytes) else "register_module"
    upper: bytes | str = b"egistry" if isinstance(source, bytes) else "egistry"
    # Most files register nothing; looking for the word is a hundred times faster than parsing.
    if marker not in source and upper not in source:  # type: ignore[operator]  # both of one type
        return {"found": [], "opaque": [], "error": ""}
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        # Importing the file, if a name leads there, raises the error itself.
        return {"found": [], "opaque": [["", 1]], "error": f"{type(error).__name__}: {error}"}
    scanner = _Scanner(module, is_package)
    scanner.scan(tree, source.count(marker))  # type: ignore[arg-type]  # both of one type
    return {
        "found": [list(row) for row in scanner.found],
        "opaque": [list(row) for row in dict(scanner.opaque).items()],
        "error": "",
    }


# --------------------------------------------------------------------------- finding files


def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Find a module without importing it or any of its parents.

    ``importlib.util.find_spec`` imports the parents; this walks their search paths instead.
    """
    known = sys.modules.get(name)
    spec: importlib.machinery.ModuleSpec | None
    if known is not None:
        spec = known.__spec__
        if spec is not None:
            return spec
    parent, _, _ = name.rpartition(".")
    path: Iterable[str] | None = None
    if parent:
        parent_module = sys.modules.get(parent)
        if parent_module is not None:
            path = getattr(parent_module, "__path__", None)
        else:
            parent_spec = find_spec(parent)
            path = None if parent_spec is None else search_locations(parent_spec)
        if path is None:
            return None
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is None:
            continue
        try:
            spec = find(name, path)
        except (ImportError, ValueError, TypeError):
            continue
        except KeyError:
            # A namespace package inside a package that is not imported: Python asks the parent for
            # its path, where we know it already.
            spec = _namespace_spec(name, path)
        if spec is not None:
            return spec
    return None


def _namespace_spec(name: str, path: Iterable[str] | None) -> importlib.machinery.ModuleSpec | None:
    tail = name.rpartition(".")[2]
    folders = [os.path.join(p, tail) for p in path or () if os.path.isdir(os.path.join(p, tail))]
    if not folders:
        return None
    spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = folders
    return spec


def search_locations(spec: importlib.machinery.ModuleSpec) -> list[str] | None:
    """Return where the sub-modules of a package are looked for, or None if it is no package."""
    locations = spec.submodule_search_locations
    return None if locations is None else list(locations)


@dataclass(frozen=True, slots=True)
class _Source:
    module: str
    is_package: bool
    file: str
    size: int
    mtime_ns: int
    spec: importlib.machinery.ModuleSpec | None


def walk(spec: importlib.machinery.ModuleSpec, *, deep: bool = True) -> Iterator[_Source]:
    """Yield the source files of a module and, if it is a package and ``deep``, of all in it."""
    if spec.submodule_search_locations is None:
        source = _stat(spec.origin, spec.name, False, spec)
        if source is not None:
            yield source
        return
    origin = spec.origin if spec.has_location else None
    if origin is not None:
        source = _stat(origin, spec.name, True, spec)
        if source is not None:
            yield source
    if not deep:
        return
    for directory in search_locations(spec) or ():
        if os.path.isdir(directory):
            yield from _walk_directory(directory, spec.name, top=True)
        else:
            yield from _walk_importer(directory, spec.name)


def _walk_directory(directory: str, package: str, *, top: bool) -> Iterator[_Source]:
    try:
        with os.scandir(directory) as listing:
            items = sorted(listing, key=lambda item: item.name)
    except OSError:
        return
    if not top:
        if not any(item.name == "__init__.py" for item in items):
            return
        source = _stat(os.path.join(directory, "__init__.py"), package, True, None)
        if source is not None:
            yield source
    for item in items:
        stem, extension = os.path.splitext(item.name)
        if extension == ".py" and stem.isidentifier() and stem not in ("__init__", "__main__"):
            source = _stat(item.path, f"{package}.{stem}", False, None)
            if source is not None:
                yield source
        elif not extension and stem.isidentifier() and stem != "__pycache__" and item.is_dir():
            yield from _walk_directory(item.path, f"{package}.{stem}", top=False)


def _walk_importer(path: str, package: str) -> Iterator[_Source]:
    """Walk what is no directory, such as a zip file, through its import hook."""
    import pkgutil

    for found in pkgutil.iter_modules([path], f"{package}."):
        spec = found.module_finder.find_spec(found.name, None)
        if spec is None:
            continue
        yield from walk(spec)


def _stat(
    file: str | None,
    module: str,
    is_package: bool,
    spec: importlib.machinery.ModuleSpec | None,
) -> _Source | None:
    if file is None:
        return None
    try:
        info = os.stat(file)
    except OSError:
        # Inside an archive: the archive's own size and time stand for the file's.
        archive = file
        while True:
            head = os.path.dirname(archive)
            if head == archive:
                return None
            archive = head
            if os.path.isfile(archive):
                info = os.stat(archive)
                break
    return _Source(module, is_package, file, info.st_size, info.st_mtime_ns, spec)


def _read(source: _Source) -> bytes | str | None:
    try:
        with open(source.file, "rb") as stream:
            return stream.read()
    except OSError:
        pass
    loader = source.spec.loader if source.spec is not None else None
    get_source = getattr(loader, "get_source", None)
    if get_source is None:
        return None
    try:
        text: str | None = get_source(source.module)
    except ImportError:
        return None
    return text


def source_text(source: _Source) -> str | None:
    """Return the text of a source file, or None if it cannot be read."""
    data = _read(source)
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else data


# --------------------------------------------------------------------------- cache


def cache_directory() -> Path:
    """Return where indexes are cached: ``MMX_CACHE_DIR``, or the user's cache directory."""
    chosen = os.environ.get("MMX_CACHE_DIR")
    if chosen:
        return Path(chosen) / "registry-index"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~\\AppData\\Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "mmx" / "registry-index"


def _cache_file(location: str, origin: str) -> Path:
    version = f"{FORMAT}:{sys.version_info[0]}.{sys.version_info[1]}"
    key = hashlib.sha256(f"{version}\0{location}\0{origin}".encode()).hexdigest()[:32]
    return cache_directory() / f"{key}.json"


def _load_cache(file: Path) -> dict[str, list[Any]]:
    """Return file -> [size, mtime_ns, scan], or nothing if the cache is absent or damaged."""
    try:
        data = json.loads(file.read_bytes())
        rows = {}
        for path, (size, mtime_ns, scan) in data.items():
            _check_scan(scan)
            rows[path] = [size, mtime_ns, scan]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    return rows


def _check_scan(scan: Any) -> None:
    for name, target, line, conditional, qualname in scan["found"]:
        if not (
            isinstance(name, str)
            and isinstance(target, str)
            and isinstance(line, int)
            and isinstance(conditional, bool)
            and isinstance(qualname, str)
        ):
            raise TypeError("damaged entry")
    for target, line in scan["opaque"]:
        if not (isinstance(target, str) and isinstance(line, int)):
            raise TypeError("damaged entry")
    if not isinstance(scan["error"], str):
        raise TypeError("damaged entry")


def _save_cache(file: Path, rows: dict[str, list[Any]]) -> None:
    # Written aside and renamed, so that processes that read or write it at once see whole files.
    temporary = ""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".tmp")
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(rows, stream, separators=(",", ":"))
        os.replace(temporary, file)
    except OSError:
        # A cache that cannot be written only costs time.
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


# --------------------------------------------------------------------------- the index

_memory: dict[str, LocationIndex | None] = {}
_lock = threading.Lock()


def index_of(location: str) -> LocationIndex | None:
    """Return the index of a location, or None if there is no source for it to be found.

    It is made once in a process; `forget` drops it.
    """
    try:
        return _memory[location]
    except KeyError:
        pass
    with _lock:
        if location not in _memory:
            _memory[location] = _build(location)
        return _memory[location]


def forget() -> None:
    """Drop the indexes held in memory, so that changed sources are looked at again."""
    with _lock:
        _memory.clear()


def _build(location: str) -> LocationIndex | None:
    spec = find_spec(location)
    if spec is None or (spec.loader is None and spec.submodule_search_locations is None):
        return None
    origin = spec.origin or next(iter(search_locations(spec) or ()), "")
    cache_file = _cache_file(location, origin)
    cached = _load_cache(cache_file)
    rows: list[tuple[_Source, list[Any]]] = []
    pending: list[_Source] = []
    for source in walk(spec):
        row = cached.get(source.file)
        if row is None or row[0] != source.size or row[1] != source.mtime_ns:
            pending.append(source)
        else:
            rows.append((source, row))
    opaque = []
    if not rows and not pending:
        # No source, such as a compiled module: only importing it can tell.
        opaque.append(Opaque("", location, spec.origin or "", 1))
    found = LocationIndex(location, cache_file, rows, pending, opaque)
    if len(pending) <= AT_ONCE:
        found._parse(None)
    if len(rows) < len(cached) and not pending:
        # Files are gone.
        _save_cache(cache_file, found._rows)
    return found
