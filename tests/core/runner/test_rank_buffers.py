"""What ranks have of their own in buffers is saved once, and put back where it was."""

from __future__ import annotations

import copy
import types

import pytest
import torch
from torch import nn

from mmx.runner import rank_buffers
from mmx.runner.rank_buffers import differing_buffers, load_buffers


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.register_buffer("flags", torch.zeros(3, dtype=torch.bool))
        self.register_buffer("absent", None)


def runner_of(model, average=None, swapped=False):
    hooks = []
    if average is not None:
        hook = types.SimpleNamespace(ema_model=types.SimpleNamespace(module=average))
        hook._swapped = swapped
        hooks = [types.SimpleNamespace(), hook]
    return types.SimpleNamespace(model=model, hooks=hooks)


@pytest.fixture
def ranks(monkeypatch):
    """Stand in for two ranks: what each says is kept, and rank 0 gets what all have sent."""

    def exchange(*runners):
        said = []
        monkeypatch.setattr(rank_buffers, "get_world_size", lambda: len(runners))
        monkeypatch.setattr(
            rank_buffers, "all_gather_object", lambda value: said.append(value) or [value]
        )
        for runner in runners:
            differing_buffers(runner)
        digests = list(said)
        monkeypatch.setattr(rank_buffers, "all_gather_object", lambda value: digests)
        sent = []
        monkeypatch.setattr(rank_buffers, "gather_object", lambda value: sent.append(value) or sent)
        return [differing_buffers(runner) for runner in runners][-1]

    return exchange


def test_nothing_is_saved_where_all_ranks_have_the_same(ranks):
    model = Net()
    assert ranks(runner_of(model), runner_of(copy.deepcopy(model))) is None


def test_one_process_exchanges_nothing():
    assert differing_buffers(runner_of(Net())) is None


def test_only_what_differs_from_rank_0_is_saved(ranks):
    first, second = Net(), Net()
    second.norm.running_mean += 1
    second.flags[1] = True
    # No part of a state dict: whoever made it makes it again.
    second.scratch += 1
    saved = ranks(runner_of(first), runner_of(second))
    assert saved[0] == [{}]
    assert set(saved[1][0]) == {"norm.running_mean", "flags"}
    load_buffers(runner_of(first), saved[1])
    assert torch.equal(second.norm.running_mean, first.norm.running_mean)
    assert torch.equal(second.flags, first.flags)
    assert torch.equal(first.scratch, torch.zeros(3))


@pytest.mark.parametrize("swapped", [False, True])
def test_the_average_has_buffers_of_its_own_also_while_it_is_in_the_model(ranks, swapped):
    def pair(weights, average):
        trained, averaged = Net(), Net()
        trained.norm.running_mean += weights
        averaged.norm.running_mean += average
        # During a validation each holds what is the other's.
        return (averaged, trained) if swapped else (trained, averaged)

    saved = ranks(runner_of(*pair(0, 0), swapped), runner_of(*pair(1, 2), swapped))
    trained, averaged = Net(), Net()
    load_buffers(runner_of(trained, averaged), saved[1])
    assert trained.norm.running_mean.tolist() == [1, 1]
    assert averaged.norm.running_mean.tolist() == [2, 2]


def test_what_does_not_fit_stays_as_it_is():
    model = Net()
    load_buffers(runner_of(model), [{"norm.running_mean": torch.ones(5), "other": torch.ones(1)}])
    load_buffers(runner_of(model), None)
    assert model.norm.running_mean.tolist() == [0, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_buffers_of_an_accelerator_are_saved_from_the_cpu_and_put_back(ranks):
    first, second = Net().cuda(), Net().cuda()
    second.norm.running_mean += 1
    second.norm.num_batches_tracked += 2
    saved = ranks(runner_of(first), runner_of(second))
    assert set(saved[1][0]) == {"norm.running_mean", "norm.num_batches_tracked"}
    for value in saved[1][0].values():
        assert value.device.type == "cpu"
        assert value.untyped_storage().nbytes() == value.nbytes
    load_buffers(runner_of(first), saved[1])
    assert torch.equal(second.norm.running_mean, first.norm.running_mean)
    assert int(first.norm.num_batches_tracked) == 2
