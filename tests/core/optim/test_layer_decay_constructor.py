"""Learning rates that fall from the last layer to the first."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.optim import build_optim_wrapper
from mmx.optim.optimizer.layer_decay_constructor import layer_depths


class Transformer(nn.Module):
    def __init__(self, depth=3):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.embed = nn.Linear(2, 4)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(depth)]
        )
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


class Stages(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        self.layer2 = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1))
        self.fc = nn.Linear(8, 2)


def rates(model, **paramwise_cfg):
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.05),
            constructor="LayerDecayOptimWrapperConstructor",
            paramwise_cfg=paramwise_cfg,
        ),
    )
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(param)]: group["lr"]
        for group in wrapper.optimizer.param_groups
        for param in group["params"]
    }


def test_each_layer_has_the_rate_of_the_next_times_the_decay():
    found = rates(Transformer(), layer_decay_rate=0.5)
    expected = {
        "cls_token": 0.5**4,
        "embed.weight": 0.5**4,
        "blocks.0.0.weight": 0.5**3,
        "blocks.1.1.bias": 0.5**2,
        "blocks.2.0.bias": 0.5**1,
        "norm.weight": 1.0,
        "head.bias": 1.0,
    }
    assert expected == {name: found[name] for name in expected}


def test_siblings_that_are_numbered_are_layers():
    found = rates(Stages(), layer_decay_rate=0.1)
    expected = {"stem.weight": 1e-3, "layer1.1.bias": 1e-2, "layer2.0.weight": 0.1, "fc.bias": 1.0}
    assert expected == pytest.approx({name: found[name] for name in expected})


def test_the_model_may_say_itself():
    class Mine(Stages):
        def get_layer_depth(self, name):
            return (0 if name.startswith("stem") else 1), 2

    found = rates(Mine(), layer_decay_rate=0.25)
    assert {"stem.weight": 0.25, "stem.bias": 0.25} == {k: v for k, v in found.items() if v != 1}


def test_other_settings_apply_too():
    model = Transformer()
    found = rates(
        model, layer_decay_rate=0.5, bias_lr_mult=2, custom_keys={"head": dict(lr_mult=3)}
    )
    assert 2 * 0.5**4 == found["embed.bias"]
    assert 3.0 == found["head.bias"]
    merged = rates(model, layer_decay_rate=0.5, merge_groups=True)
    assert rates(model, layer_decay_rate=0.5) == merged


def test_the_blocks_are_those_with_most_parameters():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.neck = nn.ModuleList([nn.Linear(1, 1) for _ in range(5)])
            self.trunk = Transformer(12)

    depths = layer_depths(Two())
    assert (0, 14) == depths["neck.4.weight"]
    assert (12, 14) == depths["trunk.blocks.11.0.weight"]
    assert (13, 14) == depths["trunk.head.weight"]


@pytest.mark.parametrize("rate", [None, 0, 1.5, "x"])
def test_a_rate_out_of_range_is_named(rate):
    with pytest.raises(ValueError, match=r"layer_decay_rate=\.\.\.\), a number in \(0, 1\]"):
        rates(Transformer(), **({} if rate is None else {"layer_decay_rate": rate}))


def test_a_model_without_layers_is_told_what_to_do():
    with pytest.raises(ValueError, match=r"Linear has no stack of blocks .* `get_layer_depth"):
        rates(nn.Linear(1, 1), layer_decay_rate=0.5)


def test_the_optimizer_needs_a_learning_rate():
    cfg = dict(
        optimizer=dict(type="AdamW"),
        constructor="LayerDecayOptimWrapperConstructor",
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    with pytest.raises(ValueError, match="multiplies the optimizer's lr: set it"):
        build_optim_wrapper(Transformer(), cfg)
