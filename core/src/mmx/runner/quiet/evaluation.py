"""Quiet iterations of a validation or test."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmx.evaluator.evaluator import PLAIN_KINDS
from mmx.runner.dispatch import QuietCalls
from mmx.runner.quiet.base import Quiet
from mmx.runner.quiet.usual import PREDICT, PROCESS, plain_call, unwrapped
from mmx.runner.state import RunStopped

if TYPE_CHECKING:
    from mmx.runner.eval_loops import _EvalLoop


class QuietEvaluation(Quiet):
    """Quiet iterations of a validation or test.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: _EvalLoop) -> None:
        super().__init__(loop, loop.mode, PREDICT[loop.mode], PROCESS)
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
        limit = self.longest
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
                after = now()
                stamp(after)
                if is_watched:
                    self._log_times(idx + 1)
                if then_after:
                    self._call_after(then_after, idx, batch, outputs)
                if is_line:
                    self._postpone(idx)
                if alone and state.stop_signal:
                    raise RunStopped(state.stop_signal)
                if (is_line or is_watched) and self._has_changed(situation, is_line, after):
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
        kinds = type(unwrapped(model)), type(evaluator)
        if kinds != self._kinds:
            self._look_at(kinds)
        is_plain = self._are_plain[0] and not loop.with_loss
        takes_all = self._are_plain[1] and "process" not in vars(evaluator)
        return (
            *(model, runner.message_hub, self._calls.is_current),
            torch.is_grad_enabled(),
            *(evaluator, evaluator.metrics if takes_all else None),
            plain_call(model, trains=False) if is_plain else None,
        )

    def _end_as_ever(self, idx: int, batch: Any) -> None:
        """Go on with an iteration whose first hooks have changed something."""
        timer = self._calls.timer
        logged_waits, _ = timer.short_ways(self._runner, self._mode)
        logged_waits.append(self._stamps.pop() - timer.clock.t)
        outputs = self._loop._step(batch)
        self._loop.evaluator.process(data_samples=outputs, data_batch=batch)
        self._runner.call_hook(self._after, batch_idx=idx, data_batch=batch, outputs=outputs)
