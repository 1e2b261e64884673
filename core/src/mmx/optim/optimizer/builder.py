"""Registration of optimizers, and building a wrapper from a config."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from typing import Any

import torch
from torch import nn

from mmx.optim.optimizer.base import BaseOptimWrapper
from mmx.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS

# Where optional optimizers come from: package -> (module, class name -> registered name).
_OPTIONAL: dict[str, tuple[str, dict[str, str]]] = {
    "lion_pytorch": ("lion_pytorch", {"Lion": "Lion"}),
    "dadaptation": (
        "dadaptation",
        {name: name for name in ("DAdaptAdaGrad", "DAdaptAdam", "DAdaptSGD", "DAdaptLion")},
    ),
    "prodigyopt": ("prodigyopt", {"Prodigy": "Prodigy"}),
    "bitsandbytes": (
        "bitsandbytes.optim",
        {
            name: name
            for name in (
                "AdamW8bit",
                "Adam8bit",
                "Adagrad8bit",
                "PagedAdam8bit",
                "PagedAdamW8bit",
                "LAMB8bit",
                "LARS8bit",
                "RMSprop8bit",
                "Lion8bit",
                "PagedLion8bit",
                "SGD8bit",
            )
        },
    ),
    "transformers": ("transformers.optimization", {"Adafactor": "transformers.Adafactor"}),
}


def register_torch_optimizers() -> list[str]:
    """Register every optimizer of :mod:`torch.optim`; return their names."""
    names = []
    for name, kind in vars(torch.optim).items():
        if name.startswith("__") or not inspect.isclass(kind):
            continue
        if issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer:
            # torch's Adafactor is another implementation than the one that configs of old mean.
            OPTIMIZERS.register_module(name=name, module=kind, force=name in OPTIMIZERS.module_dict)
            names.append(name)
    return names


def _register_optional(package: str) -> list[str]:
    """Register what an installed package offers, as functions that import it when they are called."""
    if importlib.util.find_spec(package) is None:
        return []
    module_name, classes = _OPTIONAL[package]
    names = []
    for attribute, name in classes.items():
        if name in OPTIMIZERS.module_dict:
            warnings.warn(
                f"the optimizer {name!r} of {package} is not registered: there is one of this name",
                stacklevel=3,
            )
            continue
        OPTIMIZERS.register_module(name=name, module=_importing(module_name, attribute))
        names.append(name)
    return names


def _importing(module_name: str, attribute: str) -> Any:
    def build(*args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        kind = getattr(importlib.import_module(module_name), attribute)
        optimizer: torch.optim.Optimizer = kind(*args, **kwargs)
        return optimizer

    build.__name__ = build.__qualname__ = attribute
    build.__doc__ = f"``{module_name}.{attribute}``, imported on use."
    return build


def register_dadaptation_optimizers() -> list[str]:
    """Register the optimizers of dadaptation, where it is installed; return their names."""
    return _register_optional("dadaptation")


def register_lion_optimizers() -> list[str]:
    """Register Lion, where lion-pytorch is installed; return its name."""
    return _register_optional("lion_pytorch")


def register_sophia_optimizers() -> list[str]:
    """Register Sophia, where it is installed; return its name."""
    if importlib.util.find_spec("Sophia") is None:
        return []
    OPTIMIZERS.register_module(name="SophiaG", module=_importing("Sophia", "SophiaG"))
    return ["SophiaG"]


def register_bitsandbytes_optimizers() -> list[str]:
    """Register the 8-bit optimizers of bitsandbytes, where it is installed; return their names."""
    return _register_optional("bitsandbytes")


def register_transformers_optimizers() -> list[str]:
    """Register Adafactor of transformers, where that is installed, as ``transformers.Adafactor``."""
    return _register_optional("transformers")


def register_prodigy_optimizers() -> list[str]:
    """Register Prodigy, where prodigyopt is installed; return its name."""
    return _register_optional("prodigyopt")


TORCH_OPTIMIZERS = register_torch_optimizers()
LION_OPTIMIZERS = register_lion_optimizers()
DADAPTATION_OPTIMIZERS = register_dadaptation_optimizers()
SOPHIA_OPTIMIZERS = register_sophia_optimizers()
BITSANDBYTES_OPTIMIZERS = register_bitsandbytes_optimizers()
PRODIGY_OPTIMIZERS = register_prodigy_optimizers()


def build_optim_wrapper(model: nn.Module, cfg: dict[str, Any]) -> BaseOptimWrapper:
    """Build an optimizer and its wrapper from a config.

    Args:
        model: Model whose parameters are updated.
        cfg: Config of the wrapper, with ``optimizer``, optionally ``paramwise_cfg``, and
            ``constructor``, the class that makes parameter groups; not changed.
    """
    settings = dict(cfg)
    constructor_type = settings.pop("constructor", "DefaultOptimWrapperConstructor")
    paramwise_cfg = settings.pop("paramwise_cfg", None)
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        {
            "type": constructor_type,
            "optim_wrapper_cfg": settings,
            "paramwise_cfg": paramwise_cfg,
        }
    )
    wrapper: BaseOptimWrapper = constructor(model)
    return wrapper
