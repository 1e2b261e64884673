"""Mixed precision: contexts, loss scales, state."""

from __future__ import annotations

import io
from contextlib import contextmanager
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from mmx.optim import AmpOptimWrapper, OptimWrapper
from mmx.registry import OPTIM_WRAPPERS


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def make(model: nn.Module, **kwargs) -> AmpOptimWrapper:
    return AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **kwargs)


def data(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, generator=generator) for _ in range(number)]


def train(model, wrapper, batches):
    losses = []
    for batch in batches:
        with wrapper.optim_context(model):
            out = model(batch)
            assert wrapper.cast_dtype in (None, out.dtype)
            loss = out.float().pow(2).mean()
        wrapper.update_params(loss)
        losses.append(loss.item())
    return losses


def test_it_is_registered_by_name():
    assert AmpOptimWrapper is OPTIM_WRAPPERS.get("AmpOptimWrapper")
    assert issubclass(AmpOptimWrapper, OptimWrapper)


def test_the_cpu_computes_in_bfloat16_by_default():
    model = make_model()
    wrapper = make(model)
    with wrapper.optim_context(model):
        assert torch.bfloat16 is model(data(1)[0]).dtype
    assert torch.float32 is model(data(1)[0]).dtype


@pytest.mark.parametrize("counts", [1, 2])
@pytest.mark.parametrize("clip_grad", [None, dict(max_norm=0.05)])
def test_bfloat16_losses_are_those_of_a_loop_by_hand(counts, clip_grad):
    model, hand = make_model(), make_model()
    wrapper = make(model, dtype="bfloat16", accumulative_counts=counts, clip_grad=clip_grad)
    losses = train(model, wrapper, data(8))
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1)
    for number, batch in enumerate(data(8)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = hand(batch).float().pow(2).mean()
        assert losses[number] == loss.item()
        (loss / counts).backward()
        if (number + 1) % counts == 0:
            if clip_grad:
                torch.nn.utils.clip_grad_norm_(hand.parameters(), **clip_grad)
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("loss_scale", ["dynamic", 128, dict(init_scale=64.0, growth_interval=2)])
def test_float16_losses_are_those_of_a_loop_by_hand(loss_scale):
    model, hand = make_model(), make_model()
    wrapper = make(model, dtype="float16", loss_scale=loss_scale, clip_grad=dict(max_norm=0.5))
    losses = train(model, wrapper, data(6))
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1)
    options = {
        "dynamic": {},
        128: dict(init_scale=128.0),
    }.get(loss_scale if not isinstance(loss_scale, dict) else None, loss_scale)
    scaler = torch.amp.GradScaler("cpu", **options)
    for number, batch in enumerate(data(6)):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = hand(batch).float().pow(2).mean()
        assert losses[number] == loss.item()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(hand.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update(128.0 if loss_scale == 128 else None)
        optimizer.zero_grad()
    assert scaler.state_dict() == wrapper.state_dict()["loss_scaler"]


def test_gradients_that_overflow_skip_the_step():
    model = make_model()
    wrapper = make(model, dtype="float16", loss_scale=dict(init_scale=4.0))
    before = [p.detach().clone() for p in model.parameters()]
    wrapper.update_params(model(data(1)[0]).sum() * float("inf"))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert 2.0 == wrapper.loss_scaler.get_scale()


def test_bfloat16_needs_no_scale_unless_one_is_given():
    model = make_model()
    assert not make(model, dtype="bfloat16").loss_scaler.is_enabled()
    assert not make(model).loss_scaler.is_enabled()
    assert make(model, dtype="float16").loss_scaler.is_enabled()
    assert 8.0 == make(model, dtype="bfloat16", loss_scale=8).loss_scaler.get_scale()


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        (dict(loss_scale="static"), TypeError, "float, dict, or \"dynamic\", but got 'static'"),
        (dict(loss_scale=True), TypeError, 'float, dict, or "dynamic", but got True'),
        (dict(dtype="int8"), ValueError, "dtype should be any of .* but got 'int8'"),
        (dict(dtype=torch.int8), ValueError, "dtype should be any of .* but got torch.int8"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, text):
    with pytest.raises(error, match=text):
        make(make_model(), **kwargs)


def test_a_dtype_is_taken_as_name_or_as_it_is():
    model = make_model()
    assert make(model, dtype="float16").cast_dtype is make(model, dtype=torch.float16).cast_dtype


def test_a_device_without_mixed_precision_is_named(monkeypatch):
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device: False)
    with pytest.raises(ValueError, match="a device with mixed precision, which 'cpu' is not"):
        make(make_model())


def test_backward_and_step_go_through_the_scaler():
    wrapper = make(make_model(), loss_scale=2.0)
    wrapper.loss_scaler = MagicMock()
    loss = MagicMock()
    wrapper.backward(loss, retain_graph=True)
    wrapper.loss_scaler.scale.assert_called_once_with(loss)
    assert 1 == wrapper.inner_count
    wrapper.step(closure=None)
    wrapper.loss_scaler.step.assert_called_once_with(wrapper.optimizer, closure=None)
    wrapper.loss_scaler.update.assert_called_once_with(2.0)


def test_gradients_accumulate_without_synchronization():
    class Wrapped(nn.Linear):
        synced = True

        @contextmanager
        def no_sync(self):
            self.synced = False
            yield
            self.synced = True

    model = Wrapped(3, 1)
    wrapper = make(model, accumulative_counts=2)
    seen = []
    for batch in data(4):
        with wrapper.optim_context(model):
            seen.append(model.synced)
            loss = model(batch).float().sum()
        wrapper.update_params(loss)
    assert [False, True, False, True] == seen


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_training_goes_on_bit_for_bit_from_anywhere(dtype, stop):
    def build():
        model = make_model()
        scale = dict(init_scale=256.0, growth_interval=2) if dtype == "float16" else "dynamic"
        return model, make(model, dtype=dtype, loss_scale=scale, accumulative_counts=2)

    whole = build()
    expected = train(*whole, data(6))
    begun = build()
    losses = train(*begun, data(6)[:stop])
    file = io.BytesIO()
    torch.save([begun[0].state_dict(), begun[1].state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = build()
    resumed[0].load_state_dict(saved[0])
    resumed[1].load_state_dict(saved[1])
    assert expected == losses + train(*resumed, data(6)[stop:])
    assert whole[1].loss_scaler.state_dict() == resumed[1].loss_scaler.state_dict()


def test_the_scale_is_saved_as_mmengine_does():
    model = make_model()
    wrapper = make(model, dtype="float16")
    state = wrapper.state_dict()
    assert wrapper.loss_scaler.state_dict() == state["loss_scaler"]
    assert {
        "scale",
        "growth_factor",
        "backoff_factor",
        "growth_interval",
        "_growth_tracker",
    } == set(state["loss_scaler"])
    state["loss_scaler"]["scale"] = 8.0
    wrapper.load_state_dict(state)
    assert 8.0 == wrapper.loss_scaler.get_scale()


def test_plain_and_mixed_precision_read_each_others_state():
    model = make_model()
    plain = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    mixed = make(model, dtype="float16")
    mixed.load_state_dict(plain.state_dict())
    plain.load_state_dict(mixed.state_dict())


def test_sharded_scaling_is_that_of_torch():
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    wrapper = make(make_model(), dtype="bfloat16", use_fsdp=True)
    assert isinstance(wrapper.loss_scaler, ShardedGradScaler)
