"""Iterations in which hooks do no more than record: one function for training, one for evaluation.

Between two real steps hardly anything of the engine stays in the processor's caches, so that each
function, object and page that an iteration touches costs several times what it costs in a tight
loop. What happens in nearly all iterations is therefore done here without the calls in between:
what :class:`~mmx.hooks.RuntimeInfoHook` and :class:`~mmx.hooks.IterTimerHook` record, and what
:class:`~mmx.model.BaseModel`, :class:`~mmx.optim.OptimWrapper` and :class:`~mmx.evaluator.Evaluator`
do where there is nothing to move, normalise, add up, accumulate or clip. Other hooks are called as
ever, unless they say for how many iterations they have nothing to do
(:meth:`Hook.idle_iters <mmx.hooks.Hook.idle_iters>`). Anything unusual is left to the parts
themselves, so that both ways leave the same behind.

A hook that replaces a part of the run (the model, a method, another hook) finds it replaced at
once. What a model or a data set replaces while it runs counts from the next log line on, if that is
half a second later or more, and after 4,096 iterations in any case.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from mmx.evaluator import Evaluator
from mmx.evaluator.evaluator import PLAIN_KINDS
from mmx.hooks import Hook, LoggerHook
from mmx.logging.logger import TOGETHER_S, MMLogger
from mmx.model import BaseDataPreprocessor, BaseModel, MMDistributedDataParallel
from mmx.optim import OptimWrapper
from mmx.runner.dispatch import HookCall, QuietCalls, dispatch_of
from mmx.runner.log_processor import LogProcessor
from mmx.runner.state import RunStopped
from mmx.utils.misc import class_has_methods

if TYPE_CHECKING:
    from mmx.runner.eval_loops import _EvalLoop
    from mmx.runner.train_loops import _TrainLoop

# What an iteration records waits in lists; after so many the hub takes it over.
_LONGEST = 4096


def _methods(cls: type, *names: str) -> dict[str, Any]:
    """Return methods as they are defined, whatever is put in their place later."""
    return {name: vars(cls)[name] for name in names}


# What is done here instead of calling it.
_CALL = _methods(nn.Module, "__call__", "_wrapped_call_impl", "_call_impl")
_TRAIN_STEP = _methods(BaseModel, "train_step", "parse_losses", "_run_forward")
_PREDICT = {
    mode: _methods(BaseModel, f"{mode}_step", "_predict", "_run_forward")
    for mode in ("val", "test")
}
_UPDATE = _methods(
    OptimWrapper,
    *("optim_context", "update_params", "scale_loss", "backward", "should_update", "step"),
    "zero_grad",
)
_PROCESS = _methods(Evaluator, "process")
_OF_WRAPPER = _methods(
    MMDistributedDataParallel,
    *("train_step", "val_step", "test_step", "_run_forward", "_forward_with"),
)
# Of a model's methods, those that may have been replaced on the instance.
_OF_MODEL = _TRAIN_STEP.keys() | _PREDICT["val"].keys() | _PREDICT["test"].keys()
# Others may have put something in the place of torch's own before this module was imported.
_IS_TORCHS_CALL = all(c.__code__.co_filename == torch_module.__file__ for c in _CALL.values())


class _Quiet:
    """What quiet training and quiet evaluation share.

    Args:
        loop: The loop whose iterations these are.
        mode: ``train``, ``val`` or ``test``.
        model_methods: What is done here instead of calling it: the methods of the model.
        others: Those of the part that goes on with what it returns.
    """

    def __init__(
        self, loop: Any, mode: str, model_methods: dict[str, Any], others: dict[str, Any]
    ) -> None:
        self._loop = loop
        self._tables = model_methods, others
        self._runner: Any = loop.runner
        self._mode = mode
        self._before, self._after = f"before_{mode}_iter", f"after_{mode}_iter"
        # None: the runner calls hooks in a way of its own.
        self._dispatch = dispatch_of(self._runner)
        # What :meth:`_iterations` has found: the calls of each iteration, and of the last one.
        self._calls: Any = None
        self._last_calls: Any = None
        # What is due is a log line, after which nothing has changed.
        self._is_only_logged = False
        # The classes that were looked at last, and whether all their methods are the usual ones.
        self._kinds: tuple[type, ...] = ()
        self._are_plain: tuple[bool, ...] = ()
        # Iterations whose records nobody may have asked for.
        self._waiting = 0
        # Lines that wait until the next one half a second after the latest, and who logs them.
        self._lines: list[Any] = []
        self._logs: Any = None
        self._line_at = 0.0

    def _iterations(self, batch_idx: int, limit: int) -> int:
        """Return how many iterations can be done here, up to one in which a sleeping hook is due.

        Args:
            batch_idx: Index of the batch that comes next.
            limit: The most that are wanted.
        """
        if limit <= 0 or self._dispatch is None or self._runner._state.stage is not None:
            return 0
        number = limit
        awake: list[Hook] = []
        due: list[Hook] = []
        for hook in self._dispatch.sleepers(self._mode):
            idle = hook.idle_iters(self._runner, batch_idx, self._mode)
            if idle is None:
                awake.append(hook)
            elif idle + 1 < number:
                number = idle + 1
                due = [hook]
            elif idle + 1 == number:
                due.append(hook)
        self._calls = self._dispatch.quiet_calls(self._mode, tuple(awake))
        self._last_calls = self._dispatch.quiet_calls(self._mode, (*awake, *due))
        self._is_only_logged = (
            len(due) == 1
            and type(due[0]) is LoggerHook
            and isinstance(self._runner.log_processor, LogProcessor)
            and self._runner.log_processor.can_wait()
            and isinstance(self._runner.logger, MMLogger)
        )
        return number if self._calls is not None and self._are_ready(self._calls) else 0

    def _are_ready(self, calls: QuietCalls) -> bool:
        """Tell whether the hooks that record have found their short ways to the hub."""
        raise NotImplementedError

    def _call_before(self, calls: Sequence[HookCall], idx: int, batch: Any) -> None:
        """Call hooks before an iteration, as the runner does."""
        runner = self._runner
        runner._state.stage = self._before
        for call in calls:
            call(runner, batch_idx=idx, data_batch=batch)
        runner._state.stage = None

    def _call_after(self, calls: Sequence[HookCall], idx: int, batch: Any, outputs: Any) -> None:
        """Call hooks after an iteration, as the runner does."""
        runner = self._runner
        runner._state.stage = self._after
        for call in calls:
            call(runner, batch_idx=idx, data_batch=batch, outputs=outputs)
        runner._state.stage = None

    def _look_at(self, kinds: tuple[type, ...]) -> None:
        """Find out whether the classes of a model and of the other part have the usual methods."""
        self._kinds = kinds
        model, other = kinds
        of_model, of_other = self._tables
        self._are_plain = (
            all(class_has_methods(model, methods) for methods in (of_model, _CALL))
            and class_has_methods(MMDistributedDataParallel, _OF_WRAPPER | _CALL),
            class_has_methods(other, of_other),
        )

    def _postpone(self, line: Any) -> None:
        """Let a line wait; it is logged before anything is said or set that belongs behind it."""
        if not self._lines:
            self._logs = self._last_calls
            self._runner.message_hub.before_change(self._log_lines)
            self._runner.logger.before_message(self._log_lines)
        self._lines.append(line)

    def _log_lines(self) -> None:
        """Log the lines that wait, each as of its iteration."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        self._runner.message_hub.before_change(None)
        self._runner.logger.before_message(None)
        try:
            with self._runner.logger.together() as show_time:
                self._log(lines, show_time)
        finally:
            self._line_at = time.time()

    def _log(self, lines: Sequence[Any], show_time: Callable[[float], None]) -> None:
        """Call the hooks that log, for each line when no more is known than was when it was due.

        Args:
            lines: The lines.
            show_time: To be called with the time of each.
        """
        raise NotImplementedError

    def _count(self, done: int) -> None:
        """Let the hub take over what waits, should nobody have asked for it."""
        self._waiting += done
        if self._waiting >= _LONGEST:
            self._waiting = 0
            self._runner.message_hub.flush()


