"""Mixed precision by apex, of which a stand-in is used."""

from __future__ import annotations

import sys
import types
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from mmx.optim import ApexOptimWrapper
from mmx.registry import OPTIM_WRAPPERS
from mmx.utils.errors import MissingPackageError


@pytest.fixture
def amp(monkeypatch):
    amp = types.ModuleType("apex.amp")
    amp.log = []
    amp.initialize = lambda model, optimizer, **kwargs: amp.log.append(kwargs)
    amp.state_dict = lambda: {"scale": 3}
    amp.load_state_dict = lambda state: amp.log.append(state)

    @contextmanager
    def scale_loss(loss, optimizer):
        yield loss * 2

    amp.scale_loss = scale_loss
    apex = types.ModuleType("apex")
    apex.amp = amp
    monkeypatch.setitem(sys.modules, "apex", apex)
    monkeypatch.setitem(sys.modules, "apex.amp", amp)
    return amp


def make(model, **kwargs):
    return ApexOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.5), **kwargs)


def test_apex_is_told_once_and_scales_the_loss(amp):
    model = nn.Linear(1, 1, bias=False)
    wrapper = make(model, opt_level="O2", verbosity=0, accumulative_counts=1)
    before = model.weight.item()
    for _ in range(2):
        with wrapper.optim_context(model):
            loss = model(torch.ones(1)).sum()
        wrapper.update_params(loss)
    assert [dict(enabled=True, opt_level="O2", loss_scale="dynamic", verbosity=0)] == amp.log
    assert before - 2 == pytest.approx(model.weight.item())
    assert 2 == wrapper.inner_count


def test_its_state_has_that_of_apex(amp):
    wrapper = make(nn.Linear(1, 1))
    state = wrapper.state_dict()
    assert {"scale": 3} == state["apex_amp"]
    wrapper.load_state_dict(state)
    assert [{"scale": 3}] == amp.log


def test_without_apex_the_alternative_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apex", None)
    assert ApexOptimWrapper is OPTIM_WRAPPERS.get("ApexOptimWrapper")
    # MMEngine asserts it.
    assert issubclass(MissingPackageError, AssertionError)
    with pytest.raises(MissingPackageError, match="torch's own mixed precision is AmpOptimWrapper"):
        make(nn.Linear(1, 1))
