"""Schedulers: arguments, order of steps, values, state.

Traces of all families, alone and overlapped, are compared with recordings in
``tests/contract/optim``.
"""

from __future__ import annotations

import copy
import gc
import io
import types
import warnings
import weakref
from collections import Counter

import pytest
import torch
from torch import nn

import mmx.optim.scheduler as schedulers_module
from mmx.optim import OptimWrapper
from mmx.optim.scheduler import (
    ConstantParamScheduler,
    CosineAnnealingLR,
    CosineAnnealingParamScheduler,
    CosineRestartParamScheduler,
    ExponentialLR,
    LinearLR,
    LinearParamScheduler,
    MultiStepLR,
    OneCycleLR,
    OneCycleParamScheduler,
    PolyLR,
    ReduceOnPlateauLR,
    ReduceOnPlateauParamScheduler,
    StepLR,
    StepMomentum,
    StepParamScheduler,
    _ParamScheduler,
)
from mmx.optim.scheduler import base as implementation
from mmx.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmx.optim.scheduler.momentum_scheduler import MomentumSchedulerMixin
from mmx.optim.scheduler.param_scheduler import INF
from mmx.registry import PARAM_SCHEDULERS

FAMILIES = {
    "Constant": dict(end=6),
    "CosineAnnealing": dict(T_max=7, eta_min=0.001),
    "CosineRestart": dict(periods=[3, 20], restart_weights=[1, 0.5], eta_min_ratio=0.1),
    "Exponential": dict(gamma=0.9),
    "Linear": dict(start_factor=0.1, end=8),
    "MultiStep": dict(milestones=[2, 5]),
    "OneCycle": dict(eta_max=0.5, total_steps=40),
    "Poly": dict(power=0.9, end=12),
    "Step": dict(step_size=3),
}


def make_optimizer(kind=torch.optim.SGD, **kwargs):
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    kwargs = dict(lr=0.05, momentum=0.9, weight_decay=0.01) | kwargs
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    return kind([{"params": [params[0]], "lr": 0.5}, {"params": [params[1]]}], **kwargs)


def step(optimizer, *schedulers, number=1):
    values = []
    for _ in range(number):
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        values.append([group["lr"] for group in optimizer.param_groups])
    return values


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, "ReduceOnPlateau"])
def test_each_family_schedules_learning_rate_momentum_and_any_setting(family):
    general = getattr(schedulers_module, f"{family}ParamScheduler")
    lr = getattr(schedulers_module, f"{family}LR")
    momentum = getattr(schedulers_module, f"{family}Momentum")
    assert issubclass(general, _ParamScheduler)
    assert issubclass(lr, LRSchedulerMixin)
    assert issubclass(lr, general)
    assert issubclass(momentum, MomentumSchedulerMixin)
    assert issubclass(momentum, general)
    for cls in (general, lr, momentum):
        assert cls is PARAM_SCHEDULERS.get(cls.__name__)


# Arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "kwargs", "error", "text"),
    [
        (StepLR, dict(step_size=1, begin=3, end=2), ValueError, "got begin=3, end=2"),
        (StepLR, dict(step_size=1, begin=2, end=2), ValueError, "end should be larger than begin"),
        (StepLR, dict(step_size=1, last_step=-2), ValueError, "last_step should be -1"),
        (StepLR, dict(step_size=1, last_step=0.5), TypeError, "last_step should be an int"),
        (StepLR, dict(step_size=1, last_step=3), KeyError, r"'initial_lr' is not specified in "),
        (StepLR, dict(step_size=0), ValueError, "step_size should be positive, but got 0"),
        (LinearLR, dict(start_factor=1.5), ValueError, "Starting multiplicative factor should"),
        (LinearLR, dict(end_factor=-1), ValueError, "Ending multiplicative factor should between"),
        (CosineAnnealingLR, dict(T_max=0), ValueError, "T_max should be positive, but got 0"),
        (
            CosineAnnealingLR,
            dict(eta_min=1, eta_min_ratio=1),
            ValueError,
            "Either `eta_min` or `eta_min_ratio` should be specified, not both",
        ),
        (OneCycleLR, dict(total_steps=-1), ValueError, "Expected positive integer total_steps"),
        (OneCycleLR, dict(total_steps=1.5), ValueError, "total_steps, but got 1.5"),
        (OneCycleLR, dict(total_steps=9, pct_start=3), ValueError, "Expected float between 0 and"),
        (OneCycleLR, dict(total_steps=9, anneal_strategy="x"), ValueError, '"cos" or "linear", '),
        (OneCycleLR, dict(total_steps=9, eta_max=[1.0]), ValueError, "expected 2 values for max_"),
        (ReduceOnPlateauLR, dict(rule="x"), ValueError, "mode x is unknown!"),
        (ReduceOnPlateauLR, dict(factor=1.0), ValueError, r"Factor should be < 1.0. Got 1.0"),
        (ReduceOnPlateauLR, dict(threshold_rule="x"), ValueError, "threshold mode x is unknown!"),
        (ReduceOnPlateauLR, dict(min_value=[1.0]), ValueError, "expected 2 min_lrs, got 1"),
        (ReduceOnPlateauLR, dict(by_epoch=False), ValueError, "only support by_epoch=True"),
        (ReduceOnPlateauLR, dict(begin=5, end=2), ValueError, "end should be larger than begin"),
    ],
)
def test_bad_arguments_are_named(cls, kwargs, error, text):
    with pytest.raises(error, match=text):
        cls(make_optimizer(), **kwargs)


def test_more_bad_arguments_are_named():
    optimizer = make_optimizer()
    with pytest.raises(TypeError, match="should be an Optimizer or OptimWrapper, but got object"):
        StepLR(object(), step_size=1)
    with pytest.raises(KeyError, match=r"'foo' is no setting of SGD: param_groups\[0\] has \["):
        StepParamScheduler(optimizer, "foo", step_size=1)
    with pytest.raises(ValueError, match="Constant multiplicative factor should between 0 and 1"):
        ConstantParamScheduler(optimizer, "lr", factor=99)
    periods = dict(periods=[1, 2], restart_weights=[1, 1])
    with pytest.raises(ValueError, match="exactly one of `eta_min` and `eta_min_ratio`"):
        CosineRestartParamScheduler(optimizer, "lr", **periods)
    with pytest.raises(ValueError, match="should have the same length, but got 2 periods and 1"):
        CosineRestartParamScheduler(optimizer, "lr", periods=[1, 2], eta_min=0)
    with pytest.raises(ValueError, match="must support momentum when using momentum scheduler"):
        StepMomentum(torch.optim.Adagrad([nn.Parameter(torch.zeros(1))]), step_size=1)
    with pytest.raises(TypeError, match="schedules one optimizer"):
        StepLR(type("Several", (OptimWrapper,), {"param_groups": {"a": []}})(optimizer), 1)


def test_the_representation_shows_settings_and_position():
    scheduler = MultiStepLR(make_optimizer(), milestones=[3, 8, 8])
    expected = "MultiStepLR(param_name=lr, begin=0, milestones=[3, 8, 8], gamma=0.1, epoch 0)"
    assert expected == repr(scheduler)


# Order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
def test_stepping_before_the_optimizer_is_warned_of(wrapped):
    optimizer = make_optimizer()
    target = OptimWrapper(optimizer) if wrapped else optimizer
    scheduler = StepLR(target, step_size=3)
    with pytest.warns(UserWarning, match=r"Detected call of `scheduler.step\(\)` before"):
        scheduler.step()


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_optimizer_step_that_was_replaced_is_warned_of(wrapped):
    optimizer = make_optimizer()
    target = OptimWrapper(optimizer) if wrapped else optimizer
    scheduler = StepLR(target, step_size=3)
    target.step = types.MethodType(lambda self: None, target)
    target.step()
    with pytest.warns(UserWarning, match=r"Seems like `optimizer.step\(\)` has been overridden"):
        scheduler.step()


