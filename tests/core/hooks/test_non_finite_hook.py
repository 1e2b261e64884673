"""Losses and gradients that are not finite."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mmx.hooks.non_finite_hook import NonFiniteError, NonFiniteHook
from mmx.model import BaseModel
from mmx.runner import Runner


class Net(BaseModel):
    """A model whose loss or gradient is spoilt at given steps."""

    def __init__(self, nan_loss=(), inf_gradient=()):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(2, 1)
        self.nan_loss, self.inf_gradient, self.steps = nan_loss, inf_gradient, 0

    def forward(self, x, mode):
        self.steps += 1
        loss = self.linear(x).pow(2).mean()
        if self.steps in self.nan_loss:
            loss = loss * float("nan")
        if self.steps in self.inf_gradient:
            # Finite value, infinite slope.
            loss = loss + (self.linear.bias - self.linear.bias.detach()).abs().sqrt().sum()
        return {"loss": loss}


def train(tmp_path, net, *, steps=6, hook=None, **hook_arguments):
    guard = hook or NonFiniteHook(**hook_arguments)
    data = [torch.ones(2) * i for i in range(2)] * steps
    weights = []

    runner = Runner(
        net,
        str(tmp_path),
        train_dataloader=dict(
            dataset=data[: steps * 2],
            sampler=dict(type="DefaultSampler", shuffle=False),
            batch_size=2,
            collate_fn=lambda batch: {"x": torch.stack(batch)},
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9)),
        custom_hooks=[guard],
    )
    step = runner.model.train_step

    def noting(data, optim_wrapper):
        result = step(data, optim_wrapper)
        weights.append(copy.deepcopy(net.linear.state_dict()))
        return result

    net.train_step = noting
    try:
        runner.train()
    finally:
        guard.weights = weights
    return runner, guard


def equal(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("fault", "text", "names"),
    [
        (dict(nan_loss=[3]), "the loss is not finite at iteration 3", ["loss"]),
        (dict(inf_gradient=[3]), "the gradients of linear.bias are not finite", ["linear.bias"]),
    ],
)
def test_raise_names_what_is_not_finite_and_leaves_the_weights(tmp_path, fault, text, names):
    guard = NonFiniteHook()
    net = Net(**fault)
    with pytest.raises(NonFiniteError, match=text) as info:
        train(tmp_path, net, hook=guard)
    assert info.value.names == names
    assert "weights are as before this step" in str(info.value)
    assert equal(guard.weights[-1], net.linear.state_dict())


def test_skip_leaves_out_the_step_and_goes_on(tmp_path):
    net = Net(nan_loss=[3], inf_gradient=[5])
    _, guard = train(tmp_path, net, action="skip")
    assert guard.skipped == 2
    assert equal(guard.weights[1], guard.weights[2])
    assert not equal(guard.weights[2], guard.weights[3])
    assert equal(guard.weights[3], guard.weights[4])
    assert all(torch.isfinite(v).all() for v in net.linear.state_dict().values())


def test_rollback_puts_weights_back_to_the_copy(tmp_path):
    net = Net(nan_loss=[4])
    _, guard = train(tmp_path, net, action="rollback", interval=2)
    assert equal(guard.weights[1], guard.weights[3])
    assert not equal(guard.weights[2], guard.weights[3])


def test_too_many_skips_in_a_row_end_the_run(tmp_path):
    with pytest.raises(NonFiniteError, match="for the 3th time in a row"):
        train(tmp_path, Net(nan_loss=range(2, 9)), action="skip", max_skips=3)


def test_without_faults_training_is_the_same_as_without_the_hook(tmp_path):
    from mmx.hooks import Hook

    class Nothing(Hook):
        pass

    guarded = Net()
    plain = Net()
    train(tmp_path / "a", guarded, action="skip")
    train(tmp_path / "b", plain, hook=Nothing())
    assert equal(guarded.linear.state_dict(), plain.linear.state_dict())


def test_the_check_is_taken_away_after_the_run(tmp_path):
    runner, _ = train(tmp_path, Net())
    assert "step" not in vars(runner.optim_wrapper)
    assert "backward" not in vars(runner.optim_wrapper)


def test_counts_survive_a_resume():
    hook = NonFiniteHook()
    hook.load_state_dict({"version": 1, "skipped": 4, "in_a_row": 2})
    assert hook.state_dict() == {"version": 1, "skipped": 4, "in_a_row": 2}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (dict(action="ignore"), "action should be one of raise, skip, rollback, but got 'ignore'"),
        (dict(max_skips=0), "max_skips and interval should be at least 1"),
        (dict(interval=0), "max_skips and interval should be at least 1"),
    ],
)
def test_bad_arguments_are_errors(arguments, text):
    with pytest.raises(ValueError, match=text):
        NonFiniteHook(**arguments)


def test_without_the_hook_weights_are_spoilt(tmp_path):
    """The negative control."""
    from mmx.hooks import Hook

    class Nothing(Hook):
        pass

    net = Net(nan_loss=[3])
    train(tmp_path, net, hook=Nothing())
    assert not any(torch.isfinite(v).any() for v in net.linear.state_dict().values())
