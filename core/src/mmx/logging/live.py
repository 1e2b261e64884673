"""The live display: progress of a run in the last lines of the terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmx.logging import terminal

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live


@dataclass(slots=True)
class Progress:
    """What the display shows.

    Attributes:
        title: What is running, ``Epoch 3/10``.
        done: Iterations done.
        total: Iterations there are, None if unknown.
        rate: Iterations per second, None if unknown.
        left_s: Seconds that are left, None if unknown.
        facts: Name -> text, the most important first; what does not fit is left out.
    """

    title: str = ""
    done: int = 0
    total: int | None = None
    rate: float | None = None
    left_s: float | None = None
    facts: dict[str, str] = field(default_factory=dict)


def format_seconds(seconds: float | None) -> str:
    """Return a duration as ``0:01:05`` or ``2d 3:00:00``; ``-:--:--`` if it is unknown."""
    if seconds is None or not 0 <= seconds < 1e9:
        return "-:--:--"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02d}:{second:02d}"


def format_rate(rate: float | None) -> str:
    """Return iterations per second as ``12.3 it/s``, slow ones as ``4.5 s/it``."""
    if rate is None or rate <= 0:
        return "- it/s"
    if rate < 1:
        return f"{1 / rate:.1f} s/it"
    return f"{rate:.1f} it/s" if rate < 1000 else f"{rate:.0f} it/s"


class LiveProgress:
    """Shows :class:`Progress` at the bottom of a terminal; other output passes above it.

    A thread redraws a few times per second, so that the run itself only counts.

    Args:
        read: Returns what to show; called from the thread.
        refresh_per_second: How often it redraws.
        console: Console of rich; by default one on standard output.
    """

    def __init__(
        self,
        read: Callable[[], Progress],
        refresh_per_second: float = 4,
        console: Console | None = None,
    ) -> None:
        self._read = read
        self._refresh_per_second = refresh_per_second
        self._console = console
        self._live: Live | None = None
        self._lock = threading.Lock()

    def start(self) -> bool:
        """Show the display; False if another one owns the terminal."""
        if self._live is not None:
            return True
        if not terminal.acquire(self):
            return False
        from rich.console import Console
        from rich.live import Live

        self._console = self._console or Console(highlight=False)
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=self._refresh_per_second,
            transient=True,
            redirect_stdout=True,
            redirect_stderr=True,
        )
        self._live.start()
        return True

    def stop(self) -> None:
        """Take the display away and give the terminal back. Stopping twice is fine."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        terminal.release(self)

    def print_above(self, text: str) -> None:
        """Write text, which ends in a new line, above the display."""
        from rich.text import Text

        with self._lock:
            if self._console is not None:
                # Long lines are the terminal's to wrap: a copied line stays one line.
                self._console.print(
                    Text.from_ansi(text.removesuffix("\n")), soft_wrap=True, highlight=False
                )

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        progress = self._read()
        width = self._console.width if self._console is not None else 80
        count = f"{progress.done}/{progress.total}" if progress.total else f"{progress.done}"
        rate, left = format_rate(progress.rate), f"{format_seconds(progress.left_s)} left"
        head = Table.grid(padding=(0, 1), expand=True)
        for ratio in (None, 1, None, None, None):
            head.add_column(no_wrap=True, ratio=ratio)
        head.add_row(
            Text(progress.title, style="bold"),
            ProgressBar(
                total=progress.total or 1,
                completed=progress.done if progress.total else 0,
                pulse=not progress.total,
            ),
            Text(count),
            Text(rate, style="cyan"),
            Text(left, style="magenta"),
        )
        facts = Text(no_wrap=True, overflow="crop")
        for name, value in progress.facts.items():
            if len(facts) + len(name) + len(value) + 3 > width:
                break
            if len(facts):
                facts.append("  ")
            facts.append(f"{name} ", style="dim").append(value)
        return Group(head, facts) if len(facts) else head


def describe(value: Any) -> str:
    """Return a number as a display shows it: four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
