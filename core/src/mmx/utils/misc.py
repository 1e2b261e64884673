"""Small functions about sequences, imports, methods and deprecated names."""

from __future__ import annotations

import collections.abc
import functools
import importlib
import inspect
import itertools
import logging
import shutil
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import getfullargspec
from typing import Any, TypeVar

from mmx.utils.errors import InvalidTypeError, InvalidValueError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def _ntuple(n: int) -> Callable[[Any], tuple[Any, ...]]:
    def parse(x: Any) -> tuple[Any, ...]:
        if isinstance(x, collections.abc.Iterable):
            return x  # type: ignore[return-value]  # MMEngine returns iterables as they are
        return tuple(itertools.repeat(x, n))

    return parse


to_1tuple = _ntuple(1)
to_2tuple = _ntuple(2)
to_3tuple = _ntuple(3)
to_4tuple = _ntuple(4)
to_ntuple = _ntuple


def is_str(x: Any) -> bool:
    """Tell whether ``x`` is a str."""
    return isinstance(x, str)


def import_modules_from_strings(
    imports: str | list[str] | None, allow_failed_imports: bool = False
) -> Any:
    """Import modules by their dotted names.

    Args:
        imports: One name or a list of names; None or empty imports nothing.
        allow_failed_imports: Warn about a failed import and return None in its place.

    Returns:
        The module, or the list of modules; None for no names.

    Raises:
        TypeError: ``imports`` is neither text nor a list of text.
        ImportError: A module cannot be imported.
    """
    if not imports:
        return None
    single = isinstance(imports, str)
    names: list[Any] = [imports] if isinstance(imports, str) else imports
    if not isinstance(names, list):
        raise InvalidTypeError(f"custom_imports must be a list but got type {type(imports)}")
    modules: list[Any] = []
    for name in names:
        if not isinstance(name, str):
            raise InvalidTypeError(f"{name} is of type {type(name)} and cannot be imported.")
        try:
            modules.append(importlib.import_module(name))
        except ImportError as error:
            if not allow_failed_imports:
                error.add_note(f"Failed to import {name}")
                raise
            warnings.warn(f"{name} failed to import and is ignored.", UserWarning, stacklevel=2)
            modules.append(None)
    return modules[0] if single else modules


def iter_cast(inputs: Iterable[Any], dst_type: Callable[[Any], T], return_type: Any = None) -> Any:
    """Cast the elements of an iterable.

    Args:
        inputs: Elements.
        dst_type: Type to cast them to.
        return_type: Type of the container; None returns an iterator.

    Raises:
        TypeError: ``inputs`` is not iterable or ``dst_type`` no type.
    """
    if not isinstance(inputs, collections.abc.Iterable):
        raise InvalidTypeError("inputs must be an iterable object")
    if not isinstance(dst_type, type):
        raise InvalidTypeError('"dst_type" must be a valid type')
    out = map(dst_type, inputs)
    return out if return_type is None else return_type(out)


def list_cast(inputs: Iterable[Any], dst_type: Callable[[Any], T]) -> list[T]:
    """Cast elements and return a list. See :func:`iter_cast`."""
    result: list[T] = iter_cast(inputs, dst_type, return_type=list)
    return result


def tuple_cast(inputs: Iterable[Any], dst_type: Callable[[Any], T]) -> tuple[T, ...]:
    """Cast elements and return a tuple. See :func:`iter_cast`."""
    result: tuple[T, ...] = iter_cast(inputs, dst_type, return_type=tuple)
    return result


def is_seq_of(seq: Any, expected_type: Any, seq_type: type | None = None) -> bool:
    """Tell whether ``seq`` is a sequence whose elements are all of a type.

    Args:
        seq: Anything.
        expected_type: Type, or tuple of types, of the elements.
        seq_type: Type of the sequence; None is any sequence.

    Raises:
        TypeError: ``seq_type`` is no type.
    """
    if seq_type is None:
        container: type = collections.abc.Sequence
    elif isinstance(seq_type, type):
        container = seq_type
    else:
        raise InvalidTypeError(f"seq_type must be a type, got {seq_type!r}")
    return isinstance(seq, container) and all(isinstance(item, expected_type) for item in seq)  # type: ignore[attr-defined]  # sequences iterate


