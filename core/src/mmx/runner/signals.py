"""SIGTERM and SIGINT while training: finish the step, save, end."""

from __future__ import annotations

import datetime
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from mmx.dist import get_comm_device, get_default_group, get_object_group, get_world_size
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


class StopAgreement:
    """Lets all ranks stop after the same iteration, whichever of them got the signal.

    Signals reach ranks at different iterations, and a rank that left the loop alone would leave
    the others waiting in their next collective. So each iteration starts an exchange on the CPU
    and looks at the result of the one before, which has arrived by then: ranks stop one iteration
    late, and do not wait.

    Alone there is nobody to agree with, and the run's own mark counts.
    """

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._alone = get_world_size() == 1
        self._group = None if self._alone else get_object_group()
        # Of the collectives of training: the group itself waits as long as an evaluation may take.
        self._timeout = None if self._alone else _timeout_of(get_default_group())
        self._flag = torch.zeros(1, dtype=torch.int64)
        self._pending: Any = None
        self._agreed = 0

    @property
    def signal(self) -> int:
        """The signal after which all ranks stop, 0 for none."""
        return self._state.stop_signal if self._alone else self._agreed

    def poll(self) -> int:
        """Return the signal after which all ranks stop now; each rank calls it once an iteration."""
        if self._alone:
            return self._state.stop_signal
        if self._pending is not None:
            self._pending.wait(self._timeout)
            self._agreed = int(self._flag)
        self._flag.fill_(self._state.stop_signal)
        self._pending = torch.distributed.all_reduce(
            self._flag, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        return self._agreed

    def close(self) -> None:
        """Wait for the exchange that is under way; each rank calls it where the loop ends."""
        if self._pending is not None:
            self._pending.wait(self._timeout)
            self._pending = None


def _timeout_of(group: Any) -> datetime.timedelta:
    """Return how long a group's collectives wait for an absent rank."""
    backend = group._get_backend(
        torch.device("cpu") if get_comm_device(group).type == "cpu" else get_comm_device(group)
    )
    timeout: datetime.timedelta = backend.options._timeout
    return timeout
