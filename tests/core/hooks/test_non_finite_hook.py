"""Losses and gradients that are not finite."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from torch import nn

from mmx.hooks import Hook, non_finite_hook
from mmx.hooks.non_finite_hook import NonFiniteError, NonFiniteHook
from mmx.model import BaseModel
from mmx.runner import Runner
from mmx.testing.distributed import run_distributed


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


def test_counts_survive_a_resume(tmp_path):
    """With its negative control: without the hook's state a broken run would go on for longer."""

    def go_on(*, forget=False, **changes):
        class Forget(Hook):
            def after_load_checkpoint(self, runner, checkpoint):
                if forget:
                    del checkpoint["engine"]["hooks"]["NonFiniteHook"]

        guard = NonFiniteHook("skip", max_skips=3)
        runner = Runner(
            Net(nan_loss=range(10)),
            str(tmp_path),
            train_dataloader=dict(
                dataset=[{"x": torch.ones(2)}] * 8,
                sampler=dict(type="DefaultSampler", shuffle=False),
                batch_size=2,
                collate_fn=dict(type="default_collate"),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=False)),
            custom_hooks=[guard, Forget()],
            **changes,
        )
        with pytest.raises(NonFiniteError, match="for the 3th time in a row"):
            runner.train()
        return runner.iter, guard.state_dict()

    third = {"version": 1, "skipped": 3, "in_a_row": 3}
    assert (2, third) == go_on()
    latest = str(tmp_path / "iter_2.pth")
    assert (2, third) == go_on(resume=True, load_from=latest)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        go_on(resume=True, load_from=latest, forget=True)


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

    class Nothing(Hook):
        pass

    net = Net(nan_loss=[3])
    train(tmp_path, net, hook=Nothing())
    assert not any(torch.isfinite(v).any() for v in net.linear.state_dict().values())


# Two ranks ----------------------------------------------------------------------------------

BAD, STEPS = 4, 6
DATA = torch.linspace(-1, 1, STEPS * 4).repeat(2, 1).T.contiguous()


def on_a_rank(work_dir, action, fault, *, alone=False):
    """Train on one of two ranks, of which the second one's fourth step is bad."""
    rank = int(os.environ["RANK"])
    net = Net(**({fault: [BAD]} if rank == 1 else {}))
    guard = NonFiniteHook(action, interval=2, check_gradients=not alone)
    weights = []

    class Note(Hook):
        priority = "LOWEST"

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            weights.append(copy.deepcopy(net.linear.state_dict()))

    runner = Runner(
        net,
        os.path.join(work_dir, f"{action} {fault} {alone}"),
        train_dataloader=dict(
            dataset=DATA,
            sampler=dict(type="DefaultSampler", shuffle=False),
            batch_size=2,
            collate_fn=lambda batch: {"x": torch.stack(batch)},
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
        custom_hooks=[guard, Note()],
        launcher="pytorch",
        env_cfg=dict(dist_cfg=dict(backend="gloo", timeout=30)),
        log_level="CRITICAL",
    )
    found = {"error": None}
    try:
        runner.train()
    except NonFiniteError as error:
        found.update(error=str(error), at=runner.iter)
    return {**found, "skipped": guard.skipped, "weights": weights, "end": net.linear.state_dict()}


def on_both_ranks(work_dir):
    """All that one start of two ranks can show: by action and fault."""
    found = {
        (action, fault): on_a_rank(work_dir, action, fault)
        for action in ("skip", "rollback", "raise")
        for fault in ("nan_loss", "inf_gradient")
    }
    non_finite_hook._all_ranks_agree = lambda checks: all(bool(check) for check in checks)
    found["alone"] = on_a_rank(work_dir, "skip", "nan_loss", alone=True)
    return found


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return run_distributed(on_both_ranks, 2, str(tmp_path_factory.mktemp("ranks")), init=False)


def by_hand(action):
    """Train in plain torch on the mean gradient of both ranks, and return the weights after steps."""
    net = Net().linear
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    weights, kept = [], None
    for step in range(STEPS):
        if step % 2 == 0:
            kept = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        if step + 1 != BAD:
            optimizer.zero_grad()
            # Ranks take samples in turn.
            for rank in (0, 1):
                x = DATA[4 * step + rank : 4 * step + 4 : 2]
                (net(x).pow(2).mean() / 2).backward()
            optimizer.step()
        elif action == "rollback":
            net.load_state_dict(kept[0])
            optimizer.load_state_dict(kept[1])
        elif action == "raise":
            break
        weights.append(copy.deepcopy(net.state_dict()))
    return weights


@pytest.mark.parametrize("fault", ["nan_loss", "inf_gradient"])
@pytest.mark.parametrize("action", ["raise", "skip", "rollback"])
def test_what_is_not_finite_on_rank_1_alone_is_treated_the_same_by_both(two_ranks, action, fault):
    first, second = (found[action, fault] for found in two_ranks)
    assert first["skipped"] == second["skipped"] == 1
    expected = by_hand(action)
    for found in (first, second):
        assert len(expected) == len(found["weights"]) == (3 if action == "raise" else STEPS)
        for mine, theirs in zip(expected, found["weights"], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
    for mine, theirs in zip(first["weights"], second["weights"], strict=True):
        assert equal(mine, theirs)
    # Also where the error left the run: the step was not taken.
    assert equal(first["weights"][-1], first["end"])
    assert equal(first["end"], second["end"])
    if action == "raise":
        assert first["at"] == second["at"] == BAD - 1
        assert f"at iteration {BAD}. The weights are as before this step" in first["error"]
        assert f"at iteration {BAD}. The weights are as before this step" in second["error"]
    else:
        assert first["error"] is second["error"] is None


def test_ranks_that_decide_alone_drift_apart(two_ranks):
    """The negative control: without agreeing, rank 0 takes the step that rank 1 leaves out."""
    first, second = (found["alone"] for found in two_ranks)
    assert equal(first["weights"][BAD - 2], second["weights"][BAD - 2])
    assert not torch.isfinite(first["weights"][BAD - 1]["weight"]).any()
    assert torch.isfinite(second["weights"][BAD - 1]["weight"]).all()