def is_list_of(seq: Any, expected_type: Any) -> bool:
    """Tell whether ``seq`` is a list whose elements are all of a type."""
    return is_seq_of(seq, expected_type, seq_type=list)


def is_tuple_of(seq: Any, expected_type: Any) -> bool:
    """Tell whether ``seq`` is a tuple whose elements are all of a type."""
    return is_seq_of(seq, expected_type, seq_type=tuple)


def slice_list(in_list: list[T], lens: int | list[int]) -> list[list[T]]:
    """Cut a list into pieces.

    Args:
        in_list: The list.
        lens: Length of every piece, or the length of each; they must add up.

    Raises:
        TypeError: ``lens`` is neither a number nor a list.
        ValueError: The lengths do not add up.
    """
    if isinstance(lens, int):
        if lens <= 0 or len(in_list) % lens:
            raise InvalidValueError(f"{len(in_list)} elements cannot be cut into pieces of {lens}")
        lens = [lens] * (len(in_list) // lens)
    if not isinstance(lens, list):
        raise InvalidTypeError('"indices" must be an integer or a list of integers')
    if sum(lens) != len(in_list):
        raise InvalidValueError(
            f"sum of lens and list length does not match: {sum(lens)} != {len(in_list)}"
        )
    pieces = []
    start = 0
    for length in lens:
        pieces.append(in_list[start : start + length])
        start += length
    return pieces


def concat_list(in_list: Iterable[Iterable[T]]) -> list[T]:
    """Join lists into one."""
    return list(itertools.chain(*in_list))


def check_prerequisites(
    prerequisites: str | Sequence[str],
    checker: Callable[[str], bool],
    msg_tmpl: str = 'Prerequisites "{}" are required in method "{}" but not found, please install them first.',
) -> Callable[[F], F]:
    """Return a decorator that calls a function only where its prerequisites are met.

    Args:
        prerequisites: What is needed.
        checker: Tells whether one of them is there.
        msg_tmpl: Message with two ``{}``: what is missing, and the function's name.
    """

    def wrap(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            needed = [prerequisites] if isinstance(prerequisites, str) else prerequisites
            missing = [item for item in needed if not checker(item)]
            if missing:
                message = msg_tmpl.format(", ".join(missing), function.__name__)
                print(message)  # as MMEngine does, whose error does not say which
                raise RuntimeError(message)
            return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]  # the same signature

    return wrap


def _check_py_package(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def requires_package(prerequisites: str | Sequence[str]) -> Callable[[F], F]:
    """Return a decorator that checks that Python packages can be imported before each call."""
    return check_prerequisites(prerequisites, checker=_check_py_package)


def requires_executable(prerequisites: str | Sequence[str]) -> Callable[[F], F]:
    """Return a decorator that checks that programs are on the PATH before each call."""
    return check_prerequisites(prerequisites, checker=lambda name: shutil.which(name) is not None)


def deprecated_api_warning(
    name_dict: dict[str, str], cls_name: str | None = None
) -> Callable[[F], F]:
    """Return a decorator that renames old keyword arguments, with a warning.

    Args:
        name_dict: Old name -> new name.
        cls_name: Class of the decorated method, for the message.

    Raises:
        ValueError: From the decorated function, if a call gives both the old and the new name.
    """

    def wrap(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            owner = function.__name__ if cls_name is None else f"{cls_name}.{function.__name__}"
            names = getfullargspec(function).args
            if args:
                given = names[: len(args)]
                for old, new in name_dict.items():
                    if old in given:
                        _warn_renamed(old, new, owner)
            for old, new in name_dict.items():
                if old not in kwargs:
                    continue
                if new in kwargs:
                    raise InvalidValueError(
                        f"The expected behavior is to replace the deprecated key `{old}` to new key `{new}`, "
                        f"but got them in the arguments at the same time, which is confusing. `{old}` will be "
                        f"deprecated in the future, please use `{new}` instead."
                    )
                _warn_renamed(old, new, owner)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]  # the same signature but for the old names

    return wrap


def _warn_renamed(old: str, new: str, owner: str) -> None:
    warnings.warn(
        f'"{old}" is deprecated in `{owner}`, please use "{new}" instead',
        DeprecationWarning,
        stacklevel=3,
    )


def deprecated_function(since: str, removed_in: str, instructions: str) -> Callable[[F], F]:
    """Return a decorator that marks a function as deprecated, in its docstring and when called.

    Args:
        since: Version from which it is deprecated.
        removed_in: Version in which it goes.
        instructions: What to do instead.
    """

    def wrap(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            # Not `warnings`: the run's logger, which gets this, says so once, wherever the call is.
            logging.getLogger("mmx.utils").warning(
                "'%s.%s' is deprecated in version %s and will be removed in version %s. Please %s.",
                function.__module__,
                function.__name__,
                since,
                removed_in,
                instructions,
            )
            return function(*args, **kwargs)

        notice = (
            f".. deprecated:: {since}\n"
            f"    Deprecated and will be removed in version {removed_in}.\n"
            f"    Please {instructions}.\n\n"
        )
        raw = function.__doc__ or ""
        doc = textwrap.indent(inspect.cleandoc(raw), "    ")
        # The new lines around the text stay, as in MMEngine.
        start = "\n" if raw.startswith("\n") else ""
        end = "\n" if raw.rstrip(" ").endswith("\n") else ""
        wrapped.__doc__ = f"{notice}\n{start}{doc}{end}"
        return wrapped  # type: ignore[return-value]  # the same signature

    return wrap


def is_method_overridden(method: str, base_class: type, derived_class: Any) -> bool:
    """Tell whether a class, or the class of an object, overrides a method of a base class.

    Raises:
        TypeError: ``base_class`` is no class.
    """
    if not isinstance(base_class, type):
        raise InvalidTypeError("base_class doesn't accept instance, Please pass class instead.")
    if not isinstance(derived_class, type):
        derived_class = derived_class.__class__
    return getattr(derived_class, method) is not getattr(base_class, method)


def has_methods(obj: object, methods: Mapping[str, Any]) -> bool:
    """Tell whether an object's methods are these very functions, overridden or replaced nowhere.

    Args:
        obj: An object with a ``__dict__``.
        methods: Name -> function, as the class that defines it has it.
    """
    return vars(obj).keys().isdisjoint(methods) and class_has_methods(type(obj), methods)


def class_has_methods(cls: type, methods: Mapping[str, Any]) -> bool:
    """Tell whether a class's methods are these very functions; see :func:`has_methods`."""
    return all(getattr(cls, name, None) is function for name, function in methods.items())


def has_method(obj: object, method: str) -> bool:
    """Tell whether an object has a callable of this name."""
    return hasattr(obj, method) and callable(getattr(obj, method))


def apply_to(data: Any, expr: Callable[[Any], bool], apply_func: Callable[[Any], Any]) -> Any:
    """Apply a function to all elements of nested dicts, lists and tuples that fulfil a condition.

    Containers keep their type; others than ``dict``, ``list`` and ``tuple`` are elements.

    Args:
        data: Nested data; not changed.
        expr: The condition.
        apply_func: Called with each element for which ``expr`` is true.
    """
    if isinstance(data, dict):
        items = ((key, apply_to(value, expr, apply_func)) for key, value in data.items())
        return type(data)(items)
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(apply_to(item, expr, apply_func) for item in data))
    if isinstance(data, (tuple, list)):
        return type(data)(apply_to(item, expr, apply_func) for item in data)
    return apply_func(data) if expr(data) else data


def get_object_from_string(obj_name: str) -> Any:
    """Return what a dotted name means: a module, or something inside one. None if it is nothing.

    This imports whatever the name says. Configs go through the registry's rule of trust instead.
    """
    parts = obj_name.split(".")
    # The longest beginning that is a module; an import may make further names available.
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        try:
            for part in parts[length:]:
                found = getattr(found, part)
        except AttributeError:
            continue
        return found
    return None
