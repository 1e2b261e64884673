"""Averages of weights. States after 100 updates are compared with MMEngine's in tests/contract."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mmx.logging import MMLogger
from mmx.model import (
    BaseAveragedModel,
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
    averaged_state_dict,
    source_state_dict,
)
from mmx.registry import MODELS


def make_net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def change(net, step):
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for param in net.parameters():
            param.add_(torch.randn(param.shape, generator=generator))
    net(torch.randn(4, 3, generator=generator))


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("update_buffers", [False, True])
@pytest.mark.parametrize("kind", ["ema", "annealing", "swa"])
def test_the_average_is_that_of_the_formula_bit_for_bit(kind, update_buffers, interval):
    net = make_net()
    options = dict(interval=interval, update_buffers=update_buffers)
    if kind == "ema":
        average = ExponentialMovingAverage(net, momentum=0.1, **options)
        weight = lambda step: 0.1  # noqa: E731
    elif kind == "annealing":
        average = MomentumAnnealingEMA(net, momentum=0.1, gamma=7, **options)
        weight = lambda step: max(0.1, 7 / (7 + step))  # noqa: E731
    else:
        average = StochasticWeightAverage(net, **options)
        weight = lambda step: 1 / float(step // interval + 1)  # noqa: E731
    expected = {}
    for step in range(100):
        change(net, step)
        average.update_parameters(net)
        for name, value in net.state_dict().items():
            averaged = update_buffers or name in dict(net.named_parameters())
            if step == 0 or (not averaged):
                expected[name] = value.clone()
            elif step % interval == 0 and value.is_floating_point():
                if kind == "swa":
                    expected[name].add_(value - expected[name], alpha=weight(step))
                else:
                    expected[name].lerp_(value, weight(step))
    assert average.steps == 100
    state = average.module.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], state[name])] == []


def test_state_round_trips_in_the_middle():
    net = make_net()
    first = MomentumAnnealingEMA(net, gamma=5)
    for step in range(5):
        change(net, step)
        first.update_parameters(net)
    second = MomentumAnnealingEMA(make_net(), gamma=5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in range(5, 10):
        change(net, step)
        first.update_parameters(net)
        second.update_parameters(net)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_saved_are_the_module_and_the_number_of_updates():
    average = ExponentialMovingAverage(nn.Linear(1, 1))
    assert list(average.state_dict()) == ["steps", "module.weight", "module.bias"]
    assert average.steps.dtype == torch.int64


def test_the_average_runs_and_needs_no_gradient():
    net = make_net().eval()
    average = ExponentialMovingAverage(net).eval()
    x = torch.ones(2, 3)
    assert torch.equal(net(x), average(x))
    assert not any(p.requires_grad for p in average.parameters())
    assert average.module is not net


def test_a_way_of_averaging_of_ones_own_needs_one_method():
    class Maximum(BaseAveragedModel):
        def avg_func(self, averaged_param, source_param, steps):
            torch.maximum(averaged_param, source_param, out=averaged_param)

    class Halfway(ExponentialMovingAverage):
        def avg_func(self, averaged_param, source_param, steps):
            averaged_param.lerp_(source_param, 0.5)

    for kind, expected in ((Maximum, 4.0), (Halfway, 1.0)):
        layer = nn.Linear(1, 1, bias=False)
        average = kind(layer)
        for value in (4.0, -2.0):
            nn.init.constant_(layer.weight, value)
            average.update_parameters(layer)
        assert average.module.weight.item() == expected


def test_replaced_parameters_and_parts_are_noticed():
    net = make_net()
    average = ExponentialMovingAverage(net, momentum=0.5)
    average.update_parameters(net)
    net[0].weight = nn.Parameter(torch.full((5, 3), 7.0))
    net[2] = nn.Linear(5, 2)
    nn.init.constant_(net[2].weight, 9.0)
    before = average.module[2].weight.clone()
    old = average.module[0].weight.clone()
    average.update_parameters(net)
    assert torch.equal(average.module[0].weight, old.lerp(torch.full((5, 3), 7.0), 0.5))
    assert torch.equal(average.module[2].weight, before.lerp(torch.full((2, 5), 9.0), 0.5))


def test_another_model_may_be_given():
    net, other = make_net(), make_net()
    average = StochasticWeightAverage(net)
    average.update_parameters(net)
    with torch.no_grad():
        for param in other.parameters():
            param.add_(1)
    average.update_parameters(other)
    assert torch.allclose(average.module[0].weight, net[0].weight + 0.5)


def test_the_average_may_move_and_be_of_another_type():
    net = make_net()
    average = ExponentialMovingAverage(net, momentum=0.5)
    average.update_parameters(net)
    average.to(torch.float64)
    average.module[0].weight.data.zero_()
    average.update_parameters(net)
    assert average.module[0].weight.dtype == torch.float64
    assert torch.equal(average.module[0].weight, net[0].weight.double() * 0.5)


def test_shared_and_complex_parameters_are_averaged():
    net = make_net()
    net.again = net[0]
    net.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    average = ExponentialMovingAverage(net, momentum=0.5)
    average.update_parameters(net)
    with torch.no_grad():
        net.phase.fill_(3j)
        net[0].bias.add_(2)
    expected = net[0].bias.detach() - 1
    average.update_parameters(net)
    assert average.module.phase.tolist() == [0.5 + 1.5j] * 2
    assert torch.allclose(average.module[0].bias, expected)
    assert average.module.again is average.module[0]


def test_a_copy_does_not_drag_the_model_along():
    net = make_net()
    average = ExponentialMovingAverage(net)
    average.update_parameters(net)
    twin = copy.deepcopy(average)
    change(net, 0)
    twin.update_parameters(net)
    assert (int(average.steps), int(twin.steps)) == (1, 2)


def test_a_model_of_another_structure_is_an_error():
    average = ExponentialMovingAverage(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the model \\(ReLU\\) has no 'weight', which is averaged"):
        average.update_parameters(nn.ReLU())
    with pytest.raises(ValueError, match=r"'weight' has shape \(3, 2\) in the model and \(2, 2\)"):
        average.update_parameters(nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ExponentialMovingAverage, dict(momentum=1.5), r"momentum must be in range \(0.0, 1.0\)"),
        (ExponentialMovingAverage, dict(momentum=0.0), r"momentum must be in range \(0.0, 1.0\)"),
        (MomentumAnnealingEMA, dict(gamma=0), "gamma must be greater than 0, but got 0"),
        (StochasticWeightAverage, dict(interval=0), "interval must be at least 1, but got 0"),
    ],
)
def test_wrong_arguments_are_errors(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(nn.Linear(1, 1), **options)


def test_a_large_momentum_is_remarked_on(capsys):
    MMLogger.get_instance("large-momentum")  # one that has not shown the warning yet
    MODELS.build(dict(type="ExponentialMovingAverage", model=nn.Linear(1, 1), momentum=0.9))
    assert "The value of momentum in EMA is usually a small number" in capsys.readouterr().out


def test_a_kept_device_is_where_the_average_is():
    average = ExponentialMovingAverage(nn.Linear(1, 1), device=torch.device("meta"))
    assert average.module.weight.is_meta
    assert average.steps.is_meta


def test_weights_are_taken_out_of_checkpoints():
    checkpoint = {"state_dict": {"a": 1}, "ema_state_dict": {"steps": 3, "module.a": 2}}
    assert averaged_state_dict(checkpoint) == {"a": 1}
    assert source_state_dict(checkpoint) == {"a": 2}
    assert averaged_state_dict({"steps": 3, "module.a": 2}) == {"a": 2}
    assert averaged_state_dict({"a": 1}) == {"a": 1}
    with pytest.raises(KeyError, match="it was saved without EMAHook"):
        source_state_dict({"state_dict": {"a": 1}})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # is a prototype
def test_updating_does_not_wait_for_the_device():
    net = make_net().cuda()
    average = ExponentialMovingAverage(net, momentum=0.5)
    kept = ExponentialMovingAverage(net, momentum=0.5, device=torch.device("cpu"))
    for step in range(3):
        with torch.no_grad():
            net[0].weight.add_(step)
        kept.update_parameters(net)
        if step:
            torch.cuda.set_sync_debug_mode("error")
        try:
            average.update_parameters(net)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(average.module[0].weight.cpu(), kept.module[0].weight)
