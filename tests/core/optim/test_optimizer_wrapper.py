"""The optimizer wrapper: accumulation, clipping, contexts, state."""

from __future__ import annotations

import copy
import io
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from mmx.logging import MessageHub
from mmx.optim import BaseOptimWrapper, OptimWrapper
from mmx.registry import OPTIM_WRAPPERS


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def make(model: nn.Module | None = None, **kwargs) -> OptimWrapper:
    model = model if model is not None else make_model()
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **kwargs)


def batches(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, generator=generator) for _ in range(number)]


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Arguments --------------------------------------------------------------------------------------


def test_it_is_registered_by_name():
    assert OptimWrapper is OPTIM_WRAPPERS.get("OptimWrapper")
    assert issubclass(OptimWrapper, BaseOptimWrapper)


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        (dict(accumulative_counts=0), ValueError, "at least greater than or equal to 1, but got 0"),
        (dict(accumulative_counts=-2), ValueError, "at least greater than or equal to 1"),
        (dict(accumulative_counts=1.5), TypeError, "accumulative_counts should be an int, but got"),
        (dict(accumulative_counts=True), TypeError, "accumulative_counts should be an int"),
        (dict(clip_grad=3), TypeError, "If `clip_grad` is not None, it should be a `dict`"),
        (dict(clip_grad={}), TypeError, r"such as dict\(max_norm=1\)"),
        (dict(clip_grad=dict(type="x", a=1)), ValueError, 'should be "norm" or "value" but got x'),
        (dict(clip_grad=dict(type="norm")), ValueError, "other arguments besides `type`"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, text):
    with pytest.raises(error, match=text):
        make(**kwargs)


def test_something_that_is_no_optimizer_is_rejected():
    with pytest.raises(TypeError, match=r"should be a torch.optim.Optimizer, but got int"):
        OptimWrapper(3)


def test_the_representation_shows_type_accumulation_and_optimizer():
    text = repr(make(accumulative_counts=3))
    assert text.startswith("Type: OptimWrapper\n_accumulative_counts: 3\noptimizer: \nSGD (")


def test_arguments_are_not_changed():
    clip_grad = dict(type="value", clip_value=0.1)
    make(clip_grad=clip_grad)
    assert dict(type="value", clip_value=0.1) == clip_grad


