"""Several optimizers by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.optim import OptimWrapper, OptimWrapperDict, StepLR


def make() -> OptimWrapperDict:
    gen, disc = nn.Linear(1, 1), nn.Linear(1, 1)
    return OptimWrapperDict(
        gen=OptimWrapper(torch.optim.SGD(gen.parameters(), lr=0.01)),
        disc=OptimWrapper(
            torch.optim.Adam([{"params": [disc.weight], "lr": 0.3}, {"params": [disc.bias]}]),
            accumulative_counts=2,
        ),
    )


def test_it_is_read_like_a_dict():
    wrappers = make()
    assert ["gen", "disc"] == list(wrappers.keys()) == list(wrappers)
    assert [("gen", wrappers["gen"]), ("disc", wrappers["disc"])] == list(wrappers.items())
    assert [wrappers["gen"], wrappers["disc"]] == list(wrappers.values())
    assert 2 == len(wrappers)
    assert "gen" in wrappers
    assert "x" not in wrappers
    with pytest.raises(KeyError, match=r"Cannot find x in OptimWrapperDict.*\['gen', 'disc'\]"):
        wrappers["x"]


def test_settings_are_listed_by_name():
    wrappers = make()
    expected = {"gen.lr": [0.01], "disc.base_lr": [0.001], "disc.lr": [0.3, 0.001]}
    assert expected == wrappers.get_lr()
    assert {"gen.momentum": [0], "disc.momentum": [0.9, 0.9]} == wrappers.get_momentum()
    assert {"gen": 1, "disc": 3} == {k: len(v) for k, v in wrappers.param_groups.items()}


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("update_params", [torch.tensor(1.0)]),
        ("backward", [torch.tensor(1.0)]),
        ("step", []),
        ("optim_context", [None]),
        ("should_update", []),
        ("should_sync", []),
        ("scale_loss", [torch.tensor(1.0)]),
    ],
)
def test_what_needs_one_optimizer_says_so(method, args):
    with pytest.raises(
        NotImplementedError, match=f"`{method}` should be called by each optimizer separately"
    ):
        getattr(make(), method)(*args)


@pytest.mark.parametrize("name", ["inner_count", "defaults"])
def test_what_there_is_one_of_per_optimizer_is_no_attribute(name):
    assert not hasattr(make(), name)


def test_gradients_of_all_are_cleared():
    wrappers = make()
    params = [p for w in wrappers.values() for g in w.optimizer.param_groups for p in g["params"]]
    for param in params:
        param.grad = torch.ones_like(param)
    wrappers.zero_grad()
    assert [None] * 4 == [param.grad for param in params]


def test_counting_is_left_to_the_single_wrappers():
    wrappers = make()
    wrappers.initialize_count_status(nn.Linear(1, 1), 3, 10)
    assert 0 == wrappers["disc"].inner_count


def test_states_go_round_by_name():
    saved, loaded = make(), make()
    for param in saved["disc"].optimizer.param_groups[0]["params"]:
        saved["disc"].update_params(param.sum())
    loaded.load_state_dict(saved.state_dict())
    assert 1 == loaded["disc"].inner_count
    assert saved.extra_state_dict()["gen"] == loaded.extra_state_dict()["gen"] == {}
    loaded.load_extra_state_dict(saved.extra_state_dict())
    with pytest.raises(KeyError, match="cannot found x in OptimWrapperDict"):
        loaded.load_state_dict({"x": {}})


def test_only_wrappers_are_taken():
    with pytest.raises(TypeError, match=r"only accept OptimWrapper instance, but got a: .*SGD"):
        OptimWrapperDict(a=torch.optim.SGD([torch.zeros(1)], lr=1))


def test_the_representation_shows_all():
    text = repr(make())
    assert "name: gen\nType: OptimWrapper" in text
    assert "name: disc\nType: OptimWrapper" in text


def test_a_scheduler_is_of_one_of_them():
    with pytest.raises(TypeError, match=r"schedules one optimizer.*\['gen', 'disc'\]"):
        StepLR(make(), step_size=1)


def test_wrong_names_are_failed_assertions_to_old_code():
    with pytest.raises(AssertionError, match="Cannot find x in OptimWrapperDict"):
        make()["x"]
    with pytest.raises(AssertionError, match="cannot found x in OptimWrapperDict"):
        make().load_state_dict({"x": {}})
    with pytest.raises(AssertionError, match="only accept OptimWrapper instance"):
        OptimWrapperDict(a=1)
