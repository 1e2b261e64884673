"""Plugins: which scopes installed distributions announce, and how they come alive.

A distribution announces a plugin by an entry point in the group ``mmx.plugins``. The entry's name
is the scope, its value the module that declares the registries of that scope. Which scopes exist is
thus known from metadata alone; nothing is imported before a scope is used.

A plugin goes ``discovered -> enabled -> active``. It ends as ``disabled`` if the user says so,
``incompatible`` if its requirements on mmx or on other plugins are not met, and ``failed`` if its
import raises; what it had registered until then is taken back. One plugin's trouble never stops
another. Asking for what it owns raises `PluginError` with the real cause.

A package without an entry point whose ``registry`` module creates registries is found by its name,
as in MMEngine.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from mmx_registry.errors import PluginError
from mmx_registry.registry import Registry, undo, undo_on_error

if TYPE_CHECKING:
    import pluggy
    from importlib_metadata import EntryPoint

logger = logging.getLogger("mmx_registry")

GROUP = "mmx.plugins"
# The distribution that declares the root registries. It is a plugin like any other, except that
# nobody can do without it.
CORE = "mmx"

State = Literal["discovered", "enabled", "active", "disabled", "incompatible", "failed"]


class Plugin:
    """What is known of one plugin.

    Attributes:
        scope: The scope, which is the name of the entry point.
        module: The module (or ``module:object``) that declares its registries.
        state: How far it has come.
        reason: Why it is disabled, incompatible or failed; else "".
        error: What its import raised, if it failed.
        import_time_s: How long its import took, or None.
        managed: False for a package that was found by its name, without an entry point.
    """

    def __init__(self, scope: str, module: str, dist: Any = None, *, managed: bool = True) -> None:
        self.scope = scope
        self.module = module
        self.managed = managed
        self.state: State = "discovered"
        self.reason = ""
        self.error: BaseException | None = None
        self.import_time_s: float | None = None
        self.rivals: list[Plugin] = []
        self._dist = dist

    def __repr__(self) -> str:
        return f"Plugin({self.scope!r}, {self.module!r}, state={self.state!r})"

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.module.partition(":")[0].partition(".")[0]

    @property
    def distribution(self) -> str:
        """The name of the distribution that it came with, or the package if there is none."""
        return self.package if self._dist is None else str(self._dist.metadata["Name"])

    @property
    def version(self) -> str:
        """The version of the distribution, or "" if there is none."""
        return "" if self._dist is None else str(self._dist.version)

    @property
    def requires(self) -> list[str]:
        """The requirements of the distribution, as its metadata has them."""
        return [] if self._dist is None else list(self._dist.requires or ())

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {
            "scope": self.scope,
            "distribution": self.distribution,
            "version": self.version,
            "module": self.module,
            "state": self.state,
            "reason": self.reason,
            "import_time_s": self.import_time_s,
            "requires": self.requires,
            "managed": self.managed,
        }


class _Settings:
    """What the user chose beyond the environment variables."""

    def __init__(self) -> None:
        self.only: frozenset[str] | None = None
        self.disabled: frozenset[str] = frozenset()
        self.prefer: dict[str, str] = {}
        self.strict: bool | None = None


# Guards the tables below; never held while a plugin is imported, since imports take locks of their
# own and may come back here. Two threads that activate one plugin at once both import it, which the
# import system makes one import, and then write the same facts.
_lock = threading.RLock()
_settings = _Settings()
_plugins: dict[str, Plugin] | None = None
_manager: pluggy.PluginManager | None = None


# --------------------------------------------------------------------------- discovery


def discovered() -> dict[str, Plugin]:
    """Return the announced plugins by scope, from one pass over the installed metadata."""
    global _plugins
    if _plugins is None:
        found: dict[str, Plugin] = {}
        for point in _entry_points():
            plugin = Plugin(point.name, point.value, point.dist)
            known = found.setdefault(point.name, plugin)
            if known is not plugin:
                known.rivals.append(plugin)
        with _lock:
            if _plugins is None:
                _plugins = found
    return _plugins


def _entry_points() -> Iterable[EntryPoint]:
    from importlib_metadata import entry_points

    return entry_points(group=GROUP)


def reset() -> None:
    """Forget all plugins, so that they are discovered anew; failed ones are tried again."""
    global _plugins, _manager
    with _lock:
        _plugins = None
        _manager = None


def configure(
    *,
    only: Iterable[str] | None = None,
    disable: Iterable[str] = (),
    prefer: Mapping[str, str] | None = None,
    strict: bool | None = None,
) -> None:
    """Choose plugins, as a config or the command line says; the environment counts too.

    Args:
        only: Scopes or distributions to allow; None allows all.
        disable: Scopes or distributions to leave out.
        prefer: What two plugins claim -> the distribution that shall have it. The key is a scope,
            or ``"scope.Name"`` for a registered name.
        strict: Raise what a plugin's import raised, as it is. None: as ``MMX_PLUGINS_STRICT`` says.
    """
    for label, value in (("only", only), ("disable", disable)):
        if isinstance(value, str):
            raise TypeError(f"{label} must be a list of plugin names, but got the str {value!r}")
    with _lock:
        _settings.only = None if only is None else frozenset(map(_normal, only))
        _settings.disabled = frozenset(map(_normal, disable))
        _settings.prefer = dict(prefer or {})
        _settings.strict = strict
        for plugin in (_plugins or {}).values():
            if plugin.state in ("enabled", "disabled", "incompatible"):
                plugin.state, plugin.reason = "discovered", ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def is_strict() -> bool:
    """Whether what a plugin's import raises is raised as it is."""
    if _settings.strict is not None:
        return _settings.strict
    return os.environ.get("MMX_PLUGINS_STRICT", "") not in ("", "0")