def test_gradients_that_accumulate_are_no_wrong_order():
    parameter = nn.Parameter(torch.ones(1))
    wrapper = OptimWrapper(torch.optim.SGD([parameter], lr=0.1), accumulative_counts=3)
    scheduler = ExponentialLR(wrapper, gamma=0.5, by_epoch=False)
    for _ in range(4):
        wrapper.update_params(parameter.sum())
        scheduler.step()
    assert [0.1 / 16] == scheduler.get_last_value()


def test_an_optimizer_is_freed_when_nobody_uses_it():
    optimizer = make_optimizer()
    scheduler = StepLR(optimizer, step_size=3)
    step(optimizer, scheduler, number=2)
    reference = weakref.ref(optimizer)
    del optimizer, scheduler
    gc.collect()
    assert reference() is None


# Values -----------------------------------------------------------------------------------------


def test_a_schedule_takes_effect_between_begin_and_end():
    optimizer = make_optimizer()
    scheduler = ExponentialLR(optimizer, gamma=0.5, begin=2, end=5)
    values = [row[0] for row in step(optimizer, scheduler, number=7)]
    # The first step of the schedule, at `begin`, leaves the value as it is.
    assert [0.5, 0.5, 0.25, 0.125, 0.125, 0.125, 0.125] == values
    assert 2 == scheduler.last_step


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrapper_is_scheduled_like_its_optimizer(family):
    cls = getattr(schedulers_module, f"{family}LR")
    plain, inner = make_optimizer(), make_optimizer()
    wrapper = OptimWrapper(inner)
    first, second = cls(plain, **FAMILIES[family]), cls(wrapper, **FAMILIES[family])
    for _ in range(12):
        step(plain, first)
        wrapper.step()
        second.step()
        assert first.get_last_value() == second.get_last_value()[:2]
        assert wrapper.get_lr()["base_lr"] == [second.get_last_value()[2]]


@pytest.mark.parametrize("family", FAMILIES)
def test_any_setting_is_scheduled(family):
    optimizer = make_optimizer()
    cls = getattr(schedulers_module, f"{family}ParamScheduler")
    scheduler = cls(optimizer, param_name="weight_decay", **FAMILIES[family])
    values = []
    for _ in range(9):
        step(optimizer, scheduler)
        values.append(optimizer.param_groups[0]["weight_decay"])
    assert 1 < len(set(values))
    assert 0.5 == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("family", FAMILIES)
def test_momentum_of_adam_is_its_first_beta(family):
    optimizer = make_optimizer(torch.optim.AdamW, momentum=None, betas=(0.8, 0.9))
    cls = getattr(schedulers_module, f"{family}Momentum")
    scheduler = cls(optimizer, **FAMILIES[family])
    for _ in range(5):
        step(optimizer, scheduler)
        expected = [(value, 0.9) for value in scheduler.get_last_value()]
        assert expected == [group["betas"] for group in optimizer.param_groups]


def test_all_betas_but_the_first_stay():
    class ThreeBetas(torch.optim.SGD):
        def __init__(self, params):
            super().__init__(params, lr=0.1)
            self.defaults.pop("momentum")
            self.defaults["betas"] = (0.9, 0.99, 0.999)
            for group in self.param_groups:
                group["betas"] = (0.9, 0.99, 0.999)

    optimizer = ThreeBetas([nn.Parameter(torch.zeros(1))])
    scheduler = StepMomentum(optimizer, step_size=1, gamma=0.5)
    step(optimizer, scheduler)
    assert (0.45, 0.99, 0.999) == optimizer.param_groups[0]["betas"]


