"""Ranks agree on the iteration after which they stop."""

from __future__ import annotations

import signal
import time

import pytest
import torch

from mmx.runner.signals import StopAgreement
from mmx.runner.state import TrainState
from mmx.testing.distributed import run_distributed


class Counted:
    """A process group that counts its exchanges."""

    def __init__(self, group) -> None:
        self.group, self.exchanges = group, 0

    def allreduce(self, *args):
        self.exchanges += 1
        return self.group.allreduce(*args)


def polls(iters: int, signal_at: int, seconds: float = 0.0) -> tuple[list[int], int]:
    """Return what each iteration was told, where rank 1 gets the signal, and the exchanges."""
    state = TrainState()
    agreement, told = StopAgreement(state), []
    agreement._group = counted = Counted(agreement._group)
    for i in range(iters):
        if i == signal_at and torch.distributed.get_rank() == 1:
            state.stop_signal = signal.SIGTERM
        time.sleep(seconds)
        told.append(agreement.poll())
    agreement.close()
    return told, counted.exchanges


@pytest.mark.slow
def test_ranks_that_differ_in_speed_stop_together_and_exchange_seldom() -> None:
    first, second = run_distributed(polls, 2, 600, 300)
    assert first == second
    told, exchanges = first
    assert 0 not in told[300 + 130 :]
    assert not any(told[:301])
    assert exchanges < 25


@pytest.mark.slow
def test_slow_iterations_exchange_each_time() -> None:
    first, second = run_distributed(polls, 2, 6, 3, seconds=0.3)
    assert first == second
    assert ([0, 0, 0, 0, 15, 15], 6) == first
