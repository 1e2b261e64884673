"""Finding out what ails plugins, without and with importing them."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from mmx_registry import index, lookup, plugins
from mmx_registry.errors import PluginError
from mmx_registry.registry import Registry, all_registries


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be.

    Attributes:
        scope: The plugin's scope, or "" where no plugin is to blame.
        level: ``"error"`` or ``"warning"``.
        text: What is wrong and what to do.
    """

    scope: str
    level: str
    text: str

    def facts(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def registries_of(plugin: plugins.Plugin) -> list[Registry[Any]]:
    """Return the registries that an active plugin's modules made."""
    return [
        registry
        for registry in all_registries()
        if registry._origin.partition(".")[0] == plugin.package
        and (registry._scope == plugin.scope or registry._parent is None)
    ]


def examine(*, imports: bool = False) -> list[Finding]:
    """Return what is wrong with the plugins of this environment.

    Args:
        imports: Import every plugin and every file that registers something; without it only
            metadata and sources are read.
    """
    findings = [
        Finding("", "warning", f"no installed plugin is called {name!r}, which MMX_PLUGINS names")
        for name in plugins.unknown_choices()
    ]
    if imports:
        for scope in list(plugins.discovered()):
            try:
                plugins.activate(scope)
            except PluginError:
                pass  # its state tells
            except Exception as error:  # noqa: BLE001 - strict mode: this is the finding
                findings.append(Finding(scope, "error", f"{type(error).__name__}: {error}"))
    for plugin in plugins.states():
        findings += _examine_state(plugin)
        if plugin.state in ("enabled", "active"):
            findings += _examine_sources(plugin)
        if imports and plugin.state == "active":
            findings += _examine_imports(plugin)
    unique: dict[Finding, None] = dict.fromkeys(findings)
    return list(unique)


def _examine_state(plugin: plugins.Plugin) -> list[Finding]:
    if plugin.state in ("failed", "incompatible"):
        return [Finding(plugin.scope, "error", f"{plugin.state}: {plugin.reason}")]
    if plugin.state == "disabled":
        return [Finding(plugin.scope, "warning", f"disabled: {plugin.reason}")]
    return []


def _examine_sources(plugin: plugins.Plugin) -> list[Finding]:
    module = plugin.module.partition(":")[0]
    if index.find_spec(module) is None:
        return [
            Finding(
                plugin.scope,
                "error",
                f"its entry point names the module {module!r}, which does not exist",
            )
        ]
    listing = index.index_of(plugin.package)
    failures = listing.failures if listing is not None else []
    return [
        Finding(plugin.scope, "error", f"{file} does not parse: {why}") for file, why in failures
    ]


def _examine_imports(plugin: plugins.Plugin) -> list[Finding]:
    findings = []
    for registry in registries_of(plugin):
        promised = lookup.known(registry)
        started = time.perf_counter()
        try:
            registry.import_from_location()
        except Exception as error:  # noqa: BLE001 - this is the finding
            text = "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
            findings.append(
                Finding(plugin.scope, "error", f"its {registry.name!r} registry: {text}")
            )
        seconds = time.perf_counter() - started
        if seconds > 10:
            findings.append(
                Finding(
                    plugin.scope,
                    "warning",
                    f"importing its {registry.name!r} registry takes {seconds:.1f} s",
                )
            )
        for name, known in promised.items():
            if known.module in sys.modules and name not in registry.module_dict:
                findings.append(
                    Finding(
                        plugin.scope,
                        "warning",
                        f"{known.file}:{known.line} registers {name!r}, but importing it did not "
                        "(is an optional package missing?)",
                    )
                )
    return findings
