"""The scope in which names are looked up: a value of the running context, never a global."""

from __future__ import annotations

import itertools
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

from mmx_registry.errors import ArgumentTypeError, DuplicateScopeError

logger = logging.getLogger("mmx_registry")

# What a build reads first. Each thread starts without a scope and each asyncio task with a copy of
# its parent's, as ContextVar has it; so two runners never see each other's.
current: ContextVar[DefaultScope | None] = ContextVar("mmx_default_scope", default=None)

_counter = itertools.count()

# Other names of scopes; replaced, never changed in place.
_aliases: dict[str, str] = {}

# Scopes that registries answer by another name; replaced, never changed in place.
_shown: dict[str, str] = {}


def alias_scope(name: str, scope: str) -> None:
    """Make ``name`` mean ``scope``, for the rest of the process, wherever a scope is named.

    Prefixes (``"name.X"``), ``_scope_``, default scopes and the scopes of new registries are meant.
    What a user wrote stays readable as written: `DefaultScope.scope_name`, `Registry.scope`.

    Args:
        name: The other name.
        scope: The scope that it stands for.

    Raises:
        ArgumentTypeError: An argument is not a str.
        DuplicateScopeError: The name means something else, or the scope is itself another name.
    """
    global _aliases
    for value in (name, scope):
        if not isinstance(value, str) or not value:
            raise ArgumentTypeError(f"a scope must be a non-empty str, but got {value!r}")
    if name == scope or scope in _aliases or name in _aliases.values():
        raise DuplicateScopeError(
            f"the scope {name!r} cannot stand for {scope!r}: a scope stands for another that is "
            "itself no other name",
            scope=name,
        )
    if _aliases.get(name, scope) != scope:
        raise DuplicateScopeError(
            f"the scope {name!r} stands for {_aliases[name]!r} already, and cannot stand for "
            f"{scope!r} too",
            scope=name,
        )
    _aliases = {**_aliases, name: scope}


def true_scope(scope: str) -> str:
    """Return the scope that a name of a scope means: itself, unless `alias_scope` says otherwise."""
    return _aliases.get(scope, scope)


def show_scope_as(scope: str, name: str) -> None:
    """Let registries of a scope answer by one of its other names, for the rest of the process.

    Args:
        scope: The scope.
        name: Its other name, which `alias_scope` declared.

    Raises:
        DuplicateScopeError: The name does not stand for the scope.
    """
    global _shown
    if _aliases.get(name) != scope:
        raise DuplicateScopeError(f"{name!r} does not stand for the scope {scope!r}", scope=name)
    _shown = {**_shown, scope: name}


def shown_scope(scope: str) -> str:
    """Return the name that a scope answers by: itself, unless `show_scope_as` says otherwise."""
    return _shown.get(scope, scope)


def names_of_scope(scope: str) -> list[str]:
    """Return the other names of a scope, sorted."""
    return sorted(name for name, other in _aliases.items() if other == scope)


class DefaultScope:
    """The scope that names without a prefix are looked up in.

    The API is MMEngine's. There an instance is global and the latest one created counts; here
    creating an instance binds it to the running context (thread or asyncio task) only.

    Args:
        name: A unique name of the instance.
        scope_name: The scope, such as ``"mmdet"``.
    """

    # By name; an entry lives until `release` or the end of the process, as in MMEngine. Tests of
    # MMEngine's family empty it to start afresh: what is no longer in it does not count.
    _instance_dict: ClassVar[dict[str, DefaultScope]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    __slots__ = ("__weakref__", "_name", "_scope_name", "_transient")

    def __init__(self, name: str, scope_name: str, *, _transient: bool = False) -> None:
        if not isinstance(name, str) or not name:
            raise ArgumentTypeError(f"name must be a non-empty str, but got {name!r}")
        if not isinstance(scope_name, str):
            raise ArgumentTypeError(
                f"scope_name should be a string, but got {scope_name!r} of {type(scope_name)}"
            )
        self._name = name
        self._scope_name = scope_name
        # Bound for a block only, without an entry in the table.
        self._transient = _transient

    def __repr__(self) -> str:
        return f"DefaultScope(name={self._name!r}, scope_name={self._scope_name!r})"

    @property
    def scope_name(self) -> str:
        """The scope."""
        return self._scope_name

    @property
    def instance_name(self) -> str:
        """The name of this instance."""
        return self._name

    @classmethod
    def get_instance(cls, name: str, **kwargs: Any) -> DefaultScope:
        """Return the instance called ``name``; create and bind it if there is none.

        An instance that exists is bound too where nothing is bound yet in this context.

        Args:
            name: The name of the instance.
            kwargs: ``scope_name``, needed to create one.
        """
        with cls._lock:
            instance = cls._instance_dict.get(name)
            created = instance is None
            if instance is None:
                instance = cls._instance_dict[name] = cls(name, **kwargs)
        if kwargs.get("scope_name", instance._scope_name) != instance._scope_name:
            warnings.warn(
                f"the DefaultScope instance {name!r} exists with the scope "
                f"{instance._scope_name!r}; scope_name={kwargs['scope_name']!r} is ignored",
                stacklevel=2,
            )
        if created or cls.get_current_instance() is None:
            current.set(instance)
        return instance

    @classmethod
    def get_current_instance(cls) -> DefaultScope | None:
        """Return the instance bound in this context, or None."""
        bound = current.get()
        if bound is None or bound._transient or cls._instance_dict.get(bound._name) is bound:
            return bound
        return None

    @classmethod
    def check_instance_created(cls, name: str) -> bool:
        """Return whether there is an instance called ``name``."""
        return name in cls._instance_dict

    @classmethod
    def release(cls, name: str) -> None:
        """Forget the instance called ``name``; unbind it if it is bound in this context."""
        with cls._lock:
            instance = cls._instance_dict.pop(name, None)
        if instance is not None and current.get() is instance:
            current.set(None)

    @classmethod
    @contextmanager
    def overwrite_default_scope(cls, scope_name: str | None) -> Iterator[None]:
        """Bind a scope inside the ``with`` block; None changes nothing."""
        if scope_name is None:
            yield
            return
        token = current.set(cls(f"overwrite-{next(_counter)}", scope_name, _transient=True))
        try:
            yield
        finally:
            current.reset(token)


def init_default_scope(scope: str) -> None:
    """Make ``scope`` the default scope of the running context.

    Args:
        scope: The scope, such as ``"mmdet"``.
    """
    bound = DefaultScope.get_current_instance()
    if bound is not None and bound.scope_name == scope:
        return
    name = scope
    if bound is not None and DefaultScope.check_instance_created(name):
        logger.warning(
            'The current default scope "%s" is not "%s", `init_default_scope` will force set the '
            'current default scope to "%s".',
            bound.scope_name,
            scope,
            scope,
        )
    while DefaultScope.check_instance_created(name):
        name = f"{scope}-{next(_counter)}"
    DefaultScope.get_instance(name, scope_name=scope)
