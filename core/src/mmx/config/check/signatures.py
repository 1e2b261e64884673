"""Which arguments a class or function takes, also through ``**kwargs`` handed on to a parent."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Accepted:
    """The arguments that a class or function takes by name.

    Attributes:
        hints: Name -> annotation, or `inspect.Parameter.empty`.
        defaults: Name -> default of those that have one.
        is_open: Whether it may take more than is known.
    """

    hints: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    is_open: bool = False

    @property
    def required(self) -> list[str]:
        """The names without a default."""
        return [name for name in self.hints if name not in self.defaults]


def accepted_by(target: Any) -> Accepted | None:
    """Return the arguments of a class or function; None if it does not tell."""
    try:
        return _accepted(target)
    except (TypeError, ValueError, OSError, SyntaxError, RecursionError):
        return None


def _accepted(target: Any) -> Accepted | None:
    if isinstance(target, functools.partial):
        inner = accepted_by(target.func)
        if inner is not None:
            for name in target.keywords:
                inner.defaults.setdefault(name, None)
        return inner
    if isinstance(target, type):
        if not _is_plain_metaclass(type(target)):
            return None
        own = _own(target)
        if "__new__" in own and "__init__" not in own:
            return _of_function(target.__new__, bound=True)
        return _of_class(target, target)
    if inspect.ismethod(target):
        return _of_function(target.__func__, bound=True)
    if inspect.isfunction(target) or inspect.isbuiltin(target):
        return _of_function(target, bound=False)
    return None


def _is_plain_metaclass(metaclass: type) -> bool:
    # `ManagerMeta` and ABCMeta only look at the class, or keep its instances.
    changed = any("__call__" in vars(b) for b in metaclass.__mro__ if b not in (type, object))
    return not changed or metaclass.__module__.partition(".")[0] == "mmx"


def _own(cls: type) -> set[str]:
    return {name for base in cls.__mro__ if base is not object for name in vars(base)}


def _of_class(cls: type, start: type) -> Accepted:
    """Return the arguments of the first ``__init__`` of a class at or above ``start``."""
    mro = list(cls.__mro__)
    for position in range(mro.index(start), len(mro)):
        owner = mro[position]
        if owner is object:
            break
        init = vars(owner).get("__init__")
        if init is None:
            continue
        if f"{owner.__module__}.{owner.__qualname__}" == "torch.nn.modules.module.Module":
            # It takes `**kwargs` only to refuse them.
            return Accepted()
        function = inspect.unwrap(init)
        result = _of_function(function, bound=True)
        forwarded = _forwarding(function) if result.is_open else None
        if forwarded is None:
            return result
        taken, set_already, positions = forwarded
        for name in taken:
            result.hints.setdefault(name, inspect.Parameter.empty)
            result.defaults.setdefault(name, None)
        rest = mro[position + 1 :]
        parent = _of_class(cls, rest[0]) if rest else Accepted()
        set_already = {*set_already, *list(parent.hints)[:positions]}
        for name, hint in parent.hints.items():
            if name in result.hints or name in set_already:
                continue
            result.hints[name] = hint
            if name in parent.defaults:
                result.defaults[name] = parent.defaults[name]
        result.is_open = parent.is_open
        return result
    return Accepted()


def _of_function(function: Callable[..., Any], bound: bool) -> Accepted:
    parameters = list(inspect.signature(function).parameters.values())
    if (
        bound
        and parameters
        and parameters[0].kind
        in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
    ):
        parameters = parameters[1:]
    hints = _hints(function)
    result = Accepted()
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            result.is_open = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            result.hints[parameter.name] = hints.get(parameter.name, parameter.annotation)
            if parameter.default is not parameter.empty:
                result.defaults[parameter.name] = parameter.default
    return result


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - names that exist for type checkers only
        pass
    # Those that can be told, one by one.
    result = {}
    namespace = getattr(function, "__globals__", {})
    for name, hint in getattr(function, "__annotations__", {}).items():
        if not isinstance(hint, str):
            result[name] = hint
            continue
        try:
            result[name] = eval(hint, namespace)  # noqa: S307  # as get_type_hints does
        except Exception:  # noqa: BLE001 - as above
            result[name] = inspect.Parameter.empty
    return result


@functools.lru_cache(maxsize=512)
def _forwarding(function: Callable[..., Any]) -> tuple[set[str], set[str], int] | None:
    """Look at what a method does with its ``**kwargs``.

    Returns:
        The names that it takes out of them, the names that it sets itself where it hands the rest
        to ``super().__init__``, and how many arguments it hands on by position there; None if it
        does anything else with them.
    """
    source = textwrap.dedent(inspect.getsource(function))
    tree = ast.parse(source).body[0]
    if not isinstance(tree, ast.FunctionDef) or tree.args.kwarg is None:
        return None
    name = tree.args.kwarg.arg
    taken: set[str] = set()
    set_already: set[str] = set()
    forwarded = False
    positions = 0
    understood: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_super_init(node):
            for keyword in node.keywords:
                if keyword.arg is None and _is_name(keyword.value, name):
                    forwarded = True
                    understood.add(id(keyword.value))
                    positions = sum(not isinstance(a, ast.Starred) for a in node.args)
                elif keyword.arg is not None:
                    set_already.add(keyword.arg)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and _is_name(node.func.value, name)
            and node.func.attr in ("pop", "get", "setdefault")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            taken.add(str(node.args[0].value))
            understood.add(id(node.func.value))
        elif (
            isinstance(node, ast.Subscript)
            and _is_name(node.value, name)
            and isinstance(node.slice, ast.Constant)
        ):
            taken.add(str(node.slice.value))
            understood.add(id(node.value))
    others = [n for n in ast.walk(tree) if _is_name(n, name) and id(n) not in understood]
    return (taken, set_already, positions) if forwarded and not others else None


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_super_init(node: ast.Call) -> bool:
    function = node.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr == "__init__"
        and isinstance(function.value, ast.Call)
        and isinstance(function.value.func, ast.Name)
        and function.value.func.id == "super"
    )
