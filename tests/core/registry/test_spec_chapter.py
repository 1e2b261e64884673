"""The examples of the manual's chapter on registries, as users of MMEngine know them."""

import pytest
import torch
from torch import nn

from mmx.registry import (
    MODELS,
    Registry,
    count_registered_modules,
    init_default_scope,
)
from mmx_registry.isolation import Site, isolated


@pytest.fixture(autouse=True)
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("MMX_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "site").mkdir()
    with isolated(), Site(tmp_path / "site") as site:
        yield site


ACTIVATIONS = """
import torch.nn as nn
from zzproject.registry import ACTIVATION

@ACTIVATION.register_module()
class Sigmoid(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        print('call Sigmoid.forward')
        return x

@ACTIVATION.register_module()
class ReLU(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()

    def forward(self, x):
        print('call ReLU.forward')
        return x

class Softmax(nn.Module):
    def forward(self, x):
        print('call Softmax.forward')
        return x

ACTIVATION.register_module(module=Softmax)
"""


@pytest.fixture
def activation(site) -> Registry:
    site.package(
        "zzproject",
        {
            "registry.py": """
            from mmx.registry import Registry
            ACTIVATION = Registry('activation', scope='mmx', locations=['zzproject.models.activations'])
            """,
            "models/__init__.py": "",
            "models/activations.py": ACTIVATIONS,
        },
    )
    from zzproject.registry import ACTIVATION

    return ACTIVATION


def test_activations_are_built_from_their_location(activation, capsys):
    data = torch.randn(2)
    assert activation.build(dict(type="Sigmoid"))(data) is data
    assert activation.build(dict(type="ReLU", inplace=True))(data) is data
    assert activation.build(dict(type="Softmax"))(data) is data
    assert capsys.readouterr().out == (
        "call Sigmoid.forward\ncall ReLU.forward\ncall Softmax.forward\n"
    )
    assert set(activation.module_dict) == {"Sigmoid", "ReLU", "Softmax"}


def test_a_custom_build_function(capsys):
    def build_activation(cfg, registry, *args, **kwargs):
        cfg_ = cfg.copy()
        act_type = cfg_.pop("type")
        print(f"build activation: {act_type}")
        act_cls = registry.get(act_type)
        return act_cls(*args, **kwargs, **cfg_)

    registry = Registry("activation", build_func=build_activation, scope="mmx")

    @registry.register_module()
    class Tanh(nn.Module):
        def forward(self, x):
            print("call Tanh.forward")
            return x

    registry.build(dict(type="Tanh"))(torch.randn(2))
    assert capsys.readouterr().out == "build activation: Tanh\ncall Tanh.forward\n"


def test_functions_are_called(capsys):
    registry = Registry("function", scope="mmx")

    @registry.register_module()
    def print_args(**kwargs):
        print(kwargs)

    registry.build(dict(type="print_args", a=1, b=2))
    assert capsys.readouterr().out == "{'a': 1, 'b': 2}\n"


@pytest.fixture
def family(site):
    """MODELS with RReLU, MMAlpha with LogSoftmax, MMBeta beside it."""

    @MODELS.register_module("ZzRReLU")
    class RReLU(nn.Module):
        def __init__(self, lower=0.125, upper=0.333, inplace=False):
            super().__init__()
            self.lower = lower

        def forward(self, x):
            print("call RReLU.forward")
            return x

    for name in ("zzmmalpha", "zzmmbeta"):
        site.plugin(
            name,
            {
                "registry.py": f"""
                from mmx.registry import Registry, MODELS as MMX_MODELS
                MODELS = Registry(
                    'model', parent=MMX_MODELS, scope='{name}', locations=['{name}.models']
                )
                """,
                "models.py": ""
                if name == "zzmmbeta"
                else """
                import torch.nn as nn
                from zzmmalpha.registry import MODELS

                @MODELS.register_module()
                class LogSoftmax(nn.Module):
                    def __init__(self, dim=None):
                        super().__init__()

                    def forward(self, x):
                        print('call LogSoftmax.forward')
                        return x
                """,
            },
        )
    import zzmmalpha.registry
    import zzmmbeta.registry

    return zzmmalpha.registry.MODELS, zzmmbeta.registry.MODELS


def test_parts_of_the_parent_are_used(family, capsys):
    alpha, _ = family
    alpha.build(cfg=dict(type="LogSoftmax"))(torch.randn(2))
    model = alpha.build(cfg=dict(type="ZzRReLU", lower=0.2))
    model = alpha.build(cfg=dict(type="mmx.ZzRReLU", lower=0.2))
    model(torch.randn(2))
    assert model.lower == 0.2
    assert capsys.readouterr().out == "call LogSoftmax.forward\ncall RReLU.forward\n"
    counts = count_registered_modules(verbose=False)["registries"]["MODELS"]
    assert {"num_modules": 1, "scope": "zzmmalpha", "zzmmalpha": ["LogSoftmax"]} in counts


def test_the_parent_finds_parts_of_the_child_by_the_default_scope(family):
    alpha, _ = family
    alpha.build(dict(type="LogSoftmax"))
    with pytest.raises(KeyError, match=r"The name exists in another scope: write 'zzmmalpha\."):
        MODELS.build(dict(type="LogSoftmax"))
    init_default_scope("zzmmalpha")
    assert type(MODELS.build(dict(type="LogSoftmax"))).__name__ == "LogSoftmax"


def test_parts_of_a_sibling_are_used(family, capsys):
    _, beta = family
    beta.build(cfg=dict(type="zzmmalpha.LogSoftmax"))(torch.randn(2))
    beta.build(cfg=dict(type="LogSoftmax", _scope_="zzmmalpha"))(torch.randn(2))
    assert capsys.readouterr().out == "call LogSoftmax.forward\n" * 2
    with pytest.raises(KeyError, match="LogSoftmax is not in the zzmmbeta::model registry"):
        beta.build(dict(type="LogSoftmax"))