def test_a_warm_up_from_zero_goes_on():
    optimizer = make_optimizer()
    scheduler = LinearLR(optimizer, start_factor=0.0, end=5)
    assert [0.0, 0.0] == scheduler.get_last_value()
    values = [row[0] for row in step(optimizer, scheduler, number=6)]
    assert [0.125, 0.25, 0.375, 0.5, 0.5, 0.5] == pytest.approx(values)


def test_a_constant_of_zero_ends():
    optimizer = make_optimizer()
    scheduler = ConstantParamScheduler(optimizer, "lr", factor=0.0, end=3)
    assert [0.0, 0.5, 0.5] == [row[0] for row in step(optimizer, scheduler, number=3)]


def test_one_cycle_has_a_height_for_each_group():
    optimizer = make_optimizer()
    wrapper = OptimWrapper(optimizer)
    scheduler = OneCycleLR(wrapper, eta_max=[0.8, 0.2], total_steps=10, div_factor=4.0)
    assert [0.2, 0.05, 0.2] == pytest.approx(scheduler.get_last_value())


def test_one_cycle_ends():
    optimizer = make_optimizer()
    scheduler = OneCycleLR(optimizer, eta_max=0.8, total_steps=4)
    step(optimizer, scheduler, number=4)
    with pytest.raises(ValueError, match=r"Tried to step 6 times. The specified number of total s"):
        scheduler.step()


def test_a_phase_without_length_is_over_at_once():
    optimizer = make_optimizer()
    scheduler = OneCycleLR(optimizer, eta_max=0.8, total_steps=10, pct_start=0.1)
    assert [0.8, 0.8] == scheduler.get_last_value()


def test_tensors_are_changed_in_place():
    lr = torch.tensor(0.5)
    optimizer = torch.optim.Adam(
        [nn.Parameter(torch.zeros(1))], lr=lr, capturable=False, foreach=False
    )
    kept = optimizer.param_groups[0]["lr"]
    warm, decay = LinearLR(optimizer, start_factor=0.5, end=3), ExponentialLR(optimizer, gamma=0.5)
    assert 0.25 == kept.item()
    step(optimizer, warm, decay)
    assert kept is optimizer.param_groups[0]["lr"]
    assert 0.1875 == kept.item()
    assert 0.5 == optimizer.param_groups[0]["initial_lr"]


def test_a_scheduler_of_ones_own_gives_values():
    class Halving(_ParamScheduler):
        def _get_value(self):
            return [base * 0.5**self.last_step for base in self.base_values]

    class Slower(StepParamScheduler):
        def _get_value(self):
            return [value * 2 for value in super()._get_value()]

    optimizer = make_optimizer()
    assert [[0.25, 0.025], [0.125, 0.0125]] == step(optimizer, Halving(optimizer, "lr"), number=2)
    optimizer = make_optimizer()
    slower = Slower(optimizer, "lr", step_size=1, gamma=0.5)
    assert [[1.0, 0.1], [1.0, 0.1]] == step(optimizer, slower, number=2)
    with pytest.raises(NotImplementedError, match="_ParamScheduler does not define `_get_value`"):
        _ParamScheduler(make_optimizer(), "lr")


def test_new_values_are_logged_on_request(monkeypatch):
    lines = []
    monkeypatch.setattr(implementation, "print_log", lambda text, logger: lines.append(text))
    optimizer = make_optimizer()
    scheduler = ExponentialLR(optimizer, gamma=0.5, verbose=True)
    step(optimizer, scheduler)
    expected = [
        f"Adjusting parameter value of group {group} to {value}."
        for group, value in [
            (0, "5.0000e-01"),
            (1, "5.0000e-02"),
            (0, "2.5000e-01"),
            (1, "2.5000e-02"),
        ]
    ]
    assert expected == lines
    scheduler.print_value(False, 0, 1.0)
    assert 4 == len(lines)


