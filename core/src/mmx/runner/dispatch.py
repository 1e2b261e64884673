"""Which hooks run at which stage, looked up once instead of at every call."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mmx.hooks import IterTimerHook, RuntimeInfoHook
from mmx.hooks.hook import Hook
from mmx.runner.state import TrainState

HookCall = Callable[..., Any]

_STAGES = frozenset(Hook.stages)
_WHOLE_STAGES = frozenset(stage for stage in _STAGES if not stage.endswith("_iter"))
_HOOK_API = frozenset(dir(Hook))
# A method of a hook that begins like this was most likely meant to be called by the engine.
_STAGE_PREFIXES = ("before_", "after_")
# Older engines called these; their users are told the new name.
_RENAMED = {
    "before_epoch": "_before_epoch (all modes) or before_train_epoch",
    "after_epoch": "_after_epoch (all modes) or after_train_epoch",
    "before_iter": "_before_iter (all modes) or before_train_iter",
    "after_iter": "_after_iter (all modes) or after_train_iter",
}


class HookList(list[Any]):
    """A list of hooks that tells when it has been changed; else it is a list like any other."""

    def __init__(self, hooks: Iterable[Any], changed: Callable[[Iterable[Any]], None]) -> None:
        super().__init__(hooks)
        self._changed = changed

    def __reduce_ex__(self, protocol: Any) -> Any:
        return list, (list(self),)


def _telling(name: str) -> Callable[..., Any]:
    change = getattr(list, name)

    @functools.wraps(change)
    def changed(self: HookList, *args: Any, **kwargs: Any) -> Any:
        result = change(self, *args, **kwargs)
        self._changed(self)
        return result

    return changed


for _name in (
    *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse"),
    *("__setitem__", "__delitem__", "__iadd__"),
):
    setattr(HookList, _name, _telling(_name))


@dataclass(slots=True, eq=False)
class QuietCalls:
    """How hooks take part in iterations in which the usual ones do no more than record.

    Attributes:
        info: The hook that records losses and rates; None in evaluation.
        timer: The hook that records times.
        busy: What is to be called all the same: before the iteration, ahead of the recording and
            after it; then the same after the iteration.
        is_current: False once hooks have come or gone.
    """

    info: RuntimeInfoHook | None
    timer: IterTimerHook
    busy: list[list[HookCall]]
    is_current: bool = True


class Dispatch:
    """The table stage -> bound methods, in the order in which they run.

    Only methods that a hook really overrides are in it, so that a hook costs nothing at the
    stages it does not use. Lists are replaced and never changed, so that registering a hook during
    a stage calls none of the others twice; the table itself is never replaced.
    """

    def __init__(self) -> None:
        self._hooks: list[Any] = []
        # By mode, and by mode and the hooks that want to be called.
        self._sleepers: dict[str, list[Hook]] = {}
        self._quiet: dict[tuple[str, tuple[Hook, ...]], QuietCalls | None] = {}
        self.table: dict[str, list[HookCall]] = {stage: [] for stage in Hook.stages}

    def rebuild(self, hooks: Iterable[Any]) -> None:
        """Take over a new set of hooks, in their order."""
        self._hooks = list(hooks)
        for calls in self._quiet.values():
            if calls is not None:
                calls.is_current = False
        self._quiet.clear()
        self._sleepers.clear()
        for stage in self.table:
            self.table[stage] = self._calls_of(stage)

    def __getitem__(self, stage: str) -> list[HookCall]:
        """Return the calls of a stage; any name may be a stage of a custom loop."""
        calls = self.table.get(stage)
        if calls is None:
            calls = self.table[stage] = self._calls_of(stage)
        return calls

    def _calls_of(self, stage: str) -> list[HookCall]:
        calls = [_call_of(hook, stage) for hook in self._taking_part(stage)]
        return calls if stage in _STAGES else [_without_runner(call) for call in calls]

    def _taking_part(self, stage: str) -> list[Any]:
        return [hook for hook in self._hooks if _takes_part(hook, stage)]

    def sleepers(self, mode: str) -> list[Hook]:
        """Return the hooks of a mode's iterations that say when they have nothing to do."""
        found = self._sleepers.get(mode)
        if found is None:
            before, after = _iter_stages(mode)
            hooks = [*self._taking_part(before), *self._taking_part(after)]
            found = [hook for hook in dict.fromkeys(hooks) if _says_idle(hook, (before, after))]
            self._sleepers[mode] = found
        return found

    def quiet_calls(self, mode: str, awake: tuple[Hook, ...] = ()) -> QuietCalls | None:
        """Return how hooks take part in quiet iterations.

        Args:
            mode: ``train``, ``val`` or ``test``.
            awake: Those of :meth:`sleepers` that are called.

        Returns:
            None if the hooks that record have been replaced, or others stand between them.
        """
        key = mode, awake
        if key not in self._quiet:
            self._quiet[key] = self._quiet_calls(mode, awake)
        return self._quiet[key]

    def _quiet_calls(self, mode: str, awake: tuple[Hook, ...]) -> QuietCalls | None:
        kinds = [RuntimeInfoHook, IterTimerHook] if mode == "train" else [IterTimerHook]
        recorders: list[Any] = []
        for kind in kinds:
            found = [hook for hook in self._hooks if type(hook) is kind and not _own_stages(hook)]
            recorders += found[:1]
        if len(recorders) != len(kinds):
            return None
        asleep = [hook for hook in self.sleepers(mode) if hook not in awake]
        busy = []
        for stage in _iter_stages(mode):
            hooks = [hook for hook in self._taking_part(stage) if hook not in asleep]
            place = hooks.index(recorders[0])
            behind = place + len(recorders)
            if hooks[place:behind] != recorders:
                return None
            busy += [[_call_of(h, stage) for h in hooks[:place]]]
            busy += [[_call_of(h, stage) for h in hooks[behind:]]]
        info = recorders[0] if mode == "train" else None
        return QuietCalls(info, recorders[-1], busy)


