"""Which modules are wrappers of models."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mmx.registry import MODEL_WRAPPERS, Registry

MODEL_WRAPPERS.register_module(module=DistributedDataParallel)
MODEL_WRAPPERS.register_module(module=DataParallel)


def is_model_wrapper(model: nn.Module, registry: Registry = MODEL_WRAPPERS) -> bool:
    """Tell whether a module wraps a model, which is then its ``module``.

    Wrappers are what is registered in ``MODEL_WRAPPERS`` or a child of it; torch's data-parallel
    classes are.

    Args:
        model: Module.
        registry: Registry of wrappers.
    """
    # Classes that are registered but not imported cannot have instances: the tables suffice.
    classes = tuple(cls for cls in registry.module_dict.values() if isinstance(cls, type))
    if isinstance(model, classes):
        return True
    return any(is_model_wrapper(model, child) for child in registry.children.values())
