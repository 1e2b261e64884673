"""Building optimizer wrappers, and the optimizers that configs may name."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec

import pytest
import torch
from torch import nn

from mmx.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmx.optim.optimizer import builder
from mmx.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS


def test_all_of_torchs_optimizers_are_registered():
    expected = {
        name
        for name, cls in vars(torch.optim).items()
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
    } - {"Optimizer"}
    assert expected == set(builder.TORCH_OPTIMIZERS)
    for name in expected - {"Adafactor"}:
        assert getattr(torch.optim, name) is OPTIMIZERS.get(name)
    assert "Muon" in expected
    assert torch.optim.Adafactor is OPTIMIZERS.get("TorchAdafactor")


def test_a_wrapper_is_built_from_a_config_that_stays_as_it_is():
    cfg = dict(
        type="AmpOptimWrapper",
        optimizer=dict(type="SGD", lr=0.1, weight_decay=0.5),
        accumulative_counts=2,
        clip_grad=dict(max_norm=1),
        paramwise_cfg=dict(bias_decay_mult=0),
    )
    before = copy.deepcopy(cfg)
    wrapper = build_optim_wrapper(nn.Linear(1, 1), cfg)
    assert before == cfg
    assert AmpOptimWrapper is type(wrapper)
    assert 2 == wrapper._accumulative_counts
    assert [0.5, 0.0] == [g["weight_decay"] for g in wrapper.optimizer.param_groups]


def test_the_type_of_the_wrapper_may_be_left_out():
    wrapper = build_optim_wrapper(nn.Linear(1, 1), dict(optimizer=dict(type="Adam")))
    assert OptimWrapper is type(wrapper)
    assert torch.optim.Adam is type(wrapper.optimizer)


def test_types_may_be_classes():
    cfg = dict(type=AmpOptimWrapper, optimizer=dict(type=torch.optim.SGD, lr=0.1))
    assert AmpOptimWrapper is type(build_optim_wrapper(nn.Linear(1, 1), cfg))


def test_a_constructor_of_ones_own_builds_several(isolated):
    @OPTIM_WRAPPER_CONSTRUCTORS.register_module()
    class TwoOptimizers:
        def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
            self.cfg, self.paramwise_cfg = optim_wrapper_cfg, paramwise_cfg

        def __call__(self, model):
            return OptimWrapperDict(
                **{
                    name: build_optim_wrapper(getattr(model, name), cfg)
                    for name, cfg in self.cfg.items()
                }
            )

    cfg = dict(
        constructor="TwoOptimizers",
        gen=dict(optimizer=dict(type="SGD", lr=0.1)),
        disc=dict(optimizer=dict(type="Adam", lr=0.2)),
    )
    model = nn.ModuleDict(dict(gen=nn.Linear(1, 1), disc=nn.Linear(1, 1)))
    wrapper = build_optim_wrapper(model, cfg)
    assert {"gen.lr": [0.1], "disc.lr": [0.2]} == wrapper.get_lr()


@pytest.mark.parametrize(
    ("cfg", "error", "text"),
    [
        (3, TypeError, "cfg of an optimizer wrapper should be a dict, but got <class 'int'>"),
        (dict(type="OptimWrapper"), ValueError, 'must contain "optimizer" config'),
        (dict(optimizer=dict(lr=0.1)), ValueError, "optimizer should have a `type`"),
        (dict(optimizer=3), TypeError, "optimizer should be a dict with the type and arguments"),
        (dict(optimizer=dict(type="SDG", lr=0.1)), LookupError, "SGD"),
        (dict(optimizer=dict(type="SGD", lr=0.1), foo=1), TypeError, "foo"),
    ],
)
def test_bad_configs_say_what_is_wrong(cfg, error, text):
    with pytest.raises(error, match=text):
        build_optim_wrapper(nn.Linear(1, 1), cfg)


# Optimizers of other packages -------------------------------------------------------------------


@pytest.fixture
def package(isolated, monkeypatch):
    """A package that is installed but not imported."""
    module = types.ModuleType("some_optimizers")
    imported = []

    class Fast(torch.optim.SGD):
        pass

    module.Fast = Fast
    find_spec = importlib.util.find_spec

    def find(name, package=None):
        if name == "some_optimizers":
            return ModuleSpec(name, None)
        return find_spec(name, package)

    def load(name):
        imported.append(name)
        return module

    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setattr(builder.importlib, "import_module", load)
    return types.SimpleNamespace(module=module, imported=imported)


def test_an_installed_package_is_imported_when_its_optimizer_is_built(package):
    names = builder.register_installed_optimizers("some_optimizers", "some_optimizers", ["Fast"])
    assert ["Fast"] == names
    assert [] == package.imported
    wrapper = build_optim_wrapper(nn.Linear(1, 1), dict(optimizer=dict(type="Fast", lr=0.1)))
    assert package.module.Fast is type(wrapper.optimizer)
    assert ["some_optimizers"] == package.imported


def test_a_name_that_is_taken_stays_with_a_warning(package, monkeypatch):
    lines = []
    monkeypatch.setattr(builder, "print_log", lambda text, **kwargs: lines.append(text))
    names = builder.register_installed_optimizers("some_optimizers", "some_optimizers", ["SGD"])
    assert [] == names
    assert torch.optim.SGD is OPTIMIZERS.get("SGD")
    assert "some_optimizers has an optimizer 'SGD', but in the registry that is" in lines[0]
    assert "torch.optim.sgd.SGD, and stays so" in lines[0]


def test_a_package_that_is_too_old_is_named(package):
    builder.register_installed_optimizers("some_optimizers", "some_optimizers", ["Slow"])
    with pytest.raises(ImportError, match="some_optimizers has no optimizer 'Slow'; upgrade it"):
        OPTIMIZERS.build(dict(type="Slow", params=[]))


def test_a_package_that_is_not_installed_registers_nothing():
    assert [] == builder.register_installed_optimizers("no_such_package", "no_such_package", ["X"])
    assert "X" not in OPTIMIZERS.module_dict


def test_nothing_optional_is_imported():
    code = (
        "import sys, mmx.optim.optimizer.builder; "
        "print([m for m in ('transformers', 'bitsandbytes', 'lion_pytorch', 'dadaptation', "
        "'prodigyopt', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
