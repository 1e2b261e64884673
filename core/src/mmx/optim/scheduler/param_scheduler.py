"""Schedulers of any setting of an optimizer's parameter groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from mmx.optim.scheduler import curves
from mmx.optim.scheduler.base import INF as INF
from mmx.optim.scheduler.base import OptimizerType as OptimizerType
from mmx.optim.scheduler.base import _BuildsFromEpochs, _converted, _inner, _RatioScheduler
from mmx.optim.scheduler.base import _ParamScheduler as _ParamScheduler
from mmx.optim.scheduler.plateau import (
    ReduceOnPlateauParamScheduler as ReduceOnPlateauParamScheduler,
)
from mmx.registry import PARAM_SCHEDULERS
from mmx.utils.errors import InvalidValueError


@PARAM_SCHEDULERS.register_module()
class StepParamScheduler(_BuildsFromEpochs, _RatioScheduler):
    """Multiplies the value by ``gamma`` every ``step_size`` steps.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        step_size: Steps between two changes.
        gamma: The factor.
        begin, end, last_step, by_epoch, verbose: See :class:`_ParamScheduler`.

    Raises:
        ValueError: ``step_size`` is not positive.
    """

    __slots__ = ()
    settings = (*_ParamScheduler.settings, "step_size", "gamma")

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        step_size: int,
        gamma: float = 0.1,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if step_size <= 0:
            raise InvalidValueError(f"step_size should be positive, but got {step_size}")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(
            optimizer=optimizer,
            param_name=param_name,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )

    def _ratio(self) -> float:
        if self.last_step == 0 or self.last_step % self.step_size != 0:
            return 1.0
        return self.gamma

    @classmethod
    def _epochs_to_iterations(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        return _converted(kwargs, "step_size", epoch_length)


@PARAM_SCHEDULERS.register_module()
class MultiStepParamScheduler(_BuildsFromEpochs, _RatioScheduler):
    """Multiplies the value by ``gamma`` at each milestone.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        milestones: Steps at which it changes, counted from ``begin``; one that is listed twice
            counts twice.
        gamma: The factor.
        last_step, begin, end, by_epoch, verbose: See :class:`_ParamScheduler`.
    """

    __slots__ = ()
    settings = (*_ParamScheduler.settings, "milestones", "gamma")

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        milestones: Sequence[int],
        gamma: float = 0.1,
        last_step: int = -1,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(
            optimizer=optimizer,
            param_name=param_name,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )

    def _ratio(self) -> float:
        return curves.multi_step_ratio(self.last_step, self.milestones, self.gamma)

    def _read(self, state: dict[str, Any]) -> dict[str, Any]:
        if "milestones" in state:
            state["milestones"] = Counter(state["milestones"])
        return state

    @classmethod
    def _epochs_to_iterations(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        return _converted(kwargs, "milestones", epoch_length)


@PARAM_SCHEDULERS.register_module()
class ConstantParamScheduler(_BuildsFromEpochs, _RatioScheduler):
    """Multiplies the value by ``factor`` until the last step before ``end``.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        factor: The factor, in [0, 1].
        begin, end, last_step, by_epoch, verbose: See :class:`_ParamScheduler`.

    Raises:
        ValueError: ``factor`` is out of range.
    """

    __slots__ = ()
    settings = (*_ParamScheduler.settings, "factor", "total_iters")

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        factor: float = 1.0 / 3,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if factor > 1.0 or factor < 0:
            raise InvalidValueError(
                f"Constant multiplicative factor should between 0 and 1. Got {factor}"
            )
        self.factor = factor
        self.total_iters = end - begin - 1
        super().__init__(
            optimizer=optimizer,
            param_name=param_name,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )

    def _ratio(self) -> float | list[Any]:
        if self.last_step == self.total_iters and self.factor == 0 and self.last_step:
            # No factor leads back from zero.
            return list(self.base_values)
        return curves.constant_ratio(self.last_step, self.total_iters, self.factor)


@PARAM_SCHEDULERS.register_module()
class ExponentialParamScheduler(_BuildsFromEpochs, _RatioScheduler):
    """Multiplies the value by ``gamma`` at each step.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        gamma: The factor.
        begin, end, last_step, by_epoch, verbose: See :class:`_ParamScheduler`.
    """

    __slots__ = ()
    settings = (*_ParamScheduler.settings, "gamma")

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        gamma: float,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        self.gamma = gamma
        super().__init__(
            optimizer=optimizer,
            param_name=param_name,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )

    def _ratio(self) -> float:
        return 1.0 if self.last_step == 0 else self.gamma


class _WithLow(_RatioScheduler):
    """A scheduler whose low is given as ``eta_min`` or as a share of the first value."""

    __slots__ = ()

    eta_min: float | None
    eta_min_ratio: float | None

    def _low(self, base: float) -> float:
        if self.eta_min_ratio is None:
            return self.eta_min or 0.0
        return base * self.eta_min_ratio

    @property
    def _common_low(self) -> float | None:  # type: ignore[override]  # depends on the settings
        return (self.eta_min or 0.0) if self.eta_min_ratio is None else None


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingParamScheduler(_BuildsFromEpochs, _WithLow):
    """Moves the value along a cosine to its low in ``T_max`` steps, and back in as many.

    The curve of `SGDR <https://arxiv.org/abs/1608.03983>`_, without restarts.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        T_max: Steps to the low; ``end - begin`` if None.
        eta_min: The low; 0 if None.
        begin, end, last_step, by_epoch, verbose: See :class:`_ParamScheduler`.
        eta_min_ratio: The low as a share of each group's first value, in place of ``eta_min``.

    Raises:
        ValueError: ``eta_min`` and ``eta_min_ratio`` are both given, or ``T_max`` is not positive.
    """

    __slots__ = ()
    settings = (*_ParamScheduler.settings, "T_max", "eta_min", "eta_min_ratio")

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        T_max: int | None = None,
        eta_min: float | None = None,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
        eta_min_ratio: float | None = None,
    ) -> None:
        if eta_min is not None and eta_min_ratio is not None:
            raise InvalidValueError(
                "Either `eta_min` or `eta_min_ratio` should be specified, not both: got "
                f"eta_min={eta_min}, eta_min_ratio={eta_min_ratio}"
            )
        if T_max is not None and T_max <= 0:
            raise InvalidValueError(f"T_max should be positive, but got {T_max}")
        self.T_max = end - begin if T_max is None else T_max
        self.eta_min = 0.0 if eta_min is None and eta_min_ratio is None else eta_min
        self.eta_min_ratio = eta_min_ratio
        super().__init__(
            optimizer=optimizer,
            param_name=param_name,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )

    def _ratio(self) -> float | list[Any]:
        step, half_period = self.last_step, self.T_max
        if step == 0:
            return 1.0
        if curves.leaves_cosine_low(step, half_period):
            rise = curves.cosine_rise(half_period)
            return [
                value + (base - self._low(base)) * rise
                for base, value in zip(self.base_values, self._values(), strict=False)
            ]
        return curves.cosine_ratio(step, half_period)

    @classmethod
    def _epochs_to_iterations(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        return _converted(kwargs, "T_max", epoch_length)


@PARAM_SCHEDULERS.register_module()
class LinearParamScheduler(_BuildsFromEpochs, _RatioScheduler):
    """Moves the value along a line from ``start_factor`` to ``end_factor`` times itself.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        start_factor: Factor at ``begin``, in [0, 1].
        end_factor: Factor at the last step before ``end``, in [0, 1].
        begin, end, last_step, by_epoch, verbose: See :class:`_ParamScheduler`.

    Raises:
        ValueError: A factor is out of range.
    """

    __slots__ = ()
    settings = (*_ParamScheduler.settings, "start_factor", "end_factor", "total_iters")

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if start_factor > 1.0 or start_factor < 0:
            raise InvalidValueError(
                f"Starting multiplicative factor should between 0 and 1. Got {start_factor}"
            )
        if end_factor > 1.0 or end_factor < 0:
            raise InvalidValueError(
                f"Ending multiplicative factor should between 0 and 1. Got {end_factor}"
            )
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = end - begin - 1
        super().__init__(
            optimizer=optimizer,
            param_name=param_name,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )

    def _ratio(self) -> float | list[Any]:
        step, total = self.last_step, self.total_iters
        start, end = self.start_factor, self.end_factor
        if start == 0 and step == 1 and total > 0:
            # No factor leads on from zero.
            first = curves.linear(1, total, start, end)
            return [base * first for base in self.base_values]
        return curves.linear_ratio(step, total, start, end)


@PARAM_SCHEDULERS.register_module()
class PolyParamScheduler(_BuildsFromEpochs, _RatioScheduler):
    """Lowers the value to ``eta_min`` along a polynomial, until the last step before ``end``.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        eta_min: The low.
        power: Power of the polynomial.
        begin, end, last_step, by_epoch, verbose: See :class:`_ParamScheduler`.
    """

    __slots__ = ()
    settings = (*_ParamScheduler.settings, "eta_min", "power", "total_iters")

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        eta_min: float = 0,
        power: float = 1.0,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        self.eta_min = eta_min
        self.power = power
        self.total_iters = end - begin - 1
        super().__init__(
            optimizer=optimizer,
            param_name=param_name,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )

    def _low(self, base: float) -> float:
        return self.eta_min

    @property
    def _common_low(self) -> float | None:  # type: ignore[override]  # depends on the settings
        return self.eta_min

    def _ratio(self) -> float:
        return curves.polynomial_ratio(self.last_step, self.total_iters, self.power)


@PARAM_SCHEDULERS.register_module()
class OneCycleParamScheduler(_BuildsFromEpochs, _ParamScheduler):
    """Raises the value from low to high and lowers it to far below, in one cycle.

    The policy of `Super-Convergence <https://arxiv.org/abs/1708.07120>`_. The values do not depend
    on those of the optimizer and are not composed with other schedulers'.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        eta_max: Highest value, for all groups or a list with one for each.
        total_steps: Steps of the cycle; ``end - begin`` if None.
        pct_start: Share of the cycle in which the value rises.
        anneal_strategy: ``'cos'`` or ``'linear'``.
        div_factor: The first value is ``eta_max / div_factor``.
        final_div_factor: The last value is the first one divided by it.
        three_phase: Fall as slowly as it rose, then to the last value; else fall at once.
        begin, end, last_step, by_epoch, verbose: See :class:`_ParamScheduler`.

    Raises:
        ValueError: A setting is out of range, or a step goes beyond the cycle.
    """

    __slots__ = ()
    settings = (
        *_ParamScheduler.settings,
        "eta_max",
        "div_factor",
        "final_div_factor",
        "total_steps",
        "anneal_strategy",
        "_schedule_phases",
    )

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        eta_max: float | Sequence[float] = 0,
        total_steps: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        self._attach(optimizer)
        self.param_name = param_name
        self.eta_max = eta_max
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        if total_steps is None:
            total_steps = end - begin
        elif total_steps <= 0 or not isinstance(total_steps, int):
            raise InvalidValueError(f"Expected positive integer total_steps, but got {total_steps}")
        self.total_steps = total_steps
        if pct_start < 0 or pct_start > 1 or not isinstance(pct_start, float):
            raise InvalidValueError(
                f"Expected float between 0 and 1 pct_start, but got {pct_start}"
            )
        if anneal_strategy not in ("cos", "linear"):
            raise InvalidValueError(
                f'anneal_strategy must by one of "cos" or "linear", instead got {anneal_strategy}'
            )
        self.anneal_strategy = anneal_strategy
        self._schedule_phases: list[dict[str, Any]] = [
            {
                "end_step": last,
                f"start_{param_name}": f"{first}_{param_name}",
                f"end_{param_name}": f"{then}_{param_name}",
            }
            for last, (first, then) in curves.one_cycle_phases(total_steps, pct_start, three_phase)
        ]
        if last_step == -1:
            highest = self._for_each_group("max_lr", optimizer, eta_max)
            for group, high in zip(optimizer.param_groups, highest, strict=True):
                group[f"initial_{param_name}"] = high / div_factor
                group[f"max_{param_name}"] = high
                group[f"min_{param_name}"] = group[f"initial_{param_name}"] / final_div_factor
        super().__init__(
            optimizer=optimizer,
            param_name=param_name,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )

    def _for_each_group(self, name: str, optimizer: OptimizerType, value: Any) -> list[float]:
        groups = optimizer.param_groups
        if not isinstance(value, list | tuple):
            return [value] * len(groups)
        expected = len(_inner(optimizer).param_groups)
        if len(value) not in (expected, len(groups)):
            raise InvalidValueError(f"expected {expected} values for {name}, got {len(value)}")
        # The wrapper's base settings follow the first group.
        return [*value, *[value[0]] * (len(groups) - len(value))]

    @property
    def anneal_func(self) -> Callable[[float, float, float], float]:
        """The curve between two ends: (start, end, progress) -> value."""
        return curves.cosine_between if self.anneal_strategy == "cos" else curves.line_between

    def _get_value(self) -> list[Any]:
        step = self.last_step
        if step > self.total_steps:
            raise InvalidValueError(
                f"Tried to step {step + 1} times. The specified number of total steps is "
                f"{self.total_steps}: set total_steps to the length of training, or `end` to stop"
            )
        phases = self._schedule_phases
        index, progress = curves.one_cycle_position(step, [float(p["end_step"]) for p in phases])
        name, between = self.param_name, self.anneal_func
        start = phases[index][f"start_{name}"]
        end = phases[index][f"end_{name}"]
        return [
            between(group[start], group[end], progress) for group in self.optimizer.param_groups
        ]

    def _read(self, state: dict[str, Any]) -> dict[str, Any]:
        function = state.pop("anneal_func", None)
        if function is not None:
            # MMEngine saves the function itself.
            linear = "linear" in getattr(function, "__name__", str(function))
            state["anneal_strategy"] = "linear" if linear else "cos"
        return state

    @classmethod
    def _epochs_to_iterations(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        return _converted(kwargs, "total_steps", epoch_length)


@PARAM_SCHEDULERS.register_module()
class CosineRestartParamScheduler(_BuildsFromEpochs, _WithLow):
    """Moves the value along cosines to its low, and starts again after each period.

    The policy of `SGDR <https://arxiv.org/abs/1608.03983>`_. After the last period the value
    stays. Where a period begins, what overlapping schedulers have done is undone.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        periods: Steps of each period.
        restart_weights: Factor of the first value in each period.
        eta_min: The low.
        eta_min_ratio: The low as a share of each group's first value, in place of ``eta_min``.
        begin, end, last_step, by_epoch, verbose: See :class:`_ParamScheduler`.

    Raises:
        ValueError: Not exactly one of ``eta_min`` and ``eta_min_ratio`` is given, or periods and
            weights differ in number.
    """

    __slots__ = ()
    settings = (
        *_ParamScheduler.settings,
        "periods",
        "restart_weights",
        "eta_min",
        "eta_min_ratio",
        "cumulative_periods",
    )

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        periods: Sequence[int],
        restart_weights: Sequence[float] = (1,),
        eta_min: float | None = None,
        eta_min_ratio: float | None = None,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if (eta_min is None) == (eta_min_ratio is None):
            raise InvalidValueError(
                "exactly one of `eta_min` and `eta_min_ratio` should be specified, but got "
                f"eta_min={eta_min}, eta_min_ratio={eta_min_ratio}"
            )
        if len(periods) != len(restart_weights):
            raise InvalidValueError(
                "periods and restart_weights should have the same length, but got "
                f"{len(periods)} periods and {len(restart_weights)} weights"
            )
        self.periods = list(periods)
        self.restart_weights = list(restart_weights)
        self.eta_min = eta_min
        self.eta_min_ratio = eta_min_ratio
        self.cumulative_periods = [sum(self.periods[: i + 1]) for i in range(len(self.periods))]
        super().__init__(
            optimizer=optimizer,
            param_name=param_name,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )

    @staticmethod
    def get_position_from_periods(iteration: int, cumulative_periods: Sequence[int]) -> int | None:
        """Return the index of the period that a step is in, None beyond the last.

        Args:
            iteration: Step, from 0.
            cumulative_periods: Ends of the periods, exclusive and ascending.
        """
        for index, end in enumerate(cumulative_periods):
            if iteration < end:
                return index
        return None

    def _ratio(self) -> float | list[Any]:
        step = self.last_step
        if step >= self.cumulative_periods[-1]:
            return 1.0
        period, done = curves.restart_position(step, self.cumulative_periods)
        if done:
            return curves.cosine_ratio(done, self.periods[period])
        weight = self.restart_weights[period]
        return [base * weight for base in self.base_values]

    @classmethod
    def _epochs_to_iterations(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        return _converted(kwargs, "periods", epoch_length)