def _environment_choice() -> tuple[frozenset[str] | None, frozenset[str]]:
    """Return (names allowed or None for all, names left out) as ``MMX_PLUGINS`` says."""
    value = os.environ.get("MMX_PLUGINS")
    if value is None:
        return None, frozenset()
    names = [name.strip() for name in value.split(",") if name.strip()]
    out = frozenset(_normal(name[1:]) for name in names if name.startswith("-"))
    allowed = frozenset(_normal(name) for name in names if not name.startswith("-"))
    if out and not allowed:
        return None, out
    return allowed, out


def unknown_choices() -> list[str]:
    """Return names in ``MMX_PLUGINS`` and in the settings that no plugin has."""
    allowed, out = _environment_choice()
    chosen = (allowed or frozenset()) | out | (_settings.only or frozenset()) | _settings.disabled
    known = set()
    for plugin in discovered().values():
        for each in (plugin, *plugin.rivals):
            known |= {_normal(each.scope), _normal(each.distribution)}
    return sorted(chosen - known)


def _choice(plugin: Plugin) -> str:
    """Return why the user's choice leaves a plugin out, or ""."""
    if plugin.scope == CORE:
        return ""
    names = {_normal(plugin.scope)}
    allowed, out = _environment_choice()
    choices = (allowed, _settings.only, out, _settings.disabled)
    if any(choice is not None for choice in choices[:2]) or out or _settings.disabled:
        # The distribution's name takes reading its metadata.
        names.add(_normal(plugin.distribution))
    if allowed is not None and not names & allowed:
        return f"MMX_PLUGINS={os.environ['MMX_PLUGINS']!r} does not name it"
    if names & out:
        return f"MMX_PLUGINS={os.environ['MMX_PLUGINS']!r} leaves it out"
    if _settings.only is not None and not names & _settings.only:
        return "the config's list of plugins does not name it"
    if names & _settings.disabled:
        return "the config leaves it out"
    return ""


# --------------------------------------------------------------------------- judgement


def judge(plugin: Plugin) -> Plugin:
    """Decide from metadata alone whether a plugin may be used; return the one that has the scope.

    Where two distributions claim one scope, the preferred one is returned.
    """
    if plugin.rivals:
        plugin = _settle(plugin)
    if plugin.state != "discovered":
        # The environment may have changed since.
        if plugin.state in ("enabled", "disabled"):
            reason = _choice(plugin)
            plugin.state, plugin.reason = ("disabled", reason) if reason else ("enabled", "")
        if plugin.state != "enabled":
            return plugin
    reason = _choice(plugin)
    if reason:
        plugin.state, plugin.reason = "disabled", reason
        return plugin
    reason = _unmet(plugin)
    if reason:
        plugin.state, plugin.reason = "incompatible", reason
        return plugin
    plugin.state, plugin.reason = "enabled", ""
    return plugin


