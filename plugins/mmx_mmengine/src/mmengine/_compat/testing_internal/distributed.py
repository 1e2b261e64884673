"""A `TestCase` whose methods run in several processes at once."""

from __future__ import annotations

import functools
import unittest
from collections.abc import Callable
from typing import Any

from mmx.testing.distributed import run_distributed


class _Call:
    """Runs one test method in a rank; pickles as the names that lead to it."""

    def __init__(self, case: type[MultiProcessTestCase], method: str) -> None:
        self.case = case
        self.method = method
        # Where the ranks have to look for the case.
        self.__module__ = case.__module__

    def __call__(self) -> str | None:
        """Return why the test was skipped, or None."""
        import torch.distributed as torch_dist

        from mmx.dist import get_world_size

        rank = get_rank_of_environment()
        case = self.case(self.method)
        case.rank = rank
        case.prepare_subprocess()
        try:
            case._function_of_test()
        except unittest.SkipTest as skip:
            return str(skip) or "skipped"
        finally:
            # The test made the group; the others may still need it.
            if torch_dist.is_initialized() and get_world_size() > 1:
                torch_dist.barrier()
        return None


def get_rank_of_environment() -> int:
    """Return the rank that the environment says."""
    import os

    return int(os.environ["RANK"])


class MultiProcessTestCase(unittest.TestCase):
    """Runs each test method in `world_size` processes; the first failure is that of the test.

    ``setUp`` runs in the parent and calls ``self._spawn_processes()``. The methods run in the
    ranks, without ``setUp``, and make their process group themselves; ``self.rank`` is the rank.
    Classes and methods stand at the top of a module.
    """

    MAIN_PROCESS_RANK = -1

    def __init__(self, methodName: str = "runTest") -> None:
        super().__init__(methodName)
        self.rank = self.MAIN_PROCESS_RANK
        function = getattr(self, methodName, None)
        if function is not None:
            self._function_of_test: Callable[[], Any] = function
            setattr(self, methodName, self.join_or_run(function))

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return 2

    @property
    def timeout(self) -> int:
        """Seconds after which all processes are ended."""
        return 1000

    @property
    def is_master(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def prepare_subprocess(self) -> None:
        """Do what a rank needs before its test; nothing here."""

    def join_or_run(self, fn: Callable[[], Any]) -> Callable[[], None]:
        """Return a function that runs ``fn`` in all ranks and waits for them."""

        @functools.wraps(fn)
        def wrapper() -> None:
            if self.rank != self.MAIN_PROCESS_RANK:
                fn()
                return
            call = _Call(type(self), self._testMethodName)
            reasons = run_distributed(call, self.world_size, timeout_s=self.timeout, init=False)
            if all(reason is not None for reason in reasons):
                raise unittest.SkipTest(reasons[0])

        return wrapper

    def _spawn_processes(self) -> None:
        """Say that ranks are wanted; they start when the test is run."""
