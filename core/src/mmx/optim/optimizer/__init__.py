"""Optimizers, and the wrappers that accumulate, clip and mix precision around them."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports
from mmx.registry import OPTIM_WRAPPER_CONSTRUCTORS as OPTIM_WRAPPER_CONSTRUCTORS
from mmx.registry import OPTIMIZERS as OPTIMIZERS

if TYPE_CHECKING:
    from mmx.optim.optimizer.amp_optimizer_wrapper import AmpOptimWrapper as AmpOptimWrapper
    from mmx.optim.optimizer.apex_optimizer_wrapper import ApexOptimWrapper as ApexOptimWrapper
    from mmx.optim.optimizer.base import BaseOptimWrapper as BaseOptimWrapper
    from mmx.optim.optimizer.builder import build_optim_wrapper as build_optim_wrapper
    from mmx.optim.optimizer.default_constructor import (
        DefaultOptimWrapperConstructor as DefaultOptimWrapperConstructor,
    )
    from mmx.optim.optimizer.layer_decay_constructor import (
        LayerDecayOptimWrapperConstructor as LayerDecayOptimWrapperConstructor,
    )
    from mmx.optim.optimizer.optimizer_wrapper import OptimWrapper as OptimWrapper
    from mmx.optim.optimizer.optimizer_wrapper_dict import OptimWrapperDict as OptimWrapperDict
    from mmx.optim.optimizer.zero_optimizer import (
        ZeroRedundancyOptimizer as ZeroRedundancyOptimizer,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "amp_optimizer_wrapper": ["AmpOptimWrapper"],
            "apex_optimizer_wrapper": ["ApexOptimWrapper"],
            "base": ["BaseOptimWrapper"],
            "builder": ["build_optim_wrapper"],
            "default_constructor": ["DefaultOptimWrapperConstructor"],
            "layer_decay_constructor": ["LayerDecayOptimWrapperConstructor"],
            "optimizer_wrapper": ["OptimWrapper"],
            "optimizer_wrapper_dict": ["OptimWrapperDict"],
            "zero_optimizer": ["ZeroRedundancyOptimizer"],
        },
    )
    __all__ += ["OPTIMIZERS", "OPTIM_WRAPPER_CONSTRUCTORS"]