def _settle(plugin: Plugin) -> Plugin:
    """Return which of several claimants of a scope has it."""
    claimants = [plugin, *plugin.rivals]
    left = [p for p in claimants if not _choice(p)]
    wanted = _settings.prefer.get(plugin.scope)
    if wanted is not None:
        left = [p for p in left if _normal(p.distribution) == _normal(wanted)] or left
    if len(left) == 1:
        winner = left[0]
        winner.rivals = []
        if winner.error is None:
            winner.state, winner.reason = "discovered", ""
        others = [p for p in claimants if p is not winner]
        with _lock:
            for other in others:
                other.rivals = []
            if _plugins is not None:
                _plugins[plugin.scope] = winner
        return winner
    names = " and ".join(f"{p.distribution} {p.version}" for p in (left or claimants))
    plugin.state = "failed"
    plugin.reason = (
        f"{names} both claim the scope {plugin.scope!r}: uninstall one, leave one out "
        f"(MMX_PLUGINS=-{(left or claimants)[-1].distribution}), or prefer one in the config "
        f"(plugins=dict(prefer={{{plugin.scope!r}: {(left or claimants)[0].distribution!r}}}))"
    )
    return plugin


def _unmet(plugin: Plugin, extra: Sequence[str] = ()) -> str:
    """Return which requirement on mmx or on another plugin is not met, or ""."""
    texts = [*plugin.requires, *extra]
    if not texts:
        return ""
    from importlib_metadata import PackageNotFoundError, distribution
    from packaging.requirements import InvalidRequirement, Requirement

    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            return f"its requirement {text!r} cannot be parsed"
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        core = _normal(requirement.name) in (CORE, "mmx-registry")
        try:
            dist = distribution(requirement.name)
        except PackageNotFoundError:
            if text in extra:
                return f"it requires the plugin {text}, which is not installed"
            # Importing the plugin will tell, if it needs it at all.
            continue
        scopes = [p.name for p in dist.entry_points if p.group == GROUP]
        if not core and not scopes:
            continue
        if not requirement.specifier.contains(dist.version, prereleases=True):
            return f"it requires {requirement.name}{requirement.specifier}, but {dist.version} is installed"
        for scope in scopes:
            other = discovered().get(scope)
            if scope != CORE and other is not None and other is not plugin:
                reason = _choice(other)
                if reason:
                    return f"it requires the plugin {scope}, which is disabled: {reason}"
    return ""


def states() -> list[Plugin]:
    """Return every plugin with its state, the core first, then by scope. Imports nothing."""
    result = []
    for plugin in list(discovered().values()):
        judged = judge(plugin)
        if judged.state == "enabled" and judged.module.partition(":")[0] in sys.modules:
            # Somebody imported it directly; there is nothing left to import.
            with suppress(PluginError):
                activate(judged.scope)
        result.append(judged)
    return sorted(result, key=lambda p: (p.scope != CORE, p.scope))


def problems() -> list[Plugin]:
    """Return the plugins that cannot be used."""
    return [p for p in states() if p.state in ("disabled", "incompatible", "failed")]


# --------------------------------------------------------------------------- activation


def activate(scope: str) -> bool:
    """Make the registries of a scope exist; return whether a plugin or a package declares it.

    Raises:
        PluginError: The plugin failed or may not be used. Its ``__cause__`` is what was raised.
    """
    plugin = discovered().get(scope)
    if plugin is None:
        plugin = _announced(scope) or _package(scope)
        if plugin is None:
            return False
    if plugin.state == "active":
        return True
    if plugin.state == "failed" and plugin.error is not None:
        raise _error(plugin)
    plugin = judge(plugin)
    if plugin.state != "enabled":
        raise _error(plugin)
    _import(plugin)
    return True


def _error(plugin: Plugin) -> BaseException:
    if is_strict() and plugin.error is not None:
        # Raised once more: it belongs to another build now.
        vars(plugin.error).pop("__mmx_trail__", None)
        return plugin.error
    what = {
        "failed": "failed to import" if plugin.error is not None else "cannot be used",
        "disabled": "is disabled",
        "incompatible": "is incompatible",
    }.get(plugin.state, plugin.state)
    named = plugin.distribution if plugin.managed else f"package {plugin.package}"
    version = f" {plugin.version}" if plugin.version else ""
    error = PluginError(
        f"the plugin {plugin.scope!r} ({named}{version}) {what}: {plugin.reason}",
        scope=plugin.scope,
        state=plugin.state,
        reason=plugin.reason,
    )
    error.__cause__ = plugin.error
    return error


@contextmanager
def random_kept() -> Iterator[None]:
    """Put Python's random state back after an import.

    Some packages draw random numbers when they are imported (rich does). A seeded run must find
    the same numbers whether or not an earlier run of the process has imported them.
    """
    module = sys.modules.get("random")  # nobody can have seeded it before it is there
    state = module.getstate() if module is not None else None
    try:
        yield
    finally:
        if module is not None:
            module.setstate(state)


