"""Schedulers are stepped as training goes on."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from mmx.hooks import ParamSchedulerHook
from mmx.model import BaseModel
from mmx.optim import (
    CosineAnnealingLR,
    LinearLR,
    OptimWrapper,
    ReduceOnPlateauParamScheduler,
    _ParamScheduler,
)
from mmx.optim.scheduler import base as implementation
from mmx.registry import HOOKS
from mmx.runner import Runner


def scheduler(by_epoch, spec=_ParamScheduler):
    mock = MagicMock(spec=spec)
    mock.by_epoch = by_epoch
    if spec is not _ParamScheduler:
        mock.need_val_args = True
    return mock


@pytest.fixture
def three():
    return [scheduler(True), scheduler(False), scheduler(True, ReduceOnPlateauParamScheduler)]


def calls(three):
    found = [mock.step.call_args_list for mock in three]
    for mock in three:
        mock.reset_mock()
    return [[tuple(call.args) for call in one] for one in found]


def test_it_is_registered_and_late():
    assert ParamSchedulerHook is HOOKS.get("ParamSchedulerHook")
    assert "LOW" == ParamSchedulerHook.priority


@pytest.mark.parametrize("by_name", [False, True])
def test_each_scheduler_steps_when_its_time_has_come(three, by_name):
    runner = SimpleNamespace(param_schedulers={"a": three[:2], "b": three[2:]})
    if not by_name:
        runner.param_schedulers = three
    hook = ParamSchedulerHook()
    hook.after_train_iter(runner, 0)
    assert [[], [()], []] == calls(three)
    hook.after_train_epoch(runner)
    assert [[()], [], [()]] == calls(three)
    hook.after_val_epoch(runner, {"acc": 1})
    assert [[], [], [({"acc": 1},)]] == calls(three)
    hook.after_val_epoch(runner)
    assert [[], [], []] == calls(three)


def test_a_run_without_schedulers_is_fine():
    hook, runner = ParamSchedulerHook("rebuild"), SimpleNamespace(param_schedulers=None)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    hook.after_train_epoch(runner)
    hook.after_val_epoch(runner, {})


def test_something_else_is_named(three):
    hook, runner = ParamSchedulerHook(), SimpleNamespace(param_schedulers=tuple(three))
    for call in (
        lambda: hook.after_train_iter(runner, 0),
        lambda: hook.after_train_epoch(runner),
        lambda: hook.after_val_epoch(runner, {"acc": 1}),
    ):
        with pytest.raises(
            TypeError, match=r"param_schedulers should be list of ParamScheduler or"
        ):
            call()


@pytest.mark.parametrize(
    "configs",
    [
        dict(type="CosineAnnealingLR", T_max=3),
        [dict(type="CosineAnnealingLR", T_max=3)],
        dict(gen=dict(type="StepLR", step_size=3), disc=[dict(type="StepLR", step_size=3)]),
    ],
)
def test_validation_alone_leaves_schedulers_unbuilt(configs):
    ParamSchedulerHook().after_val_epoch(SimpleNamespace(param_schedulers=configs), {"acc": 1})


def test_a_wrong_choice_is_named():
    with pytest.raises(ValueError, match="should be 'keep' or 'rebuild', but got 'new'"):
        ParamSchedulerHook("new")


def resumed_run(length):
    """A run that was planned for 10 epochs, stopped after 4, and resumed for `length`."""

    def build(total):
        wrapper = OptimWrapper(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0))
        warm_up = LinearLR(wrapper, start_factor=0.1, end=3, by_epoch=False)
        return wrapper, [warm_up, CosineAnnealingLR(wrapper, T_max=total, end=total)]

    def train(wrapper, schedulers, epochs):
        for _ in range(epochs):
            for _ in range(2):
                wrapper.step()
                schedulers[0].step()
            schedulers[1].step()

    wrapper, schedulers = build(10)
    train(wrapper, schedulers, 4)
    again, later = build(length)
    again.load_state_dict(wrapper.state_dict())
    for ours, saved in zip(later, schedulers, strict=True):
        ours.load_state_dict(saved.state_dict())
    whole, planned = build(length)
    train(whole, planned, 4)
    log = MagicMock()
    return SimpleNamespace(
        param_schedulers=later,
        train_dataloader=[1, 2],
        logger=log,
        before=wrapper.get_lr(),
        expected=whole.get_lr(),
        optim_wrapper=again,
    )


def test_a_longer_run_keeps_the_saved_curve_by_default(monkeypatch):
    lines = []
    monkeypatch.setattr(implementation, "print_log", lambda text, **kwargs: lines.append(text))
    runner = resumed_run(20)
    ParamSchedulerHook().before_train(runner)
    assert runner.before == runner.optim_wrapper.get_lr()
    assert 1 == len(lines)
    assert "on_changed_settings='rebuild'" in lines[0]


def test_a_longer_run_follows_its_own_curve_on_request(monkeypatch):
    monkeypatch.setattr(implementation, "print_log", lambda *args, **kwargs: None)
    runner = resumed_run(20)
    ParamSchedulerHook(on_changed_settings="rebuild").before_train(runner)
    assert runner.expected != runner.before
    assert runner.expected == runner.optim_wrapper.get_lr()
    runner.logger.info.assert_called_once_with(
        "this run's settings of CosineAnnealingLR hold from here on"
    )


def test_an_unchanged_run_is_not_rebuilt():
    runner = resumed_run(10)
    ParamSchedulerHook(on_changed_settings="rebuild").before_train(runner)
    assert runner.before == runner.optim_wrapper.get_lr()
    runner.logger.info.assert_not_called()


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, *inputs, mode="tensor"):
        return {"loss": self.linear(torch.stack(inputs)).pow(2).mean()}


@pytest.mark.parametrize("choice", ["keep", "rebuild"])
def test_a_resumed_run_of_another_length(isolated, tmp_path, choice):
    def run(name, epochs, **changes):
        runner = Runner(
            model=Net(),
            work_dir=str(tmp_path / name),
            train_dataloader=dict(
                dataset=torch.ones(8, 1), batch_size=4, sampler=dict(type="DefaultSampler")
            ),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=1.0)),
            param_scheduler=[dict(type="CosineAnnealingLR", T_max=epochs)],
            default_hooks=dict(
                logger=None,
                param_scheduler=dict(type="ParamSchedulerHook", on_changed_settings=choice),
            ),
            experiment_name=f"resumed_{choice}_{name}",
            **changes,
        )
        runner.train()
        return runner

    first = run("first", 4)
    saved = str(tmp_path / "first" / "epoch_2.pth")
    longer = run("longer", 8, load_from=saved, resume=True)
    whole = run("whole", 8)
    log = (tmp_path / "longer" / longer.timestamp / f"{longer.timestamp}.log").read_text()
    # One of them is said, not both.
    assert (choice == "keep") == ("goes on with the settings of the checkpoint" in log)
    assert (choice == "rebuild") == ("settings of CosineAnnealingLR hold from here on" in log)
    if choice == "rebuild":
        assert whole.optim_wrapper.get_lr() == longer.optim_wrapper.get_lr()
        assert 8 == longer.param_schedulers[0].T_max
    else:
        assert 4 == longer.param_schedulers[0].T_max
        # The saved curve ends after its four epochs.
        assert first.optim_wrapper.get_lr() == longer.optim_wrapper.get_lr()
