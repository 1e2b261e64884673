"""Optimizers, their wrappers, and schedulers of their settings."""

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
    from mmx.optim.scheduler.lr_scheduler import ConstantLR as ConstantLR
    from mmx.optim.scheduler.lr_scheduler import CosineAnnealingLR as CosineAnnealingLR
    from mmx.optim.scheduler.lr_scheduler import CosineRestartLR as CosineRestartLR
    from mmx.optim.scheduler.lr_scheduler import ExponentialLR as ExponentialLR
    from mmx.optim.scheduler.lr_scheduler import LinearLR as LinearLR
    from mmx.optim.scheduler.lr_scheduler import MultiStepLR as MultiStepLR
    from mmx.optim.scheduler.lr_scheduler import OneCycleLR as OneCycleLR
    from mmx.optim.scheduler.lr_scheduler import PolyLR as PolyLR
    from mmx.optim.scheduler.lr_scheduler import ReduceOnPlateauLR as ReduceOnPlateauLR
    from mmx.optim.scheduler.lr_scheduler import StepLR as StepLR
    from mmx.optim.scheduler.momentum_scheduler import ConstantMomentum as ConstantMomentum
    from mmx.optim.scheduler.momentum_scheduler import (
        CosineAnnealingMomentum as CosineAnnealingMomentum,
    )
    from mmx.optim.scheduler.momentum_scheduler import (
        CosineRestartMomentum as CosineRestartMomentum,
    )
    from mmx.optim.scheduler.momentum_scheduler import ExponentialMomentum as ExponentialMomentum
    from mmx.optim.scheduler.momentum_scheduler import LinearMomentum as LinearMomentum
    from mmx.optim.scheduler.momentum_scheduler import MultiStepMomentum as MultiStepMomentum
    from mmx.optim.scheduler.momentum_scheduler import OneCycleMomentum as OneCycleMomentum
    from mmx.optim.scheduler.momentum_scheduler import PolyMomentum as PolyMomentum
    from mmx.optim.scheduler.momentum_scheduler import (
        ReduceOnPlateauMomentum as ReduceOnPlateauMomentum,
    )
    from mmx.optim.scheduler.momentum_scheduler import StepMomentum as StepMomentum
    from mmx.optim.scheduler.param_scheduler import ConstantParamScheduler as ConstantParamScheduler
    from mmx.optim.scheduler.param_scheduler import (
        CosineAnnealingParamScheduler as CosineAnnealingParamScheduler,
    )
    from mmx.optim.scheduler.param_scheduler import (
        CosineRestartParamScheduler as CosineRestartParamScheduler,
    )
    from mmx.optim.scheduler.param_scheduler import (
        ExponentialParamScheduler as ExponentialParamScheduler,
    )
    from mmx.optim.scheduler.param_scheduler import LinearParamScheduler as LinearParamScheduler
    from mmx.optim.scheduler.param_scheduler import (
        MultiStepParamScheduler as MultiStepParamScheduler,
    )
    from mmx.optim.scheduler.param_scheduler import OneCycleParamScheduler as OneCycleParamScheduler
    from mmx.optim.scheduler.param_scheduler import PolyParamScheduler as PolyParamScheduler
    from mmx.optim.scheduler.param_scheduler import (
        ReduceOnPlateauParamScheduler as ReduceOnPlateauParamScheduler,
    )
    from mmx.optim.scheduler.param_scheduler import StepParamScheduler as StepParamScheduler
    from mmx.optim.scheduler.param_scheduler import _ParamScheduler as _ParamScheduler
    from mmx.optim.scheduler.rebuild import rebuild_schedulers as rebuild_schedulers
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "optimizer.amp_optimizer_wrapper": ["AmpOptimWrapper"],
            "optimizer.apex_optimizer_wrapper": ["ApexOptimWrapper"],
            "optimizer.base": ["BaseOptimWrapper"],
            "optimizer.builder": ["build_optim_wrapper"],
            "optimizer.default_constructor": ["DefaultOptimWrapperConstructor"],
            "optimizer.layer_decay_constructor": ["LayerDecayOptimWrapperConstructor"],
            "optimizer.optimizer_wrapper": ["OptimWrapper"],
            "optimizer.optimizer_wrapper_dict": ["OptimWrapperDict"],
            "optimizer.zero_optimizer": ["ZeroRedundancyOptimizer"],
            "scheduler.lr_scheduler": [
                "ConstantLR",
                "CosineAnnealingLR",
                "CosineRestartLR",
                "ExponentialLR",
                "LinearLR",
                "MultiStepLR",
                "OneCycleLR",
                "PolyLR",
                "ReduceOnPlateauLR",
                "StepLR",
            ],
            "scheduler.momentum_scheduler": [
                "ConstantMomentum",
                "CosineAnnealingMomentum",
                "CosineRestartMomentum",
                "ExponentialMomentum",
                "LinearMomentum",
                "MultiStepMomentum",
                "OneCycleMomentum",
                "PolyMomentum",
                "ReduceOnPlateauMomentum",
                "StepMomentum",
            ],
            "scheduler.param_scheduler": [
                "_ParamScheduler",
                "ConstantParamScheduler",
                "CosineAnnealingParamScheduler",
                "CosineRestartParamScheduler",
                "ExponentialParamScheduler",
                "LinearParamScheduler",
                "MultiStepParamScheduler",
                "OneCycleParamScheduler",
                "PolyParamScheduler",
                "ReduceOnPlateauParamScheduler",
                "StepParamScheduler",
            ],
            "scheduler.rebuild": ["rebuild_schedulers"],
        },
    )
    __all__ += ["OPTIMIZERS", "OPTIM_WRAPPER_CONSTRUCTORS"]
