"""Following a changed schedule from the middle of training on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.optim import OptimWrapper
from mmx.optim.scheduler import (
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceOnPlateauLR,
    StepMomentum,
    rebuild_schedulers,
)
from mmx.optim.scheduler import base as implementation


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(implementation, "print_log", lambda *args, **kwargs: None)


def make(build, kind="SGD"):
    params = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    groups = [{"params": [p], "lr": 0.5 if i % 2 else 0.1} for i, p in enumerate(params)]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    if kind == "Adam":
        optimizer = torch.optim.Adam(groups, lr=0.05)
    wrapper = OptimWrapper(optimizer)
    return wrapper, build(wrapper)


def train(wrapper, schedulers, begin, end, epoch_length):
    for iteration in range(begin, end):
        wrapper.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
        if (iteration + 1) % epoch_length == 0:
            for scheduler in schedulers:
                if scheduler.by_epoch:
                    scheduler.step()


def resumed(before, after, stop, epoch_length, kind="SGD"):
    """Train with the schedulers of `before`, then go on with those of `after`."""
    wrapper, schedulers = make(before, kind)
    train(wrapper, schedulers, 0, stop, epoch_length)
    again, built = make(after, kind)
    again.load_state_dict(wrapper.state_dict())
    for scheduler, state in zip(built, [s.state_dict() for s in schedulers], strict=True):
        scheduler.load_state_dict(state)
    return again, built


CASES = {
    "one": lambda length: lambda w: [CosineAnnealingLR(w, T_max=length, by_epoch=False)],
    "warm-up and cosine": lambda length: (
        lambda w: [
            LinearLR(w, start_factor=0.01, begin=0, end=5, by_epoch=False),
            CosineAnnealingLR(w, T_max=length, begin=5, by_epoch=False, eta_min=0.01),
        ]
    ),
    "by epoch and by iteration": lambda length: (
        lambda w: [
            LinearLR(w, start_factor=0.01, begin=0, end=5, by_epoch=False),
            MultiStepLR(w, milestones=[length // 8, length // 5]),
            StepMomentum(w, step_size=length // 10),
        ]
    ),
    "one cycle": lambda length: (
        lambda w: [OneCycleLR(w, eta_max=0.8, total_steps=length, by_epoch=False)]
    ),
}


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", CASES)
def test_the_rest_is_as_if_the_settings_had_never_been_others(name, kind):
    case = CASES[name]
    wrapper, schedulers = resumed(case(40), case(80), stop=22, epoch_length=4, kind=kind)
    rebuild_schedulers(schedulers, epoch_length=4)
    other, expected = make(case(80), kind)
    train(other, expected, 0, 22, epoch_length=4)
    for _ in range(2):
        for setting in ("lr", "momentum", "betas"):
            ours = [group.get(setting) for group in wrapper.param_groups]
            assert [group.get(setting) for group in other.param_groups] == ours
        assert [s.state_dict() for s in expected] == [s.state_dict() for s in schedulers]
        train(wrapper, schedulers, 22, 40, epoch_length=4)
        train(other, expected, 22, 40, epoch_length=4)


def test_unchanged_schedules_stay_where_they_are():
    case = CASES["by epoch and by iteration"]
    wrapper, schedulers = resumed(case(40), case(40), stop=22, epoch_length=4)
    before = [group["lr"] for group in wrapper.param_groups]
    rebuild_schedulers(schedulers, epoch_length=4)
    assert before == [group["lr"] for group in wrapper.param_groups]


def test_what_cannot_be_replayed_says_why():
    _, schedulers = make(lambda w: [ReduceOnPlateauLR(w)])
    with pytest.raises(ValueError, match="ReduceOnPlateauLR goes by the metrics of past"):
        rebuild_schedulers(schedulers)
    _, schedulers = make(CASES["by epoch and by iteration"](40))
    with pytest.raises(ValueError, match="give epoch_length, the number of iterations in an epoch"):
        rebuild_schedulers(schedulers)
