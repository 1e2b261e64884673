"""SIGTERM and SIGINT while training: finish the step, save, end."""

from __future__ import annotations

import datetime
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from mmx.dist import get_comm_device, get_default_group, get_object_group, get_world_size
from mmx.runner.state import TrainState

# An exchange between ranks costs hundreds of microseconds of processor time, even one that nobody
# waits for: so often, and at most after so many iterations, which may become slow meanwhile.
_EXCHANGE_EVERY_S = 0.5
_EXCHANGE_EVERY_ITERS = 128


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
    the others waiting in their next collective. So ranks start an exchange on the CPU in some
    iteration and look at its result in the next, when it has arrived: they do not wait for it.

    The first iterations all do so. Where iterations are short there are more and more between two
    exchanges, until these are half a second or 128 iterations apart; the ranks agree on the
    number in the exchange itself.

    Attributes:
        alone: There is no other rank to agree with: the run's own mark counts.
    """

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self.alone = get_world_size() == 1
        self._group: Any = None if self.alone else get_object_group()
        # Of the collectives of training: the group itself waits as long as an evaluation may take.
        self._timeout = None if self.alone else _timeout_of(get_default_group())
        # The signal, and how many iterations until the next exchange: the least that a rank wants.
        self._flag = torch.zeros(2, dtype=torch.int64)
        self._numbers = self._flag.numpy()  # the same memory
        self._options = None if self.alone else _largest_of_all()
        self._pending: Any = None
        self._agreed = 0
        self._interval = self._left = 1
        self._last_at: float | None = None

    @property
    def signal(self) -> int:
        """The signal after which all ranks stop, 0 for none."""
        return self._state.stop_signal if self.alone else self._agreed

    def poll(self) -> int:
        """Return the signal after which all ranks stop now; each rank calls it once an iteration."""
        if self.alone:
            return self._state.stop_signal
        if self._pending is not None:
            self._pending.wait(self._timeout)
            self._pending = None
            agreed, wanted = self._numbers.tolist()
            self._agreed = agreed
            # Slowly more, at once fewer.
            self._interval = self._left = min(2 * self._interval, -wanted)
        self._left -= 1
        if self._left > 0:
            return self._agreed
        self._numbers[:] = self._state.stop_signal, -self._wanted()
        # What `all_reduce` of torch.distributed ends in; its checks are longer than all of this.
        self._pending = self._group.allreduce([self._flag], self._options)
        return self._agreed

    def free_iters(self) -> int:
        """Return for how many iterations :meth:`poll` would do no more than count."""
        return 0 if self._pending is not None or self._agreed else self._left - 1

    def skip_iters(self, number: int) -> None:
        """Count iterations without :meth:`poll`, as many as :meth:`free_iters` at most."""
        self._left -= number

    def _wanted(self) -> int:
        """Return the iterations that this rank would do until the exchange after this one."""
        now, before = time.monotonic(), self._last_at
        self._last_at = now
        if before is None:
            return 1
        each = (now - before) / self._interval
        return max(1, min(_EXCHANGE_EVERY_ITERS, int(_EXCHANGE_EVERY_S / max(each, 1e-6))))

    def close(self) -> None:
        """Wait for the exchange that is under way; each rank calls it where the loop ends."""
        if self._pending is not None:
            self._pending.wait(self._timeout)
            self._pending = None


def _largest_of_all() -> Any:
    """Return the options of a reduction that nobody waits for."""
    options: Any = torch.distributed.AllreduceOptions()
    options.reduceOp = torch.distributed.ReduceOp.MAX
    options.asyncOp = True
    return options


def _timeout_of(group: Any) -> datetime.timedelta:
    """Return how long a group's collectives wait for an absent rank."""
    backend = group._get_backend(
        torch.device("cpu") if get_comm_device(group).type == "cpu" else get_comm_device(group)
    )
    timeout: datetime.timedelta = backend.options._timeout
    return timeout
