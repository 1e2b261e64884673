"""A tree of scoped registries whose parts come from pip-installable plugins."""

from mmx_registry.build import build_from_cfg
from mmx_registry.count import count_registries, traverse_registry_tree
from mmx_registry.errors import (
    ArgumentTypeError,
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

__all__ = [
    "Registry",
    "build_from_cfg",
    "DefaultScope",
    "init_default_scope",
    "count_registries",
    "traverse_registry_tree",
    "RegistryError",
    "NotFoundError",
    "UnknownScopeError",
    "UntrustedError",
    "NotDeliveredError",
    "DuplicateError",
    "DuplicateScopeError",
    "ArgumentTypeError",
    "ConfigKeyError",
    "PluginError",
]
