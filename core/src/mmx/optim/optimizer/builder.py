"""From a config to an optimizer wrapper, and the optimizers that configs may name."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mmx.logging import print_log
from mmx.optim.optimizer.optimizer_wrapper import OptimWrapper
from mmx.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from mmx.utils.errors import InvalidTypeError


def register_torch_optimizers() -> list[str]:
    """Register all optimizers of this torch and return their names.

    torch's Adafactor is ``TorchAdafactor``, as in MMEngine. ``Adafactor`` names it as well, unless
    transformers is installed, which has one of its own by that name.
    """
    names = []
    for name, cls in vars(torch.optim).items():
        if not inspect.isclass(cls) or not issubclass(cls, Optimizer) or cls is Optimizer:
            continue
        names.append(name)
        if name == "Adafactor":
            OPTIMIZERS.register_module(name="TorchAdafactor", module=cls)
            if _is_installed("transformers"):
                continue
        OPTIMIZERS.register_module(name=name, module=cls)
    return names


def register_bitsandbytes_optimizers() -> list[str]:
    """Register the 8-bit optimizers of bitsandbytes if it is installed, and return their names."""
    names = ["AdamW8bit", "Adam8bit", "Adagrad8bit", "PagedAdam8bit", "PagedAdamW8bit"]
    names += ["LAMB8bit", "LARS8bit", "RMSprop8bit", "Lion8bit", "PagedLion8bit", "SGD8bit"]
    return register_installed_optimizers("bitsandbytes", "bitsandbytes.optim", names)


def register_lion_optimizers() -> list[str]:
    """Register Lion if lion-pytorch is installed, and return its name."""
    return register_installed_optimizers("lion_pytorch", "lion_pytorch", ["Lion"])


def register_dadaptation_optimizers() -> list[str]:
    """Register the optimizers of dadaptation if it is installed, and return their names."""
    names = ["DAdaptAdaGrad", "DAdaptAdam", "DAdaptSGD", "DAdaptLion"]
    return register_installed_optimizers("dadaptation", "dadaptation", names)


def register_prodigy_optimizers() -> list[str]:
    """Register Prodigy if prodigyopt is installed, and return its name."""
    return register_installed_optimizers("prodigyopt", "prodigyopt", ["Prodigy"])


def register_sophia_optimizers() -> list[str]:
    """Register SophiaG if Sophia is installed, and return its name."""
    return register_installed_optimizers("Sophia", "Sophia", ["SophiaG"])


def register_transformers_optimizers() -> list[str]:
    """Register Adafactor of transformers if that is installed, and return its name."""
    return register_installed_optimizers("transformers", "transformers.optimization", ["Adafactor"])


def register_installed_optimizers(package: str, module: str, names: list[str]) -> list[str]:
    """Register optimizers of a package if it is installed.

    It is not imported before one of them is built. A name that is taken is left to who has it,
    with a warning in the log.

    Args:
        package: Name to import.
        module: Its module that has the optimizers.
        names: Their names.

    Returns:
        The names that were registered.
    """
    if not _is_installed(package):
        return []
    registered = []
    for name in names:
        taken = OPTIMIZERS.module_dict.get(name)
        if taken is not None:
            print_log(
                f"{package} has an optimizer {name!r}, but in the registry that is "
                f"{taken.__module__}.{taken.__qualname__}, and stays so. To use that of {package}, "
                f"import it and give its class: optimizer=dict(type={name})",
                logger="current",
                level=logging.WARNING,
            )
            continue
        OPTIMIZERS.register_module(name=name, module=_imported_on_use(module, name))
        registered.append(name)
    return registered


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _imported_on_use(module: str, name: str) -> Callable[..., Optimizer]:
    def build(params: Any, *args: Any, **kwargs: Any) -> Optimizer:
        try:
            cls = getattr(importlib.import_module(module), name)
        except AttributeError as error:
            raise ImportError(
                f"the installed {module.partition('.')[0]} has no optimizer {name!r}; upgrade it"
            ) from error
        optimizer: Optimizer = cls(params, *args, **kwargs)
        return optimizer

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Build the optimizer ``{module}.{name}``."
    return build


TORCH_OPTIMIZERS = register_torch_optimizers()
BITSANDBYTES_OPTIMIZERS = register_bitsandbytes_optimizers()
LION_OPTIMIZERS = register_lion_optimizers()
DADAPTATION_OPTIMIZERS = register_dadaptation_optimizers()
PRODIGY_OPTIMIZERS = register_prodigy_optimizers()
SOPHIA_OPTIMIZERS = register_sophia_optimizers()
TRANSFORMERS_OPTIMIZERS = register_transformers_optimizers()


def build_optim_wrapper(model: nn.Module, cfg: dict[str, Any]) -> OptimWrapper:
    """Build the optimizer wrapper of a model.

    Args:
        model: The model.
        cfg: Settings of the optimizer wrapper: ``type`` (default ``'OptimWrapper'``),
            ``optimizer`` (a dict), further arguments of the wrapper; ``paramwise_cfg``, settings
            by kind and name of parameter; and ``constructor``, who reads them (default
            ``'DefaultOptimWrapperConstructor'``, which see). It is not changed.

    Raises:
        TypeError: ``cfg`` is no dict.
    """
    if not isinstance(cfg, dict):
        raise InvalidTypeError(
            f"the cfg of an optimizer wrapper should be a dict, but got {type(cfg)}"
        )
    wrapper_cfg = copy.deepcopy(cfg)
    constructor = wrapper_cfg.pop("constructor", "DefaultOptimWrapperConstructor")
    paramwise_cfg = wrapper_cfg.pop("paramwise_cfg", None)
    build = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(type=constructor, optim_wrapper_cfg=wrapper_cfg, paramwise_cfg=paramwise_cfg)
    )
    wrapper: OptimWrapper = build(model)
    return wrapper
