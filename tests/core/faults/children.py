"""Processes that tests start, disturb and wait for."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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


def start_ranks(work: Callable[[int], None], number: int = 2) -> list[int]:
    """Run ``work(rank)`` in forked ranks that find each other; return their pids. They say nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])

    def rank_of(rank: int) -> Callable[[], None]:
        def run() -> None:
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(number),
                LOCAL_WORLD_SIZE=str(number),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
            )
            with open(os.devnull, "w") as silent:
                os.dup2(silent.fileno(), 1)
                os.dup2(silent.fileno(), 2)
            work(rank)

        return run

    return [in_child(rank_of(rank)) for rank in range(number)]


def kills(torture: int, variants: int, *, ranks: int) -> int:
    """Return how many of all kills fall on each variant of a run: a quarter on those of two ranks."""
    share = torture // 4
    return -(-(share if ranks > 1 else torture - share) // variants)


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Make a folder, in memory where that can be: a killed process loses nothing that it had written."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="mmx-faults-", dir=memory) as name:
        yield Path(name)
