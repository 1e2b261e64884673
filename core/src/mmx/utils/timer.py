"""Measuring time."""

from __future__ import annotations

from time import perf_counter
from types import TracebackType


class TimerError(Exception):
    """A timer was asked before it was started."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class Timer:
    """A stopwatch, also as a context manager that prints the time it took.

    Args:
        start: Start at once.
        print_tmpl: Format of what is printed, with one place for the seconds.
    """

    def __init__(self, start: bool = True, print_tmpl: str | None = None) -> None:
        self._is_running = False
        self.print_tmpl = print_tmpl if print_tmpl else "{:.3f}"
        if start:
            self.start()

    @property
    def is_running(self) -> bool:
        """Whether the timer runs."""
        return self._is_running

    def __enter__(self) -> Timer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        print(self.print_tmpl.format(self.since_last_check()))
        self._is_running = False

    def start(self) -> None:
        """Start the timer."""
        if not self._is_running:
            self._t_start = perf_counter()
            self._is_running = True
        self._t_last = perf_counter()

    def since_start(self) -> float:
        """Return the seconds since the start.

        Raises:
            TimerError: The timer does not run.
        """
        if not self._is_running:
            raise TimerError("timer is not running")
        self._t_last = perf_counter()
        return self._t_last - self._t_start

    def since_last_check(self) -> float:
        """Return the seconds since the last call of this method or of :meth:`since_start`.

        Raises:
            TimerError: The timer does not run.
        """
        if not self._is_running:
            raise TimerError("timer is not running")
        passed = perf_counter() - self._t_last
        self._t_last = perf_counter()
        return passed


_g_timers: dict[str, Timer] = {}


def check_time(timer_id: str) -> float:
    """Return the seconds since the last call with this name; 0 at the first."""
    if timer_id not in _g_timers:
        _g_timers[timer_id] = Timer()
        return 0
    return _g_timers[timer_id].since_last_check()
