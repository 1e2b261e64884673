"""SIGTERM and SIGINT while training: finish the step, save, end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmx.runner.state import TrainState


@contextmanager
def signals_stop(state: TrainState, logger: Any) -> Iterator[None]:
    """While the block runs, the first SIGTERM or SIGINT only marks the run to be stopped.

    A second signal acts at once, as it would have without this. Handlers can only be set in the
    main thread; in others the block runs without them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def stop(signum: int, frame: FrameType | None) -> None:
        if state.stop_signal:
            # Put the old handlers back first: they may not return.
            _restore(before)
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            signal.raise_signal(signum)
            return
        state.stop_signal = signum
        logger.warning(
            f"{signal.Signals(signum).name}: finishing the current step, then saving and stopping. "
            "A second signal stops at once."
        )

    for signum in (signal.SIGTERM, signal.SIGINT):
        # A handler that Python did not install (None) cannot be put back.
        if signal.getsignal(signum) is not None:
            before[signum] = signal.signal(signum, stop)
    try:
        yield
    finally:
        _restore(before)


def _restore(before: dict[int, Any]) -> None:
    while before:
        signum, handler = before.popitem()
        signal.signal(signum, handler)
