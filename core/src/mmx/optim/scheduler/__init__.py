"""Schedulers of learning rate, momentum and any other setting of parameter groups."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
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
            "lr_scheduler": [
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
            "momentum_scheduler": [
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
            "param_scheduler": [
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
            "rebuild": ["rebuild_schedulers"],
        },
    )
