"""`Registry`: a table from names to classes and functions, and a node of a tree of such tables."""

from __future__ import annotations

import sys
import textwrap
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from mmx_registry.errors import (
    ArgumentTypeError,
    DuplicateError,
    DuplicateScopeError,
)
from mmx_registry.scope import DefaultScope, shown_scope, true_scope

if TYPE_CHECKING:
    # The default, not in the standard library before 3.13, lets plugins write `Registry("model")`.
    from typing_extensions import TypeVar as _DefaultTypeVar

    T = _DefaultTypeVar("T", default=Any)
else:
    T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# Guards every change of a tree: registering, adding children, dropping caches. Reading takes no
# lock: dicts are replaced or changed by single operations that are atomic with and without the
# GIL. Never held while importing, since modules register while they hold their import lock.
_lock = threading.RLock()

# Every registry alive, for the listing of trees and of scopes.
_all: weakref.WeakSet[Registry[Any]] = weakref.WeakSet()


class Registration:
    """Where and by whom a name was registered; kept to undo a failed import and to explain."""

    __slots__ = ("module", "name", "object", "previous", "registry")

    def __init__(
        self, registry: Registry[Any], name: str, obj: Any, previous: Any, module: str
    ) -> None:
        self.registry = registry
        self.name = name
        self.object = obj
        self.previous = previous
        self.module = module


