"""Which dotted paths may be looked into: those of trusted packages, judged by what they lead to.

A config from JSON, YAML or TOML must not run code. ``type='os.system'`` is refused because ``os`` is
not trusted, and so is ``type='torch.os.system'``: every object on the way, and what the path leads
to, must itself be defined in a trusted package. Packages are trusted by the core (itself and
torch), by being an active plugin, and by the user (``--trust``, ``MMX_TRUST``, `add`).

Inside a trusted package some modules are refused nevertheless: those that load pickles, compile,
or start programs at the word of an argument. What is *registered* is not affected: a plugin's
author decides what to register.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

# Guarded by being replaced, never changed in place.
_trusted: frozenset[str] = frozenset()
# This package decides what is trusted, so no config may reach into it.
_refused: frozenset[str] = frozenset({"mmx_registry"})

_lasting_trusted: set[str] = set()
_lasting_refused: set[str] = set()

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\Z")

# Decorators of the standard library leave their own wrapper around a function; the function inside
# is then judged instead.
_TRANSPARENT = frozenset({"contextlib", "functools", "warnings", "typing_extensions"})
_RUNS_CODE = "what it names can run code or programs at the word of an argument"

# Types whose values can be handed out by a trusted module, since they are only data.
_PLAIN = (str, bytes, int, float, complex, bool, type(None), tuple, list, dict, set, frozenset)


def add(*packages: str, refuse: Iterable[str] = (), lasting: bool = False) -> None:
    """Trust packages for the rest of the process.

    Args:
        packages: Packages, such as ``"my_project"`` or ``"my_project.models"``.
        refuse: Modules inside them whose classes and functions are refused, with all below them.
        lasting: `preserved` does not undo it: for what a module does when it is imported, since it
            is imported but once.

    Raises:
        ValueError: A name is not that of a package.
    """
    global _trusted, _refused
    for name in (*packages, *refuse):
        if not isinstance(name, str) or not _NAME.match(name):
            raise ValueError(f"{name!r} is not the name of a package, such as 'my_project'")
    _trusted |= frozenset(packages)
    _refused |= frozenset(refuse)
    if lasting:
        _lasting_trusted.update(packages)
        _lasting_refused.update(refuse)


def trusted_packages() -> frozenset[str]:
    """Return the packages that dotted paths may lead into."""
    return _trusted | _from_environment()


def _from_environment() -> frozenset[str]:
    value = os.environ.get("MMX_TRUST")
    if not value:
        return frozenset()
    return frozenset(p.strip() for p in value.split(",") if _NAME.match(p.strip()))


def is_trusted(module: str) -> bool:
    """Whether a module is in a trusted package. Nothing is imported."""
    return _covers(trusted_packages(), module)


def _covers(packages: frozenset[str], module: str) -> bool:
    name = module
    while name:
        if name in packages:
            return True
        name = name.rpartition(".")[0]
    return False


def is_lasting(path: str) -> bool:
    """Whether a path is trusted by more than the environment variable, which may change."""
    return _covers(_trusted, path)


def resolve(path: str) -> Any:
    """Return the object of a dotted path in a trusted package, or None."""
    return look_up(path).object


class Verdict(NamedTuple):
    """What a dotted path leads to.

    Attributes:
        object: The object, or None.
        reason: Why there is none, or "".
        is_refused: It leads where no config may look; else it leads nowhere.
    """

    object: Any
    reason: str = ""
    is_refused: bool = False


def look_up(path: str) -> Verdict:
    """Follow a dotted path in a trusted package.

    Raises:
        Exception: What importing a module of a trusted package raised.
    """
    parts = path.split(".")
    if len(parts) < 2 or not _NAME.match(path):
        return Verdict(None, f"{path!r} is no dotted path")
    packages = trusted_packages()
    # A trusted package may be a sub-package; the path must lead into it.
    if not any(_covers(packages, ".".join(parts[:i])) for i in range(1, len(parts) + 1)):
        return Verdict(None, f"the package {parts[0]!r} is not trusted", True)
    private = next((part for part in parts if part.startswith("_")), None)
    if private is not None:
        return Verdict(None, f"{private!r} in it is private", True)
    if any(_covers(_refused, ".".join(parts[:i])) for i in range(1, len(parts))):
        # Before anything is imported: these modules are of no use in a config.
        return Verdict(None, _RUNS_CODE, True)
    try:
        obj: Any = importlib.import_module(parts[0])
    except ModuleNotFoundError as error:
        if error.name == parts[0]:
            return Verdict(None, f"there is no module {parts[0]!r}")
        raise
    for i, part in enumerate(parts[1:], start=1):
        parent, obj = obj, getattr(obj, part, None)
        if obj is None and isinstance(parent, types.ModuleType):
            name = ".".join(parts[: i + 1])
            try:
                obj = importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name is None or not (
                    name == error.name or name.startswith(f"{error.name}.")
                ):
                    raise
        if obj is None:
            return Verdict(None, f"{'.'.join(parts[:i])!r} has no {part!r}")
        reason = _refusal(obj, packages, last=i == len(parts) - 1, root=parts[0])
        if reason:
            return Verdict(None, reason, True)
    if not isinstance(obj, types.ModuleType) and _covers(_refused, path):
        return Verdict(None, _RUNS_CODE, True)
    return Verdict(obj)


def _refusal(obj: Any, packages: frozenset[str], *, last: bool, root: str) -> str:
    """Return why an object on the way is refused, or ""."""
    if isinstance(obj, types.ModuleType):
        name = obj.__name__
        if _covers(packages, name) or (not last and _leads_to(packages, name)):
            return ""
        return f"it leads to the module {name!r}, which is not trusted"
    return _object_refusal(obj, packages, root, depth=0)


def _leads_to(packages: frozenset[str], module: str) -> bool:
    return any(package.startswith(f"{module}.") for package in packages)


def _object_refusal(obj: Any, packages: frozenset[str], root: str, depth: int) -> str:
    if depth > 8:
        return "it is wrapped too deeply to be judged"
    if isinstance(obj, functools.partial):
        return _object_refusal(obj.func, packages, root, depth + 1)
    if isinstance(obj, types.MethodType):
        return _object_refusal(obj.__func__, packages, root, depth + 1)
    if isinstance(obj, (staticmethod, classmethod)):
        return _object_refusal(obj.__func__, packages, root, depth + 1)
    if isinstance(obj, types.FunctionType):
        home = str(obj.__globals__.get("__name__", ""))
        wrapped = getattr(obj, "__wrapped__", None)
        if home in _TRANSPARENT and wrapped is not None:
            return _object_refusal(wrapped, packages, root, depth + 1)
        return _judge(home, packages, obj) or _judge(obj.__module__ or home, packages, obj)
    if isinstance(obj, type) or not callable(obj):
        if not isinstance(obj, type):
            if isinstance(obj, _PLAIN):
                return ""
            obj = type(obj)
        return _judge(getattr(obj, "__module__", "") or "", packages, obj)
    if isinstance(obj, (types.BuiltinFunctionType, types.MethodDescriptorType)):
        module = getattr(obj, "__module__", None)
        if module is None:
            owner = getattr(obj, "__objclass__", None) or type(getattr(obj, "__self__", None))
            module = getattr(owner, "__module__", "")
        return _judge(str(module), packages, obj)
    # A callable object: its class is code, and so may be what it says it stands for.
    reason = _judge(type(obj).__module__, packages, obj)
    own = getattr(obj, "__module__", None)
    if not reason and isinstance(own, str):
        reason = _judge(own, packages, obj)
    return reason


def _judge(module: str, packages: frozenset[str], obj: Any) -> str:
    what = getattr(obj, "__qualname__", None) or type(obj).__qualname__
    if not _covers(packages, module):
        return f"it leads to {what!r} of {module or 'an unknown module'!r}, which is not trusted"
    if _covers(_refused, module):
        return f"it leads to {what!r} of {module!r}, which can run code at the word of an argument"
    return ""


class _Preserved:
    """Restores what is trusted after a ``with`` block; for tests."""

    def __enter__(self) -> None:
        self._saved = _trusted, _refused

    def __exit__(self, *exc: object) -> None:
        global _trusted, _refused
        _trusted = self._saved[0] | _lasting_trusted
        _refused = self._saved[1] | _lasting_refused


def preserved() -> _Preserved:
    """Return a context manager that restores what is trusted; for tests."""
    return _Preserved()
