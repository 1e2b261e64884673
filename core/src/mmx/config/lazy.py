"""What a name that a pure-Python config imports stands for, until it is used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def _where(location: str | None) -> str:
    return f" in {location}" if location else ""


class LazyObject:
    """A module, or an object of a module, that is imported by :meth:`build`.

    Args:
        module: The module's dotted name. Several names stand for ``import a, a.b, a.c`` of one
            package: the value is the package, the others are imported for their side effect.
        imported: The object's name in the module; None stands for the module itself.
        location: Where the config imports it (``"file.py, line 3"``), for error messages.
    """

    def __init__(
        self,
        module: str | Sequence[str],
        imported: str | None = None,
        location: str | None = None,
    ) -> None:
        if not isinstance(module, str) and not (
            isinstance(module, (list, tuple)) and module and all(isinstance(m, str) for m in module)
        ):
            raise TypeError(
                f"module should be `str`, `list`, or `tuple` of str, but got {module!r}"
            )
        if imported is not None and not isinstance(imported, str):
            raise TypeError(f"imported should be `str` or None, but got {type(imported)}")
        self._module = module
        self._imported = imported
        self.location = location

    def build(self) -> Any:
        """Import the module and return it, or the object in it.

        Raises:
            ImportError: The module cannot be imported or lacks the object; it says where the
                config asks for it.
        """
        names = [self._module] if isinstance(self._module, str) else list(self._module)
        found: Any = None
        for name in names:
            try:
                module = importlib.import_module(name)
            except Exception as error:
                raise _import_error(
                    error, f"Failed to import {name}{_where(self.location)} for {error}"
                ) from error
            if found is None:
                # Of `import a.b, a.c` Python binds `a`.
                found = module if len(names) == 1 else importlib.import_module(self.module)
        if self._imported is None:
            return found
        try:
            return getattr(found, self._imported)
        except AttributeError as error:
            try:
                return importlib.import_module(f"{self.module}.{self._imported}")
            except ModuleNotFoundError as missing:
                if missing.name != f"{self.module}.{self._imported}":
                    raise
            raise ImportError(
                f"Failed to import {self._imported} from {self.module}{_where(self.location)}",
                name=self.module,
            ) from error

    @property
    def module(self) -> str:
        """The dotted name of the module; of several, that of their package."""
        return self._module if isinstance(self._module, str) else self._module[0].partition(".")[0]

    @property
    def dotted_path(self) -> str:
        """The dotted path of the object."""
        return self.module if self._imported is None else f"{self.module}.{self._imported}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise LazyCallError(self)

    def __getattr__(self, name: str) -> LazyAttr:
        # What Python itself asks for (`__deepcopy__`, `__array__`, `_repr_html_`…) is not meant.
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return LazyAttr(name, self, self.location)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LazyObject):
            return (self._module, self._imported) == (other._module, other._imported)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.dotted_path)

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyObject:
        return LazyObject(self._module, self._imported, self.location)

    def __str__(self) -> str:
        return self.module if self._imported is None else self._imported

    __repr__ = __str__

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class LazyAttr:
    """An attribute of a :class:`LazyObject` or of another attribute.

    Args:
        name: The attribute's name.
        source: What it is an attribute of.
        location: Where the config names it.
    """

    def __init__(
        self, name: str, source: LazyObject | LazyAttr, location: str | None = None
    ) -> None:
        self.name = name
        self.source = source
        self.location = location
        self._module: str = source.dotted_path

    @property
    def module(self) -> str:
        """The dotted path of what it is an attribute of."""
        return self._module

    @property
    def dotted_path(self) -> str:
        """The dotted path of the attribute."""
        return f"{self._module}.{self.name}"

    def build(self) -> Any:
        """Import what it is an attribute of and return the attribute.

        Raises:
            ImportError: There is no such module or attribute.
        """
        source = self.source.build()
        try:
            return getattr(source, self.name)
        except AttributeError as error:
            raise ImportError(
                f"Failed to import {self.dotted_path}{_where(self.location)}", name=self._module
            ) from error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise LazyCallError(self)

    def __getattr__(self, name: str) -> LazyAttr:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return LazyAttr(name, self, self.location)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LazyAttr):
            return (self.name, self.source) == (other.name, other.source)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.dotted_path)

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyAttr:
        return LazyAttr(self.name, self.source, self.location)

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


LAZY_TYPES = (LazyObject, LazyAttr)


def _import_error(error: Exception, message: str) -> ImportError:
    if isinstance(error, ModuleNotFoundError):
        return ModuleNotFoundError(message, name=error.name)
    return ImportError(message, name=getattr(error, "name", None))


class LazyCallError(RuntimeError, TypeError):
    """A config calls a name that it imports; nothing is imported while a config is read."""

    def __init__(self, lazy: LazyObject | LazyAttr) -> None:
        super().__init__(
            f"{lazy.dotted_path} is called{_where(lazy.location)}, but a pure-Python config "
            "imports nothing when it is read, so it cannot call what it imports. Write "
            f"dict(type={lazy}, ...) for what is to be built, or set `lazy_import=False`"
        )
        self.lazy = lazy


@contextmanager
def read_base() -> Iterator[None]:
    """Mark the imports of a pure-Python config that are its bases: ``with read_base():``."""
    yield
