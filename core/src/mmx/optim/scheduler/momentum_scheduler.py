"""Schedulers of the momentum, or of the first beta of Adam and its kin."""

from typing import Any, cast

from mmx.optim.scheduler.param_scheduler import (
    ConstantParamScheduler,
    CosineAnnealingParamScheduler,
    CosineRestartParamScheduler,
    ExponentialParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    PolyParamScheduler,
    ReduceOnPlateauParamScheduler,
    StepParamScheduler,
)
from mmx.registry import PARAM_SCHEDULERS


class MomentumSchedulerMixin:
    """Sets the momentum of each parameter group, whatever it is called there."""

    def __init__(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        groups = optimizer.param_groups
        if isinstance(groups, dict):
            groups = [group for part in groups.values() for group in part]
        uses_betas = all("betas" in group for group in groups)
        if not uses_betas and not all("momentum" in group for group in groups):
            raise ValueError(
                "optimizer must support momentum when using momentum scheduler: each group needs `momentum` or `betas`"
            )
        self.use_betas = uses_betas
        if uses_betas:
            # The first beta is Adam's momentum: it is scheduled under that name, and written back.
            for group in groups:
                group["momentum"] = group["betas"][0]
        cast(Any, super()).__init__(optimizer, "momentum", *args, **kwargs)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Go one step on."""
        cast(Any, super()).step(*args, **kwargs)
        if self.use_betas:
            for group in cast(Any, self).optimizer.param_groups:
                group["betas"] = (group["momentum"], *group["betas"][1:])


@PARAM_SCHEDULERS.register_module()
class ConstantMomentum(MomentumSchedulerMixin, ConstantParamScheduler):
    """:class:`ConstantParamScheduler` of the momentum."""


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingMomentum(MomentumSchedulerMixin, CosineAnnealingParamScheduler):
    """:class:`CosineAnnealingParamScheduler` of the momentum."""


@PARAM_SCHEDULERS.register_module()
class CosineRestartMomentum(MomentumSchedulerMixin, CosineRestartParamScheduler):
    """:class:`CosineRestartParamScheduler` of the momentum."""


@PARAM_SCHEDULERS.register_module()
class ExponentialMomentum(MomentumSchedulerMixin, ExponentialParamScheduler):
    """:class:`ExponentialParamScheduler` of the momentum."""


@PARAM_SCHEDULERS.register_module()
class LinearMomentum(MomentumSchedulerMixin, LinearParamScheduler):
    """:class:`LinearParamScheduler` of the momentum."""


@PARAM_SCHEDULERS.register_module()
class MultiStepMomentum(MomentumSchedulerMixin, MultiStepParamScheduler):
    """:class:`MultiStepParamScheduler` of the momentum."""


@PARAM_SCHEDULERS.register_module()
class PolyMomentum(MomentumSchedulerMixin, PolyParamScheduler):
    """:class:`PolyParamScheduler` of the momentum."""


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauMomentum(MomentumSchedulerMixin, ReduceOnPlateauParamScheduler):
    """:class:`ReduceOnPlateauParamScheduler` of the momentum."""


@PARAM_SCHEDULERS.register_module()
class StepMomentum(MomentumSchedulerMixin, StepParamScheduler):
    """:class:`StepParamScheduler` of the momentum."""
