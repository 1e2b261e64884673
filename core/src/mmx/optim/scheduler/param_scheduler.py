"""Schedulers of any setting of an optimizer's parameter groups.

A scheduler changes one setting at the steps from ``begin`` to ``end``. Several may overlap: each
multiplies, or moves, what the ones before it left, as in MMEngine.
"""

from __future__ import annotations

import math
import warnings
import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from functools import wraps
from typing import Any, Self

from torch.optim import Optimizer

from mmx.logging import print_log
from mmx.optim.optimizer.base import BaseOptimWrapper
from mmx.optim.scheduler import curves
from mmx.registry import PARAM_SCHEDULERS

INF = int(1e9)

OptimizerType = BaseOptimWrapper | Optimizer


class _ParamScheduler:
    """Base class of schedulers.

    Args:
        optimizer: Optimizer or its wrapper.
        param_name: Setting, such as ``'lr'``.
        begin: First step that changes the setting.
        end: First step that no longer does.
        last_step: Index of the last step done; -1 is the beginning of training.
        by_epoch: Whether steps are epochs; else iterations.
        verbose: Log each change.

    Raises:
        TypeError: ``optimizer`` is none.
        ValueError: The range is empty or negative.
        KeyError: Training goes on, but groups have no initial value.
    """

    # Saved fields: a versioned list of names, not whatever the object happens to hold.
    state_version = 1

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not isinstance(optimizer, (Optimizer, BaseOptimWrapper)):
            raise TypeError(
                f"``optimizer`` should be an Optimizer or an OptimWrapper, but got {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        self.param_name = param_name
        if end <= begin:
            raise ValueError(f"end should be larger than begin, but got begin={begin}, end={end}")
        if begin < 0:
            raise ValueError(f"begin must not be negative, got {begin}")
        self.begin = begin
        self.end = end
        self.by_epoch = by_epoch
        groups = optimizer.param_groups
        if last_step == -1:
            for group in groups:
                # What another scheduler changes afterwards is not the initial value.
                group.setdefault(f"initial_{param_name}", group[param_name])
        else:
            for index, group in enumerate(groups):
                if f"initial_{param_name}" not in group:
                    raise KeyError(
                        f"param 'initial_{param_name}' is not specified in param_groups[{index}] when "
                        "resuming an optimizer"
                    )
        self.base_values = [group[f"initial_{param_name}"] for group in groups]
        self.last_step = last_step
        self._count_optimizer_steps()
        self.optimizer._global_step = 0  # type: ignore[union-attr]  # a counter on the step method's owner
        self._global_step = -1
        self.verbose = verbose
        self.step()

    def _count_optimizer_steps(self) -> None:
        """Wrap ``optimizer.step`` so that it counts, to find out who is called first."""
        method = self.optimizer.step
        if getattr(method, "_with_counter", False):
            return
        owner = weakref.ref(method.__self__)  # type: ignore[union-attr]  # a bound method
        function = method.__func__  # type: ignore[union-attr]  # a bound method
        kind = type(method.__self__)  # type: ignore[union-attr]  # a bound method

        @wraps(function)
        def step(*args: Any, **kwargs: Any) -> Any:
            instance = owner()
            assert instance is not None
            instance._global_step += 1
            return function.__get__(instance, kind)(*args, **kwargs)

        step._with_counter = True  # type: ignore[attr-defined]  # a mark
        self.optimizer.step = step  # type: ignore[method-assign]  # counts, then does the same

    def state_dict(self) -> dict[str, Any]:
        """Return the state: plain data, with a version; MMEngine reads it as well."""
        state = {
            k: _plain(v)
            for k, v in self.__dict__.items()
            if k not in ("optimizer", "_group_values")
        }
        state["version"] = self.state_version
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state of ours or of MMEngine.

        Warns if the schedule of the saved run ended elsewhere: its values go on as they were.
        """
        state = {k: v for k, v in state_dict.items() if k not in ("version", "optimizer")}
        for name in ("end", "total_iters", "T_max", "total_steps"):
            old, new = state.get(name), getattr(self, name, None)
            if old is not None and new is not None and old != new:
                warnings.warn(
                    f"{type(self).__name__} is resumed with {name}={new}, but the checkpoint was made with "
                    f"{name}={old}; the schedule of the checkpoint goes on. To follow the new one, resume "
                    "with resume_param_scheduler=False, or call `rebuild_at(step)`.",
                    stacklevel=2,
                )
        unknown = [k for k in state if k not in self.__dict__]
        if unknown:
            state = {k: v for k, v in state.items() if k not in unknown}
        if isinstance(self.__dict__.get("milestones"), Counter) and "milestones" in state:
            state["milestones"] = Counter(state["milestones"])
        self.__dict__.update(state)

    def rebuild_at(self, step: int) -> None:
        """Set values to those of this schedule at a step, as if it had run from the beginning.

        For a run that is extended: only for a schedule that no other overlaps.

        Args:
            step: Steps done.
        """
        for group, value in zip(self.optimizer.param_groups, self.base_values, strict=True):
            group[self.param_name] = value
        self.last_step, self._global_step = -1, -1
        verbose, self.verbose = self.verbose, False
        for _ in range(step + 1):
            self.step()
        self.verbose = verbose

    def get_last_value(self) -> list[float]:
        """Return the values that this scheduler last set, one for each group."""
        return self._last_value

    def _get_value(self) -> Sequence[float]:
        """Return the next value of each group."""
        raise NotImplementedError

    @property
    def _current(self) -> list[float]:
        name = self.param_name
        return [group[name] for group in self.optimizer.param_groups]

    def print_value(self, is_verbose: bool, group: int, value: float) -> None:
        """Log a value."""
        if is_verbose:
            step_name = "epoch" if self.by_epoch else "iter"
            print_log(
                f"Adjusting parameter value of group {group} of {self.param_name} to {value:.4e} at {step_name} "
                f"{self.last_step}.",
                logger="current",
            )

    def step(self) -> None:
        """Go one step on."""
        if self._global_step == 0:
            counted = getattr(self.optimizer.step, "_with_counter", False)
            if not counted:
                warnings.warn(
                    "Seems like `optimizer.step()` has been overridden after parameter value scheduler "
                    "initialization. Please, make sure to call `optimizer.step()` before `scheduler.step()`.",
                    UserWarning,
                    stacklevel=2,
                )
            elif self.optimizer._global_step < 0:  # type: ignore[union-attr]  # set above
                warnings.warn(
                    "Detected call of `scheduler.step()` before `optimizer.step()`. In PyTorch 1.1.0 and later, you "
                    "should call them in the opposite order: `optimizer.step()` before `scheduler.step()`.",
                    UserWarning,
                    stacklevel=2,
                )
        self._global_step += 1
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            name = self.param_name
            groups = self.optimizer.param_groups
            for index, (group, value) in enumerate(zip(groups, self._get_value(), strict=True)):
                group[name] = value
                if self.verbose:
                    self.print_value(True, index, value)
        self._last_value = self._current

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """Build a scheduler by iterations from settings in epochs.

        Args:
            *args: As for the class.
            begin: In epochs.
            end: In epochs.
            by_epoch: Must be true.
            epoch_length: Iterations of an epoch.
            **kwargs: As for the class; what counts epochs is converted.

        Raises:
            ValueError: ``by_epoch`` is false, or ``epoch_length`` is no positive number.
        """
        if not by_epoch:
            raise ValueError("Only epoch-based parameter scheduler can be converted to iter-based.")
        if not isinstance(epoch_length, int) or epoch_length <= 0:
            raise ValueError(f"`epoch_length` must be a positive integer, but got {epoch_length}.")
        kwargs = cls._convert_epochs(kwargs, epoch_length)
        begin = int(begin * epoch_length)
        if end != INF:
            end = int(end * epoch_length)
        return cls(*args, **{**kwargs, "begin": begin, "end": end, "by_epoch": False})

    @classmethod
    def _convert_epochs(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        """Return the arguments that count epochs converted to iterations."""
        return kwargs


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Counter) else value


@PARAM_SCHEDULERS.register_module()
class StepParamScheduler(_ParamScheduler):
    """Multiply by ``gamma`` every ``step_size`` steps.

    Args:
        optimizer: Optimizer or its wrapper.
        param_name: Setting.
        step_size: Steps between changes.
        gamma: Factor.
        begin: First step that counts.
        end: First step that no longer does.
        last_step: Last step done.
        by_epoch: Whether steps are epochs.
        verbose: Log each change.
    """

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
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    @classmethod
    def _convert_epochs(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        return {**kwargs, "step_size": kwargs["step_size"] * epoch_length}

    def _get_value(self) -> list[float]:
        if self.last_step == 0 or self.last_step % self.step_size != 0:
            return self._current
        return [value * self.gamma for value in self._current]


@PARAM_SCHEDULERS.register_module()
class MultiStepParamScheduler(_ParamScheduler):
    """Multiply by ``gamma`` at each milestone.

    Args:
        optimizer: Optimizer or its wrapper.
        param_name: Setting.
        milestones: Steps of the changes, counted from ``begin``.
        gamma: Factor.
        last_step: Last step done.
        begin: First step that counts.
        end: First step that no longer does.
        by_epoch: Whether steps are epochs.
        verbose: Log each change.
    """

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
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    @classmethod
    def _convert_epochs(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        return {**kwargs, "milestones": [i * epoch_length for i in kwargs["milestones"]]}

    def _get_value(self) -> list[float]:
        if self.last_step not in self.milestones:
            return self._current
        return [value * self.gamma ** self.milestones[self.last_step] for value in self._current]


@PARAM_SCHEDULERS.register_module()
class ConstantParamScheduler(_ParamScheduler):
    """Multiply by a factor at the first step and divide by it again before ``end``.

    Args:
        optimizer: Optimizer or its wrapper.
        param_name: Setting.
        factor: Factor, from 0 to 1.
        begin: First step that counts.
        end: First step that no longer does.
        last_step: Last step done.
        by_epoch: Whether steps are epochs.
        verbose: Log each change.

    Raises:
        ValueError: ``factor`` is outside of 0 to 1.
    """

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
            raise ValueError("Constant multiplicative factor should between 0 and 1.")
        self.factor = factor
        self.total_iters = end - begin - 1
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return [value * self.factor for value in self._current]
        if self.last_step != self.total_iters:
            return self._current
        return [value * (1.0 / self.factor) for value in self._current]


@PARAM_SCHEDULERS.register_module()
class ExponentialParamScheduler(_ParamScheduler):
    """Multiply by ``gamma`` at every step.

    Args:
        optimizer: Optimizer or its wrapper.
        param_name: Setting.
        gamma: Factor.
        begin: First step that counts.
        end: First step that no longer does.
        last_step: Last step done.
        by_epoch: Whether steps are epochs.
        verbose: Log each change.
    """

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
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return self._current
        return [value * self.gamma for value in self._current]


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingParamScheduler(_ParamScheduler):
    """Follow half a cosine from the initial value to a minimum (arXiv:1608.03983, without restarts).

    Args:
        optimizer: Optimizer or its wrapper.
        param_name: Setting.
        T_max: Steps to the minimum; None is ``end - begin``.
        eta_min: The minimum; 0 if ``eta_min_ratio`` is not given either.
        begin: First step that counts.
        end: First step that no longer does.
        last_step: Last step done.
        by_epoch: Whether steps are epochs.
        verbose: Log each change.
        eta_min_ratio: The minimum as a share of the initial value; not with ``eta_min``.

    Raises:
        ValueError: Both minima are given.
    """

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
        eta_min, eta_min_ratio = _one_minimum(eta_min, eta_min_ratio)
        self.T_max = T_max or (end - begin)
        self.eta_min = eta_min
        self.eta_min_ratio = eta_min_ratio
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    @classmethod
    def _convert_epochs(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        if kwargs.get("T_max") is not None:
            return {**kwargs, "T_max": kwargs["T_max"] * epoch_length}
        return kwargs

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return [group[self.param_name] for group in self.optimizer.param_groups]
        step, t_max = self.last_step, self.T_max
        return [
            curves.cosine_value(
                value,
                base,
                self.eta_min if self.eta_min_ratio is None else base * self.eta_min_ratio,  # type: ignore[arg-type]  # one of the two is set
                step,
                t_max,
            )
            for value, base in zip(self._current, self.base_values, strict=True)
        ]


def _one_minimum(eta_min: float | None, ratio: float | None) -> tuple[float | None, float | None]:
    if eta_min is None and ratio is None:
        return 0.0, None
    if eta_min is not None and ratio is not None:
        raise ValueError("Either `eta_min` or `eta_min_ratio should be specified, not both")
    return eta_min, ratio


@PARAM_SCHEDULERS.register_module()
class LinearParamScheduler(_ParamScheduler):
    """Follow a line between two factors of the initial value.

    Args:
        optimizer: Optimizer or its wrapper.
        param_name: Setting.
        start_factor: Factor at the first step, above 0 and at most 1.
        end_factor: Factor at the last step, from 0 to 1.
        begin: First step that counts.
        end: First step that no longer does.
        last_step: Last step done.
        by_epoch: Whether steps are epochs.
        verbose: Log each change.

    Raises:
        ValueError: A factor is out of range.
    """

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
            raise ValueError("Starting multiplicative factor should between 0 and 1.")
        if end_factor > 1.0 or end_factor < 0:
            raise ValueError("Ending multiplicative factor should between 0 and 1.")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = end - begin - 1
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return [value * self.start_factor for value in self._current]
        factor = curves.linear_factor(
            self.last_step, self.start_factor, self.end_factor, self.total_iters
        )
        return [value * factor for value in self._current]


@PARAM_SCHEDULERS.register_module()
class PolyParamScheduler(_ParamScheduler):
    """Decay to a minimum by a polynomial.

    Args:
        optimizer: Optimizer or its wrapper.
        param_name: Setting.
        eta_min: The minimum.
        power: Exponent.
        begin: First step that counts.
        end: First step that no longer does.
        last_step: Last step done.
        by_epoch: Whether steps are epochs.
        verbose: Log each change.
    """

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
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return self._current
        return [
            curves.poly_value(value, self.eta_min, self.last_step, self.total_iters, self.power)
            for value in self._current
        ]


@PARAM_SCHEDULERS.register_module()
class OneCycleParamScheduler(_ParamScheduler):
    """Go up to a maximum and down again (Smith & Topin, 2018, arXiv:1708.07120).

    Args:
        optimizer: Optimizer or its wrapper.
        param_name: Setting.
        eta_max: The maximum.
        total_steps: Steps of the cycle; None is ``end - begin``.
        pct_start: Share of the steps that go up.
        anneal_strategy: ``'cos'`` or ``'linear'``.
        div_factor: The first value is ``eta_max / div_factor``.
        final_div_factor: The last value is the first divided by this.
        three_phase: Go down to the first value symmetrically, then to the last.
        begin: First step that counts.
        end: First step that no longer does.
        last_step: Last step done.
        by_epoch: Whether steps are epochs.
        verbose: Log each change.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        eta_max: float = 0,
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
        if not isinstance(optimizer, (Optimizer, BaseOptimWrapper)):
            raise TypeError(
                f"``optimizer`` should be an Optimizer or an OptimWrapper, but got {type(optimizer).__name__}"
            )
        self.eta_max = eta_max
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        if total_steps is not None:
            if not isinstance(total_steps, int) or total_steps <= 0:
                raise ValueError(f"Expected positive integer total_steps, but got {total_steps}")
            self.total_steps = total_steps
        else:
            self.total_steps = end - begin
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f'anneal_strategy must by one of "cos" or "linear", instead got {anneal_strategy}'
            )
        self.anneal_strategy = anneal_strategy
        up = float(pct_start * self.total_steps) - 1
        first, top, last = f"initial_{param_name}", f"max_{param_name}", f"min_{param_name}"
        # (last step, value at the start, value at the end) of each phase.
        if three_phase:
            phases = [
                (up, first, top),
                (float(2 * pct_start * self.total_steps) - 2, top, first),
                (self.total_steps - 1, first, last),
            ]
        else:
            phases = [(up, first, top), (self.total_steps - 1, top, last)]
        self._schedule_phases: list[dict[str, Any]] = [
            {"end_step": step, f"start_{param_name}": start, f"end_{param_name}": end_}
            for step, start, end_ in phases
        ]
        if last_step == -1:
            for group, maximum in zip(
                optimizer.param_groups, self._format_param(optimizer, eta_max), strict=True
            ):
                group[f"initial_{param_name}"] = maximum / self.div_factor
                group[f"max_{param_name}"] = maximum
                group[f"min_{param_name}"] = group[f"initial_{param_name}"] / self.final_div_factor
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    @staticmethod
    def _format_param(optimizer: OptimizerType, param: float | Sequence[float]) -> list[float]:
        count = len(optimizer.param_groups)
        if isinstance(param, (list, tuple)):
            if len(param) != count:
                raise ValueError(f"expected {count} values for eta_max, got {len(param)}")
            return list(param)
        return [param] * count  # type: ignore[list-item]  # a number here

    @classmethod
    def _convert_epochs(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        if kwargs.get("total_steps") is not None:
            return {**kwargs, "total_steps": kwargs["total_steps"] * epoch_length}
        return kwargs

    def _get_value(self) -> list[float]:
        step = self.last_step
        if step > self.total_steps:
            raise ValueError(
                f"Tried to step {step + 1} times. The specified number of total steps is {self.total_steps}"
            )
        between = curves.cosine_between if self.anneal_strategy == "cos" else curves.line_between
        name = self.param_name
        values = []
        for group in self.optimizer.param_groups:
            start = 0.0
            value = group[name]
            for index, phase in enumerate(self._schedule_phases):
                end = float(phase["end_step"])
                if step <= end or index == len(self._schedule_phases) - 1:
                    share = (step - start) / (end - start)
                    value = between(
                        group[phase[f"start_{name}"]], group[phase[f"end_{name}"]], share
                    )
                    break
                start = end
            values.append(value)
        return values


@PARAM_SCHEDULERS.register_module()
class CosineRestartParamScheduler(_ParamScheduler):
    """Follow half cosines that start anew after each period (arXiv:1608.03983).

    Args:
        optimizer: Optimizer or its wrapper.
        param_name: Setting.
        periods: Steps of each cycle.
        restart_weights: Factor of the initial value at the start of each cycle.
        eta_min: The minimum; 0 if ``eta_min_ratio`` is not given either.
        eta_min_ratio: The minimum as a share of the initial value; not with ``eta_min``.
        begin: First step that counts.
        end: First step that no longer does.
        last_step: Last step done.
        by_epoch: Whether steps are epochs.
        verbose: Log each change.

    Raises:
        ValueError: The lengths differ, or both minima are given.
    """

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        periods: list[int],
        restart_weights: Sequence[float] = (1,),
        eta_min: float | None = None,
        eta_min_ratio: float | None = None,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        eta_min, eta_min_ratio = _one_minimum(eta_min, eta_min_ratio)
        self.periods = list(periods)
        self.eta_min = eta_min
        self.eta_min_ratio = eta_min_ratio
        self.restart_weights = list(restart_weights)
        if len(self.periods) != len(self.restart_weights):
            raise ValueError("periods and restart_weights should have the same length.")
        self.cumulative_periods = [sum(self.periods[: i + 1]) for i in range(len(self.periods))]
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    @classmethod
    def _convert_epochs(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        return {**kwargs, "periods": [p * epoch_length for p in kwargs["periods"]]}

    def _get_value(self) -> list[float]:
        index = bisect_right(self.cumulative_periods, self.last_step)
        if index >= len(self.periods):
            raise ValueError(
                f"Current iteration {self.last_step} exceeds cumulative_periods {self.cumulative_periods}"
            )
        weight = self.restart_weights[index]
        start = 0 if index == 0 else self.cumulative_periods[index - 1]
        share = min((self.last_step - start) / self.periods[index], 1)
        values = []
        for base in self.base_values:
            minimum = base * self.eta_min_ratio if self.eta_min_ratio is not None else self.eta_min
            values.append(
                minimum + (base * weight - minimum) * 0.5 * (1 + math.cos(math.pi * share))
            )
        return values


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauParamScheduler(_ParamScheduler):
    """Multiply by a factor when a validation metric no longer improves.

    Args:
        optimizer: Optimizer or its wrapper.
        param_name: Setting.
        monitor: Name of the metric.
        rule: ``'less'`` or ``'greater'``: which values are better.
        factor: Factor, below 1.
        patience: Validations without improvement that are put up with.
        threshold: Smallest change that counts.
        threshold_rule: ``'rel'``, a share of the best value, or ``'abs'``.
        cooldown: Validations after a change that are not counted.
        min_value: Lower bound of the setting, or one for each group.
        eps: Smaller changes of the setting are not made.
        begin: First step that counts.
        end: First step that no longer does.
        last_step: Last step done.
        by_epoch: Must be true.
        verbose: Log each change.

    Raises:
        ValueError: An argument is out of range.
    """

    need_val_args = True

    def __init__(
        self,
        optimizer: OptimizerType,
        param_name: str,
        monitor: str = "loss",
        rule: str = "less",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_rule: str = "rel",
        cooldown: int = 0,
        min_value: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not isinstance(optimizer, (Optimizer, BaseOptimWrapper)):
            raise TypeError(
                f"``optimizer`` should be an Optimizer or an OptimWrapper, but got {type(optimizer).__name__}"
            )
        if not by_epoch:
            raise ValueError("Now only support by_epoch=True")
        if factor >= 1.0:
            raise ValueError("Factor should be < 1.0.")
        if rule not in ("less", "greater"):
            raise ValueError(f"mode {rule} is unknown!")
        if threshold_rule not in ("rel", "abs"):
            raise ValueError(f"thresh mode {threshold_rule} is unknown!")
        self.monitor = monitor
        self.rule = rule
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_rule = threshold_rule
        self.cooldown = cooldown
        self.cooldown_counter = 0
        self.rule_worse = math.inf if rule == "less" else -math.inf
        self.best = self.rule_worse
        self.num_bad_epochs = 0
        count = len(optimizer.param_groups)
        if isinstance(min_value, (list, tuple)):
            if len(min_value) != count:
                raise ValueError(f"expected {count} min_lrs, got {len(min_value)}")
            self.min_value = list(min_value)
        else:
            self.min_value = [min_value] * count
        self.eps = eps
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def step(self, metrics: dict[str, float] | None = None) -> None:
        """Count a validation.

        Args:
            metrics: What validation returned. None, at the beginning and after training epochs,
                only keeps the clock going.

        Raises:
            TypeError: ``metrics`` is no dict of numbers.
            KeyError: It lacks the metric.
        """
        if metrics is None:
            if self._global_step == -1:
                self._global_step += 1
                self._last_value = self._current
            return
        if not isinstance(metrics, dict):
            raise TypeError(f"metrics type should be dict, but got type {type(metrics)}")
        if self.monitor not in metrics:
            raise KeyError(
                f"{self.monitor!r} is not among the metrics of validation: {', '.join(metrics)}"
            )
        self._global_step += 1
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            current = float(metrics[self.monitor])
            if self._is_better(current, self.best):
                self.best = current
                self.num_bad_epochs = 0
            else:
                self.num_bad_epochs += 1
            if self._in_cooldown():
                self.cooldown_counter -= 1
                self.num_bad_epochs = 0
            if self.num_bad_epochs > self.patience:
                values = self._get_value()
                for index, (group, value) in enumerate(
                    zip(self.optimizer.param_groups, values, strict=True)
                ):
                    if group[self.param_name] - value > self.eps:
                        group[self.param_name] = value
                        self.print_value(self.verbose, index, value)
                self.cooldown_counter = self.cooldown
                self.num_bad_epochs = 0
        self._last_value = self._current

    def _get_value(self) -> list[float]:
        return [
            max(value * self.factor, least)
            for value, least in zip(self._current, self.min_value, strict=True)
        ]

    def _in_cooldown(self) -> bool:
        return self.cooldown_counter > 0

    def _is_better(self, a: float, best: float) -> bool:
        if self.rule == "less":
            bound = (
                best * (1.0 - self.threshold)
                if self.threshold_rule == "rel"
                else best - self.threshold
            )
            return a < bound
        bound = (
            best * (1.0 + self.threshold) if self.threshold_rule == "rel" else best + self.threshold
        )
        return a > bound
