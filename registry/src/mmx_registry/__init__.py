"""A tree of scoped registries whose parts come from pip-installable plugins.

Importing this package imports nothing but the standard library.
"""

from typing import TYPE_CHECKING, Any

from mmx_registry.build import build_from_cfg
from mmx_registry.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ConfigKeyError,
    DuplicateError,
    DuplicateScopeError,
    NotDeliveredError,
    NotFoundError,
    PluginError,
    RegistryError,
    UnknownScopeError,
    UntrustedError,
)
from mmx_registry.registry import Registry
from mmx_registry.scope import DefaultScope, init_default_scope

if TYPE_CHECKING:
    from mmx_registry.count import count_registries as count_registries
    from mmx_registry.count import traverse_registry_tree as traverse_registry_tree
    from mmx_registry.explain import config_path as config_path
    from mmx_registry.hookspecs import hookimpl as hookimpl
    from mmx_registry.schema import json_schema as json_schema

_LAZY = {
    "count_registries": "count",
    "traverse_registry_tree": "count",
    "config_path": "explain",
    "hookimpl": "hookspecs",
    "json_schema": "schema",
}

__all__ = [
    "Registry",
    "build_from_cfg",
    "DefaultScope",
    "init_default_scope",
    "count_registries",
    "traverse_registry_tree",
    "config_path",
    "hookimpl",
    "json_schema",
    "RegistryError",
    "NotFoundError",
    "UnknownScopeError",
    "UntrustedError",
    "NotDeliveredError",
    "DuplicateError",
    "DuplicateScopeError",
    "ArgumentTypeError",
    "ArgumentValueError",
    "ConfigKeyError",
    "PluginError",
]


def __getattr__(name: str) -> Any:
    # What `mmx plugins list` and a first build do not need is imported on use.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
