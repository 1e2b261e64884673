"""Public names of a package, imported on first use (PEP 562)."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType


def lazy_exports(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return ``(__getattr__, __dir__, __all__)`` for a package that imports its parts on use.

    The package repeats the same names in an ``if TYPE_CHECKING:`` block, so that editors and
    type checkers see them; ``tests/architecture`` checks that the two agree.

    Args:
        package: ``__name__`` of the package.
        exports: Sub-module name -> public names that it defines. A sub-module that is itself
            public is listed with its own name under ``""``.
    """
    origin = {name: module for module, names in exports.items() for name in names}

    def __getattr__(name: str) -> object:
        try:
            module = origin[name]
        except KeyError:
            if name in exports:
                # `import mmx.runner` is enough for `mmx.runner.checkpoint`, as where packages
                # import all of their modules.
                return _imported(f"{package}.{name}")
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        if module == "":
            return _imported(f"{package}.{name}")
        value = getattr(_imported(f"{package}.{module}"), name)
        # Later accesses skip this function.
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted(set(vars(sys.modules[package])) | set(origin))

    return __getattr__, __dir__, sorted(origin)


def _imported(name: str) -> ModuleType:
    """Import a module, with the garbage collector at rest.

    Imports make many objects and hardly any garbage: looking for it again and again is a fifth of
    the time that they take.
    """
    if name in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.enable()
