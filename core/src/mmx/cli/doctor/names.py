"""What a dotted name of the old package stands for here."""

from __future__ import annotations

import functools
import importlib
import inspect
import types
from dataclasses import dataclass
from typing import Any

from mmx.config.check.signatures import Accepted, accepted_by

PACKAGE = "mmengine"


class NotInstalledError(Exception):
    """The package that gives mmx the old name is not there."""


def check_installed() -> None:
    """Check that the import package ``mmengine`` is ours.

    Raises:
        NotInstalledError: It is absent, or it is the real one.
    """
    try:
        package = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise NotInstalledError(
            f"the old names come with another package: pip install mmx-mmengine ({error})"
        ) from error
    if not hasattr(package, "__mmx_version__"):
        raise NotInstalledError(
            "the real mmengine is installed, so the old names do not lead to mmx: "
            "pip uninstall -y mmengine, then pip install mmx-mmengine"
        )


@dataclass(frozen=True)
class Found:
    """What a name leads to.

    Attributes:
        value: The object, if ``is_known``.
        is_known: Whether the whole path could be followed.
        missing: The part of the path that does not exist, or "".
        parent: What was asked for that part.
    """

    value: Any = None
    is_known: bool = False
    missing: str = ""
    parent: str = ""


@functools.cache
def look_up(path: str) -> Found:
    """Follow a dotted name that begins with ``mmengine``; only our own modules are imported."""
    parts = path.split(".")
    value: Any = importlib.import_module(parts[0])
    for number, part in enumerate(parts[1:], start=1):
        so_far = ".".join(parts[:number])
        if isinstance(value, types.ModuleType):
            try:
                following = _of_module(value, so_far, part)
            except ImportError:
                # It is there, and needs an optional package that is not.
                return Found()
        elif isinstance(value, type):
            following = inspect.getattr_static(value, part, _NOTHING)
            if following is not _NOTHING:
                following = getattr(value, part, following)
            elif _answers_anything(type(value)) or hasattr(value, part):
                return Found()
        else:
            # What objects hold shows when they live.
            following = getattr(value, part, None)
            if following is None:
                return Found()
        if following is _NOTHING:
            return Found(missing=part, parent=so_far)
        value = following
    return Found(value, is_known=True)


_NOTHING = object()


def _of_module(module: types.ModuleType, name: str, part: str) -> Any:
    try:
        return getattr(module, part)
    except AttributeError:
        pass
    try:
        return importlib.import_module(f"{name}.{part}")
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.{part}".startswith(error.name):
            raise
        return _NOTHING


def _answers_anything(metaclass: type) -> bool:
    return any("__getattr__" in vars(base) for base in metaclass.__mro__)


def names_of(parent: str) -> list[str]:
    """Return the public names of a module or class of the old package, for close names."""
    found = look_up(parent)
    return (
        [name for name in dir(found.value) if not name.startswith("__")] if found.is_known else []
    )


@functools.cache
def arguments_of(path: str) -> Accepted | None:
    """Return the arguments that what a name leads to takes; None if that cannot be told."""
    found = look_up(path)
    return accepted_by(found.value) if found.is_known and callable(found.value) else None


@functools.cache
def num_positional(path: str) -> int | None:
    """Return how many arguments may be given by place; None for any number."""
    value = look_up(path).value
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def home_of(value: Any) -> str:
    """Return the dotted name under which mmx defines a class or function."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
