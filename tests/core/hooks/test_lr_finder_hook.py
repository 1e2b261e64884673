"""A learning rate is found before training, and training goes as if nothing had been."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from mmx.hooks import LRFinderHook, NonFiniteHook
from mmx.hooks.lr_finder_hook import LRFinderResult, draw_lr_curve, suggest_lr
from mmx.model import BaseModel
from mmx.optim import OptimWrapper, OptimWrapperDict
from mmx.runner import Runner


class Data(torch.utils.data.Dataset):
    metainfo: dict = {}

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(64, 4, generator=generator)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        # Augmentation, so that the random state shows.
        return self.x[index] + 0.01 * torch.randn(4)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1)
        )

    def forward(self, inputs, data_samples=None, mode="tensor"):
        inputs = torch.stack(list(inputs)) if isinstance(inputs, list) else inputs
        error = self.net(inputs)[:, 0] - inputs.sum(dim=1)
        return {"loss": error.pow(2).mean()}

    def train_step(self, data, optim_wrapper):
        with optim_wrapper.optim_context(self):
            losses = self(data, mode="loss")
        loss, log_vars = self.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return log_vars


def make_runner(tmp_path, hooks, optim_wrapper=None, max_epochs=2, **kwargs):
    return Runner(
        model=Model(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=Data(), batch_size=16, sampler=dict(type="DefaultSampler", shuffle=True)
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=optim_wrapper
        or dict(
            optimizer=dict(type="AdamW", lr=0.01),
            clip_grad=dict(max_norm=10.0),
            paramwise_cfg=dict(bias_lr_mult=2),
        ),
        param_scheduler=[dict(type="LinearLR", end=5, by_epoch=False)],
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=hooks,
        randomness=dict(seed=5),
        experiment_name=f"lr_finder_{tmp_path.name}",
        **kwargs,
    )


def train(tmp_path, hooks, **kwargs):
    runner = make_runner(tmp_path, hooks, **kwargs)
    model = runner.train()
    return runner, [tensor.clone() for tensor in model.state_dict().values()]


def test_training_goes_as_if_nothing_had_been(isolated, tmp_path):
    _, expected = train(tmp_path / "plain", [])
    hook = LRFinderHook(num_steps=40)
    runner, found = train(tmp_path / "searched", [hook])
    assert hook.result is not None
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert 8 == runner.iter
    # What was logged is of the run alone.
    assert 8 == len(runner.message_hub.get_scalar("train/grad_norm").data[0])


@pytest.mark.parametrize(
    "optim_wrapper",
    [
        dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9), accumulative_counts=3),
        dict(type="AmpOptimWrapper", dtype="bfloat16", optimizer=dict(type="SGD", lr=0.01)),
        dict(type="AmpOptimWrapper", dtype="float16", optimizer=dict(type="Adam", lr=0.01)),
    ],
)
def test_every_wrapper_is_restored(isolated, tmp_path, optim_wrapper):
    _, expected = train(tmp_path / "plain", [], optim_wrapper=optim_wrapper)
    _, found = train(
        tmp_path / "searched", [LRFinderHook(num_steps=20)], optim_wrapper=optim_wrapper
    )
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_the_curve_is_written_and_drawn(isolated, tmp_path):
    pytest.importorskip("matplotlib")
    hook = LRFinderHook(start_lr=1e-5, out_dir=str(tmp_path / "out"))
    train(tmp_path, [hook])
    written = json.loads((tmp_path / "out" / "lr_find.json").read_text())
    assert hook.result.lrs == written["lr"]
    assert hook.result.losses == written["loss"]
    assert hook.result.suggestion == written["suggestion"]
    assert 1e-4 < written["suggestion"] < 1
    assert (tmp_path / "out" / "lr_find.png").stat().st_size > 5000


def test_the_rates_rise_exponentially_and_stop_where_the_loss_diverges(isolated, tmp_path):
    hook = LRFinderHook(start_lr=1e-5, end_lr=1e5, num_steps=101, divergence=2.0)
    train(tmp_path, [hook])
    lrs = hook.result.lrs
    assert lrs[0] == pytest.approx(1e-5)
    assert lrs[10] == pytest.approx(1e-4)
    assert len(lrs) < 101
    assert all(math.isfinite(loss) for loss in hook.result.losses)


def test_a_run_may_end_after_the_search(isolated, tmp_path):
    hook = LRFinderHook(num_steps=20, train=False)
    runner, weights = train(tmp_path, [hook])
    assert 0 == runner.iter
    fresh = [tensor.clone() for tensor in Model().state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(fresh, weights, strict=True))


def test_hooks_that_watch_for_infinity_are_not_alarmed(isolated, tmp_path):
    optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01))
    hooks = [NonFiniteHook(), LRFinderHook(end_lr=1e9, num_steps=40)]
    runner, _ = train(tmp_path, hooks, optim_wrapper=optim_wrapper)
    assert 8 == runner.iter
    assert len(hooks[1].result.lrs) < 40


def test_several_optimizers_are_refused(isolated, tmp_path):
    def build(runner):
        sgd = torch.optim.SGD(runner.parameters(), lr=0.1)
        return OptimWrapperDict(only=OptimWrapper(sgd))

    runner = make_runner(tmp_path, [LRFinderHook()])
    runner.optim_wrapper = build(runner.model)
    with pytest.raises(TypeError, match=r"one optimizer, but the run has \['only'\]"):
        runner.train()


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(start_lr=0.0), "0 < start_lr < end_lr is needed, but got start_lr=0.0"),
        (dict(start_lr=1.0, end_lr=0.1), "but got start_lr=1.0, end_lr=0.1"),
        (dict(num_steps=1), "num_steps should be at least 2, but got 1"),
        (dict(smoothing=1.0), r"smoothing should be in \[0, 1\), but got 1.0"),
        (dict(divergence=1.0), "divergence should be above 1, but got 1.0"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ValueError, match=text):
        LRFinderHook(**kwargs)


def test_the_suggestion_is_where_the_loss_falls_fastest():
    lrs = [10 ** (-6 + 0.1 * i) for i in range(60)]
    losses = [1 / (1 + math.exp(0.5 * (i - 30))) for i in range(60)]
    assert suggest_lr(lrs, losses) == pytest.approx(lrs[30])
    assert suggest_lr(lrs, list(reversed(losses))) is None
    assert suggest_lr(lrs[:12], losses[:12]) is None


def test_a_curve_without_points_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = draw_lr_curve(LRFinderResult([], [], None), str(tmp_path / "empty.png"))
    assert (tmp_path / "empty.png").exists()
    assert str(tmp_path / "empty.png") == path
