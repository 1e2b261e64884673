"""Whether a value of a config can be what an annotation says."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import numbers
import os
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any

from mmx.config.lazy import LAZY_TYPES

_SEQUENCES = (
    list,
    tuple,
    set,
    frozenset,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Iterable,
    collections.abc.Collection,
    collections.abc.Set,
)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value fits an annotation. What cannot be told fits.

    A dict fits wherever an object is expected, since it may be built into one; a list fits a tuple,
    since text formats have lists only; an integral float fits an int.
    """
    if hint is inspect.Parameter.empty or hint is Any or isinstance(hint, (str, typing.TypeVar)):
        return True
    if hint is None or hint is type(None):
        return value is None
    if isinstance(value, (*LAZY_TYPES, type)):
        return True
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin is typing.Literal:
        if isinstance(value, Mapping):
            return False
        return any(value == option and type(value) is type(option) for option in arguments)
    if origin is tuple:
        return _fits_tuple(value, arguments)
    plain = origin if origin is not None else hint
    if not isinstance(plain, type):
        return True
    return _fits_class(value, plain, arguments)


def _fits_tuple(value: Any, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return all(fits(item, arguments[0]) for item in value)
    if not arguments:
        return True
    return len(value) == len(arguments) and all(map(fits, value, arguments))


def _fits_class(value: Any, kind: type, arguments: tuple[Any, ...]) -> bool:
    if kind is object:
        return True
    if kind is bool:
        return isinstance(value, bool)
    if kind is int or kind is numbers.Integral:
        return (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, float) and value.is_integer()
        )
    if kind in (float, numbers.Real, numbers.Number, complex):
        return isinstance(value, (int, float, complex)) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if kind is bytes:
        return isinstance(value, bytes)
    if issubclass(kind, (pathlib.PurePath, os.PathLike)):
        return isinstance(value, (str, os.PathLike))
    if issubclass(kind, enum.Enum):
        return not isinstance(value, (Mapping, list))
    if issubclass(kind, (dict, Mapping)):
        if not isinstance(value, Mapping):
            return False
        if len(arguments) == 2:
            items = dict.values(value) if isinstance(value, dict) else value.values()
            return all(fits(item, arguments[1]) for item in items)
        return True
    if kind in _SEQUENCES:
        if isinstance(value, str):
            return kind not in (list, tuple, set, frozenset)
        if isinstance(value, Mapping):
            return kind in (collections.abc.Iterable, collections.abc.Collection)
        if not isinstance(value, (list, tuple, set, frozenset, range)):
            return not _is_plain(value)
        return not arguments or all(fits(item, arguments[0]) for item in value)
    if kind in (collections.abc.Callable, types.FunctionType):
        return not isinstance(value, (bool, int, float, list, tuple))
    # An object of a class of its own: built from a dict, or found by a name; but no tensor is.
    if isinstance(value, str) and kind.__module__.partition(".")[0] in ("torch", "numpy"):
        return kind.__name__ in ("device", "dtype")
    return not isinstance(value, (bool, int, float, complex, bytes)) or isinstance(value, kind)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes))


def describe(hint: Any) -> str:
    """Return an annotation as a user writes it."""
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")
