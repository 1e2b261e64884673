"""Who may write to the terminal: the one live display, which lets log lines pass above it."""

from __future__ import annotations

import os
import sys
from typing import IO, Protocol


class LiveDisplay(Protocol):
    """A display that redraws the last lines of the terminal."""

    def print_above(self, text: str) -> None:
        """Write text, which ends in a new line, above the display."""


_owner: LiveDisplay | None = None


def live_display() -> LiveDisplay | None:
    """Return the display that owns the terminal, if there is one."""
    return _owner


def acquire(display: LiveDisplay) -> bool:
    """Make ``display`` the owner of the terminal; False if another one is."""
    global _owner
    if _owner is not None and _owner is not display:
        return False
    _owner = display
    return True


def release(display: LiveDisplay) -> None:
    """Give the terminal back; nothing happens if ``display`` does not own it."""
    global _owner
    if _owner is display:
        _owner = None


def write(text: str, stream: IO[str] | None = None) -> None:
    """Write text that ends in a new line, above the live display if there is one."""
    if _owner is not None:
        _owner.print_above(text)
        return
    stream = sys.stdout if stream is None else stream
    stream.write(text)
    stream.flush()


def is_terminal(stream: IO[str] | None = None) -> bool:
    """Tell whether ``stream`` (by default stdout) is a terminal that can move its cursor."""
    stream = sys.stdout if stream is None else stream
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # no stream at all, or a closed one
        return False


def has_color(stream: IO[str] | None = None) -> bool:
    """Tell whether text on ``stream`` should be coloured.

    A terminal is, unless ``NO_COLOR`` is set; anything else only if ``FORCE_COLOR`` is.
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream)