def _import(plugin: Plugin) -> None:
    """Import a plugin; take back all that it did if that fails."""
    from mmx_registry import trust

    module, _, attribute = plugin.module.partition(":")
    before = set(sys.modules)
    started = time.perf_counter()
    try:
        with undo_on_error() as journal, random_kept():
            try:
                obj: Any = importlib.import_module(module)
                for part in filter(None, attribute.strip().split(".")):
                    obj = getattr(obj, part)
                _register_hooks(plugin, obj)
                reason = _unmet(plugin, _required_by_hook(plugin, obj))
                if reason:
                    plugin.reason = reason
                    raise _Incompatible(reason)
            except BaseException:
                # Its modules that were imported whole go too: importing the plugin again has to
                # run them again.
                for name in set(sys.modules) - before:
                    if name.partition(".")[0] == plugin.package:
                        del sys.modules[name]
                undo(journal)
                raise
    except _Incompatible as error:
        _unregister_hooks(plugin)
        plugin.state, plugin.reason = "incompatible", str(error)
        raise _error(plugin) from None
    except Exception as error:
        _unregister_hooks(plugin)
        plugin.import_time_s = time.perf_counter() - started
        plugin.state = "failed"
        plugin.error = error
        plugin.reason = f"{type(error).__name__}: {error}"
        logger.debug("plugin %r failed", plugin.scope, exc_info=True)
        if is_strict():
            raise
        raise _error(plugin) from error
    plugin.import_time_s = time.perf_counter() - started
    trust.add(plugin.package)
    plugin.state, plugin.reason, plugin.error = "active", "", None


class _Incompatible(Exception):
    pass


# Names that are no plugin, whatever their modules are called.
_NO_PLUGIN = frozenset(sys.stdlib_module_names) | {"mmx_registry"}


def _package(scope: str) -> Plugin | None:
    """Return a plugin for a package whose ``registry`` module creates registries, or None."""
    from mmx_registry import index

    if not scope.isidentifier() or scope in _NO_PLUGIN:
        return None
    spec = index.find_spec(f"{scope}.registry")
    if spec is None:
        return None
    # A config may name any package here: importing one that has no registries would run code
    # for nothing.
    if f"{scope}.registry" not in sys.modules and not _creates_registries(spec):
        return None
    plugin = Plugin(scope, f"{scope}.registry", managed=False)
    with _lock:
        return discovered().setdefault(scope, plugin)


def _creates_registries(spec: Any) -> bool:
    from mmx_registry import index

    locations = spec.submodule_search_locations
    return any(
        text is not None and "Registry" in text and "import" in text
        for text in (
            index.source_text(source) for source in index.walk(spec, deep=locations is not None)
        )
    )


def _announced(scope: str) -> Plugin | None:
    """Return a plugin for a scope that another plugin announces by ``mmx_scopes``, or None."""
    for plugin in with_hook("mmx_scopes"):
        for hook in _implementations("mmx_scopes", plugin):
            scopes = hook()
            if scope in scopes:
                found = Plugin(scope, scopes[scope], plugin._dist)
                with _lock:
                    return discovered().setdefault(scope, found)
    return None


def activate_all() -> list[Plugin]:
    """Activate every plugin that may be used; return all of them. One's failure stops no other.

    Raises:
        Exception: What a plugin's import raised, if `is_strict`.
    """
    for plugin in list(discovered().values()):
        try:
            activate(plugin.scope)
        except PluginError as error:
            logger.debug("%s", error)
    return states()


def owner_of(module: str) -> str:
    """Return the distribution that a module belongs to, or its top-level package."""
    package = module.partition(".")[0]
    for plugin in list((_plugins or {}).values()):
        if plugin.package == package:
            return plugin.distribution
    return package


def preferred(scope: str, name: str) -> str | None:
    """Return the distribution that the user prefers for a registered name, or None."""
    return _settings.prefer.get(f"{scope}.{name}")


def is_same_distribution(first: str, second: str) -> bool:
    """Whether two names mean one distribution."""
    return _normal(first) == _normal(second)


def register_all_modules(node: Registry[Any]) -> None:
    """Call ``SCOPE.utils.register_all_modules(False)`` of packages that declare no locations."""
    from mmx_registry import index

    scope = node._scope
    if node._parent is None or scope not in sys.modules:
        return
    if index.find_spec(f"{scope}.utils") is None:
        return
    function = getattr(importlib.import_module(f"{scope}.utils"), "register_all_modules", None)
    if function is not None:
        # The argument, `init_default_scope`, is named differently by different packages.
        function(False)


# --------------------------------------------------------------------------- hooks (pluggy)