# Updating ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clip_grad", "clip"),
    [
        (None, None),
        (
            dict(max_norm=0.01),
            lambda params: torch.nn.utils.clip_grad_norm_(params, max_norm=0.01),
        ),
        (
            dict(type="norm", max_norm=0.1, norm_type="inf"),
            lambda params: torch.nn.utils.clip_grad_norm_(params, 0.1, norm_type="inf"),
        ),
        (
            dict(clip_value=1e-3),
            lambda params: torch.nn.utils.clip_grad_value_(params, 1e-3),
        ),
    ],
)
def test_weights_are_those_of_a_loop_by_hand(clip_grad, clip):
    model, hand = make_model(), make_model()
    wrapper = make(model, clip_grad=clip_grad)
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1, momentum=0.9)
    for batch in batches(6):
        wrapper.update_params(model(batch).pow(2).mean())
        hand(batch).pow(2).mean().backward()
        if clip:
            clip(hand.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert equal(weights(model), weights(hand))


def test_arguments_reach_step_and_zero_grad():
    model = make_model()
    wrapper = make(model)
    called = []
    wrapper.update_params(
        model(batches(1)[0]).sum(),
        step_kwargs=dict(closure=lambda: called.append(1)),
        zero_kwargs=dict(set_to_none=False),
    )
    assert [1] == called
    assert torch.equal(torch.zeros(4, 3), model[0].weight.grad)


def test_a_subclass_changes_the_loss_and_the_step():
    class Doubled(OptimWrapper):
        def backward(self, loss, **kwargs):
            super().backward(2 * loss, **kwargs)

    model, other = make_model(), make_model()
    loss, other_loss = model(batches(1)[0]).sum(), other(batches(1)[0]).sum()
    Doubled(torch.optim.SGD(model.parameters(), lr=0.1)).update_params(loss)
    OptimWrapper(torch.optim.SGD(other.parameters(), lr=0.2)).update_params(other_loss)
    for ours, expected in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(ours, expected)


# Accumulation -----------------------------------------------------------------------------------


def accumulate_by_hand(model: nn.Module, data: list[torch.Tensor], sizes: list[int]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rest = iter(data)
    for size in sizes:
        for _ in range(size):
            (model(next(rest)).pow(2).mean() / size).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("counts", "length", "sizes"),
    [(3, 9, [3, 3, 3]), (3, 8, [3, 3, 2]), (4, 5, [4, 1]), (5, 3, [3]), (1, 4, [1] * 4)],
)
def test_the_last_iterations_are_averaged_among_themselves(counts, length, sizes):
    model, hand = make_model(), make_model()
    wrapper = make(model, accumulative_counts=counts)
    wrapper.initialize_count_status(model, 0, length)
    data = batches(length)
    for batch in data:
        wrapper.update_params(model(batch).pow(2).mean())
    accumulate_by_hand(hand, data, sizes)
    assert equal(weights(model), weights(hand))


def test_without_a_known_length_only_whole_groups_end_in_a_step():
    model, hand = make_model(), make_model()
    wrapper = make(model, accumulative_counts=3)
    data = batches(8)
    for batch in data:
        wrapper.update_params(model(batch).pow(2).mean())
    accumulate_by_hand(hand, data, [3, 3])
    assert equal(weights(model), weights(hand))
    assert model[0].weight.grad is not None


def test_an_iteration_beyond_the_length_is_an_error_that_says_so():
    model = make_model()
    wrapper = make(model, accumulative_counts=3)
    wrapper.initialize_count_status(model, 6, 6)
    with pytest.raises(
        ValueError, match=r"loss_factor should be larger than zero.*iteration 7 of 6"
    ):
        wrapper.scale_loss(torch.tensor(1.0))


def test_lost_gradients_are_warned_of(caplog, monkeypatch):
    lines = record_log(monkeypatch)
    model = make_model()
    make(model, accumulative_counts=3).initialize_count_status(model, 4, 9)
    assert 1 == len(lines)
    assert (
        "Resumed iteration number is not divisible by `_accumulative_counts` (4 by 3)" in lines[0]
    )


def test_gradients_that_were_resumed_are_not_warned_of(monkeypatch):
    lines = record_log(monkeypatch)
    model = make_model()
    wrapper = make(model, accumulative_counts=3)
    model(batches(1)[0]).sum().backward()
    wrapper.initialize_count_status(model, 4, 9)
    assert [] == lines


def test_batch_norm_is_warned_of_only_while_accumulating(monkeypatch):
    lines = record_log(monkeypatch)
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    make(model).initialize_count_status(model, 0, 9)
    assert [] == lines
    make(model, accumulative_counts=2).initialize_count_status(model, 0, 9)
    assert ["because the model has BatchNorm layers." in line for line in lines] == [True]


def record_log(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(
        "mmx.optim.optimizer.optimizer_wrapper.print_log",
        lambda message, logger=None, level=20: lines.append(message),
    )
    return lines


# Contexts ---------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """Stands for a distributed model."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(1, 1)
        self.log = []

    def forward(self, x):
        return self.module(x)

    @contextmanager
    def no_sync(self):
        self.log.append("in")
        yield
        self.log.append("out")


def test_gradients_are_not_averaged_over_ranks_while_they_accumulate():
    model = Wrapped()
    wrapper = make(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 5)
    seen = []
    for _ in range(5):
        model.log.clear()
        with wrapper.optim_context(model):
            loss = model(torch.ones(1)).sum()
        wrapper.update_params(loss)
        seen.append(list(model.log))
    assert [["in", "out"], [], ["in", "out"], [], []] == seen


def test_a_fully_sharded_model_is_told_whether_to_reduce_gradients():
    class Sharded(nn.Linear):
        def __init__(self):
            super().__init__(1, 1)
            self.log = []

        def set_requires_gradient_sync(self, value):
            self.log.append(value)

    model = Sharded()
    wrapper = make(model, accumulative_counts=2)
    for _ in range(4):
        with wrapper.optim_context(model):
            loss = model(torch.ones(1)).sum()
        wrapper.update_params(loss)
    assert [False, True, False, True] == model.log


def test_without_accumulation_the_model_is_not_asked():
    wrapper = make()
    with wrapper.optim_context(object()):
        pass


# Logging ----------------------------------------------------------------------------------------


def test_the_norm_is_logged_as_a_tensor_to_the_hub_of_the_run(isolated):
    model, reference = make_model(), make_model()
    wrapper = make(model, clip_grad=dict(max_norm=0.01))
    MessageHub.get_instance("another")
    hub = MessageHub("of_the_run")
    with hub.as_current():
        for batch in batches(3):
            wrapper.update_params(model(batch).pow(2).mean())
    reference(batches(3)[0]).pow(2).mean().backward()
    expected = torch.nn.utils.clip_grad_norm_(reference.parameters(), 1e9).item()
    history = hub.get_scalar("train/grad_norm").data[0]
    assert 3 == len(history)
    assert expected == pytest.approx(float(history[0]))


def test_nothing_is_read_from_the_device_to_log_the_norm(isolated, monkeypatch):
    model = make_model()
    wrapper = make(model, clip_grad=dict(max_norm=0.01))
    logged = []

    class Hub:
        def update_scalar(self, key, value):
            logged.append((key, value))

    wrapper.message_hub = Hub()
    monkeypatch.setattr(torch.Tensor, "item", lambda self: pytest.fail("read from the device"))
    wrapper.update_params(model(batches(1)[0]).pow(2).mean())
    assert "train/grad_norm" == logged[0][0]
    assert isinstance(logged[0][1], torch.Tensor)


def test_parameters_without_gradients_are_left_alone():
    wrapper = make(clip_grad=dict(max_norm=1))
    wrapper.step()


# Settings ---------------------------------------------------------------------------------------


def test_learning_rates_and_momentum_are_those_of_the_groups():
    model = make_model()
    wrapper = make(model)
    assert {"lr": [0.1]} == wrapper.get_lr()
    assert {"momentum": [0.9]} == wrapper.get_momentum()
    adam = OptimWrapper(torch.optim.Adam(model.parameters(), lr=0.3, betas=(0.8, 0.9)))
    assert {"momentum": [0.8]} == adam.get_momentum()
    adagrad = OptimWrapper(torch.optim.Adagrad(model.parameters()))
    assert {"momentum": [0]} == adagrad.get_momentum()
    assert adam.defaults is adam.optimizer.defaults
    assert adam.param_groups is adam.optimizer.param_groups


def test_several_groups_have_base_settings_that_are_scheduled_along():
    model = make_model()
    groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters()}]
    wrapper = OptimWrapper(torch.optim.SGD(groups, lr=0.05))
    assert {"base_lr": [0.05], "lr": [0.5, 0.05]} == wrapper.get_lr()
    assert {"momentum": [0, 0]} == wrapper.get_momentum()
    assert 3 == len(wrapper.param_groups)
    wrapper.param_groups[2]["lr"] = 0.01
    assert {"base_lr": [0.01], "lr": [0.5, 0.05]} == wrapper.get_lr()


