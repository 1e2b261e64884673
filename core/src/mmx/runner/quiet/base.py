"""What quiet training and quiet evaluation share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from mmx.hooks import Hook, LoggerHook
from mmx.logging.logger import TOGETHER_S, MMLogger
from mmx.model import MMDistributedDataParallel
from mmx.runner.dispatch import HookCall, QuietCalls, dispatch_of
from mmx.runner.log_processor import LogProcessor
from mmx.runner.quiet.usual import CALL, OF_WRAPPER
from mmx.utils.misc import class_has_methods


class Quiet:
    """What quiet training and quiet evaluation share.

    Args:
        loop: The loop whose iterations these are.
        mode: ``train``, ``val`` or ``test``.
        model_methods: What is done here instead of calling it: the methods of the model.
        others: Those of the part that goes on with what it returns.
    """

    # What an iteration records waits in lists; after so many the hub takes it over.
    longest = 4096

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
            all(class_has_methods(model, methods) for methods in (of_model, CALL))
            and class_has_methods(MMDistributedDataParallel, OF_WRAPPER | CALL),
            class_has_methods(other, of_other),
        )

    def _postpone(self, line: Any) -> None:
        """Let a line wait; it is logged before anything is said or set that belongs behind it."""
        if not self._lines:
            self._logs = self._last_calls
            self._runner.message_hub.before_change(self._log_lines)
            self._runner.logger.before_message(self._log_lines)
        self._lines.append(line)

    def _situation(self) -> tuple[Any, ...]:
        """Return all that a hook may have changed."""
        raise NotImplementedError

    def _has_changed(self, situation: tuple[Any, ...], is_line: bool, now: float) -> bool:
        """Tell whether the situation is another one than ``situation``.

        A log line changes nothing: what is due is no more than that if ``is_line``. When it is time
        the lines that wait are logged, and that is an occasion to look.
        """
        if is_line:
            if 0 <= now - self._line_at < TOGETHER_S:  # else the clock may have been put back
                return False
            self._log_lines()
        return self._situation() != situation

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
        if self._waiting >= self.longest:
            self._waiting = 0
            self._runner.message_hub.flush()