def hook_manager() -> pluggy.PluginManager:
    """Return the pluggy manager that calls the hooks of `mmx_registry.hookspecs`."""
    global _manager
    if _manager is None:
        import pluggy

        from mmx_registry import hookspecs

        manager = pluggy.PluginManager("mmx")
        manager.add_hookspecs(hookspecs)
        with _lock:
            if _manager is None:
                _manager = manager
    return _manager


def _has_hooks(obj: Any) -> bool:
    return any(
        callable(value) and hasattr(value, "mmx_impl")
        for name, value in list(getattr(obj, "__dict__", {}).items())
        if not name.startswith("__")
    ) or any(hasattr(getattr(type(obj), name, None), "mmx_impl") for name in dir(type(obj)))


def _register_hooks(plugin: Plugin, obj: Any) -> None:
    """Register the hook implementations of a plugin.

    Raises:
        PluginValidationError: A hook has an unknown name or argument.
    """
    if not _has_hooks(obj):
        return
    manager = hook_manager()
    if manager.has_plugin(plugin.scope):
        return
    manager.register(obj, name=plugin.scope)
    manager.check_pending()


def _unregister_hooks(plugin: Plugin) -> None:
    if _manager is not None and _manager.has_plugin(plugin.scope):
        _manager.unregister(name=plugin.scope)


def _implementations(hook: str, plugin: Plugin | None = None) -> Iterator[Callable[..., Any]]:
    """Yield the implementations of a hook in the order of calls."""
    caller = getattr(hook_manager().hook, hook)
    for implementation in reversed(caller.get_hookimpls()):
        if plugin is None or implementation.plugin_name == plugin.scope:
            yield implementation.function


def hooks_of(scope: str) -> list[str]:
    """Return the names of the hooks that an active plugin implements."""
    if _manager is None:
        return []
    plugin = _manager.get_plugin(scope)
    callers = (_manager.get_hookcallers(plugin) or []) if plugin is not None else []
    return sorted(caller.name for caller in callers)


def _required_by_hook(plugin: Plugin, obj: Any) -> list[str]:
    if not _has_hooks(obj):
        return []
    return [text for hook in _implementations("mmx_requires", plugin) for text in hook()]


def with_hook(hook: str) -> list[Plugin]:
    """Return the usable plugins that implement a hook, active.

    Only plugins whose entry module has the hook's name in its source are imported.
    """
    from mmx_registry import index

    found = []
    for plugin in list(discovered().values()):
        if not plugin.managed or plugin.scope == CORE:
            continue
        if plugin.state != "active":
            spec = index.find_spec(plugin.module.partition(":")[0])
            if spec is None:
                continue
            text = next((index.source_text(s) for s in index.walk(spec, deep=False)), None)
            if text is None or hook not in text:
                continue
            try:
                activate(plugin.scope)
            except PluginError as error:
                logger.debug("%s", error)
                continue
        if any(True for _ in _implementations(hook, plugin)):
            found.append(plugin)
    return sorted(found, key=lambda p: p.scope)


def call_hook(hook: str, **kwargs: Any) -> list[tuple[Plugin, Any]]:
    """Call a hook of every usable plugin; return what each returned, by scope.

    Raises:
        Exception: What an implementation raised, with a note that names the plugin.
    """
    results = []
    for plugin in with_hook(hook):
        caller = hook_manager().hook
        implementations = getattr(caller, hook).get_hookimpls()
        for implementation in implementations:
            if implementation.plugin_name != plugin.scope:
                continue
            arguments = {name: kwargs[name] for name in implementation.argnames}
            try:
                results.append((plugin, implementation.function(**arguments)))
            except Exception as error:
                error.add_note(
                    f"raised by {hook} of the plugin {plugin.scope!r} ({plugin.distribution})"
                )
                raise
    return results


@contextmanager
def preserved() -> Iterator[None]:
    """Restore discovery and settings after the ``with`` block; for tests."""
    global _plugins, _manager, _settings
    with _lock:
        saved = _plugins, _manager, _settings
        states_before = {
            id(p): (p, p.state, p.reason, p.error, p.import_time_s)
            for p in (_plugins or {}).values()
        }
        table = dict(_plugins) if _plugins is not None else None
        _settings = _Settings()
    try:
        yield
    finally:
        with _lock:
            _plugins, _manager, _settings = saved
            if _plugins is not None and table is not None:
                _plugins.clear()
                _plugins.update(table)
            for plugin, state, reason, error, seconds in states_before.values():
                if state == "active" or plugin.state != "active":
                    plugin.state, plugin.reason = state, reason
                    plugin.error, plugin.import_time_s = error, seconds
