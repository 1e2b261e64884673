"""Quiet training iterations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from mmx.runner.dispatch import HookCall, QuietCalls
from mmx.runner.quiet.base import Quiet
from mmx.runner.quiet.usual import TRAIN_STEP, UPDATE, plain_call, unwrapped
from mmx.runner.state import RunStopped

if TYPE_CHECKING:
    from mmx.runner.train_loops import _TrainLoop


class _Line(NamedTuple):
    """A log line that waits: what it is to find when it is logged."""

    batch_idx: int
    iteration: int
    at: float
    train_seconds: float
    mark: tuple[int, ...]


class QuietTraining(Quiet):
    """Quiet training iterations.

    Args:
        loop: The training loop.
    """

    def __init__(self, loop: _TrainLoop) -> None:
        super().__init__(loop, "train", TRAIN_STEP, UPDATE)
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
        limit = min(limit, self.longest)
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
        module = unwrapped(model)
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
                if (is_line or is_watched) and self._has_changed(situation, is_line, after):
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
        kinds = type(unwrapped(model)), type(wrapper)
        if kinds != self._kinds:
            self._look_at(kinds)
        is_plain = (
            self._are_plain == (True, True)
            and wrapper._accumulative_counts == 1
            and not wrapper.clip_grad_kwargs
            and vars(wrapper).keys().isdisjoint(UPDATE)
        )
        return (
            *(model, wrapper, getattr(wrapper, "optimizer", None), runner.message_hub),
            self._calls.is_current,
            loop.stop_training or not model.training,
            plain_call(model, trains=True) if is_plain else None,
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
