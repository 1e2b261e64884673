"""Classes with globally accessible, named instances."""

from __future__ import annotations

import contextlib
import inspect
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Self

from mmx.utils.errors import InvalidTypeError, InvalidValueError

# Guards creation: two threads that ask for one name get one instance.
_lock = threading.RLock()


class ManagerMeta(type):
    """Metaclass that gives every class its own table of instances and its own binding.

    Raises:
        TypeError: ``__init__`` of the class has no argument ``name``.
    """

    _instance_dict: OrderedDict[str, Any]
    _bound: ContextVar[Any]

    def __init__(cls, *args: Any) -> None:
        cls._instance_dict = OrderedDict()
        cls._bound = ContextVar(f"{cls.__module__}.{cls.__qualname__}", default=None)
        parameters = inspect.signature(cls).parameters
        if "name" not in parameters and not any(
            p.kind is p.VAR_KEYWORD for p in parameters.values()
        ):
            raise InvalidTypeError(f"{cls}.__init__ must have the name argument")
        super().__init__(*args)


class ManagerMixin(metaclass=ManagerMeta):
    """Base of classes whose instances are found by name: loggers, message hubs, visualizers.

    The current instance is the one bound in this context by :meth:`as_current`, as a runner does
    while it runs; without a binding it is the latest created, as in MMEngine.

    Args:
        name: Name of the instance. Must not be empty.
        **kwargs: For subclasses.

    Raises:
        ValueError: ``name`` is empty or no text.
    """

    def __init__(self, name: str = "", **kwargs: Any) -> None:
        if not isinstance(name, str) or not name:
            raise InvalidValueError(f"name argument must be a non-empty str, got {name!r}")
        self._instance_name = name

    @classmethod
    def get_instance(cls, name: str, **kwargs: Any) -> Self:
        """Return the instance of this name, creating it with ``kwargs`` if there is none.

        Raises:
            TypeError: ``name`` is no text.
        """
        if not isinstance(name, str):
            raise InvalidTypeError(f"type of name should be str, but got {type(name).__name__}")
        with _lock:
            table = cls._instance_dict
            if name not in table:
                table[name] = cls(name=name, **kwargs)
            elif kwargs:
                warnings.warn(
                    f"{cls} instance named of {name} has been created, the method `get_instance` "
                    "should not accept any other arguments",
                    stacklevel=2,
                )
            instance: Self = table[name]
            return instance

    @classmethod
    def build_from_registry(cls, **kwargs: Any) -> Self:
        """Return the instance that a config asks for: registries build such classes by name."""
        name = kwargs.pop("name", None)
        if name is None:
            import time

            name = f"{cls.__name__}_{time.time_ns()}"
        if cls.check_instance_created(name):
            kwargs = {}
        return cls.get_instance(name, **kwargs)

    @classmethod
    def get_current_instance(cls) -> Self:
        """Return the bound instance of this context, or else the latest created.

        Raises:
            RuntimeError: There is none.
        """
        bound = cls._bound.get()
        if bound is not None:
            result: Self = bound
            return result
        with _lock:
            if not cls._instance_dict:
                raise RuntimeError(
                    f"Before calling {cls.__name__}.get_current_instance(), you should call get_instance(name=xxx) "
                    "at least once."
                )
            latest: Self = next(reversed(cls._instance_dict.values()))
            return latest

    @classmethod
    def check_instance_created(cls, name: str) -> bool:
        """Tell whether there is an instance of this name."""
        return name in cls._instance_dict

    @property
    def instance_name(self) -> str:
        """The name of this instance."""
        return self._instance_name

    @contextlib.contextmanager
    def as_current(self) -> Iterator[Self]:
        """Make this the current instance of its class, in this thread or task, for a block."""
        token = type(self)._bound.set(self)
        try:
            yield self
        finally:
            type(self)._bound.reset(token)
