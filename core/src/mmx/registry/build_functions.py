"""How runners, models, optimizers and parameter schedulers are built from configs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmx_registry import ArgumentTypeError, ArgumentValueError, Registry, build_from_cfg
from mmx_registry.registry import is_config

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "build_from_cfg",
    "build_model_from_cfg",
    "build_optimizer_from_cfg",
    "build_runner_from_cfg",
    "build_scheduler_from_cfg",
]


def build_runner_from_cfg(cfg: Any, registry: Registry[Any]) -> Any:
    """Build a runner by the class method ``from_cfg`` of the class that ``runner_type`` names.

    Args:
        cfg: The whole config of a run. ``runner_type``: a name or a class; default ``"Runner"``.
            ``_scope_`` binds the default scope while the runner is built.
        registry: Where names are looked up.

    Raises:
        ArgumentTypeError: An argument or ``runner_type`` has a wrong type.
        NotFoundError: Nothing is registered under the name.
    """
    if not is_config(cfg):
        raise ArgumentTypeError(f"cfg should be a dict, ConfigDict or Config, but got {type(cfg)}")
    if not isinstance(registry, Registry):
        raise ArgumentTypeError(
            f"registry should be a mmx.Registry object, but got {type(registry)}"
        )
    # A copy of the config's own kind: `from_cfg` dumps it into logs and checkpoints.
    args = cfg.copy()
    scope = args.pop("_scope_", None)
    with registry.switch_scope_and_registry(scope) as node:
        kind = args.get("runner_type", "Runner")
        if isinstance(kind, str):
            runner: Any = node.resolve(kind)
        elif callable(kind):
            runner = kind
        else:
            raise ArgumentTypeError(f"type must be a str or valid type, but got {type(kind)}")
        return runner.from_cfg(args)


def build_model_from_cfg(cfg: Any, registry: Registry[Any], default_args: Any = None) -> nn.Module:
    """Build a model, or a ``Sequential`` of the models that a list of configs describes.

    Args:
        cfg: A config, or a list of configs.
        registry: Where names are looked up.
        default_args: Items that the configs lack.
    """
    if isinstance(cfg, (list, tuple)):
        modules = [build_from_cfg(item, registry, default_args) for item in cfg]
        # Our `Sequential` carries `init_cfg`. By name, since models stand on a higher floor.
        sequential: Any = registry.root.get("mmx.model.Sequential")
        return sequential(*modules)  # type: ignore[no-any-return]  # a module
    return build_from_cfg(cfg, registry, default_args)  # type: ignore[no-any-return]  # by registration


def build_optimizer_from_cfg(cfg: Any, registry: Registry[Any], default_args: Any = None) -> Any:
    """Build an optimizer.

    Args:
        cfg: A config.
        registry: Where names are looked up.
        default_args: Items that the config lacks, such as ``params``.
    """
    with _compiler_stays_unimported():
        return build_from_cfg(cfg, registry, default_args)


@contextmanager
def _compiler_stays_unimported() -> Iterator[None]:
    """Keep torch from importing its compiler for the first optimizer of a process.

    torch does so, for half a second, to keep the compiler out of ``Optimizer.add_param_group``; one
    that is not there need not be kept out. Taking a step imports it later, when the run has begun
    and checks have passed. Where a torch does it otherwise, nothing is changed.
    """
    from torch.optim import Optimizer

    method = getattr(Optimizer.add_param_group, "__wrapped__", None)
    if method is None or "torch._dynamo" in sys.modules or hasattr(method, "__dynamo_disable"):
        yield
        return
    setattr(method, "__dynamo_disable", method)
    try:
        yield
    finally:
        delattr(method, "__dynamo_disable")


def build_scheduler_from_cfg(cfg: Any, registry: Registry[Any], default_args: Any = None) -> Any:
    """Build a parameter scheduler.

    Args:
        cfg: A config, or a scheduler, which is returned as it is. With
            ``convert_to_iter_based=True`` the class method ``build_iter_from_epoch`` builds a
            scheduler by iteration from arguments that count epochs; then ``epoch_length`` (number
            of iterations in an epoch) is needed.
        registry: Where names are looked up.
        default_args: Items that the config lacks, such as ``optimizer``.
    """
    if not is_config(cfg):
        return cfg if hasattr(cfg, "step") else build_from_cfg(cfg, registry, default_args)
    if not isinstance(registry, Registry):
        raise ArgumentTypeError(f"registry must be a mmx.Registry object, but got {type(registry)}")
    merged = dict(cfg.items())
    for name, value in (default_args or {}).items():
        merged.setdefault(name, value)
    if not merged.pop("convert_to_iter_based", False):
        merged.pop("epoch_length", None)
        return build_from_cfg(merged, registry)
    if merged.get("epoch_length") is None:
        raise ArgumentValueError(
            "Only epoch-based parameter scheduler can be converted to iter-based, and `epoch_length` "
            "should be set: the number of iterations in an epoch (the runner takes it from the "
            "training data loader)"
        )
    if not merged.get("by_epoch", True):
        raise ArgumentValueError(
            "Only epoch-based parameter scheduler can be converted to iter-based, but by_epoch is "
            f"False in {dict(cfg.items())!r}: leave convert_to_iter_based out"
        )
    scope = merged.pop("_scope_", None)
    with registry.switch_scope_and_registry(scope) as node:
        kind = merged.pop("type", None)
        if isinstance(kind, str):
            scheduler: Any = node.resolve(kind)
        elif callable(kind):
            scheduler = kind
        else:
            raise ArgumentTypeError(f"type must be a str or valid type, but got {type(kind)}")
        return scheduler.build_iter_from_epoch(**merged)
