"""What the registries of mmx hold, by name, for dicts with a ``type``."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mmx.cli.doctor.tables import LOOPS, SETTINGS
from mmx.config.check.signatures import accepted_by

# Keys beside a part's own arguments: of every part, and by the registry that builds it.
EVERYWHERE = frozenset({"type", "_scope_", "_delete_", "_base_", "_reserved_"})
EXTRA = {
    "HOOKS": frozenset({"priority"}),
    "PARAM_SCHEDULERS": frozenset({"convert_to_iter_based", "epoch_length"}),
    "OPTIM_WRAPPERS": frozenset({"constructor", "paramwise_cfg", "optimizer"}),
    "DATA_SAMPLERS": frozenset({"shuffle"}),
    "WEIGHT_INITIALIZERS": frozenset({"layer", "name", "override"}),
}
# A runner's config may have any key.
SKIPPED = frozenset({"RUNNERS", "RUNNER_CONSTRUCTORS"})


@dataclass(frozen=True)
class Part:
    """A registered class or function.

    Attributes:
        registry: The name of the root registry.
        value: What is registered.
    """

    registry: str
    value: Any


@functools.cache
def core_parts() -> dict[str, tuple[Part, ...]]:
    """Return all that the core registers: name -> parts, one of each registry that has the name."""
    from mmx.registry import Registry, root

    found: dict[str, tuple[Part, ...]] = {}
    for attribute, registry in vars(root).items():
        if not isinstance(registry, Registry) or attribute in SKIPPED:
            continue
        registry.import_from_location()
        for name, value in list(registry.module_dict.items()):
            found[name] = (*found.get(name, ()), Part(attribute, value))
    return found


def unknown_arguments(name: str, keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return (keys that no part of this name takes, all that they take); nothing if unsure."""
    taken: set[str] = set()
    for part in core_parts().get(name, ()):
        accepted = accepted_by(part.value)
        if accepted is None or accepted.is_open:
            return [], []
        taken |= {*accepted.hints, *EXTRA.get(part.registry, ())}
    if not taken:
        return [], []
    return [key for key in keys if key not in taken | EVERYWHERE], sorted(taken)


def keys_of_setting(name: str) -> frozenset[str]:
    """Return the keys of a dict at the top of a config that names no type; none if unknown."""
    if name in SETTINGS:
        return SETTINGS[name]
    if name not in LOOPS:
        return frozenset()
    taken = {"by_epoch"}
    for loop in LOOPS[name]:
        for part in core_parts().get(loop, ()):
            accepted = accepted_by(part.value)
            if accepted is None or accepted.is_open:
                return frozenset()
            taken |= set(accepted.hints)
    return frozenset(taken)


@dataclass
class Surroundings:
    """What the code base itself, and packages installed beside it, declare.

    Attributes:
        names: Names registered there: they may hide the core's.
        scopes: Scopes declared there.
    """

    names: set[str] = field(default_factory=set)
    scopes: set[str] = field(default_factory=set)

    def add_installed(self) -> None:
        """Add what installed projects of the family register, by reading their sources."""
        from mmx.config.utils import MODULE2PACKAGE
        from mmx_registry import index, plugins

        self.scopes |= {"mmengine", "mmx", *plugins.discovered()}
        for package in MODULE2PACKAGE:
            if index.find_spec(package) is None:
                continue
            self.scopes.add(package)
            listing = index.index_of(package)
            if listing is not None:
                self.names.update(listing.entries)

    def knows_scope(self, scope: str) -> bool:
        """Whether something declares a scope."""
        from mmx_registry import index

        if scope in self.scopes:
            return True
        known = scope.isidentifier() and index.find_spec(f"{scope}.registry") is not None
        if known:
            self.scopes.add(scope)
        return known


def is_importable(package: str) -> bool:
    """Whether a top-level package is installed."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
