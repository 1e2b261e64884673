"""Modules of ``mmengine`` are the modules of mmx: one object in ``sys.modules`` under two names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

from mmengine._compat import extra

PACKAGE = "mmengine"

# Modules of this distribution itself.
OWN = frozenset({"version", "_compat"})

# Where a part of the old layout has another place or name in mmx, or lives here.
MOVED = {
    "_strategy": "mmx.strategy",
    "_strategy.colossalai": "mmengine._compat.colossalai",
    "_strategy.utils": "mmengine._compat.strategy_utils",
    "testing._internal": "mmx.testing.distributed",
    "testing._internal.distributed": "mmx.testing.distributed",
}


def target_of(name: str) -> str:
    """Return the module that ``mmengine.<...>`` stands for.

    Args:
        name: The full name, such as ``"mmengine.runner.checkpoint"``.
    """
    rest = name.removeprefix(f"{PACKAGE}.")
    if rest in MOVED:
        return MOVED[rest]
    top, dot, below = rest.partition(".")
    return f"{MOVED.get(top, f'mmx.{top}')}{dot}{below}"


class AliasLoader(Loader):
    """Puts the module of mmx into ``sys.modules`` under the old name too."""

    def __init__(self, target: str) -> None:
        self.target = target

    def exec_module(self, module: ModuleType) -> None:
        """Import the target and let it take the place of the empty module made for the name."""
        real = importlib.import_module(self.target)
        extra.extend(real)
        sys.modules[module.__name__] = real

    def get_code(self, name: str) -> CodeType | None:
        """Return the target's code, which ``python -m mmengine.<...>`` runs."""
        spec = importlib.util.find_spec(self.target)
        getter = getattr(None if spec is None else spec.loader, "get_code", None)
        return None if getter is None else getter(self.target)


class AliasFinder(MetaPathFinder):
    """Finds ``mmengine.<...>``; stands before the finder that looks into folders."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return a spec whose loader gives the module of mmx, or None where mmx has none."""
        if not fullname.startswith(f"{PACKAGE}."):
            return None
        if fullname.split(".", 2)[1] in OWN:
            return None
        name = target_of(fullname)
        try:
            real = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            # A parent that is a plain module; anything else that is missing is the user's affair.
            if not name.startswith(f"{error.name}."):
                raise
            return None
        if real is None:
            return None
        spec = ModuleSpec(fullname, AliasLoader(name), origin=real.origin)
        spec.submodule_search_locations = real.submodule_search_locations
        return spec


def install() -> None:
    """Put the finder first, once."""
    if not any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AliasFinder())
