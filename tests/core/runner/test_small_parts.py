"""Mixed precision, recomputed activations, seeds."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from mmx.runner import autocast, set_random_seed, turn_on_activation_checkpointing


def test_autocast_computes_in_the_type_of_the_device():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    with autocast(device_type="cpu"):
        assert layer(x).dtype == torch.bfloat16
    with autocast(device_type="cpu", dtype=torch.float16):
        assert layer(x).dtype == torch.float16
    with autocast(device_type="cpu", enabled=False):
        assert layer(x).dtype == torch.float32


def test_autocast_can_be_switched_off_inside():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    with autocast(device_type="cpu"):
        with autocast(device_type="cpu", enabled=False):
            assert layer(x).dtype == torch.float32
        assert layer(x).dtype == torch.bfloat16


def test_autocast_keeps_the_setting_of_the_cache():
    with autocast(device_type="cpu", cache_enabled=False):
        assert not torch.is_autocast_cache_enabled()
    assert torch.is_autocast_cache_enabled()


def test_autocast_on_an_unknown_device_is_an_error():
    with (
        pytest.raises(ValueError, match="User specified autocast device_type must be"),
        autocast(device_type="foo"),
    ):
        pass


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.drop, self.calls = nn.Linear(4, 4), nn.Dropout(0.5), 0

    def forward(self, x):
        self.calls += 1
        return self.drop(self.linear(x))


def test_recomputed_activations_give_the_same_gradients():
    def gradients(recompute):
        torch.manual_seed(0)
        model = nn.Sequential(Block(), Block())
        keys = list(model.state_dict())
        if recompute:
            turn_on_activation_checkpointing(model, ["0"])
        assert list(model.state_dict()) == keys
        torch.manual_seed(1)
        model(torch.ones(2, 4)).sum().backward()
        return [p.grad for p in model.parameters()], model[0].calls, model[1].calls

    plain, *_ = gradients(False)
    recomputed, first, second = gradients(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    assert (first, second) == (2, 1)


def test_recomputing_twice_is_once():
    model = nn.Sequential(Block())
    turn_on_activation_checkpointing(model, "0")
    turn_on_activation_checkpointing(model, ["0"])
    model(torch.ones(2, 4)).sum().backward()
    assert model[0].calls == 2


def test_recomputing_an_unknown_module_lists_the_known():
    with pytest.raises(
        ValueError, match="Sequential has no module named '9'; its modules are 0, 0"
    ):
        turn_on_activation_checkpointing(nn.Sequential(Block()), ["9"])


def test_a_seed_sets_all_generators():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert set_random_seed(5) == 5
    first = draw()
    set_random_seed(5)
    assert draw() == first
    drawn = set_random_seed(None)
    assert 0 <= drawn < 2**32


def test_deterministic_switches_nondeterministic_algorithms_off():
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = True
        set_random_seed(5, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize(("seed", "error"), [("a", TypeError), (1.5, TypeError), (-1, ValueError)])
def test_a_bad_seed_is_an_error(seed, error):
    with pytest.raises(error, match=r"seed should be an int|Seed must be between"):
        set_random_seed(seed)
