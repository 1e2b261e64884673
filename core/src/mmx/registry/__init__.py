"""The root registries, which everything that a config names is built by.

Importing this package does not import torch.
"""

from typing import TYPE_CHECKING, Any

from mmx.registry.build_functions import (
    build_from_cfg,
    build_model_from_cfg,
    build_optimizer_from_cfg,
    build_runner_from_cfg,
    build_scheduler_from_cfg,
)
from mmx.registry.default_scope import DefaultScope
from mmx.registry.plugins import (
    REFUSED,
    adjust_runner_spec,
    configure_plugins,
    is_trusted_package,
    plugin_commands,
    plugin_default_hooks,
    trust_packages,
)
from mmx.registry.registry import Registry
from mmx.registry.root import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    INFERENCERS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODEL_WRAPPERS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    RUNNER_CONSTRUCTORS,
    RUNNERS,
    STRATEGIES,
    TASK_UTILS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    WEIGHT_INITIALIZERS,
)
from mmx.registry.utils import (
    count_registered_modules,
    init_default_scope,
    traverse_registry_tree,
)
from mmx_registry import (
    ArgumentTypeError,
    ArgumentValueError,
    DuplicateError,
    DuplicateScopeError,
    NotDeliveredError,
    NotFoundError,
    PluginError,
    RegistryError,
    UnknownScopeError,
    UntrustedError,
    trust,
)

if TYPE_CHECKING:
    from mmx_registry import config_path as config_path
    from mmx_registry import hookimpl as hookimpl
    from mmx_registry import json_schema as json_schema

trust.add("mmx", "torch", refuse=REFUSED, lasting=True)

__all__ = [
    "Registry",
    "RUNNERS",
    "RUNNER_CONSTRUCTORS",
    "HOOKS",
    "DATASETS",
    "DATA_SAMPLERS",
    "TRANSFORMS",
    "MODELS",
    "WEIGHT_INITIALIZERS",
    "OPTIMIZERS",
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "TASK_UTILS",
    "PARAM_SCHEDULERS",
    "METRICS",
    "MODEL_WRAPPERS",
    "OPTIM_WRAPPERS",
    "LOOPS",
    "VISBACKENDS",
    "VISUALIZERS",
    "LOG_PROCESSORS",
    "EVALUATOR",
    "INFERENCERS",
    "DefaultScope",
    "traverse_registry_tree",
    "count_registered_modules",
    "build_model_from_cfg",
    "build_optimizer_from_cfg",
    "build_runner_from_cfg",
    "build_from_cfg",
    "build_scheduler_from_cfg",
    "init_default_scope",
    "FUNCTIONS",
    "STRATEGIES",
    "adjust_runner_spec",
    "config_path",
    "configure_plugins",
    "hookimpl",
    "is_trusted_package",
    "json_schema",
    "plugin_commands",
    "plugin_default_hooks",
    "trust_packages",
    "ArgumentTypeError",
    "ArgumentValueError",
    "DuplicateError",
    "DuplicateScopeError",
    "NotDeliveredError",
    "NotFoundError",
    "PluginError",
    "RegistryError",
    "UnknownScopeError",
    "UntrustedError",
]


def __getattr__(name: str) -> Any:
    if name in ("config_path", "hookimpl", "json_schema"):
        import mmx_registry

        return getattr(mmx_registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