# From epochs to iterations ----------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_epochs_are_converted(family):
    cls = getattr(schedulers_module, f"{family}LR")
    scheduler = cls.build_iter_from_epoch(
        make_optimizer(), epoch_length=10, **{"begin": 1, **FAMILIES[family]}
    )
    assert scheduler.by_epoch is False
    assert 10 == scheduler.begin
    assert (FAMILIES[family].get("end", INF / 10) * 10) == scheduler.end


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(epoch_length=None), "`epoch_length` must be a positive integer, but got None."),
        (dict(epoch_length=-1), "`epoch_length` must be a positive integer, but got -1."),
        (dict(epoch_length=3, by_epoch=False), "Only epoch-based kwargs whose `by_epoch=True`"),
    ],
)
def test_what_cannot_be_converted_says_why(kwargs, text):
    with pytest.raises(ValueError, match=text):
        StepLR.build_iter_from_epoch(make_optimizer(), step_size=1, **kwargs)


def test_a_config_is_converted_by_the_registry():
    cfg = dict(type="CosineAnnealingLR", T_max=5, end=8, convert_to_iter_based=True)
    scheduler = PARAM_SCHEDULERS.build(
        cfg, default_args=dict(optimizer=make_optimizer(), epoch_length=10)
    )
    assert (50, 80, False) == (scheduler.T_max, scheduler.end, scheduler.by_epoch)


# Plateaus ---------------------------------------------------------------------------------------


def test_metrics_are_checked():
    scheduler = ReduceOnPlateauLR(make_optimizer(), monitor="acc")
    with pytest.raises(
        TypeError, match="metrics type should be dict, but got type <class 'float'>"
    ):
        scheduler.step(3.0)
    with pytest.raises(KeyError, match=r"Excepted key in \['loss'\], but got key acc is not in"):
        scheduler.step({"loss": 1.0})
    with pytest.raises(KeyError, match="set `monitor` to the name of a metric of validation"):
        scheduler.step({"acc": None})
    with pytest.raises(TypeError, match="the metric 'acc' should be a number to be compared"):
        scheduler.step({"acc": "high"})


def test_metrics_may_be_tensors_and_the_state_is_plain():
    scheduler = ReduceOnPlateauLR(make_optimizer(), patience=0)
    scheduler.step({"loss": torch.tensor(0.5)})
    assert 0.5 == scheduler.state_dict()["best"]
    assert float is type(scheduler.state_dict()["best"])


def test_epochs_count_and_validations_judge():
    optimizer = make_optimizer()
    scheduler = ReduceOnPlateauLR(optimizer, patience=0, factor=0.5, begin=2)
    values = []
    for _ in range(5):
        step(optimizer, scheduler)
        scheduler.step({"loss": 1.0})
        values.append(optimizer.param_groups[0]["lr"])
    # From the second epoch on; the first validation that is judged sets the best.
    assert [0.5, 0.5, 0.25, 0.125, 0.0625] == values


def test_a_wrappers_base_settings_have_the_last_lowest_value():
    wrapper = OptimWrapper(make_optimizer())
    scheduler = ReduceOnPlateauLR(wrapper, min_value=[0.4, 0.01], patience=0)
    scheduler.step({"loss": 1.0})
    scheduler.step({"loss": 1.0})
    assert [0.4, 0.01, 0.01] == scheduler.get_last_value()


# State ------------------------------------------------------------------------------------------


def attributes(scheduler):
    return {name: value for name, value in vars(scheduler).items() if name != "optimizer"}


