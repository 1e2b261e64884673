"""What all schedulers share: when they take effect, how they step, and what they save."""

from __future__ import annotations

import logging
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from mmx.logging import print_log
from mmx.optim.optimizer.base import BaseOptimWrapper
from mmx.utils.errors import InvalidTypeError, InvalidValueError

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
    __slots__ = ("__dict__", "__weakref__", "_announces_changes", "_given", "_known_values")
    _announces_changes: bool

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
            raise InvalidTypeError(f"last_step should be an int, but got {last_step!r}")
        if last_step < -1:
            raise InvalidValueError(
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
            raise InvalidTypeError(
                "``optimizer`` should be an Optimizer or OptimWrapper, but got "
                f"{type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        self._known_values: list[Any] | None = None
        self._given: dict[str, Any] = {}

    def _set_range(self, begin: int, end: int) -> None:
        if end <= begin:
            raise InvalidValueError(
                f"end should be larger than begin, but got begin={begin}, end={end}"
            )
        self.begin = begin
        self.end = end

    def _set_base_values(self, last_step: int) -> None:
        """Keep the first values in the groups, or read them from there to resume."""
        name = self.param_name
        key = f"initial_{name}"
        groups = self.optimizer.param_groups
        if not isinstance(groups, list):
            raise InvalidTypeError(
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
            raise InvalidValueError(
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
        # Who is going to restore this run's settings says so, and what it did.
        if not changes or not getattr(self, "_announces_changes", True):
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
            raise InvalidValueError(
                "Only epoch-based kwargs whose `by_epoch=True` can be converted to iter-based: "
                "drop convert_to_iter_based, or set by_epoch=True"
            )
        if epoch_length is None or epoch_length <= 0:
            raise InvalidValueError(
                f"`epoch_length` must be a positive integer, but got {epoch_length}."
            )
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


_PLAIN = (str, int, float, list, tuple, dict, bool, type(None))


def _plain(value: Any) -> Any:
    if isinstance(value, Counter):
        return dict(value)
    return list(value) if isinstance(value, list) else value


def _shown(value: Any) -> Any:
    return sorted(value.elements()) if isinstance(value, Counter) else value


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
