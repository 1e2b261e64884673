"""Schedules, parameter groups and accumulation are those that MMEngine 0.10.7 has.

``record.py`` beside this file recorded them.
"""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

import mmx.optim as optim

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden.json").read_text())


def _cases():
    spec = importlib.util.spec_from_file_location("optim_cases", HERE / "cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = _cases()


@pytest.fixture(scope="module")
def schedules():
    return CASES.schedules("mmx")


def _same(expected, actual):
    numbers = [isinstance(value, int | float | list) for value in (expected, actual)]
    if not all(numbers) or expected is True:
        return expected == actual
    pairs = zip(_flat([expected]), _flat([actual]), strict=True)
    return all(
        a == b or (isinstance(a, float) and math.isclose(a, b, rel_tol=1e-12)) for a, b in pairs
    )


def _flat(value):
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


@pytest.mark.parametrize("name", GOLDEN["schedules"])
def test_a_schedule_has_the_recorded_values(schedules, name):
    expected = list(_flat(GOLDEN["schedules"][name]["trace"]))
    actual = list(_flat(schedules[name]["trace"]))
    assert len(expected) == len(actual)
    for value, ours in zip(expected, actual, strict=True):
        assert math.isclose(value, ours, rel_tol=1e-12, abs_tol=1e-300), (value, ours)


@pytest.mark.parametrize("name", GOLDEN["schedules"])
def test_a_saved_state_has_the_recorded_fields(schedules, name):
    recorded, ours = GOLDEN["schedules"][name]["states"], schedules[name]["states"]
    for expected, actual in zip(recorded, ours, strict=True):
        for field, value in expected.items():
            # Values of overlapping schedulers are those of the groups, whoever set them last.
            if field != "_last_value" or not name.startswith("overlap"):
                assert _same(value, actual[field]), field


@pytest.mark.parametrize(
    "name", [name for name in GOLDEN["schedules"] if not name.startswith("overlap")]
)
def test_a_recorded_state_is_resumed_from(schedules, name):
    family, kind = name.split("/")[:2]
    number = int(family.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))
    family = family[: -len(str(number))]
    suffix = {"lr": "LR", "momentum": "Momentum", "decay": "ParamScheduler"}[kind]
    kwargs = dict(CASES.FAMILIES[family][number])
    if kind == "decay":
        kwargs["param_name"] = "weight_decay"
    state = GOLDEN["schedules"][name]["states"][0]
    if "milestones" in state:
        state = {**state, "milestones": {int(k): v for k, v in state["milestones"].items()}}

    optimizer = CASES.optimizer(name.rpartition("/")[2] if kind == "momentum" else "SGD")
    target = optim.OptimWrapper(optimizer) if kind == "decay" else optimizer
    scheduler = getattr(optim.scheduler, family + suffix)(target, **kwargs)
    scheduler.load_state_dict(state)

    assert state["last_step"] == scheduler.last_step
    assert state["_last_value"] == scheduler.get_last_value()
    for field, value in scheduler.state_dict().items():
        if field in state:
            assert state[field] == value
    target.step()
    scheduler.step()
    assert state["_global_step"] + 1 == scheduler._global_step


def test_plateaus_are_noticed_as_recorded():
    for expected, actual in zip(GOLDEN["plateaus"], CASES.plateaus("mmx"), strict=True):
        assert expected["trace"] == actual["trace"]
        for field, value in expected["state"].items():
            assert value == actual["state"][field]


def test_epochs_become_iterations_as_recorded():
    for expected, actual in zip(GOLDEN["by_iteration"], CASES.by_iteration("mmx"), strict=True):
        for field, value in expected.items():
            assert _same(value, actual[field]), field


@pytest.fixture(scope="module")
def groups():
    return CASES.groups("mmx")


@pytest.mark.parametrize("name", GOLDEN["groups"])
def test_parameter_groups_are_as_recorded(groups, name):
    assert GOLDEN["groups"][name] == groups[name]


def test_accumulation_decides_as_recorded():
    assert GOLDEN["accumulation"] == CASES.accumulation("mmx")


def test_models_share_parameters_as_recorded():
    shared = CASES.Nested(shared=True)
    constructor = optim.DefaultOptimWrapperConstructor
    config = dict(optimizer=dict(type="SGD", lr=0.1))
    wrapper = constructor(config, dict(bias_lr_mult=2, bypass_duplicate=True))(shared)
    ids = [id(p) for group in wrapper.optimizer.param_groups for p in group["params"]]
    assert sorted({id(p) for p in shared.parameters()}) == sorted(ids)
    with pytest.raises(ValueError, match="appear in more than one parameter group"):
        constructor(config, dict(bias_lr_mult=2))(shared)
    assert torch.is_tensor(shared.tied.weight)