class _Line(NamedTuple):
    """A log line that waits: what it is to find when it is logged."""

    batch_idx: int
    iteration: int
    at: float
    train_seconds: float
    mark: tuple[int, ...]


class QuietTraining(_Quiet):
    """Quiet training iterations.

    Args:
        loop: The training loop.
    """

    def __init__(self, loop: _TrainLoop) -> None:
        super().__init__(loop, "train", _TRAIN_STEP, _UPDATE)
        self._names: tuple[str, ...] = ("loss",)
        # The iteration that is under way, and the one that the hub knows of.
        self._iter = self._told = 0

    def _are_ready(self, calls: QuietCalls) -> bool:
        info: Any = calls.info
        return (
            info.short_ways(self._runner) is not None
            and calls.timer.short_ways(self._runner, "train") is not None
        )

    def run(self, batches: Iterator[Any], first: int, limit: int) -> int:
        """Train on the next batches, for as long as all is quiet.

        Args:
            batches: Where they come from.
            first: ``batch_idx`` of the first of them.
            limit: On how many at most.

        Returns:
            On how many it has trained; 0 if the next iteration is none of these.

        Raises:
            RunStopped: A signal asked for it.
        """
        limit = min(limit, _LONGEST)
        number = self._iterations(first, limit)
        if not number:
            return 0
        runner, loop, calls = self._runner, self._loop, self._calls
        state, stop = loop._state, loop._stop
        alone = stop.alone
        first_before, then_before, first_after, then_after = calls.busy
        is_watched = any(calls.busy)
        situation = self._situation()
        model, wrapper, optimizer, hub, _, _, forward = situation
        step = model.train_step
        module = _unwrapped(model)
        rates, log_rate = calls.info.short_ways(runner)
        log_data_time, log_time = (w.append for w in calls.timer.short_ways(runner, "train"))
        rows, names, log_loss = self._rows()
        clock = calls.timer.clock
        clock.mode = "train"
        before, spent = clock.t, clock.train_seconds
        is_line = False
        # Iterations after which the ranks have nothing to agree on, and how many of them were done.
        free, skipped = (0 if alone else stop.free_iters()), 0
        now = time.time
        last = first + number - 1
        iteration = state.iter
        self._iter = self._told = iteration - 1
        idx = first - 1
        hub.defer_facts(self._tell)
        try:
            for idx, batch in enumerate(islice(batches, limit), first):
                if idx == last:
                    clock.t, clock.train_seconds, clock.done = before, spent, iteration
                    is_line = self._is_only_logged and not is_watched
                    if not is_line:
                        self._log_lines()
                        first_before, then_before, first_after, then_after = self._last_calls.busy
                        is_watched = any(self._last_calls.busy)
                if first_before:
                    self._call_before(first_before, idx, batch)
                    if self._situation() != situation:
                        stop.skip_iters(skipped)
                        skipped = 0
                        recording = calls.info.before_train_iter, calls.timer.before_train_iter
                        self._end_as_ever(idx, batch, [*recording, *then_before])
                        return idx + 1 - first
                self._iter = iteration
                rate = rates.param_groups[0]["lr"]
                if rate.__class__ is float:
                    log_rate(rate)
                else:
                    hub.update_scalar("train/lr", rate)
                log_data_time(now() - before)
                if then_before:
                    self._call_before(then_before, idx, batch)
                    if self._situation() != situation:
                        stop.skip_iters(skipped)
                        skipped = 0
                        self._end_as_ever(idx, batch, [])
                        return idx + 1 - first

                loss: Any = None
                outputs: Any = None
                if forward is not None and batch.__class__ is dict:
                    for value in batch.values():
                        if value.__class__ is not Tensor or not value.is_cpu:
                            outputs = step(batch, optim_wrapper=wrapper)
                            break
                    else:
                        losses = forward(**batch, mode="loss")
                        if losses.__class__ is dict and len(losses) == 1:
                            loss = losses.get("loss")
                        if loss.__class__ is Tensor and not loss.dim():
                            loss.backward()
                            wrapper._inner_count += 1
                            optimizer.step()
                            optimizer.zero_grad()
                            if is_watched:
                                outputs = {"loss": loss.detach()}
                        else:
                            loss = None
                            total, outputs = module.parse_losses(losses)
                            wrapper.update_params(total)
                else:
                    outputs = step(batch, optim_wrapper=wrapper)

                if first_after:
                    self._call_after(first_after, idx, batch, outputs)
                if loss is not None and log_loss is not None and rows.open_for is names:
                    log_loss(loss.item())
                else:
                    if loss is not None:
                        outputs = {"loss": loss.detach()}
                    if (
                        outputs is None
                        or rows.open_for is not names
                        or tuple(outputs) != names
                        or not rows.append(outputs)
                    ):
                        calls.info.after_train_iter(runner, idx, batch, outputs)
                        rows, names, log_loss = self._rows(outputs)
                after = now()
                seconds = after - before
                log_time(seconds)
                before = after
                spent += seconds
                if is_watched:
                    clock.t, clock.train_seconds, clock.done = after, spent, iteration + 1
                if then_after:
                    self._call_after(then_after, idx, batch, outputs)
                if is_line:
                    self._postpone(_Line(idx, iteration, after, spent, hub.mark()))

                iteration += 1
                state.iter = iteration
                if alone:
                    if state.stop_signal:
                        raise RunStopped(stop.signal)
                elif skipped < free:
                    skipped += 1
                else:
                    stop.skip_iters(skipped)
                    skipped = 0
                    if stop.poll():
                        raise RunStopped(stop.signal)
                    free = stop.free_iters()
                # A log line changes nothing, but is an occasion to look.
                if is_line and after - self._line_at >= TOGETHER_S:
                    self._log_lines()
                    is_watched = True
                if is_watched and self._situation() != situation:
                    break
                if idx == last:
                    is_line = False
                    number = self._iterations(idx + 1, first + limit - idx - 1)
                    if not number or self._calls is not calls:
                        break
                    last += number
                    first_before, then_before, first_after, then_after = calls.busy
                    is_watched = any(calls.busy)
        except RuntimeError as error:
            better = model.explain(error) if module is not model else None
            if better is None:
                raise
            raise better from error
        finally:
            if idx >= first and not is_watched:
                clock.t, clock.train_seconds, clock.done = before, spent, iteration
            stop.skip_iters(skipped)
            try:
                self._log_lines()
            finally:
                hub.end_deferring(self._tell)
                self._count(idx + 1 - first)
        return idx + 1 - first

    def _log(self, lines: Sequence[_Line], show_time: Callable[[float], None]) -> None:
        hub = self._runner.message_hub
        state, clock = self._loop._state, self._calls.timer.clock
        now = state.iter, self._iter, clock.t, clock.train_seconds, clock.done

        def log(number: int) -> None:
            line = lines[number]
            state.iter = self._iter = line.iteration
            clock.t, clock.train_seconds = line.at, line.train_seconds
            clock.done = line.iteration + 1
            show_time(line.at)
            for hooks in self._logs.busy[2:]:
                self._call_after(hooks, line.batch_idx, None, None)

        try:
            hub.replay([line.mark for line in lines], log)
        finally:
            state.iter, self._iter, clock.t, clock.train_seconds, clock.done = now

    def _situation(self) -> tuple[Any, ...]:
        """Return all that a hook may have changed, as :meth:`run` wants it."""
        runner, loop = self._runner, self._loop
        model, wrapper = runner.model, runner.optim_wrapper
        kinds = type(_unwrapped(model)), type(wrapper)
        if kinds != self._kinds:
            self._look_at(kinds)
        is_plain = (
            self._are_plain == (True, True)
            and wrapper._accumulative_counts == 1
            and not wrapper.clip_grad_kwargs
            and vars(wrapper).keys().isdisjoint(_UPDATE)
        )
        return (
            *(model, wrapper, getattr(wrapper, "optimizer", None), runner.message_hub),
            self._calls.is_current,
            loop.stop_training or not model.training,
            _plain_call(model, trains=True) if is_plain else None,
        )

    def _end_as_ever(self, idx: int, batch: Any, before: Sequence[HookCall]) -> None:
        """Go on with an iteration some of whose first hooks have changed something."""
        runner = self._runner
        self._call_before(before, idx, batch)
        outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
        runner.call_hook(self._after, batch_idx=idx, data_batch=batch, outputs=outputs)
        self._loop._state.iter += 1
        if self._loop._stop.poll():
            raise RunStopped(self._loop._stop.signal)

    def _rows(self, outputs: Any = None) -> tuple[Any, tuple[str, ...], Any]:
        """Return what collects losses of the names of the latest, those names, and a short way.

        The short way is for the number of a single loss. Names that it is no longer open for are
        no longer the same object.
        """
        if outputs is not None:
            self._names = tuple(outputs)
        rows = self._runner.message_hub.row_group("train/", self._names)
        if rows is None or rows.open_for is None:
            return _CLOSED, (), None
        return rows, rows.open_for, rows.values.append if rows.open_for == ("loss",) else None

    def _tell(self, facts: dict[str, Any]) -> None:
        """Tell the hub the iteration, unless it knows it: others may have set it since."""
        if self._told != self._iter:
            self._told = facts["iter"] = self._iter


