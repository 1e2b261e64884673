"""Schedulers of any setting of an optimizer's parameter groups."""

from __future__ import annotations

import logging
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from mmx.logging import print_log
from mmx.optim.optimizer.base import BaseOptimWrapper
from mmx.optim.scheduler import curves
from mmx.registry import PARAM_SCHEDULERS

INF = int(1e9)

OptimizerType = BaseOptimWrapper | Optimizer

# Version of the fields that schedulers save.
STATE_VERSION = 1

_HOW_TO = (
    "See more details at https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate"
)


class _ParamScheduler:
    """Base class of schedulers: changes a setting of the parameter groups at each step.

    A subclass says in :meth:`_get_value` what the values are at step :attr:`last_step`, one for
    each group; usually from the present values, so that schedulers which overlap compose. It lists
    the names of its settings in :attr:`settings` and of what changes as it steps in
    :attr:`progress`; both are saved. Attributes that are listed in neither are saved too if they
    are plain data.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        begin: First step at which the schedule takes effect, in epochs or iterations.
        end: Step from which on it does not any more.
        last_step: Steps of the schedule that were done, for an optimizer that resumes; -1 for a
            new one. The first value of each group is kept in it as ``initial_<param_name>``.
        by_epoch: Whether a step is an epoch or an iteration: who calls :meth:`step` goes by it.
        verbose: Log each new value.

    Raises:
        TypeError: ``optimizer`` is neither, or ``last_step`` no integer.
        ValueError: ``end`` is not after ``begin``, or ``last_step`` is below -1.
        KeyError: The groups have no such setting, or no first value of it to resume from.
    """

    # Beside the usual attributes there are some that are no part of the state.
    __slots__ = ("__dict__", "__weakref__", "_given", "_known_values")

    #: What the constructor sets and stepping leaves alone.
    settings: ClassVar[tuple[str, ...]] = ("param_name", "begin", "end", "by_epoch", "verbose")
    #: What changes as the scheduler steps.
    progress: ClassVar[tuple[str, ...]] = ("base_values", "last_step", "_global_step")

    param_name: str
    base_values: list[Any]

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
        self._attach(optimizer)
        self.param_name = param_name
        self._set_range(begin, end)
        self.by_epoch = by_epoch
        if isinstance(last_step, bool) or not isinstance(last_step, int):
            raise TypeError(f"last_step should be an int, but got {last_step!r}")
        if last_step < -1:
            raise ValueError(
                f"last_step should be -1 for a new schedule or a number of steps done, but got "
                f"{last_step}"
            )
        self._set_base_values(last_step)
        self.last_step = last_step
        _count_steps(optimizer)
        self._global_step = -1
        self.verbose = verbose
        self.step()

    # Building -----------------------------------------------------------------------------------

    def _attach(self, optimizer: OptimizerType) -> None:
        if not isinstance(optimizer, Optimizer | BaseOptimWrapper):
            raise TypeError(
                "``optimizer`` should be an Optimizer or OptimWrapper, but got "
                f"{type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        self._known_values: list[Any] | None = None
        self._given: dict[str, Any] = {}

    def _set_range(self, begin: int, end: int) -> None:
        if end <= begin:
            raise ValueError(f"end should be larger than begin, but got begin={begin}, end={end}")
        self.begin = begin
        self.end = end

    def _set_base_values(self, last_step: int) -> None:
        """Keep the first values in the groups, or read them from there to resume."""
        name = self.param_name
        key = f"initial_{name}"
        groups = self.optimizer.param_groups
        if not isinstance(groups, list):
            raise TypeError(
                "a scheduler schedules one optimizer, but got "
                f"{type(self.optimizer).__name__}: build one for each of {list(groups)}"
            )
        for index, group in enumerate(groups):
            if last_step != -1 and key not in group:
                raise KeyError(
                    f"param '{key}' is not specified in param_groups[{index}] when resuming an "
                    "optimizer"
                )
            if name not in group:
                raise KeyError(
                    f"{name!r} is no setting of {type(_inner(self.optimizer)).__name__}: "
                    f"param_groups[{index}] has {sorted(set(group) - {'params'})}"
                )
            if last_step == -1:
                group.setdefault(key, _number(group[name]))
        self.base_values = [group[key] for group in groups]

    # Stepping -----------------------------------------------------------------------------------

    def step(self) -> None:
        """Go one step on, and set the values of the groups if the schedule takes effect there."""
        if self._global_step == 0:
            self._check_order()
        self._global_step += 1
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            self._apply()
            if self.verbose:
                self._print_values()
        self._known_values = None

    def _check_order(self) -> None:
        optimizer: Any = self.optimizer
        if not hasattr(optimizer.step, "_with_counter"):
            warnings.warn(
                "Seems like `optimizer.step()` has been overridden after parameter value "
                "scheduler initialization. Please, make sure to call `optimizer.step()` before "
                f"`scheduler.step()`. {_HOW_TO}",
                UserWarning,
                stacklevel=3,
            )
        elif optimizer._global_step < 0 and not getattr(optimizer, "_inner_count", 0):
            # Gradients that accumulate have their step to come: the order is right.
            warnings.warn(
                "Detected call of `scheduler.step()` before `optimizer.step()`. In PyTorch 1.1.0 "
                "and later, you should call them in the opposite order: `optimizer.step()` before "
                "`scheduler.step()`. Failure to do this will result in PyTorch skipping the first "
                f"value of the parameter value schedule. {_HOW_TO}",
                UserWarning,
                stacklevel=3,
            )

    def _apply(self) -> None:
        self._assign(self._get_value())

    def _assign(self, values: Sequence[Any]) -> None:
        name = self.param_name
        for group, value in zip(self.optimizer.param_groups, values, strict=False):
            _set(group, name, value)

    def _get_value(self) -> list[Any]:
        """Return the value of each group at step :attr:`last_step`."""
        raise NotImplementedError(f"{type(self).__name__} does not define `_get_value`")

    def _values(self) -> list[Any]:
        name = self.param_name
        return [group[name] for group in self.optimizer.param_groups]

    @property
    def _last_value(self) -> list[Any]:
        # Reading the groups when asked is what keeps steps cheap.
        return self._values() if self._known_values is None else self._known_values

    @_last_value.setter
    def _last_value(self, values: list[Any]) -> None:
        self._known_values = values

    def get_last_value(self) -> list[Any]:
        """Return the values of the groups: the latest that were set, or those of a loaded state."""
        return self._last_value

    def print_value(self, is_verbose: bool, group: int, value: float) -> None:
        """Log the value of a group.

        Args:
            is_verbose: Nothing is logged if it is False.
            group: Index of the group.
            value: Its value.
        """
        if is_verbose:
            print_log(
                f"Adjusting parameter value of group {group} to {value:.4e}.", logger="current"
            )

    def _print_values(self) -> None:
        for index, value in enumerate(self._values()):
            self.print_value(True, index, value)

    # State --------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the settings and the progress, as plain data."""
        names = [*self.settings, *self.progress]
        known = {*names, "optimizer"}
        names += [
            name
            for name, value in vars(self).items()
            if name not in known and isinstance(value, _PLAIN)
        ]
        state: dict[str, Any] = {"version": STATE_VERSION}
        state.update((name, _plain(getattr(self, name))) for name in names)
        state["_last_value"] = list(self._last_value)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called, here or in MMEngine.

        Settings that were saved replace those of this scheduler, so that the curve goes on as it
        began. If they differ, a warning names them; :meth:`restore_settings` and
        :func:`~mmx.optim.scheduler.rebuild.rebuild_schedulers` put those of this run into effect.

        Raises:
            ValueError: A newer version of mmx wrote it.
        """
        state = dict(state_dict)
        version = state.pop("version", 0)
        if isinstance(version, int) and version > STATE_VERSION:
            raise ValueError(
                f"the state of {type(self).__name__} is of version {version}, this mmx reads up "
                f"to {STATE_VERSION}; load it with the version of mmx that wrote it"
            )
        state.pop("optimizer", None)
        given = {name: getattr(self, name) for name in self.settings if hasattr(self, name)}
        values = state.pop("_last_value", None)
        for name, value in self._read(state).items():
            setattr(self, name, value)
        self._known_values = None if values is None else list(values)
        self._given = given
        self._warn_of_changes()

    def _read(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return saved fields as attributes."""
        return state

    def changed_settings(self) -> dict[str, tuple[Any, Any]]:
        """Return the settings that a loaded state has replaced: name -> (saved, this run's)."""
        return {
            name: (getattr(self, name), value)
            for name, value in self._given.items()
            if name != "verbose" and getattr(self, name) != value
        }

    def restore_settings(self) -> None:
        """Take the settings again that this scheduler was built with, before a state was loaded.

        The values of the groups stay: they are those of the saved settings.
        """
        for name, value in self._given.items():
            setattr(self, name, value)
        self._given = {}

    def _warn_of_changes(self) -> None:
        changes = self.changed_settings()
        if not changes:
            return
        unit = "epoch" if self.by_epoch else "iteration"
        saved = ", ".join(f"{name}={_shown(old)}" for name, (old, _) in changes.items())
        now = ", ".join(f"{name}={_shown(new)}" for name, (_, new) in changes.items())
        print_log(
            f"{type(self).__name__} goes on with the settings of the checkpoint, {saved}, though "
            f"this run has {now}: the curve ends where the saved run's would have. To follow this "
            f"run's curve from {unit} {self._global_step} on, use "
            "default_hooks=dict(param_scheduler=dict(type='ParamSchedulerHook', "
            "on_changed_settings='rebuild'))",
            logger="current",
            level=logging.WARNING,
        )

    def __repr__(self) -> str:
        unit = "epoch" if self.by_epoch else "iteration"
        shown = ", ".join(
            f"{name}={_shown(getattr(self, name))}"
            for name in self.settings
            if name not in ("by_epoch", "verbose") and getattr(self, name) != INF
        )
        return f"{type(self).__name__}({shown}, {unit} {self._global_step})"


class _RatioScheduler(_ParamScheduler):
    """A scheduler that scales the distance of each value to a low by the same ratio.

    A subclass gives the ratio in :meth:`_ratio`. One that overrides :meth:`_get_value` is asked
    for values instead.
    """

    __slots__ = ()

    # Whether `_get_value` is ours, so that values need not be computed before they are set.
    _scales_all: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._scales_all = cls._get_value is _RatioScheduler._get_value

    def _ratio(self) -> float | list[Any]:
        """Return the ratio at step :attr:`last_step`, or the values if there is none."""
        raise NotImplementedError

    def _low(self, base: float) -> float:
        """Return the value that is not scaled, of a group whose first value is ``base``."""
        return 0.0

    # None where the low depends on the group.
    _common_low: float | None = 0.0

    def _get_value(self) -> list[Any]:
        ratio = self._ratio()
        if isinstance(ratio, list):
            return ratio
        if ratio == 1.0:
            return self._values()
        lows = map(self._low, self.base_values)
        return [
            (value - low) * ratio + low for value, low in zip(self._values(), lows, strict=False)
        ]

    def _apply(self) -> None:
        low = self._common_low
        if not self._scales_all or low is None:
            self._assign(self._get_value())
            return
        ratio = self._ratio()
        if isinstance(ratio, list):
            self._assign(ratio)
            return
        if ratio == 1.0:
            return
        name = self.param_name
        groups = self.optimizer.param_groups
        if groups and isinstance(groups[0][name], torch.Tensor):
            self._assign([(group[name] - low) * ratio + low for group in groups])
        elif low == 0:
            for group in groups:
                group[name] = group[name] * ratio
        else:
            for group in groups:
                group[name] = (group[name] - low) * ratio + low


class _BuildsFromEpochs:
    """Builds a scheduler that steps by iteration from settings that count epochs."""

    __slots__ = ()

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Build a scheduler that steps by iteration from settings that count epochs.

        Args:
            *args: Arguments of the scheduler, the optimizer first.
            begin: First epoch.
            end: Epoch after the last.
            by_epoch: True, or the settings count no epochs.
            epoch_length: Number of iterations in an epoch.
            **kwargs: Further arguments of the scheduler.

        Raises:
            ValueError: ``by_epoch`` is False, or ``epoch_length`` is not positive.
        """
        if not by_epoch:
            raise ValueError(
                "Only epoch-based kwargs whose `by_epoch=True` can be converted to iter-based: "
                "drop convert_to_iter_based, or set by_epoch=True"
            )
        if epoch_length is None or epoch_length <= 0:
            raise ValueError(f"`epoch_length` must be a positive integer, but got {epoch_length}.")
        kwargs = cls._epochs_to_iterations(kwargs, epoch_length)
        build: Callable[..., Any] = cls
        return build(
            *args,
            begin=int(begin * epoch_length),
            end=end if end == INF else int(end * epoch_length),
            by_epoch=False,
            **kwargs,
        )

    @classmethod
    def _epochs_to_iterations(cls, kwargs: dict[str, Any], epoch_length: int) -> dict[str, Any]:
        return kwargs


def _converted(kwargs: dict[str, Any], name: str, epoch_length: int) -> dict[str, Any]:
    """Return arguments with the epochs (a number or several) of one of them as iterations."""
    value = kwargs.get(name)
    if value is None:
        return kwargs
    if isinstance(value, Sequence):
        return {**kwargs, name: [int(item * epoch_length) for item in value]}
    return {**kwargs, name: int(value * epoch_length)}


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
            raise ValueError(f"step_size should be positive, but got {step_size}")
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
            raise ValueError(f"Constant multiplicative factor should between 0 and 1. Got {factor}")
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
            raise ValueError(
                "Either `eta_min` or `eta_min_ratio` should be specified, not both: got "
                f"eta_min={eta_min}, eta_min_ratio={eta_min_ratio}"
            )
        if T_max is not None and T_max <= 0:
            raise ValueError(f"T_max should be positive, but got {T_max}")
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
            raise ValueError(
                f"Starting multiplicative factor should between 0 and 1. Got {start_factor}"
            )
        if end_factor > 1.0 or end_factor < 0:
            raise ValueError(
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
            raise ValueError(f"Expected positive integer total_steps, but got {total_steps}")
        self.total_steps = total_steps
        if pct_start < 0 or pct_start > 1 or not isinstance(pct_start, float):
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
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
            raise ValueError(f"expected {expected} values for {name}, got {len(value)}")
        # The wrapper's base settings follow the first group.
        return [*value, *[value[0]] * (len(groups) - len(value))]

    @property
    def anneal_func(self) -> Callable[[float, float, float], float]:
        """The curve between two ends: (start, end, progress) -> value."""
        return curves.cosine_between if self.anneal_strategy == "cos" else curves.line_between

    def _get_value(self) -> list[Any]:
        step = self.last_step
        if step > self.total_steps:
            raise ValueError(
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
            raise ValueError(
                "exactly one of `eta_min` and `eta_min_ratio` should be specified, but got "
                f"eta_min={eta_min}, eta_min_ratio={eta_min_ratio}"
            )
        if len(periods) != len(restart_weights):
            raise ValueError(
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


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauParamScheduler(_ParamScheduler):
    """Lowers the value when a metric of validation has stopped improving.

    :meth:`step` counts epochs; with metrics, after a validation, it judges them.

    Args:
        optimizer: An optimizer or an optimizer wrapper.
        param_name: The setting, for example ``'lr'``.
        monitor: Name of the metric.
        rule: ``'less'`` or ``'greater'``, which is better.
        factor: What the value is multiplied by, below 1.
        patience: Validations in a row without improvement that are borne.
        threshold: What counts as an improvement is better than the best by this.
        threshold_rule: ``'rel'``: by this share of the best; ``'abs'``: by this amount.
        cooldown: Validations after a change that are not judged.
        min_value: Lowest value, for all groups or a list with one for each.
        eps: Changes that are not greater are not made.
        begin, end, last_step, by_epoch, verbose: See :class:`_ParamScheduler`; ``by_epoch`` is
            True.

    Raises:
        TypeError: The metrics are no dict, or the monitored one is no number.
        ValueError: A setting is out of range.
        KeyError: The metrics lack the monitored one.
    """

    __slots__ = ()

    need_val_args = True

    best: float
    cooldown_counter: int
    num_bad_epochs: int
    settings = (
        *_ParamScheduler.settings,
        "monitor",
        "rule",
        "factor",
        "patience",
        "threshold",
        "threshold_rule",
        "cooldown",
        "min_values",
        "eps",
        "rule_worse",
    )
    progress = ("last_step", "_global_step", "best", "num_bad_epochs", "cooldown_counter")

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
        self._attach(optimizer)
        self.param_name = param_name
        if not by_epoch:
            raise ValueError(
                f"Now {type(self).__name__} only support by_epoch=True: validation follows epochs"
            )
        self.by_epoch = by_epoch
        self._set_range(begin, end)
        if factor >= 1.0:
            raise ValueError(f"Factor should be < 1.0. Got {factor}")
        self.factor = factor
        self._set_base_values(last_step)
        # What is set is the present value; first ones are kept for others only.
        del self.base_values
        self.min_values = self._lowest_values(min_value)
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.monitor = monitor
        self._init_is_better(rule=rule, threshold=threshold, threshold_rule=threshold_rule)
        self._reset()
        self.last_step = last_step
        _count_steps(optimizer)
        self._global_step = -1
        self.verbose = verbose
        self.step()

    def _lowest_values(self, min_value: float | Sequence[float]) -> list[float]:
        groups = self.optimizer.param_groups
        if not isinstance(min_value, list | tuple):
            return [min_value] * len(groups)  # type: ignore[list-item]  # a number, as just seen
        expected = len(_inner(self.optimizer).param_groups)
        if len(min_value) not in (expected, len(groups)):
            raise ValueError(f"expected {expected} min_lrs, got {len(min_value)}")
        # The wrapper's base settings follow the last group.
        return [*min_value, *[min_value[-1]] * (len(groups) - len(min_value))]

    def step(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Count an epoch, or judge the metrics of a validation.

        Args:
            metrics: Name -> number. None counts an epoch.
        """
        if metrics is None:
            if self._global_step == 0:
                self._check_order()
            self._global_step += 1
            self._known_values = None
            return
        if not isinstance(metrics, Mapping):
            raise TypeError(f"metrics type should be dict, but got type {type(metrics)}")
        if not self.begin <= self._global_step < self.end:
            return
        if metrics.get(self.monitor) is None:
            raise KeyError(
                f"Excepted key in {list(metrics.keys())}, but got key {self.monitor} is not in "
                "dict: set `monitor` to the name of a metric of validation"
            )
        metric = self._as_number(metrics[self.monitor])
        self.last_step += 1
        if self._is_better(metric, self.best):
            self.best = metric
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self._in_cooldown():
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0  # bad epochs do not count while it cools down
        if self.num_bad_epochs > self.patience:
            self._assign(self._get_value())
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
            if self.verbose:
                self._print_values()
        self._known_values = None

    def _as_number(self, value: Any) -> float:
        try:
            return float(value) if not isinstance(value, str) else _no_number(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"the metric {self.monitor!r} should be a number to be compared, but is {value!r}"
            ) from None

    def _get_value(self) -> list[Any]:
        lowered = [
            max(value * self.factor, low)
            for value, low in zip(self._values(), self.min_values, strict=False)
        ]
        return [
            new if old - new > self.eps else old
            for old, new in zip(self._values(), lowered, strict=False)
        ]

    def _in_cooldown(self) -> bool:
        return self.cooldown_counter > 0

    def _is_better(self, a: float, best: float) -> bool:
        if self.rule == "less" and self.threshold_rule == "rel":
            return a < best * (1.0 - self.threshold)
        if self.rule == "less":
            return a < best - self.threshold
        if self.threshold_rule == "rel":
            return a > best * (1.0 + self.threshold)
        return a > best + self.threshold

    def _init_is_better(self, rule: str, threshold: float, threshold_rule: str) -> None:
        if rule not in ("less", "greater"):
            raise ValueError(f"mode {rule} is unknown! rule should be 'less' or 'greater'")
        if threshold_rule not in ("rel", "abs"):
            raise ValueError(
                f"threshold mode {threshold_rule} is unknown! threshold_rule should be 'rel' or "
                "'abs'"
            )
        self.rule_worse = INF if rule == "less" else -INF
        self.rule = rule
        self.threshold = threshold
        self.threshold_rule = threshold_rule

    def _reset(self) -> None:
        self.best = self.rule_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0


_PLAIN = (str, int, float, list, tuple, dict, bool, type(None))


def _plain(value: Any) -> Any:
    if isinstance(value, Counter):
        return dict(value)
    return list(value) if isinstance(value, list) else value


def _shown(value: Any) -> Any:
    return sorted(value.elements()) if isinstance(value, Counter) else value


def _no_number(value: str) -> float:
    raise ValueError(value)


def _inner(optimizer: OptimizerType) -> Any:
    return optimizer.optimizer if isinstance(optimizer, BaseOptimWrapper) else optimizer


def _number(value: Any) -> Any:
    """Return a value that later changes of ``value`` in place leave alone."""
    return value.item() if isinstance(value, torch.Tensor) else value


def _set(group: dict[str, Any], name: str, value: Any) -> None:
    old = group[name]
    if isinstance(old, torch.Tensor):
        # Captured and compiled steps read this very tensor.
        old.fill_(value)
    else:
        group[name] = value


def _count_steps(optimizer: Any) -> None:
    """Let the optimizer count its steps, to tell whether it steps before its schedulers do."""
    if hasattr(optimizer.step, "_with_counter"):
        return
    method = optimizer.step
    reference = weakref.ref(optimizer)
    function = getattr(method, "__func__", None)

    @wraps(method)
    def counted(*args: Any, **kwargs: Any) -> Any:
        instance: Any = reference()
        instance._global_step += 1
        if function is None:
            return method(*args, **kwargs)
        # Through the reference: an optimizer that holds itself would never be freed.
        return function(instance, *args, **kwargs)

    counted._with_counter = True  # type: ignore[attr-defined]
    optimizer._global_step = -1
    optimizer.step = counted