class HookCaller:
    """The part of a runner that calls hooks."""

    _dispatch: Dispatch
    _state: TrainState

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call a stage of all hooks that have it, in order of priority.

        A hook that is registered meanwhile takes part after the others; in the stages of an
        iteration, and in those of custom loops, from the next time on.

        Args:
            fn_name: Name of the stage; a loop may call stages of its own.
            **kwargs: Handed to the hooks after the runner.
        """
        state = self._state
        is_inner = state.stage is not None  # a stage inside a stage: the outer one counts
        if not is_inner:
            state.stage = fn_name
        calls = self._dispatch[fn_name]
        for call in calls:
            call(self, **kwargs)
        # The calls of other stages are made anew with the list, and would seem to be newcomers.
        if self._dispatch[fn_name] is not calls and fn_name in _WHOLE_STAGES:
            self._call_newcomers(fn_name, calls, kwargs)
        if not is_inner:
            state.stage = None

    def _call_newcomers(self, fn_name: str, called: list[HookCall], kwargs: dict[str, Any]) -> None:
        called = list(called)
        while newcomers := [call for call in self._dispatch[fn_name] if call not in called]:
            for call in newcomers:
                called.append(call)
                call(self, **kwargs)


def dispatch_of(runner: Any) -> Dispatch | None:
    """Return where ``runner.call_hook`` looks, for loops that call hooks themselves.

    None if the runner calls hooks in a way of its own.
    """
    method = getattr(getattr(runner, "call_hook", None), "__func__", None)
    if method is not HookCaller.call_hook:
        return None
    dispatch: Dispatch = runner._dispatch
    return dispatch


def _without_runner(call: HookCall) -> HookCall:
    """Adapt a method of a custom loop's stage that does not take the runner.

    The documented example declares its hooks that way; the stages of the engine always get it.
    """
    try:
        first = next(iter(inspect.signature(call).parameters), None)
    except (TypeError, ValueError):
        return call
    if first is None or first == "runner":
        return call if first else lambda runner, **kwargs: call(**kwargs)

    def adapted(runner: Any, **kwargs: Any) -> Any:
        return call(**kwargs) if first in kwargs else call(runner, **kwargs)

    return adapted


def _call_of(hook: Any, stage: str) -> HookCall:
    """Return the bound method of a stage, or the one for all modes where that is all there is."""
    call: HookCall = getattr(hook, stage)
    generic = _generic_of(stage)
    # Epochs are few, and their generic methods do not take the metrics.
    if stage.endswith("_iter") and getattr(call, "__func__", None) is getattr(Hook, stage, None):
        return functools.partial(getattr(hook, str(generic)), mode=stage.split("_")[1])
    return call


def _iter_stages(mode: str) -> tuple[str, str]:
    return f"before_{mode}_iter", f"after_{mode}_iter"


def _own_stages(hook: Hook) -> bool:
    """Tell whether methods of a hook have been replaced on the instance."""
    return any(name.endswith("_iter") and callable(value) for name, value in vars(hook).items())


def _says_idle(hook: Any, stages: Iterable[str]) -> bool:
    """Tell whether what a hook says of its idle iterations was meant for what it does in them."""
    if not isinstance(hook, Hook) or _own_stages(hook):
        return False
    order = type(hook).__mro__
    says = next(place for place, cls in enumerate(order) if "idle_iters" in vars(cls))
    for stage in stages:
        for name in (stage, _generic_of(stage)):
            if next(place for place, cls in enumerate(order) if str(name) in vars(cls)) < says:
                return False
    return order[says] is not Hook


def _takes_part(hook: Any, stage: str) -> bool:
    # Stand-ins may call themselves hooks without being one.
    if stage not in _STAGES or not issubclass(type(hook), Hook):
        return hasattr(hook, stage)
    if stage in vars(hook):  # replaced on the instance
        return True
    cls = type(hook)
    if getattr(cls, stage) is not getattr(Hook, stage):
        return True
    generic = _generic_of(stage)
    if generic is None:
        return False
    return generic in vars(hook) or getattr(cls, generic) is not getattr(Hook, generic)


def _generic_of(stage: str) -> str | None:
    when, _, what = stage.partition("_")
    _, _, span = what.partition("_")
    name = f"_{when}_{span}"
    return name if span in ("iter", "epoch") else None


def warn_of_misspelled_stages(hook: Any, extra_stages: Iterable[str] = ()) -> None:
    """Warn about methods that look like a stage but that nothing will ever call.

    A custom loop may call stages of its own, so that a name which resembles no documented stage
    is left alone.

    Args:
        hook: The hook to look at.
        extra_stages: Further names that the loops of this run call.
    """
    known = _STAGES | set(extra_stages)
    for name, _ in inspect.getmembers_static(type(hook), inspect.isfunction):
        if name in _HOOK_API or name in known or name.startswith("__"):
            continue
        where = f"{type(hook).__module__}.{type(hook).__qualname__}.{name}"
        if name in _RENAMED:
            warnings.warn(
                f"{where} is never called: the stage is named {_RENAMED[name]}", stacklevel=3
            )
            continue
        near = difflib.get_close_matches(name, _STAGES, n=1, cutoff=0.88)
        if near and _resembles_stage(name):
            warnings.warn(
                f"{where} is no stage of the engine and is never called unless a loop of yours "
                f"calls it; did you mean {near[0]!r}?",
                stacklevel=3,
            )


def _resembles_stage(name: str) -> bool:
    if name.startswith(_STAGE_PREFIXES):
        return True
    head = name.split("_")[0]
    return bool(difflib.get_close_matches(head, ("before", "after"), n=1, cutoff=0.7))
