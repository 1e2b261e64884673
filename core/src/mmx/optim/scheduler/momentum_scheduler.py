"""Schedulers of momentum."""

from __future__ import annotations

from typing import Any

from mmx.optim.scheduler.param_scheduler import (
    ConstantParamScheduler,
    CosineAnnealingParamScheduler,
    CosineRestartParamScheduler,
    ExponentialParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    OneCycleParamScheduler,
    PolyParamScheduler,
    ReduceOnPlateauParamScheduler,
    StepParamScheduler,
)
from mmx.registry import PARAM_SCHEDULERS
from mmx.utils.errors import InvalidValueError


class MomentumSchedulerMixin:
    """Makes a scheduler of any setting one of momentum.

    Optimizers of Adam's kind have ``betas``, of which the first is scheduled.

    Raises:
        ValueError: The optimizer has neither.
    """

    def __init__(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.use_betas = False
        if "momentum" not in optimizer.defaults:
            if "betas" not in optimizer.defaults:
                raise InvalidValueError(
                    "optimizer must support momentum when using momentum scheduler, and "
                    f"{type(getattr(optimizer, 'optimizer', optimizer)).__name__} has neither "
                    "`momentum` nor `betas`"
                )
            self.use_betas = True
            for group in optimizer.param_groups:
                group["momentum"] = group["betas"][0]
        super().__init__(optimizer, "momentum", *args, **kwargs)  # type: ignore[call-arg]  # a mixin

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Go one step on; see the scheduler's own ``step``."""
        super().step(*args, **kwargs)  # type: ignore[misc]  # a mixin
        if self.use_betas:
            for group in self.optimizer.param_groups:  # type: ignore[attr-defined]  # a mixin
                group["betas"] = (group["momentum"], *group["betas"][1:])


@PARAM_SCHEDULERS.register_module()
class ConstantMomentum(MomentumSchedulerMixin, ConstantParamScheduler):
    """Multiplies the momentum by a factor until the last step before ``end``.

    See :class:`~mmx.optim.scheduler.param_scheduler.ConstantParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingMomentum(MomentumSchedulerMixin, CosineAnnealingParamScheduler):
    """Moves the momentum along a cosine to its low, and back.

    See :class:`~mmx.optim.scheduler.param_scheduler.CosineAnnealingParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class ExponentialMomentum(MomentumSchedulerMixin, ExponentialParamScheduler):
    """Multiplies the momentum by ``gamma`` at each step.

    See :class:`~mmx.optim.scheduler.param_scheduler.ExponentialParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class LinearMomentum(MomentumSchedulerMixin, LinearParamScheduler):
    """Moves the momentum along a line between two factors of itself.

    See :class:`~mmx.optim.scheduler.param_scheduler.LinearParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class MultiStepMomentum(MomentumSchedulerMixin, MultiStepParamScheduler):
    """Multiplies the momentum by ``gamma`` at each milestone.

    See :class:`~mmx.optim.scheduler.param_scheduler.MultiStepParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class StepMomentum(MomentumSchedulerMixin, StepParamScheduler):
    """Multiplies the momentum by ``gamma`` every ``step_size`` steps.

    See :class:`~mmx.optim.scheduler.param_scheduler.StepParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class PolyMomentum(MomentumSchedulerMixin, PolyParamScheduler):
    """Lowers the momentum along a polynomial.

    See :class:`~mmx.optim.scheduler.param_scheduler.PolyParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class OneCycleMomentum(MomentumSchedulerMixin, OneCycleParamScheduler):
    """Raises the momentum from low to high and lowers it to far below, in one cycle.

    See :class:`~mmx.optim.scheduler.param_scheduler.OneCycleParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class CosineRestartMomentum(MomentumSchedulerMixin, CosineRestartParamScheduler):
    """Moves the momentum along cosines to its low, and starts again after each period.

    See :class:`~mmx.optim.scheduler.param_scheduler.CosineRestartParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauMomentum(MomentumSchedulerMixin, ReduceOnPlateauParamScheduler):
    """Lowers the momentum when a metric of validation has stopped improving.

    See :class:`~mmx.optim.scheduler.param_scheduler.ReduceOnPlateauParamScheduler`, less ``param_name``.
    """
