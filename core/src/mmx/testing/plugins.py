"""The test kit for authors of plugins: a pytest plugin, and checks that every plugin should pass.

In a test file or ``conftest.py``::

    pytest_plugins = ["mmx.testing.plugins"]

It brings the fixtures `isolated_registries`, `plugin_site` and `temporary_plugin`. The checks are
the test methods of `PluginConformance`::

    from mmx.testing.plugins import PluginConformance

    class TestConformance(PluginConformance):
        scope = "my_plugin"
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mmx_registry import doctor, index, lookup, plugins
from mmx_registry.isolation import Site, isolated

if TYPE_CHECKING:
    from mmx_registry.lookup import Known
    from mmx_registry.plugins import Plugin

try:
    import pytest
except ModuleNotFoundError as error:  # pragma: no cover - the kit is for tests
    raise ModuleNotFoundError(
        "mmx.testing.plugins is a pytest plugin: pip install pytest", name="pytest"
    ) from error

__all__ = [
    "PluginConformance",
    "conformance",
    "isolated_registries",
    "plugin_site",
    "temporary_plugin",
]


# --------------------------------------------------------------------------- fixtures


@pytest.fixture
def isolated_registries() -> Iterator[None]:
    """Undo what the test does to registries, plugins, trusted packages and the scope."""
    with isolated():
        yield


@pytest.fixture
def plugin_site(
    isolated_registries: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """A folder on ``sys.path`` to write packages and plugins into, with an index cache of its own.

    The environment variables that choose plugins are unset.
    """
    for name in ("MMX_PLUGINS", "MMX_PLUGINS_STRICT", "MMX_TRUST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MMX_CACHE_DIR", str(tmp_path / "index-cache"))
    folder = tmp_path / "plugin-site"
    folder.mkdir()
    with Site(folder) as site:
        yield site


@pytest.fixture
def temporary_plugin(plugin_site: Site) -> Callable[..., Path]:
    """A function that makes a plugin of a string and installs it for the time of the test.

    ``temporary_plugin(name, source, **options)``: ``source`` is the text of its registry module, or
    a mapping of file names to texts. The options are those of `mmx_registry.isolation.Site.plugin`.
    """

    def make(name: str, source: str | Mapping[str, str], **options: Any) -> Path:
        files = {"registry.py": source} if isinstance(source, str) else source
        return plugin_site.plugin(name, files, **options)

    return make


# --------------------------------------------------------------------------- conformance


class PluginConformance:
    """What every plugin should pass, as test methods: derive a test class and set ``scope``.

    Attributes:
        scope: The plugin's scope.
        samples: Name -> arguments to build it with. A part that is not listed is built without
            arguments if it needs none.
        not_built: Names that the tests shall not build, since that is slow or needs the network.
        optional: Top-level modules that the plugin may import without declaring them.
    """

    scope: ClassVar[str] = ""
    samples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    not_built: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[frozenset[str]] = frozenset()

    def _check(self, check: Callable[..., list[str]], *args: Any) -> None:
        if not self.scope:
            raise TypeError(f"{type(self).__name__} must set `scope` to the plugin's scope")
        plugin = _active(self.scope)
        problems = check(plugin, *args)
        assert not problems, "\n".join(problems)

    def test_everything_announced_imports(self) -> None:
        """Every file of every location imports and registers what it says."""
        self._check(_imports)

    def test_everything_is_in_the_declared_scope(self) -> None:
        """Registries and parts belong to the plugin's own scope."""
        self._check(_scopes)

    def test_everything_has_a_docstring(self) -> None:
        """`mmx registry show` has something to say."""
        self._check(_docstrings)

    def test_everything_builds_or_says_what_it_needs(self) -> None:
        """A part builds, or raises a TypeError that names the missing arguments."""
        self._check(_builds, self.samples, self.not_built)

    def test_dependencies_are_declared(self) -> None:
        """What the sources import is required by the distribution, or by mmx."""
        self._check(_dependencies, self.optional)


def conformance(
    scope: str,
    samples: Mapping[str, Mapping[str, Any]] | None = None,
    not_built: frozenset[str] = frozenset(),
    optional: frozenset[str] = frozenset(),
) -> list[str]:
    """Return all that is wrong with a plugin; see `PluginConformance` for the arguments.

    Raises:
        PluginError: The plugin cannot be used.
        LookupError: There is no such plugin.
    """
    plugin = _active(scope)
    return [
        *_imports(plugin),
        *_scopes(plugin),
        *_docstrings(plugin),
        *_builds(plugin, samples or {}, not_built),
        *_dependencies(plugin, optional),
    ]


def _active(scope: str) -> Plugin:
    if not plugins.activate(scope):
        raise LookupError(
            f"no installed plugin has the scope {scope!r}; installed: "
            f"{', '.join(plugins.discovered())}"
        )
    return next(p for p in plugins.states() if p.scope == scope)


def _parts(plugin: Plugin) -> Iterator[Known]:
    for registry in doctor.registries_of(plugin):
        yield from lookup.known(registry).values()


def _object(known: Known) -> Any:
    """Return what is registered, or None if it cannot be imported, which `_imports` reports."""
    try:
        return known.registry.get(known.name)
    except Exception:  # noqa: BLE001 - whatever the plugin raises
        return None