class _Closed:
    """Collects nothing."""

    open_for = None


_CLOSED = _Closed()


class QuietEvaluation(_Quiet):
    """Quiet iterations of a validation or test.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: _EvalLoop) -> None:
        super().__init__(loop, loop.mode, _PREDICT[loop.mode], _PROCESS)
        # When each batch was there, and when its iteration had ended; and iterations whose times
        # are logged.
        self._stamps: list[float] = []
        self._done = 0

    def _iterations(self, batch_idx: int, limit: int) -> int:
        # The first iteration of each data set is left to the hooks.
        return super()._iterations(batch_idx, limit) if batch_idx else 0

    def _are_ready(self, calls: QuietCalls) -> bool:
        return calls.timer.short_ways(self._runner, self._mode) is not None

    def run(self, batches: Iterator[Any], first: int, alone: bool) -> int:
        """Evaluate the model on the next batches, for as long as all is quiet.

        Gradients are disabled already.

        Args:
            batches: Where they come from.
            first: ``batch_idx`` of the first of them.
            alone: There is no other rank, so that a signal ends the run at once.

        Returns:
            On how many it has been evaluated; 0 if the next iteration is none of these.

        Raises:
            RunStopped: A signal asked for it.
        """
        limit = _LONGEST
        number = self._iterations(first, limit)
        if not number:
            return 0
        runner, loop, calls = self._runner, self._loop, self._calls
        state = runner._state
        first_before, then_before, first_after, then_after = calls.busy
        is_watched_before = bool(first_before or then_before)
        is_watched = any(calls.busy)
        situation = self._situation()
        _, _, _, _, evaluator, metrics, forward = situation
        calls.timer.clock.mode = self._mode
        now = time.time
        stamps = self._stamps
        stamp = stamps.append
        is_line = False
        last = first + number - 1
        self._done = first
        idx = first - 1
        try:
            for idx, batch in enumerate(islice(batches, limit), first):
                if idx == last:
                    is_line = self._is_only_logged and not is_watched
                    if not is_line:
                        self._log_lines()
                        first_before, then_before, first_after, then_after = self._last_calls.busy
                        is_watched_before = bool(first_before or then_before)
                        is_watched = any(self._last_calls.busy)
                if first_before:
                    self._call_before(first_before, idx, batch)
                stamp(now())
                if then_before:
                    self._call_before(then_before, idx, batch)
                if is_watched_before and self._situation() != situation:
                    self._end_as_ever(idx, batch)
                    break

                is_taken = False
                if forward is not None and batch.__class__ is dict:
                    for value in batch.values():
                        if value.__class__ is not Tensor or not value.is_cpu:
                            outputs = loop._step(batch)
                            break
                    else:
                        outputs = forward(**batch, mode="predict")
                        is_taken = metrics is not None and outputs.__class__ is list
                        if is_taken and {*map(type, outputs)} <= PLAIN_KINDS:
                            for metric in metrics:
                                metric.process(batch, outputs)
                        else:
                            is_taken = False
                            outputs = loop._without_losses(outputs)
                else:
                    outputs = loop._step(batch)
                if not is_taken:
                    evaluator.process(data_samples=outputs, data_batch=batch)

                if first_after:
                    self._call_after(first_after, idx, batch, outputs)
                stamp(now())
                if is_watched:
                    self._log_times(idx + 1)
                if then_after:
                    self._call_after(then_after, idx, batch, outputs)
                if is_line:
                    self._postpone(idx)
                if alone and state.stop_signal:
                    raise RunStopped(state.stop_signal)
                # A log line changes nothing, but is an occasion to look.
                if is_line and stamps[-1] - self._line_at >= TOGETHER_S:
                    self._log_lines()
                    is_watched = True
                if is_watched and self._situation() != situation:
                    break
                if idx == last:
                    is_line = False
                    number = self._iterations(idx + 1, first + limit - idx - 1)
                    if not number or self._calls is not calls:
                        break
                    last += number
                    first_before, then_before, first_after, then_after = calls.busy
                    is_watched_before = bool(first_before or then_before)
                    is_watched = any(calls.busy)
        finally:
            try:
                self._log_lines()
            finally:
                self._log_times(idx + 1)
                stamps.clear()  # of an iteration that failed
                self._count(idx + 1 - first)
        return idx + 1 - first

    def _log(self, lines: Sequence[int], show_time: Callable[[float], None]) -> None:
        for idx in lines:
            self._log_times(idx + 1)
            show_time(self._calls.timer.clock.t)
            for hooks in self._logs.busy[2:]:
                self._call_after(hooks, idx, None, None)

    def _log_times(self, done: int) -> None:
        """Log what the stamps say of the iterations before ``done``, and forget these stamps."""
        stamps = self._stamps
        size = min(2 * (done - self._done), len(stamps) // 2 * 2)
        if not size:
            return
        timer = self._calls.timer
        clock = timer.clock
        ends = stamps[1:size:2]
        begins = [clock.t, *ends[:-1]]
        times = list(map(operator.sub, ends, begins))
        logged_waits, logged_times = timer.short_ways(self._runner, self._mode)
        logged_waits.extend(map(operator.sub, stamps[:size:2], begins))
        logged_times.extend(times)
        self._done += len(ends)
        clock.t, clock.done = ends[-1], self._done
        clock.eval_seconds = sum(times, clock.eval_seconds)
        del stamps[:size]

    def _situation(self) -> tuple[Any, ...]:
        """Return all that a hook may have changed, as :meth:`run` wants it."""
        runner, loop = self._runner, self._loop
        model, evaluator = runner.model, loop.evaluator
        kinds = type(_unwrapped(model)), type(evaluator)
        if kinds != self._kinds:
            self._look_at(kinds)
        is_plain = self._are_plain[0] and not loop.with_loss
        takes_all = self._are_plain[1] and "process" not in vars(evaluator)
        return (
            *(model, runner.message_hub, self._calls.is_current),
            torch.is_grad_enabled(),
            *(evaluator, evaluator.metrics if takes_all else None),
            _plain_call(model, trains=False) if is_plain else None,
        )

    def _end_as_ever(self, idx: int, batch: Any) -> None:
        """Go on with an iteration whose first hooks have changed something."""
        timer = self._calls.timer
        logged_waits, _ = timer.short_ways(self._runner, self._mode)
        logged_waits.append(self._stamps.pop() - timer.clock.t)
        outputs = self._loop._step(batch)
        self._loop.evaluator.process(data_samples=outputs, data_batch=batch)
        self._runner.call_hook(self._after, batch_idx=idx, data_batch=batch, outputs=outputs)


def _unwrapped(model: Any) -> Any:
    """Return the model in a wrapper of data parallelism, or the model itself."""
    return model._modules["module"] if type(model) is MMDistributedDataParallel else model


def _plain_call(model: Any, trains: bool) -> Any:
    """Return what calls a model with its batches as they are; None if they do not stay so.

    Args:
        model: Of usual classes; it may be wrapped for data parallelism.
        trains: The call is one of training, so that it goes through the wrapper.
    """
    module = _unwrapped(model)
    preprocess: Any = module._modules.get("data_preprocessor")
    if (
        preprocess.__class__ is not BaseDataPreprocessor
        or not preprocess.leaves_as_is({})  # which looks for global hooks of modules, too
        or not vars(module).keys().isdisjoint(_OF_MODEL)
    ):
        return None
    if module is model:
        return _shortest_call(model)
    if model.detect_anomalous_params or not vars(model).keys().isdisjoint(_OF_WRAPPER):
        return None
    return _shortest_call(model if trains else module)


def _shortest_call(module: nn.Module) -> Any:
    """Return the ``forward`` of a module if a call of it does no more, else the module."""
    does_more = (
        module._compiled_call_impl is not None
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or not _IS_TORCHS_CALL
        or torch._C._get_tracing_state()
    )
    return module if does_more else module.forward
