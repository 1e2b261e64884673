"""Modules of ``mmengine`` are the modules of mmx: one object in ``sys.modules`` under two names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from mmengine._compat import extra
from mmengine.version import __version__
from mmx._engine_name import set_engine_name
from mmx_registry.scope import show_scope_as

PACKAGE = "mmengine"

# Modules of this distribution itself.
OWN = frozenset({"version", "_compat"})


def target_of(name: str) -> str:
    """Return the module that ``mmengine.<...>`` stands for.

    Args:
        name: The full name, such as ``"mmengine.runner.checkpoint"``.
    """
    rest = name.removeprefix(f"{PACKAGE}.")
    if rest in extra.MOVED:
        return extra.MOVED[rest]
    top, dot, below = rest.partition(".")
    return f"{extra.MOVED.get(top, f'mmx.{top}')}{dot}{below}"


class AliasLoader(Loader):
    """Gives the module of mmx for the old name."""

    def __init__(self, target: str) -> None:
        self.target = target

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module of mmx, whole: other threads see it or nothing, never a husk."""
        real = importlib.import_module(self.target)
        extra.import_homonyms(real)
        set_engine_name(PACKAGE, {"MMEngine": __version__})
        show_scope_as("mmx", PACKAGE)
        self._own_spec = real.__spec__
        return real

    def exec_module(self, module: ModuleType) -> None:
        """Undo what the import system does to any module that it is given: naming it anew."""
        module.__spec__ = self._own_spec

    # What `runpy` and `inspect` ask a loader for; they get what the real loader has.

    def get_code(self, name: str) -> CodeType | None:
        """Return the target's code, which ``python -m mmengine.<...>`` runs."""
        return self._ask("get_code")

    def get_source(self, name: str) -> str | None:
        """Return the target's source."""
        return self._ask("get_source")

    def get_filename(self, name: str) -> str:
        """Return the target's file."""
        return self._ask("get_filename")

    def is_package(self, name: str) -> bool:
        """Return whether the target is a package."""
        return bool(self._ask("is_package"))

    def _ask(self, what: str) -> Any:
        spec = importlib.util.find_spec(self.target)
        method = getattr(None if spec is None else spec.loader, what, None)
        return None if method is None else method(self.target)


class ExtendingLoader(SourceFileLoader):
    """Loads a module of mmx that has further names under the old name."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then give it the names."""
        super().exec_module(module)
        extra.extend(module)


class AliasFinder(MetaPathFinder):
    """Finds ``mmengine.<...>``; stands before the finder that looks into folders.

    Modules of mmx that have further names under the old name are seen to as well: mmx may import
    them before anyone asks by the old name.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return a spec whose loader gives the module of mmx, or None where mmx has none."""
        if sys.meta_path[0] is not self and fullname.startswith(f"{PACKAGE}."):
            # One that came before us since might find modules in the folders of mmx by themselves,
            # and load them twice.
            sys.meta_path.remove(self)
            sys.meta_path.insert(0, self)
        if fullname in extra.EXTRA:
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and type(spec.loader) is SourceFileLoader:
                spec.loader = ExtendingLoader(spec.loader.name, spec.loader.path)
            return spec
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
        spec.has_location = real.has_location
        return spec


def install() -> None:
    """Put the finder first, once, and see to what was imported before."""
    if not any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AliasFinder())
    for name in extra.EXTRA:
        if name in sys.modules:
            extra.extend(sys.modules[name])
