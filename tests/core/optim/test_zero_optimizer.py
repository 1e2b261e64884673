"""An optimizer whose state is spread over the ranks, built by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.optim import ZeroRedundancyOptimizer, build_optim_wrapper
from mmx.registry import OPTIMIZERS


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_it_trains_and_saves_like_the_optimizer_it_spreads(one_process):
    assert ZeroRedundancyOptimizer is OPTIMIZERS.get("ZeroRedundancyOptimizer")
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    plain = nn.Linear(3, 2)
    plain.load_state_dict(model.state_dict())
    wrapper = build_optim_wrapper(
        model,
        dict(optimizer=dict(type="ZeroRedundancyOptimizer", optimizer_type="AdamW", lr=0.1)),
    )
    expected = build_optim_wrapper(plain, dict(optimizer=dict(type="AdamW", lr=0.1)))
    batch = torch.randn(4, 3)
    for _ in range(3):
        wrapper.update_params(model(batch).pow(2).mean())
        expected.update_params(plain(batch).pow(2).mean())
    assert torch.equal(plain.weight, model.weight)
    state = wrapper.state_dict()
    assert torch.equal(expected.state_dict()["state"][0]["exp_avg"], state["state"][0]["exp_avg"])
    wrapper.load_state_dict(state)


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match=r"optimizer_type should name an optimizer .* got 'Adan'"):
        ZeroRedundancyOptimizer([nn.Parameter(torch.zeros(1))], "Adan", lr=0.1)
