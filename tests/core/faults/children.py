"""Processes that tests start, disturb and wait for."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

import torch


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process; return its pid. Forking spares the imports.

    The process ends with 0, with the code of a ``SystemExit``, or with 1 after another error.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()  # so that data workers can be killed along
        torch.set_num_threads(1)
        work()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int) -> int:
    """Return the exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
