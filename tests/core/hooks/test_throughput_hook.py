"""Samples and operations per second."""

from types import SimpleNamespace

import pytest
import torch

from mmx.hooks import ThroughputHook
from mmx.hooks import throughput_hook as module
from mmx.hooks.throughput_hook import num_samples
from mmx.logging import MessageHub

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def clock(monkeypatch):
    state = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "perf_counter", lambda: state.now)
    return state


def train(hook, clock, iters, world_size=1):
    runner = SimpleNamespace(message_hub=MessageHub("throughput"), world_size=world_size)
    weight = torch.nn.Linear(16, 8, bias=False)
    batch = {"inputs": torch.ones(4, 16)}
    hook.before_train_epoch(runner)
    for index in range(iters):
        hook.before_train_iter(runner, index, batch)
        weight(batch["inputs"]).sum().backward()
        clock.now += 0.5
        hook.after_train_iter(runner, index, batch)
    hook.after_run(runner)
    return {k: b.data[0].tolist() for k, b in runner.message_hub.log_scalars.items()}


def test_samples_per_second_are_those_of_all_ranks(clock):
    found = train(ThroughputHook(interval=2), clock, 5, world_size=3)
    assert found == {"train/samples_per_s": [24.0, 24.0]}


def test_operations_are_counted_once(clock):
    hook = ThroughputHook(interval=2, peak_tflops=1e-6)
    found = train(hook, clock, 4, world_size=2)
    forward_and_weight_gradient = 2 * (2 * 4 * 16 * 8)
    assert hook.flops_per_iter == forward_and_weight_gradient
    rate = forward_and_weight_gradient / 0.5 / 1e12
    assert found["train/tflops_per_s"] == [pytest.approx(2 * rate)]
    assert found["train/mfu"] == [pytest.approx(rate / 1e-6)]


def test_a_run_that_fails_while_it_counts_leaves_no_counter_behind(clock):
    hook = ThroughputHook(flops=True)
    runner = SimpleNamespace(message_hub=MessageHub("throughput"), world_size=1)
    for index in range(2):
        hook.before_train_iter(runner, index)
        if index == 0:
            hook.after_train_iter(runner, index, torch.ones(2))
    hook.after_run(runner)
    torch.ones(2, 2) @ torch.ones(2, 2)
    assert hook.flops_per_iter == 0


def test_time_between_epochs_and_in_validation_does_not_count(clock):
    hook = ThroughputHook(interval=1)
    runner = SimpleNamespace(message_hub=MessageHub("throughput"), world_size=1)
    hook.before_train_epoch(runner)
    clock.now += 100
    hook.after_val(runner)
    clock.now += 1
    hook.after_train_iter(runner, 0, torch.ones(8, 1))
    assert runner.message_hub.get_scalar("train/samples_per_s").current() == 8.0


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.ones(4, 3), 4),
        (torch.ones(()), 1),
        ((torch.ones(4, 3), torch.ones(4)), 4),
        ([torch.ones(4, 3), torch.ones(4)], 4),
        ({"inputs": torch.ones(5, 3), "x": 1}, 5),
        ({"inputs": [torch.ones(3, 8, 8)] * 2, "data_samples": [1, 2]}, 2),
        ([{"inputs": torch.ones(3)}] * 6, 6),
        ([["a"] * 3, ["b"] * 3], 3),
        (["a", "b"], 2),
        ({}, 1),
        (None, 1),
    ],
)
def test_samples_of_a_batch(batch, samples):
    assert num_samples(batch) == samples


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="interval should be positive, but got 0"):
        ThroughputHook(interval=0)
    with pytest.raises(ValueError, match="peak_tflops should be positive, but got -1"):
        ThroughputHook(peak_tflops=-1)
