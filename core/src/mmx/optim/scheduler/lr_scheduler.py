"""Schedulers of the learning rate."""

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


class LRSchedulerMixin:
    """Makes a scheduler of any setting one of the learning rate."""

    def __init__(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(optimizer, "lr", *args, **kwargs)  # type: ignore[call-arg]  # a mixin


@PARAM_SCHEDULERS.register_module()
class ConstantLR(LRSchedulerMixin, ConstantParamScheduler):
    """Multiplies the learning rate by a factor until the last step before ``end``.

    See :class:`~mmx.optim.scheduler.param_scheduler.ConstantParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingLR(LRSchedulerMixin, CosineAnnealingParamScheduler):
    """Moves the learning rate along a cosine to its low, and back.

    See :class:`~mmx.optim.scheduler.param_scheduler.CosineAnnealingParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class ExponentialLR(LRSchedulerMixin, ExponentialParamScheduler):
    """Multiplies the learning rate by ``gamma`` at each step.

    See :class:`~mmx.optim.scheduler.param_scheduler.ExponentialParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class LinearLR(LRSchedulerMixin, LinearParamScheduler):
    """Moves the learning rate along a line between two factors of itself.

    See :class:`~mmx.optim.scheduler.param_scheduler.LinearParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class MultiStepLR(LRSchedulerMixin, MultiStepParamScheduler):
    """Multiplies the learning rate by ``gamma`` at each milestone.

    See :class:`~mmx.optim.scheduler.param_scheduler.MultiStepParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class StepLR(LRSchedulerMixin, StepParamScheduler):
    """Multiplies the learning rate by ``gamma`` every ``step_size`` steps.

    See :class:`~mmx.optim.scheduler.param_scheduler.StepParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class PolyLR(LRSchedulerMixin, PolyParamScheduler):
    """Lowers the learning rate along a polynomial.

    See :class:`~mmx.optim.scheduler.param_scheduler.PolyParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class OneCycleLR(LRSchedulerMixin, OneCycleParamScheduler):
    """Raises the learning rate from low to high and lowers it to far below, in one cycle.

    See :class:`~mmx.optim.scheduler.param_scheduler.OneCycleParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class CosineRestartLR(LRSchedulerMixin, CosineRestartParamScheduler):
    """Moves the learning rate along cosines to its low, and starts again after each period.

    See :class:`~mmx.optim.scheduler.param_scheduler.CosineRestartParamScheduler`, less ``param_name``.
    """


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauLR(LRSchedulerMixin, ReduceOnPlateauParamScheduler):
    """Lowers the learning rate when a metric of validation has stopped improving.

    See :class:`~mmx.optim.scheduler.param_scheduler.ReduceOnPlateauParamScheduler`, less ``param_name``.
    """