class Registry(Generic[T]):
    """A table from names to classes or functions, with a way to build objects of them.

    Registries form a tree. A name is looked up in the registry itself, then in its parent, and so
    on to the root. ``"scope.Name"`` looks in the node of that scope. Nothing is imported before a
    name is asked for; then only the file that registers it.

    Args:
        name: What is registered, such as ``"model"``.
        build_func: Called as ``build_func(cfg, *args, **kwargs, registry=registry)`` by `build`.
            Default: the parent's, or `build_from_cfg`.
        parent: The parent in the tree.
        scope: The scope of this node. Default: the top-level package that calls.
        locations: Modules and packages whose files register here. Packages are searched with all
            that is in them.

    Raises:
        DuplicateScopeError: The parent has a child of this scope.
        ArgumentTypeError: An argument has a wrong type.

    Examples:
        >>> ACTIVATION = Registry("activation", scope="demo")
        >>> @ACTIVATION.register_module()
        ... class Sigmoid:
        ...     pass
        >>> type(ACTIVATION.build(dict(type="Sigmoid"))).__name__
        'Sigmoid'
    """

    def __init__(
        self,
        name: str,
        build_func: Callable[..., Any] | None = None,
        parent: Registry[Any] | None = None,
        scope: str | None = None,
        locations: Sequence[str] = (),
    ) -> None:
        from mmx_registry.build import build_from_cfg

        if not isinstance(name, str):
            raise ArgumentTypeError(f"name must be a str, but got {type(name)}")
        if parent is not None and not isinstance(parent, Registry):
            raise ArgumentTypeError(f"parent must be a Registry or None, but got {type(parent)}")
        if scope is not None and not isinstance(scope, str):
            raise ArgumentTypeError(f"scope must be a str or None, but got {type(scope)}")
        if isinstance(locations, str) or not isinstance(locations, Sequence):
            raise ArgumentTypeError(
                f"locations must be a list of dotted module names, but got {locations!r}"
            )
        if not all(isinstance(location, str) for location in locations):
            raise ArgumentTypeError(f"locations must hold str only, but got {list(locations)!r}")
        if build_func is not None and not callable(build_func):
            raise ArgumentTypeError(f"build_func must be callable, but got {type(build_func)}")

        self._name = name
        self._given_scope = self.infer_scope() if scope is None else scope
        # What scopes are compared by.
        self._scope = true_scope(self._given_scope)
        if "." in self._scope:
            raise DuplicateScopeError(
                f"scope {self._scope!r} of the {name!r} registry holds a dot, which separates "
                "scope and name in a key",
                scope=self._scope,
            )
        self._locations: list[str] = list(locations)
        self._module_dict: dict[str, Any] = {}
        self._children: dict[str, Registry[Any]] = {}
        self._parent = parent
        # Key -> object, and key -> what builds it; dropped whenever anything in the tree changes.
        self._cache: dict[str, Any] = {}
        self._makers: dict[Any, Callable[..., Any]] = {}
        # Scope -> node that builds switch to.
        self._nodes: dict[str, Registry[Any]] = {}
        # Modules of the locations that look-up has imported because parsing was not enough.
        self._seen: set[str] = set()
        self._imported = False
        self._origin = _caller()
        self._sources: dict[str, Registration] = {}
        if build_func is not None:
            self.build_func = build_func
        else:
            self.build_func = build_from_cfg if parent is None else parent.build_func
        # Whether nodes of this tree build in different ways.
        self._mixed = False
        if parent is not None:
            parent._add_child(self)
        _all.add(self)

    # ------------------------------------------------------------------ the table

    def __len__(self) -> int:
        return len(self._module_dict)

    def __contains__(self, key: object) -> bool:
        """Whether `get` would find the key. Registrations that parsing sees are not imported."""
        from mmx_registry import lookup

        return isinstance(key, str) and lookup.has(self, key)

    def __repr__(self) -> str:
        rows = [("Names", "Objects")]
        rows += [(name, str(obj)) for name, obj in sorted(self._module_dict.items())]
        left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
        whole = left + right + 7

        def rule(line: str, start: str, middle: str, end: str) -> str:
            return f"{start}{line * (left + 2)}{middle}{line * (right + 2)}{end}"

        lines = [line.center(whole) for line in textwrap.wrap(f"Registry of {self._name}", whole)]
        for i, (name, obj) in enumerate(rows):
            bar = "\u2502" if i else "\u2503"
            if i == 0:
                lines.append(rule("\u2501", "\u250f", "\u2533", "\u2513"))
            lines.append(f"{bar} {name:<{left}} {bar} {obj:<{right}} {bar}")
            if i == 0:
                lines.append(rule("\u2501", "\u2521", "\u2547", "\u2529"))
        return "\n".join([*lines, rule("\u2500", "\u2514", "\u2534", "\u2518")]) + "\n"

    @property
    def name(self) -> str:
        """What is registered."""
        return self._name

    @property
    def scope(self) -> str:
        """The scope of this node."""
        return shown_scope(self._given_scope)

    @property
    def module_dict(self) -> dict[str, Any]:
        """What has been registered so far; names not yet imported are missing (see `names`)."""
        return self._module_dict

    @property
    def children(self) -> dict[str, Registry[Any]]:
        """The children by scope."""
        return self._children

    @property
    def parent(self) -> Registry[Any] | None:
        """The parent, or None of a root."""
        return self._parent

    @property
    def root(self) -> Registry[Any]:
        """The root of the tree."""
        return self._get_root_registry()

    @property
    def locations(self) -> tuple[str, ...]:
        """The modules and packages that register here."""
        return tuple(self._locations)

    def add_locations(self, *locations: str) -> None:
        """Let more modules and packages register here, as ``locations`` of the constructor do.

        Raises:
            ArgumentTypeError: A location is no str.
        """
        if not all(isinstance(location, str) for location in locations):
            raise ArgumentTypeError(f"locations must hold str only, but got {list(locations)!r}")
        with _lock:
            self._locations += [name for name in locations if name not in self._locations]
            self._imported = False
            self._changed()

    # ------------------------------------------------------------------ scopes

    @staticmethod
    def infer_scope() -> str:
        """Return the top-level package of the code that calls: ``"mmdet"`` in ``mmdet.models``."""
        return _caller().partition(".")[0]

    @staticmethod
    def split_scope_key(key: str) -> tuple[str | None, str]:
        """Split a key at its first dot.

        Examples:
            >>> Registry.split_scope_key("mmdet.ResNet")
            ('mmdet', 'ResNet')
            >>> Registry.split_scope_key("ResNet")
            (None, 'ResNet')
        """
        scope, dot, rest = key.partition(".")
        return (scope, rest) if dot else (None, key)

    @contextmanager
    def switch_scope_and_registry(self, scope: str | None) -> Iterator[Registry[Any]]:
        """Bind the default scope inside the ``with`` block, and yield the node of that scope.

        Args:
            scope: The scope; None keeps the scope that is bound.

        Yields:
            The node of the bound scope in this tree, or this registry where no scope is bound or
            the scope has no node in this tree.

        Raises:
            UnknownScopeError: Nothing declares the scope.
            PluginError: The plugin that owns the scope failed or may not be used.
        """
        with DefaultScope.overwrite_default_scope(scope):
            bound = DefaultScope.get_current_instance()
            yield self if bound is None else self._node_of(bound._scope_name)

    def _node_of(self, scope: str) -> Registry[Any]:
        """Return the node of a scope in this tree, or this one if the scope has none here."""
        if scope == self._scope:
            return self
        nodes = self._nodes
        try:
            return nodes[scope]
        except KeyError:
            from mmx_registry import lookup

            node = lookup.node_of(self, scope)
            # If the tree has changed meanwhile, this dict is no longer in use.
            nodes[scope] = node
            return node

    def _get_root_registry(self) -> Registry[Any]:
        root: Registry[Any] = self
        while root._parent is not None:
            root = root._parent
        return root

    def _search_child(self, scope: str) -> Registry[Any] | None:
        """Return this node or the first below it (depth first) whose scope it is, or None."""
        if self._scope == true_scope(scope):
            return self
        for child in list(self._children.values()):
            found = child._search_child(scope)
            if found is not None:
                return found
        return None

    def _add_child(self, registry: Registry[Any]) -> None:
        if not isinstance(registry, Registry):
            raise ArgumentTypeError(f"a child must be a Registry, but got {type(registry)}")
        with _lock:
            scope = registry._scope
            if scope in self._children:
                other = self._children[scope]
                raise DuplicateScopeError(
                    f"scope {scope} exists in {self._name} registry: it was declared by "
                    f"{other._origin}, and now by {registry._origin}",
                    scope=scope,
                    owners=(other._origin, registry._origin),
                )
            self._children[scope] = registry
            registry._parent = self
            if self._mixed or registry._mixed or registry.build_func is not self.build_func:
                self._set_mixed()
            _note_child(self, registry)
            self._changed(shape=True)

    def _set_mixed(self) -> None:
        pending = [self._get_root_registry()]
        while pending:
            node = pending.pop()
            node._mixed = True
            pending.extend(node._children.values())

    def _changed(self, *, shape: bool = False) -> None:
        """Drop what the nodes of this tree have cached.

        Args:
            shape: Nodes were added or taken away, not only names.
        """
        pending = [self._get_root_registry()]
        while pending:
            node = pending.pop()
            # Replaced, not cleared: a look-up under way in another thread stores its result, which
            # may be stale by now, in the old dict.
            node._cache = {}
            node._makers = {}
            if shape:
                node._nodes = {}
            pending.extend(node._children.values())

    # ------------------------------------------------------------------ look-up

    def get(self, key: str) -> type[T] | None:
        """Return what is registered under a key, or None.

        Args:
            key: A name, ``"scope.Name"``, or the dotted path of an object in a trusted package.

        Raises:
            ArgumentTypeError: The key is no str.
            PluginError: The plugin that owns the key failed or may not be used.
            NotDeliveredError: A file that says it registers the name did not.
            Exception: Whatever importing the file of the name raised.
        """
        cache = self._cache
        try:
            return cache[key]  # type: ignore[no-any-return]  # by registration
        except (KeyError, TypeError):
            pass
        if not isinstance(key, str):
            raise ArgumentTypeError(
                f"The key argument of `Registry.get` must be a str, got {type(key)}"
            )
        from mmx_registry import lookup

        return lookup.find(self, key)  # type: ignore[no-any-return]  # by registration

    def resolve(self, key: str) -> type[T]:
        """Return what is registered under a key.

        Raises:
            NotFoundError: There is nothing; the error lists scopes searched and close names.
            Exception: As of `get`.
        """
        found = self.get(key)
        if found is None:
            from mmx_registry import explain

            raise explain.not_found(self, key)
        return found

    def names(self) -> list[str]:
        """Return the names registered in this node, sorted, without importing anything.

        Names that only running a file can tell are missing until it has run.
        """
        from mmx_registry import lookup

        return sorted(lookup.known_names(self))

    def import_from_location(self) -> None:
        """Import all that registers here: every file of the locations that does so."""
        from mmx_registry import lookup

        lookup.import_all(self)

    # ------------------------------------------------------------------ build

    def build(self, cfg: Any, *args: Any, **kwargs: Any) -> T:
        """Build an object from a config by `build_func`.

        Args:
            cfg: A mapping with ``type``: a name, a class or a function. The other items are its
                keyword arguments. ``_scope_`` binds the default scope for this object and all
                that it builds. The mapping is not changed.
            args: Handed to `build_func`.
            kwargs: Handed to `build_func`.
        """
        if self._mixed:
            return self._build_mixed(cfg, args, kwargs)  # type: ignore[no-any-return]  # by registration
        if args or kwargs:
            return self.build_func(cfg, *args, **kwargs, registry=self)  # type: ignore[no-any-return]  # by registration
        return self.build_func(cfg, registry=self)  # type: ignore[no-any-return]  # by registration

    def _build_mixed(self, cfg: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Build in a tree whose nodes build differently: the node switched to says how.

        MMEngine would use this node's function with the other node's names.
        """
        own_scope = cfg.get("_scope_") if is_config(cfg) else None
        with self.switch_scope_and_registry(own_scope) as node:
            if (
                node is not self
                and node.build_func is not self.build_func
                and own_scope is not None
            ):
                cfg = cfg.copy()
                del cfg["_scope_"]
            elif node.build_func is self.build_func:
                node = self
            return node.build_func(cfg, *args, **kwargs, registry=node)

    # ------------------------------------------------------------------ registration

    def _register_module(
        self,
        module: Any,
        module_name: str | Sequence[str] | None = None,
        force: bool = False,
    ) -> None:
        """Register one object under one or more names.

        Args:
            module: The class or function.
            module_name: The name or names. Default: ``module.__name__``.
            force: Replace what is registered under the name.

        Raises:
            ArgumentTypeError: The object is not callable.
            DuplicateError: The name is taken.
        """
        if not callable(module):
            raise ArgumentTypeError(f"module must be Callable, but got {type(module)}")
        if module_name is None:
            module_name = getattr(module, "__name__", None)
            if module_name is None:
                raise ArgumentTypeError(
                    f"{module!r} has no __name__: give the name to register it under"
                )
        names = [module_name] if isinstance(module_name, str) else list(module_name)
        source = _caller()
        with _lock:
            if not force:
                taken = [name for name in names if name in self._module_dict]
                names = [name for name in names if name not in taken]
                for name in taken:
                    # Two plugins claim the name: the user may have said which one shall have it.
                    preferred = self._prefers(name, source)
                    if preferred is None:
                        raise self._duplicate(name, module, source)
                    if preferred:
                        names.append(name)
            for name in names:
                record = Registration(self, name, module, self._module_dict.get(name), source)
                self._module_dict[name] = module
                self._sources[name] = record
                _note_registration(record)
            self._changed()

    def _prefers(self, name: str, source: str) -> bool | None:
        """Whether the user prefers this registration of a name, or the other; None: neither."""
        from mmx_registry import plugins

        wanted = plugins.preferred(self._scope, name)
        if wanted is None:
            return None
        if plugins.is_same_distribution(wanted, _owner(source)):
            return True
        other = self._sources.get(name)
        if other is not None and plugins.is_same_distribution(wanted, _owner(other.module)):
            return False
        return None

    def _duplicate(self, name: str, module: Any, source: str) -> DuplicateError:
        existed = self._module_dict[name]
        where = getattr(existed, "__module__", "?")
        owners = (
            _owner(self._sources[name].module if name in self._sources else where),
            _owner(source),
        )
        message = f"{name} is already registered in {self._name} at {where}"
        new = getattr(module, "__module__", source)
        message += (
            f" (by {owners[0]}); {new} (by {owners[1]}) registers it in scope {self._scope!r} again. "
            "Rename one, or pass force=True to replace it."
        )
        return DuplicateError(
            message, key=name, registry=self._name, scope=self._scope, owners=owners
        )

    @overload
    def register_module(
        self, name: str | Sequence[str] | None = None, force: bool = False, module: None = None
    ) -> Callable[[F], F]: ...

    @overload
    def register_module(
        self, name: str | Sequence[str] | None = None, force: bool = False, *, module: F
    ) -> F: ...

    def register_module(
        self,
        name: str | Sequence[str] | None = None,
        force: bool = False,
        module: Any = None,
    ) -> Any:
        """Register a class or function, as a decorator or by call.

        Args:
            name: The name, or several. Default: the object's ``__name__``.
            force: Replace what is registered under the name.
            module: The object; without it a decorator is returned.

        Returns:
            The object itself, or the decorator.

        Raises:
            ArgumentTypeError: An argument has a wrong type.
            DuplicateError: The name is taken.

        Examples:
            >>> BACKBONES = Registry("backbone", scope="demo")
            >>> @BACKBONES.register_module()
            ... class ResNet:
            ...     pass
            >>> @BACKBONES.register_module(name=["mnet", "MobileNet"])
            ... class MobileNetV2:
            ...     pass
            >>> class VGG:
            ...     pass
            >>> BACKBONES.register_module(module=VGG) is VGG
            True
            >>> BACKBONES.names()
            ['MobileNet', 'ResNet', 'VGG', 'mnet']
        """
        if not isinstance(force, bool):
            raise ArgumentTypeError(f"force must be a boolean, but got {type(force)}")
        if not (
            name is None
            or isinstance(name, str)
            or (isinstance(name, Sequence) and all(isinstance(item, str) for item in name))
        ):
            raise ArgumentTypeError(
                f"name must be None, an instance of str, or a sequence of str, but got {type(name)}"
            )
        if module is not None:
            self._register_module(module, name, force)
            return module

        def register(obj: F) -> F:
            self._register_module(obj, name, force)
            return obj

        return register


# ---------------------------------------------------------------------- helpers


def _caller() -> str:
    """Return the name of the module that called into this package."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "__main__")
        if name.partition(".")[0] != "mmx_registry":
            return str(name)
        frame = frame.f_back
    return "__main__"


def _owner(module: str) -> str:
    """Return the distribution that a module belongs to, or its top-level package."""
    from mmx_registry import plugins

    return plugins.owner_of(module)


class Journal:
    """What was registered, and which children were added, while it was open."""

    def __init__(self) -> None:
        self.registrations: list[Registration] = []
        self.children: list[tuple[Registry[Any], Registry[Any]]] = []


# Open journals by thread: an import registers in the thread that runs it.
_journals: dict[int, list[Journal]] = {}


def _note_registration(record: Registration) -> None:
    for journal in _journals.get(threading.get_ident(), ()):
        journal.registrations.append(record)


def _note_child(parent: Registry[Any], child: Registry[Any]) -> None:
    for journal in _journals.get(threading.get_ident(), ()):
        journal.children.append((parent, child))


@contextmanager
def undo_on_error() -> Iterator[Journal]:
    """Undo the registrations of modules whose import fails inside the ``with`` block.

    Registrations of modules that were imported whole stay: Python keeps these modules and would
    not run them again.
    """
    journal = Journal()
    thread = threading.get_ident()
    with _lock:
        _journals.setdefault(thread, []).append(journal)
    try:
        yield journal
    except BaseException:
        undo(journal)
        raise
    finally:
        with _lock:
            _journals[thread].remove(journal)
            if not _journals[thread]:
                del _journals[thread]


def undo(journal: Journal) -> None:
    """Take back the registrations and children that modules no longer imported made."""
    with _lock:
        for record in reversed(journal.registrations):
            if record.module in sys.modules:
                continue
            registry = record.registry
            if registry._module_dict.get(record.name) is not record.object:
                continue
            if record.previous is None:
                del registry._module_dict[record.name]
                registry._sources.pop(record.name, None)
            else:
                registry._module_dict[record.name] = record.previous
            registry._changed()
        for parent, child in reversed(journal.children):
            if child._origin not in sys.modules and parent._children.get(child._scope) is child:
                del parent._children[child._scope]
                parent._changed(shape=True)
                _all.discard(child)


def all_registries() -> list[Registry[Any]]:
    """Return every registry alive, roots first, then by name and scope."""
    with _lock:
        found = list(_all)
    return sorted(found, key=lambda r: (r._parent is not None, r._name, r._scope))


def is_config(value: object) -> bool:
    """Whether a value is a mapping or a config object that behaves like one."""
    return isinstance(value, Mapping) or (
        hasattr(type(value), "__getitem__") and hasattr(value, "keys") and hasattr(value, "items")
    )
