"""Hooks that share one call in an iteration leave what they leave one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.hooks import Hook, IterTimerHook, RuntimeInfoHook
from mmx.hooks._records import TrainRecord
from mmx.model import BaseModel


class Watcher(Hook):
    """Reads the hub in each iteration, after all other hooks."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.seen = []
        self.etas = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._look(runner, ["iter"], ["lr", "data_time"])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._look(runner, ["iter"], ["lr", "loss"])
        self.etas.append(runner.message_hub.get_info("eta"))

    def _look(self, runner, facts, scalars):
        hub = runner.message_hub
        found = [hub.get_info(name) for name in facts]
        for name in scalars:
            logs = hub.get_scalar(f"train/{name}").data[0]
            found.append((len(logs), None if "time" in name else float(logs[-1])))
        self.seen.append(found)


class Between(Hook):
    """Stands between the two hooks, so that they cannot be joined."""

    priority = 30

    def before_train_iter(self, runner, batch_idx, data_batch=None): ...
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None): ...


def is_joined(runner) -> bool:
    first = runner._dispatch["after_train_iter"][0]
    return isinstance(getattr(first, "__self__", None), TrainRecord)


def watched(make_runner, *others, **changes):
    watcher = Watcher()
    runner = make_runner(custom_hooks=[watcher, *others], **changes)
    runner.train()
    return runner, watcher


def test_joined_hooks_leave_what_they_leave_one_by_one(make_runner):
    joined, seen = watched(make_runner)
    apart, expected = watched(make_runner, Between())
    assert is_joined(joined)
    assert not is_joined(apart)
    assert expected.seen == seen.seen
    assert set(apart.message_hub.log_scalars) == set(joined.message_hub.log_scalars)
    assert set(apart.message_hub.runtime_info) == set(joined.message_hub.runtime_info)
    for key, buffer in apart.message_hub.log_scalars.items():
        assert len(buffer) == len(joined.message_hub.log_scalars[key]), key


def test_eta_shrinks_to_nothing(make_runner):
    _, seen = watched(make_runner)
    assert all(eta >= 0 for eta in seen.etas)
    assert seen.etas[0] > 0
    assert seen.etas[-1] == 0


def test_facts_are_right_though_nobody_reads_them_until_the_end(make_runner):
    runner = make_runner()
    runner.train()
    assert runner.iter - 1 == runner.message_hub.get_info("iter")
    assert runner.message_hub.get_info("eta") is not None
    assert not runner.message_hub._late_facts


def test_a_fact_that_was_set_since_is_not_overwritten(make_runner):
    class Sets(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.message_hub.update_info("eta", -1.0)
            runner.message_hub.update_info("iter", -2)
            assert runner.message_hub.get_info("eta") == -1.0
            assert runner.message_hub.get_info("iter") == -2

    runner = make_runner(custom_hooks=[Sets()])
    runner.train()
    assert is_joined(runner)


def test_a_hook_that_joins_during_training_parts_and_joins_them(make_runner):
    class Joins(Hook):
        priority = "LOW"

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 2:
                runner.register_hook(Between())
            assert runner.message_hub.get_info("iter") == runner.iter
            assert len(runner.message_hub.get_scalar("train/loss").data[0]) == runner.iter + 1
            assert len(runner.message_hub.get_scalar("train/time").data[0]) == runner.iter + 1

    runner = make_runner(custom_hooks=[Joins()])
    runner.train()
    assert not is_joined(runner)
    assert runner.iter > 3


def test_a_subclass_is_called_as_it_is(make_runner):
    class Timer(IterTimerHook):
        calls = 0

        def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode="train"):
            super()._after_iter(runner, batch_idx, data_batch, outputs, mode)
            Timer.calls += 1

    runner = make_runner(default_hooks={"timer": Timer()})
    runner.train()
    assert not is_joined(runner)
    assert Timer.calls >= runner.iter


def test_a_method_replaced_on_the_instance_is_called(make_runner):
    calls = []
    info = RuntimeInfoHook()
    info.after_train_iter = lambda runner, **kwargs: calls.append(runner.iter)
    runner = make_runner(default_hooks={"runtime_info": info})
    runner.train()
    assert list(range(runner.iter)) == calls


class Changing(BaseModel):
    """Losses whose names and kinds change from step to step."""

    def __init__(self, steps) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.steps = iter(steps)

    def forward(self, x, y=None, i=None, mode="tensor"):
        return self.layer(x)

    def train_step(self, data, optim_wrapper):
        loss = self.layer(data["x"]).mean()
        optim_wrapper.update_params(loss)
        return next(self.steps)


def without_val(**changes):
    return {"val_dataloader": None, "val_cfg": None, "val_evaluator": None, **changes}


def test_losses_of_other_names_and_kinds_are_logged(make_runner):
    one = torch.tensor(1.0)
    steps = [{"loss": one}] * 3 + [{"loss": 2.0}] + [{"loss": one, "acc": one * 3}] * 2
    steps += [{"loss": one}] * 2 + [{}, {"loss": one * 5}]
    model = Changing(steps)
    runner = make_runner(
        **without_val(model=model, train_cfg={"type": "IterBasedTrainLoop", "max_iters": 10})
    )
    runner.train()
    hub = runner.message_hub
    assert [1, 1, 1, 2, 1, 1, 1, 1, 5] == hub.get_scalar("train/loss").data[0].tolist()
    assert [3, 3] == hub.get_scalar("train/acc").data[0].tolist()
    assert 10 == len(hub.get_scalar("train/time").data[0])


def test_a_loss_of_several_elements_is_named(make_runner):
    one = torch.tensor(1.0)
    model = Changing([{"loss": one, "b": one}] * 3 + [{"loss": one, "b": torch.ones(2)}])
    runner = make_runner(**without_val(model=model))
    with pytest.raises(ValueError, match="train/b"):
        runner.train()
    assert 3 == len(runner.message_hub.get_scalar("train/loss").data[0])


def test_a_learning_rate_may_become_a_tensor(make_runner):
    class Switch(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 1:
                group = runner.optim_wrapper.optimizer.param_groups[0]
                group["lr"] = torch.tensor(0.5)

    runner, seen = watched(make_runner, Switch())
    rates = runner.message_hub.get_scalar("train/lr").data[0].tolist()
    assert runner.iter == len(rates)
    assert 0.5 == rates[-1]
    assert runner.iter * 2 == len(seen.seen)


def test_a_second_training_counts_its_own_iterations(make_runner):
    runner = make_runner()
    runner.train()
    done = runner.iter
    again = make_runner(work_dir=runner.work_dir)
    again.train()
    assert done == again.iter
    assert done == len(again.message_hub.get_scalar("train/time").data[0])


def test_a_hook_registered_in_a_stage_takes_part_in_it_once(make_runner):
    calls = []

    class Late(Hook):
        priority = "VERY_HIGH"

        def before_train(self, runner):
            calls.append("late")

    class Registers(Hook):
        def before_train(self, runner):
            calls.append("registers")
            runner.register_hook(Late())

    make_runner(custom_hooks=[Registers()]).train()
    assert ["registers", "late"] == calls


def test_registering_in_a_stage_of_a_custom_loop_calls_nobody_twice(make_runner):
    calls = []

    class Own(Hook):
        def before_own_stage(self):
            calls.append("own")

    class Registers(Hook):
        priority = "HIGH"

        def before_own_stage(self, runner):
            calls.append("registers")
            runner.register_hook(Between())

    runner = make_runner(custom_hooks=[Own(), Registers()])
    runner.call_hook("before_own_stage")
    assert ["registers", "own"] == calls