@pytest.mark.parametrize("kind", ["LR", "Momentum", "ParamScheduler"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_schedule_goes_on_bit_for_bit_from_anywhere(family, kind):
    cls = getattr(schedulers_module, family + kind)
    kwargs = dict(FAMILIES[family])
    if kind == "ParamScheduler":
        kwargs["param_name"] = "weight_decay"
    for stop in (0, 1, 4, 9):
        optimizers = [make_optimizer(), make_optimizer(), make_optimizer()]
        whole, begun = [cls(optimizer, **kwargs) for optimizer in optimizers[:2]]
        step(optimizers[0], whole, number=12)
        step(optimizers[1], begun, number=stop)
        file = io.BytesIO()
        torch.save([optimizers[1].state_dict(), begun.state_dict()], file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)

        optimizers[2].load_state_dict(saved[0])
        resumed = cls(optimizers[2], **kwargs)
        # The schedule has touched the groups once more: what was saved counts.
        optimizers[2].load_state_dict(saved[0])
        resumed.load_state_dict(saved[1])
        assert begun.get_last_value() == resumed.get_last_value()
        step(optimizers[2], resumed, number=12 - stop)
        assert whole.get_last_value() == resumed.get_last_value()
        assert attributes(whole) == attributes(resumed)


@pytest.mark.parametrize(
    ("cls", "first", "second"),
    [
        (StepLR, dict(step_size=2), dict(step_size=30, gamma=0.5)),
        (MultiStepLR, dict(milestones=[2, 2, 3]), dict(milestones=[50])),
        (CosineAnnealingLR, dict(T_max=5, eta_min=0.1), dict(T_max=9, eta_min_ratio=0.5)),
        (OneCycleLR, dict(total_steps=20), dict(total_steps=30, anneal_strategy="linear")),
        (PolyLR, dict(end=9), dict(end=12, power=0.5)),
        (ReduceOnPlateauLR, dict(patience=1), dict(patience=5, rule="greater", monitor="x")),
    ],
)
def test_loading_restores_the_settings_that_were_saved(cls, first, second, monkeypatch):
    monkeypatch.setattr(implementation, "print_log", lambda *args, **kwargs: None)
    optimizer = make_optimizer()
    saved = cls(optimizer, **first)
    step(optimizer, saved, number=3)
    loaded = cls(make_optimizer(), **second)
    loaded.load_state_dict(saved.state_dict())
    assert attributes(saved) == attributes(loaded)
    assert saved.get_last_value() == loaded.get_last_value()


def test_the_state_is_versioned_plain_data():
    state = MultiStepLR(make_optimizer(), milestones=[3, 3, 5]).state_dict()
    assert 1 == state["version"]
    assert {3: 2, 5: 1} == state["milestones"]
    assert dict is type(state["milestones"])
    assert "optimizer" not in state


def test_attributes_of_a_scheduler_of_ones_own_are_saved():
    class Mine(StepParamScheduler):
        def __init__(self, *args, **kwargs):
            self.seen = 0
            self.function = print
            super().__init__(*args, **kwargs)

        def _get_value(self):
            self.seen += 1
            return super()._get_value()

    optimizer = make_optimizer()
    scheduler = Mine(optimizer, "lr", step_size=3)
    step(optimizer, scheduler, number=2)
    state = scheduler.state_dict()
    assert 3 == state["seen"]
    assert "function" not in state
    other = Mine(make_optimizer(), "lr", step_size=3)
    other.load_state_dict(state)
    assert 3 == other.seen


def test_a_state_of_mmengine_is_read():
    state = {
        "milestones": Counter({2: 1}),
        "gamma": 0.5,
        "param_name": "lr",
        "begin": 0,
        "end": INF,
        "by_epoch": True,
        "base_values": [0.5, 0.05],
        "last_step": 1,
        "_global_step": 1,
        "verbose": False,
        "_last_value": [0.5, 0.05],
    }
    optimizer = make_optimizer()
    scheduler = MultiStepLR(optimizer, milestones=[2], gamma=0.5)
    scheduler.load_state_dict(state)
    assert [[0.25, 0.025]] == step(optimizer, scheduler)


def test_a_one_cycle_of_mmengine_is_read():
    optimizer = make_optimizer()
    scheduler = OneCycleLR(optimizer, total_steps=20)
    state = scheduler.state_dict()
    del state["anneal_strategy"], state["version"]

    def _annealing_linear(start, end, pct):
        raise AssertionError("kept for its name only")

    state["anneal_func"] = _annealing_linear
    scheduler.load_state_dict(state)
    assert "linear" == scheduler.anneal_strategy


def test_a_state_of_a_newer_version_is_refused():
    scheduler = StepLR(make_optimizer(), step_size=2)
    with pytest.raises(ValueError, match="state of StepLR is of version 9, this mmx reads up to 1"):
        scheduler.load_state_dict({**scheduler.state_dict(), "version": 9})


def test_changed_settings_are_warned_of_and_restored(monkeypatch):
    lines = []
    monkeypatch.setattr(implementation, "print_log", lambda text, **kwargs: lines.append(text))
    optimizer = make_optimizer()
    saved = CosineAnnealingLR(optimizer, T_max=10, end=10)
    step(optimizer, saved, number=4)
    longer = CosineAnnealingLR(make_optimizer(), T_max=20, end=20)
    longer.load_state_dict(saved.state_dict())
    assert 1 == len(lines)
    assert (
        "CosineAnnealingLR goes on with the settings of the checkpoint, end=10, T_max=10, though "
        "this run has end=20, T_max=20" in lines[0]
    )
    assert "from epoch 4 on" in lines[0]
    assert {"end": (10, 20), "T_max": (10, 20)} == longer.changed_settings()
    longer.restore_settings()
    assert (20, 20) == (longer.T_max, longer.end)
    assert {} == longer.changed_settings()


def test_equal_settings_are_not_warned_of(monkeypatch):
    monkeypatch.setattr(implementation, "print_log", lambda *a, **k: pytest.fail("warned"))
    for family, kwargs in FAMILIES.items():
        cls = getattr(schedulers_module, f"{family}LR")
        cls(make_optimizer(), **kwargs).load_state_dict(
            cls(make_optimizer(), **kwargs).state_dict()
        )


def test_schedulers_are_copied():
    optimizer = make_optimizer()
    scheduler = StepLR(optimizer, step_size=2)
    twin = copy.copy(scheduler)
    assert attributes(scheduler) == attributes(twin)


def test_resuming_by_last_step_goes_on_from_the_first_values():
    optimizer = make_optimizer()
    scheduler = ExponentialLR(optimizer, gamma=0.5)
    step(optimizer, scheduler, number=3)
    again = ExponentialLR(optimizer, gamma=0.5, last_step=3)
    assert [0.5, 0.05] == again.base_values
    assert 4 == again.last_step


def test_no_warnings_in_a_usual_run():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapper = OptimWrapper(make_optimizer())
        pair = [LinearLR(wrapper, end=3), CosineAnnealingParamScheduler(wrapper, "lr", T_max=9)]
        pair += [LinearParamScheduler(wrapper, "momentum", end=3)]
        pair += [OneCycleParamScheduler(wrapper, "weight_decay", eta_max=0.1, total_steps=20)]
        pair += [ReduceOnPlateauParamScheduler(wrapper, "lr")]
        for _ in range(9):
            wrapper.step()
            for scheduler in pair:
                scheduler.step()


def test_poly_gives_the_numbers_of_mmengine_to_the_last_bit():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.05)
    scheduler = PolyLR(optimizer, end=5)
    found = []
    for _ in range(5):
        found += scheduler.get_last_value()
        optimizer.step()
        scheduler.step()
    expected = [0.05, 0.037500000000000006, 0.025000000000000005, 0.012500000000000002, 0.0]
    assert expected == found


@pytest.mark.parametrize(
    "wrong", [dict(epoch_length=None), dict(epoch_length=0), dict(epoch_length=2, by_epoch=False)]
)
def test_what_cannot_be_converted_is_a_failed_assertion_to_old_code(wrong):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.05)
    with pytest.raises(AssertionError):
        StepLR.build_iter_from_epoch(optimizer, step_size=1, **wrong)


def test_a_step_is_in_the_period_that_ends_after_it():
    position = CosineRestartParamScheduler.get_position_from_periods
    assert [0, 0, 1, None] == [position(step, [4, 9]) for step in (0, 3, 4, 9)]
