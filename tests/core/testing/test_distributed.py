import os
import signal
import time

import pytest
import torch

from mmx.dist import all_reduce, get_rank, get_world_size
from mmx.testing import DistributedTestError, run_distributed


class Payload:
    def __init__(self, value: int) -> None:
        self.value = value


def _sum(payload: Payload, factor: int = 1) -> Payload:
    data = torch.tensor(float(get_rank() + payload.value))
    all_reduce(data)
    return Payload(int(data.item()) * factor)


def _fail_on(rank: int) -> None:
    if get_rank() == rank:
        raise ValueError(f"no luck on {rank}")
    all_reduce(torch.zeros(1))


def _die_on(rank: int) -> None:
    if get_rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL)


def _hang_on(rank: int) -> None:
    if get_rank() == rank:
        time.sleep(60)


def _environment() -> tuple[str, str, str, bool]:
    return (
        os.environ["RANK"],
        os.environ["WORLD_SIZE"],
        os.environ["EXTRA"],
        torch.distributed.is_initialized(),
    )


def test_it_returns_the_results_in_the_order_of_ranks() -> None:
    assert [r.value for r in run_distributed(_sum, 2, Payload(1), factor=2)] == [6, 6]


def test_ranks_have_the_environment_of_torchrun_and_no_group_if_asked_so() -> None:
    results = run_distributed(_environment, 2, init=False, env={"EXTRA": "x"})
    assert results == [("0", "2", "x", False), ("1", "2", "x", False)]


def test_the_rank_that_failed_first_is_named_with_its_traceback() -> None:
    with pytest.raises(
        DistributedTestError, match="rank 1 failed first: ValueError: no luck on 1"
    ) as caught:
        run_distributed(_fail_on, 2, 1)
    assert caught.value.rank == 1
    assert "_fail_on" in caught.value.failures[0].traceback


def test_a_killed_rank_is_named() -> None:
    with pytest.raises(DistributedTestError, match="rank 0 failed first: died: exit code -9"):
        run_distributed(_die_on, 2, 0)


def test_a_hang_ends_at_the_timeout_and_shows_where_the_rank_is() -> None:
    with pytest.raises(TimeoutError, match=r"(?s)ranks \[1\] of 2 are still running.*_hang_on"):
        run_distributed(_hang_on, 2, 1, timeout_s=3)


def test_a_nested_function_is_refused() -> None:
    with pytest.raises(TypeError, match="must stand at the top of its module"):
        run_distributed(lambda: get_world_size(), 2)


def test_the_number_of_processes_is_checked() -> None:
    with pytest.raises(ValueError, match="world_size must be positive, but got 0"):
        run_distributed(_environment, 0)