# State ------------------------------------------------------------------------------------------


def test_the_state_of_a_plain_wrapper_is_that_of_its_optimizer():
    wrapper = make()
    assert wrapper.optimizer.state_dict() == wrapper.state_dict()


@pytest.mark.parametrize("stop", range(1, 8))
def test_training_goes_on_bit_for_bit_from_anywhere(stop):
    data = batches(8)
    clip = dict(max_norm=0.05)

    def build():
        model = make_model()
        groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters()}]
        optimizer = torch.optim.AdamW(groups, lr=0.05)
        return model, OptimWrapper(optimizer, accumulative_counts=3, clip_grad=clip)

    def train(model, wrapper, data):
        for batch in data:
            wrapper.update_params(model(batch).pow(2).mean())

    whole, wrapper = build()
    wrapper.initialize_count_status(whole, 0, 8)
    train(whole, wrapper, data)

    begun, wrapper = build()
    wrapper.initialize_count_status(begun, 0, 8)
    train(begun, wrapper, data[:stop])
    file = io.BytesIO()
    torch.save({"model": begun.state_dict(), "optimizer": wrapper.state_dict()}, file)
    train(begun, wrapper, data[:1])  # what happens after saving changes nothing

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, wrapper = build()
    resumed.load_state_dict(saved["model"])
    wrapper.load_state_dict(saved["optimizer"])
    assert stop == wrapper.inner_count
    train(resumed, wrapper, data[stop:])
    assert equal(weights(whole), weights(resumed))


def test_a_plain_state_is_loaded_and_not_changed():
    model = make_model()
    wrapper = make(model)
    wrapper.update_params(model(batches(1)[0]).sum())
    groups = [{"params": [p]} for p in model.parameters()]
    several = OptimWrapper(torch.optim.SGD(groups, lr=0.1), accumulative_counts=2)
    state = several.state_dict()
    before = copy.deepcopy(list(state))
    several.load_state_dict(state)
    assert before == list(state)
    wrapper.load_state_dict(wrapper.optimizer.state_dict())
    assert 1 == wrapper.inner_count


def test_a_state_of_a_newer_version_is_refused():
    wrapper = make(accumulative_counts=2)
    state = wrapper.state_dict()
    state["accumulation"] = {"version": 99}
    with pytest.raises(ValueError, match="of version 99, this mmx reads up to 1; load it with"):
        wrapper.load_state_dict(state)


def test_gradients_of_other_parameters_are_refused():
    model = make_model()
    wrapper = make(model, accumulative_counts=2)
    wrapper.update_params(model(batches(1)[0]).sum())
    extra = wrapper.extra_state_dict()
    extra["accumulation"]["gradients"].pop()
    with pytest.raises(ValueError, match="gradients of 3 parameters do not fit an optimizer of 4"):
        wrapper.load_extra_state_dict(extra)


def test_a_copy_steps_its_own_optimizer():
    from mmx.optim import StepLR

    model = make_model()
    wrapper = make(model)
    StepLR(wrapper, step_size=1)
    twin = copy.deepcopy(wrapper)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    before = weights(model)
    twin.step()
    assert equal(before, weights(model))
    wrapper.step()
    assert not equal(before, weights(model))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # is a prototype
def test_an_update_does_not_wait_for_the_device(isolated):
    model = make_model().cuda()
    wrapper = make(model, clip_grad=dict(max_norm=1.0), accumulative_counts=2)
    inputs = [batch.cuda() for batch in batches(4)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in inputs:
            wrapper.update_params(model(batch).pow(2).mean())
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "wrong",
    [
        dict(accumulative_counts=0),
        dict(clip_grad="norm"),
        dict(clip_grad={}),
        dict(clip_grad=dict(type="norm")),
    ],
)
def test_wrong_arguments_are_failed_assertions_to_old_code(wrong):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(AssertionError):
        OptimWrapper(optimizer, **wrong)
    assert OptimWrapper(optimizer).clip_grad_kwargs is None