def _imports(plugin: Plugin) -> list[str]:
    problems = [finding.text for finding in doctor._examine_sources(plugin)]
    problems += [finding.text for finding in doctor._examine_imports(plugin)]
    for registry in doctor.registries_of(plugin):
        if not registry.locations:
            problems.append(
                f"its {registry.name!r} registry has no locations: only what is imported by hand "
                "is found"
            )
        elif not lookup.known_names(registry):
            problems.append(
                f"its {registry.name!r} registry is empty: are its locations right "
                f"({', '.join(registry.locations)})?"
            )
    return problems


def _scopes(plugin: Plugin) -> list[str]:
    problems = []
    registries = doctor.registries_of(plugin)
    if not registries:
        problems.append(
            f"importing {plugin.module} makes no registry in the scope {plugin.scope!r}"
        )
    for registry in registries:
        if registry._scope != plugin.scope:
            problems.append(
                f"its {registry.name!r} registry has the scope {registry.scope!r}, but the entry "
                f"point announces {plugin.scope!r}"
            )
    for known in _parts(plugin):
        home = known.module.partition(".")[0]
        if home != plugin.package:
            problems.append(f"{known.name!r} is registered from {known.module}, another package")
    # What it registers elsewhere would be there or not, depending on who imports what.
    listing = index.index_of(plugin.package)
    own = {id(registry) for registry in registries}
    for name, entries in listing.entries.items() if listing is not None else ():
        for entry in entries:
            target = _registry_of(entry.target)
            if target is not None and id(target) not in own:
                problems.append(
                    f"{entry.file}:{entry.line} registers {name!r} in the scope {target.scope!r}, "
                    f"not in its own"
                )
    return problems


def _registry_of(target: str) -> Any:
    from mmx_registry import Registry

    module, _, attribute = target.partition(":")
    value = getattr(sys.modules.get(module), attribute, None)
    return value if isinstance(value, Registry) else None


def _docstrings(plugin: Plugin) -> list[str]:
    problems = []
    for known in _parts(plugin):
        obj = _object(known)
        if obj is None:
            continue
        document = vars(obj).get("__doc__") if isinstance(obj, type) else inspect.getdoc(obj)
        if not (document or "").strip():
            problems.append(f"{known.registry.name} {known.name!r} has no docstring")
    return problems


def _builds(
    plugin: Plugin, samples: Mapping[str, Mapping[str, Any]], not_built: frozenset[str]
) -> list[str]:
    problems = []
    parts = list(_parts(plugin))
    names = {known.name for known in parts}
    for unknown in sorted((set(samples) | not_built) - names):
        problems.append(f"{unknown!r} is listed, but the plugin does not register it")
    for known in parts:
        if known.name in not_built:
            continue
        title = f"{known.registry.name} {known.name!r}"
        obj = _object(known)
        if obj is None:
            continue
        arguments = dict(samples.get(known.name, {}))
        if known.name not in samples:
            if inspect.isfunction(obj):
                continue
            try:
                inspect.signature(obj).bind()
            except TypeError:
                continue  # `inspect` says what it needs
            except ValueError:
                problems.append(f"{title} does not tell its arguments")
                continue
        try:
            known.registry.build(dict(type=known.name, **arguments))
        except Exception as error:  # noqa: BLE001 - the finding
            if known.name not in samples and _says_what_it_needs(error):
                continue
            problems.append(f"{title} does not build: {type(error).__name__}: {error}")
    return problems


def _says_what_it_needs(error: Exception) -> bool:
    """Whether an error tells its reader what to give or to install."""
    return isinstance(error, TypeError) or (
        isinstance(error, ImportError) and "pip install" in str(error)
    )


def _dependencies(plugin: Plugin, optional: frozenset[str]) -> list[str]:
    if plugin._dist is None:
        return [f"the package {plugin.package} belongs to no distribution"]
    from importlib_metadata import packages_distributions

    declared = _requirements(plugin.requires)
    if "mmx" not in declared:
        return [f"{plugin.distribution} does not require mmx: dependencies = ['mmx>=…']"]
    from importlib_metadata import PackageNotFoundError, distribution

    for name in ("mmx", "mmx-registry"):
        try:
            declared |= _requirements(distribution(name).requires or [])
        except PackageNotFoundError:
            continue
    declared |= {plugins._normal(plugin.distribution)}
    owners = packages_distributions()
    problems = []
    for module, file, line in sorted(_imported(plugin)):
        if module in sys.stdlib_module_names or module == plugin.package or module in optional:
            continue
        names = {plugins._normal(name) for name in owners.get(module, [module])}
        if not names & declared:
            problems.append(f"{file}:{line} imports {module}, which no dependency brings")
    return problems


def _requirements(texts: list[str]) -> set[str]:
    return {plugins._normal(re.split(r"[\s;\[(<>=!~]", text, maxsplit=1)[0]) for text in texts}


def _imported(plugin: Plugin) -> set[tuple[str, str, int]]:
    """Return (top-level module, file, line) of the imports that are not optional."""
    spec = index.find_spec(plugin.package)
    found: set[tuple[str, str, int]] = set()
    for source in index.walk(spec) if spec is not None else ():
        text = index.source_text(source)
        if text is None:
            continue
        tree = ast.parse(text)
        pending: list[ast.AST] = [tree]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.Import):
                found |= {(a.name.partition(".")[0], source.file, node.lineno) for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add((node.module.partition(".")[0], source.file, node.lineno))
            elif isinstance(node, ast.Try):
                # `try: import x` is how optional packages are imported.
                pending += [*node.orelse, *node.finalbody, *node.handlers]
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                pending += node.orelse
            elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                pending += list(ast.iter_child_nodes(node))
    return found
