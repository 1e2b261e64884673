"""Initialisers. What they draw is compared with MMEngine's in tests/contract/model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mmx.model import (
    BaseInit,
    bias_init_with_prob,
    caffe2_xavier_init,
    constant_init,
    initialize,
    kaiming_init,
    normal_init,
    trunc_normal_init,
    uniform_init,
    update_init_info,
    xavier_init,
)
from mmx.model.weight_init import trunc_normal_
from mmx.registry import WEIGHT_INITIALIZERS


def drawn(function, *args, **kwargs):
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    torch.manual_seed(1)
    function(layer, *args, **kwargs)
    return layer


@pytest.mark.parametrize(
    ("function", "reference"),
    [
        (xavier_init, nn.init.xavier_normal_),
        (
            lambda m, bias: xavier_init(m, bias=bias, distribution="uniform"),
            nn.init.xavier_uniform_,
        ),
        (normal_init, nn.init.normal_),
        (uniform_init, nn.init.uniform_),
        (kaiming_init, lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu")),
        (caffe2_xavier_init, lambda w: nn.init.kaiming_uniform_(w, a=1, mode="fan_in")),
    ],
)
def test_weights_are_drawn_as_torch_draws_them(function, reference, isolated):
    layer = drawn(function, bias=0.5)
    expected = torch.empty(64, 64)
    torch.manual_seed(1)
    reference(expected)
    assert torch.equal(expected, layer.weight)
    assert layer.bias.eq(0.5).all()


def test_layers_without_weight_or_bias_are_left_alone():
    for function in (xavier_init, normal_init, uniform_init, kaiming_init, trunc_normal_init):
        function(nn.ReLU())
        function(nn.Linear(2, 2, bias=False))
    constant_init(nn.BatchNorm1d(2, affine=False), 1)


def test_the_truncated_normal_stays_within_its_bounds(isolated):
    torch.manual_seed(0)
    values = trunc_normal_(torch.empty(20_000), mean=0.5, std=2, a=-1, b=1.5)
    assert -1 <= values.min() < -0.99
    assert 1.49 < values.max() <= 1.5
    # The mean of the truncated distribution, by its formula.
    lower, upper = (-1 - 0.5) / 2, (1.5 - 0.5) / 2
    density = lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    mass = (math.erf(upper / math.sqrt(2)) - math.erf(lower / math.sqrt(2))) / 2
    expected = 0.5 + 2 * (density(lower) - density(upper)) / mass
    assert math.isclose(expected, values.mean().item(), abs_tol=0.02)


def test_a_truncation_far_from_the_mean_warns():
    with pytest.warns(UserWarning, match="mean is more than 2 std from"):
        trunc_normal_(torch.empty(2), mean=10, std=1)


def test_the_prior_is_what_the_sigmoid_gives():
    assert torch.tensor(bias_init_with_prob(0.01)).sigmoid().item() == pytest.approx(0.01)


@pytest.mark.parametrize("function", [xavier_init, kaiming_init])
def test_an_unknown_distribution_is_an_error(function):
    with pytest.raises(ValueError, match="distribution must be 'uniform' or 'normal', got 'x'"):
        function(nn.Linear(1, 1), distribution="x")


def test_all_initialisers_are_registered():
    for name in [
        "Constant",
        "Xavier",
        "Normal",
        "TruncNormal",
        "Uniform",
        "Kaiming",
        "Caffe2Xavier",
        "Pretrained",
    ]:
        assert WEIGHT_INITIALIZERS.get(name) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bias": "x"}, "bias must be a number"),
        ({"bias_prob": 1}, "bias_prob type must be float"),
        ({"layer": 1}, "layer must be a str or a list of str"),
    ],
)
def test_arguments_of_wrong_types_are_errors(options, message):
    with pytest.raises(TypeError, match=message):
        BaseInit(**options)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("x", TypeError, "override must be a dict or a list of dict"),
        ({"type": "Normal"}, ValueError, '`override` must contain the key "name"'),
        ({"name": "0", "val": 2}, ValueError, '`override` need "type" key'),
        ({"name": "nope"}, RuntimeError, "module did not have attribute nope"),
    ],
)
def test_a_wrong_override_is_an_error(override, error, message):
    with pytest.raises(error, match=message):
        initialize(
            nn.Sequential(nn.Linear(1, 1)),
            dict(type="Constant", val=1, layer="Linear", override=override),
        )


def test_the_config_is_not_changed():
    cfg = dict(type="Constant", val=1, layer="Linear", override=[dict(name="0")])
    initialize(nn.Sequential(nn.Linear(1, 1)), cfg)
    assert cfg == dict(type="Constant", val=1, layer="Linear", override=[dict(name="0")])
    with pytest.raises(TypeError, match="init_cfg must be a dict or a list of dict"):
        initialize(nn.Linear(1, 1), "x")


def test_a_module_without_a_record_takes_no_notes():
    with pytest.raises(ValueError, match="Can not find `_params_init_info` in Linear"):
        update_init_info(nn.Linear(1, 1), "note")


def test_a_part_of_a_checkpoint_is_loaded_by_its_prefix(tmp_path):
    file = tmp_path / "whole.pth"
    torch.save({"state_dict": {"backbone.weight": torch.tensor([[4.0]]), "head.x": 1}}, file)
    layer = nn.Linear(1, 1)
    initialize(layer, dict(type="Pretrained", checkpoint=str(file), prefix="backbone"))
    assert layer.weight.item() == 4
    with pytest.raises(ValueError, match=r"neck. is not in the pretrained model"):
        initialize(layer, dict(type="Pretrained", checkpoint=str(file), prefix="neck"))
