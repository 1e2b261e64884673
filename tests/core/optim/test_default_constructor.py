"""Which parameters an optimizer gets, and with which settings.

What each key of ``paramwise_cfg`` does on three models is compared with recordings in
``tests/contract/optim``.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.optim import DefaultOptimWrapperConstructor
from mmx.optim.optimizer import default_constructor
from mmx.registry import OPTIM_WRAPPER_CONSTRUCTORS


def build(model, paramwise_cfg=None, kind="SGD", **optimizer):
    optimizer = dict(type=kind, lr=0.1, weight_decay=0.5) | optimizer
    optimizer = {name: value for name, value in optimizer.items() if value is not None}
    return DefaultOptimWrapperConstructor(dict(optimizer=optimizer), paramwise_cfg)(model)


def settings(model, wrapper, *keys):
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(param)]: tuple(group[key] for key in keys)
        for group in wrapper.optimizer.param_groups
        for param in group["params"]
    }


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.head = nn.Linear(2, 1)


@pytest.fixture
def lines(monkeypatch):
    found = []
    monkeypatch.setattr(
        default_constructor, "print_log", lambda text, logger=None, level=20: found.append(text)
    )
    return found


def test_it_is_registered_by_name():
    found = OPTIM_WRAPPER_CONSTRUCTORS.get("DefaultOptimWrapperConstructor")
    assert DefaultOptimWrapperConstructor is found


def test_without_settings_all_parameters_share_a_group():
    model = Net()
    wrapper = build(model)
    assert 1 == len(wrapper.optimizer.param_groups)
    assert list(model.parameters()) == wrapper.optimizer.param_groups[0]["params"]


def test_coefficients_for_all_parameters_yield_to_those_of_a_kind():
    model = Net()
    wrapper = build(
        model,
        dict(
            lr_mult=2,
            decay_mult=3,
            bias_lr_mult=5,
            norm_decay_mult=0,
            custom_keys=dict(head=dict(lr_mult=0.1)),
        ),
    )
    expected = {
        "backbone.0.weight": (0.2, 1.5),
        "backbone.0.bias": (0.5, 1.5),
        "backbone.1.weight": (0.2, 0.0),
        "backbone.1.bias": (0.2, 0.0),
        "head.weight": (0.1 * 0.1, 0.5),
        "head.bias": (0.1 * 0.1, 0.5),
    }
    assert expected == settings(model, wrapper, "lr", "weight_decay")


def test_a_distributed_model_is_unwrapped():
    class Wrapped(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model = Net()
    wrapper = build(Wrapped(model), dict(custom_keys={"module.head": dict(lr_mult=0)}))
    assert {(0.1,)} == set(settings(model, wrapper, "lr").values())


def test_deformable_convolutions_have_settings_of_their_own():
    class ModulatedDeformConv2d(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.bias = nn.Parameter(torch.zeros(1))

    class Pack(ModulatedDeformConv2d):
        def __init__(self):
            super().__init__()
            self.conv_offset = nn.Conv2d(2, 3, 1)

    model = nn.Sequential(Pack(), nn.Linear(1, 1))
    wrapper = build(
        model,
        dict(dcn_offset_lr_mult=0.1, bias_lr_mult=2, bias_decay_mult=3, flat_decay_mult=5),
        lr=1.0,
        weight_decay=1.0,
    )
    expected = {
        "0.weight": (1.0, 5.0),
        "0.bias": (2.0, 3.0),
        "0.conv_offset.weight": (0.1, 1.0),
        "0.conv_offset.bias": (0.1, 1.0),
        "1.weight": (1.0, 1.0),
        "1.bias": (2.0, 3.0),
    }
    assert expected == settings(model, wrapper, "lr", "weight_decay")


def test_frozen_parameters_are_left_out_with_a_warning(lines):
    model = Net()
    model.head.weight.requires_grad_(False)
    wrapper = build(model, dict(bias_lr_mult=1))
    assert "head.weight" not in settings(model, wrapper, "lr")
    assert "head.weight is skipped since its requires_grad=False" in lines


def test_duplicates_are_left_out_on_request(lines):
    shared = nn.Linear(1, 1)
    model = nn.ModuleDict(dict(a=shared, b=nn.ModuleList([shared])))
    wrapper = build(model, dict(bypass_duplicate=True))
    assert [[shared.weight], [shared.bias]] == [g["params"] for g in wrapper.optimizer.param_groups]
    assert "b.0 is duplicate. It is skipped since bypass_duplicate=True (b.0.weight)" in lines
    with pytest.raises(ValueError, match="parameters appear in more than one parameter group"):
        build(model, dict(bias_lr_mult=1))


def test_what_was_set_is_logged(lines):
    build(Net(), dict(custom_keys=dict(head=dict(lr_mult=0.5))))
    expected = [
        f"paramwise_options -- head.{name}:{setting}"
        for name in ("weight", "bias")
        for setting in ("lr=0.05", "weight_decay=0.5", "lr_mult=0.5")
    ]
    assert expected == lines


def test_many_settings_are_one_record(lines):
    build(nn.Sequential(*(nn.Linear(1, 1) for _ in range(70))), dict(bias_lr_mult=2))
    (record,) = lines
    assert 70 == record.count("paramwise_options -- ")


def test_keys_that_do_nothing_are_warned_of(lines):
    build(Net(), dict(norm_decay_mul=0))
    assert "paramwise_cfg has keys that do nothing: ['norm_decay_mul']" in lines[0]


def test_a_constructor_of_ones_own_may_have_keys_of_its_own(lines):
    class Mine(DefaultOptimWrapperConstructor):
        def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
            super().__init__(optim_wrapper_cfg, None)
            self.decay_factor = paramwise_cfg.get("decay_factor", 0.5)
            super().__init__(optim_wrapper_cfg, paramwise_cfg)

        def add_params(self, params, module, prefix="", lr=None):
            lr = self.base_lr if lr is None else lr
            for param in module.parameters(recurse=False):
                params.append({"params": [param], "lr": lr})
            for name, child in module.named_children():
                self.add_params(params, child, f"{prefix}.{name}", lr=lr * self.decay_factor)

    model = nn.Sequential(nn.Sequential(nn.Linear(1, 1)), nn.Linear(1, 1))
    config = dict(optimizer=dict(type="SGD", lr=0.8))
    wrapper = Mine(config, dict(decay_factor=0.5))(model)
    expected = {"0.0.weight": (0.2,), "0.0.bias": (0.2,), "1.weight": (0.4,), "1.bias": (0.4,)}
    assert expected == settings(model, wrapper, "lr")
    assert [] == lines


@pytest.mark.parametrize(
    ("cfg", "paramwise_cfg", "error", "text"),
    [
        ([], None, TypeError, "optimizer_cfg should be a dict, but got <class 'list'>"),
        ({}, None, ValueError, '`optim_wrapper_cfg` must contain "optimizer" config'),
        (dict(optimizer={}), [1], TypeError, "paramwise_cfg should be None or a dict"),
        (dict(optimizer={}), dict(custom_keys=[]), TypeError, "custom_keys must be a dict"),
        (dict(optimizer={}), dict(custom_keys={"a": 3}), TypeError, r"custom_keys\['a'\] should"),
        (dict(optimizer={}), dict(bias_decay_mult=1), ValueError, "base_wd should not be None"),
        (dict(optimizer={}), dict(norm_decay_mult=1), ValueError, "base_wd should not be None"),
        (dict(optimizer={}), dict(dwconv_decay_mult=1), ValueError, "has dwconv_decay_mult, which"),
        (
            dict(optimizer={}),
            dict(custom_keys=dict(a=dict(decay_mult=1))),
            ValueError,
            r"base_wd should not be None: paramwise_cfg has custom_keys\['a'\], which multiplies "
            "the optimizer's weight_decay",
        ),
        (
            dict(optimizer=dict(weight_decay=1)),
            dict(bias_lr_mult=1, custom_keys=dict(a=dict(lr_mult=1))),
            ValueError,
            r"base_lr should not be None: paramwise_cfg has bias_lr_mult, custom_keys\['a'\]",
        ),
    ],
)
def test_bad_settings_say_what_is_wrong(cfg, paramwise_cfg, error, text):
    with pytest.raises(error, match=text):
        DefaultOptimWrapperConstructor(cfg, paramwise_cfg)


# Many groups ------------------------------------------------------------------------------------

PARAMWISE = dict(
    norm_decay_mult=0,
    bias_lr_mult=2,
    custom_keys={"head": dict(lr_mult=0.1), "backbone.0": dict(decay_mult=0.3)},
)


def deep(blocks):
    torch.manual_seed(0)
    return nn.ModuleDict(
        dict(
            backbone=nn.Sequential(
                *[nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)) for _ in range(blocks)]
            ),
            head=nn.Linear(3, 3),
        )
    )


def train(model, wrapper, steps=5):
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        batch = torch.randn(4, 3, generator=generator)
        wrapper.update_params(model["head"](model["backbone"](batch)).pow(2).mean())
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "Adam"])
def test_merged_groups_make_the_same_updates(kind):
    apart, merged = deep(4), deep(4)
    first = build(apart, PARAMWISE, kind)
    second = build(merged, {**PARAMWISE, "merge_groups": True}, kind)
    assert 18 == len(first.optimizer.param_groups)
    assert 5 == len(second.optimizer.param_groups)
    expected = settings(apart, first, "lr", "weight_decay")
    assert expected == settings(merged, second, "lr", "weight_decay")
    for a, b in zip(train(apart, first), train(merged, second), strict=True):
        assert torch.equal(a, b)


def test_many_groups_are_built_as_torch_builds_them(monkeypatch):
    fast, slow = deep(30), deep(30)
    first = build(fast, PARAMWISE, "AdamW")
    monkeypatch.setattr(default_constructor, "_MANY", 10**9)
    second = build(slow, PARAMWISE, "AdamW")
    assert 122 == len(first.optimizer.param_groups)
    assert second.optimizer.state_dict() == first.optimizer.state_dict()
    assert torch.optim.AdamW is type(first.optimizer)
    assert "add_param_group" not in vars(first.optimizer)
    for a, b in zip(train(fast, first, 2), train(slow, second, 2), strict=True):
        assert torch.equal(a, b)
    first.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="appear in more than one parameter group"):
        first.optimizer.add_param_group({"params": [fast["head"].weight]})


def test_duplicates_among_many_groups_are_found():
    model = deep(30)
    model["again"] = nn.Sequential(model["head"])
    with pytest.raises(ValueError, match="some parameters appear in more than one"):
        build(model, PARAMWISE)


def test_an_optimizer_may_name_its_parameters_otherwise(isolated):
    from mmx.registry import OPTIMIZERS

    @OPTIMIZERS.register_module()
    class Hybrid(torch.optim.SGD):
        def __init__(self, model_params, lr):
            super().__init__(model_params, lr)

    model = nn.Linear(1, 1)
    wrapper = build(model, None, "Hybrid", weight_decay=None)
    assert list(model.parameters()) == wrapper.optimizer.param_groups[0]["params"]


def test_decay_of_flat_parameters_without_decay_is_warned_of(lines):
    model = nn.BatchNorm1d(2)
    constructor = DefaultOptimWrapperConstructor(
        dict(optimizer=dict(type="SGD", lr=0.1)), dict(flat_decay_mult=0.0)
    )
    assert constructor(model).optimizer.param_groups[0]["weight_decay"] == 0
    assert any("flat_decay_mult does nothing" in line for line in lines)
