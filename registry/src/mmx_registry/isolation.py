"""Undoing what a test does to registries, plugins, trust and scope."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmx_registry import index, plugins, trust
from mmx_registry import registry as tree
from mmx_registry.registry import Registration, Registry
from mmx_registry.scope import DefaultScope, current


def _belongs(record: Registration) -> bool:
    """Whether a registration came from an imported file of the registry's own locations.

    Such a module stays imported, so taking its registrations back would lose them for good.
    """
    registry = record.registry
    return record.module in sys.modules and any(
        record.module == place or record.module.startswith(f"{place}.")
        for place in (*registry._locations, registry._origin)
    )


@contextmanager
def isolated() -> Iterator[None]:
    """Restore every registry tree, plugins, trusted packages and the scope after the block.

    Registrations, child registries, activated and configured plugins and trust that came about
    inside are gone afterwards, and what was taken away is back. Parts that were imported from a
    registry's own locations stay, since Python keeps their modules.
    """
    with tree._lock:
        before: list[tuple[Registry[Any], dict[str, Any], dict[str, Registration], Any]] = [
            (r, dict(r._module_dict), dict(r._sources), dict(r._children))
            for r in tree.all_registries()
        ]
        instances = DefaultScope._instance_dict
        content = dict(instances)
    token = current.set(None)
    try:
        with plugins.preserved(), trust.preserved():
            yield
    finally:
        current.reset(token)
        known = {id(entry[0]) for entry in before}
        with tree._lock:
            DefaultScope._instance_dict = instances
            instances.clear()
            instances.update(content)
            # Registries of packages that were imported inside start from nothing.
            new: list[Any] = [(r, {}, {}, {}) for r in tree.all_registries() if id(r) not in known]
            for registry, modules, sources, children in [*before, *new]:
                for name, record in registry._sources.items():
                    if name not in modules and _belongs(record):
                        modules[name] = registry._module_dict.get(name, record.object)
                        sources[name] = record
                registry._module_dict.clear()
                registry._module_dict.update(modules)
                registry._sources.clear()
                registry._sources.update(sources)
                for scope, child in list(registry._children.items()):
                    # Children of plugins whose module stays imported would not be made again.
                    if scope not in children and id(child) not in known and _is_held(child):
                        children[scope] = child
                registry._children.clear()
                registry._children.update(children)
            for registry in tree.all_registries():
                if registry._parent is None:
                    registry._changed(shape=True)
                if id(registry) not in known and not _is_held(registry):
                    tree._all.discard(registry)
        # Plugins that became active stay imported, and with that trusted.
        for plugin in (plugins._plugins or {}).values():
            if plugin.state == "active":
                trust.add(plugin.package)
        index.forget()


def _is_held(registry: Registry[Any]) -> bool:
    """Whether the module that made a registry is imported and has it."""
    module = sys.modules.get(registry._origin)
    return module is not None and any(value is registry for value in list(vars(module).values()))


class Site:
    """A folder of packages and distributions that a test writes, importable while it is open.

    Args:
        folder: Where to write; it should be empty.

    Examples:
        >>> import tempfile
        >>> from mmx_registry import Registry
        >>> ROOT = Registry("part", scope="site_demo")
        >>> with tempfile.TemporaryDirectory() as folder, isolated(), Site(folder) as site:
        ...     plugin = site.plugin("demo_plugin", {"registry.py": "VALUE = 1"})
        ...     plugins.activate("demo_plugin")
        True
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __enter__(self) -> Site:
        sys.path.insert(0, str(self.folder))
        self._refresh()
        return self

    def __exit__(self, *exc: object) -> None:
        sys.path.remove(str(self.folder))
        self.forget()
        self._refresh()

    def _refresh(self) -> None:
        importlib.invalidate_caches()
        index.forget()
        plugins.reset()

    def forget(self) -> None:
        """Forget the modules imported from here, so that they are imported anew."""
        here = str(self.folder) + os.sep
        found = []
        for name, module in list(sys.modules.items()):
            # Only what is a module: some packages put other objects there, whose attributes are
            # made on demand.
            if not isinstance(module, types.ModuleType):
                continue
            facts = vars(module)
            path = facts.get("__path__")
            places = [facts.get("__file__"), *(path if isinstance(path, Iterable) else ())]
            if any(str(place).startswith(here) for place in places):
                found.append(name)
        # Not before all are found: a namespace package looks at its parent for its path.
        for name in found:
            del sys.modules[name]

    def write(self, files: Mapping[str, str], below: str = "") -> Path:
        """Write files, by their path relative to a folder below this one; return that folder."""
        base = self.folder / below
        for name, text in files.items():
            path = base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        self._refresh()
        return base

    def package(self, name: str, files: Mapping[str, str] | None = None) -> Path:
        """Write a package; each file's path is relative to it. ``__init__.py`` is made."""
        return self.write({"__init__.py": "", **(files or {})}, name)

    def distribution(
        self,
        name: str,
        *,
        version: str = "0.1",
        requires: Sequence[str] = (),
        entry_points: Mapping[str, str] | None = None,
    ) -> Path:
        """Write the metadata of an installed distribution.

        Args:
            name: Its name.
            version: Its version.
            requires: Its requirements.
            entry_points: Scope -> module, as in the group ``mmx.plugins``.
        """
        metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
        metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
        files = {"METADATA": "\n".join(metadata) + "\n", "RECORD": ""}
        if entry_points:
            rows = "\n".join(f"{scope} = {value}" for scope, value in entry_points.items())
            files["entry_points.txt"] = f"[{plugins.GROUP}]\n{rows}\n"
        folder = f"{name.replace('-', '_')}-{version}.dist-info"
        return self.write(files, folder)

    def plugin(
        self,
        name: str,
        files: Mapping[str, str],
        *,
        version: str = "0.1",
        requires: Sequence[str] = (),
        distribution: str | None = None,
        scope: str | None = None,
        module: str | None = None,
    ) -> Path:
        """Write a package and the metadata that announces it as a plugin; return its folder.

        Args:
            name: The package.
            files: Its files; ``registry.py`` declares its registries.
            version: The version of the distribution.
            requires: The requirements of the distribution.
            distribution: Its name. Default: the package's, with dashes.
            scope: The scope. Default: the package's name.
            module: The module that the entry point names. Default: ``NAME.registry``.
        """
        self.distribution(
            distribution or name.replace("_", "-"),
            version=version,
            requires=requires,
            entry_points={scope or name: module or f"{name}.registry"},
        )
        return self.package(name, files)
