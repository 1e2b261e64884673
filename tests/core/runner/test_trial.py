"""Short runs that show whether a config works."""

from __future__ import annotations

import os
import tempfile

import pytest

from mmx.config import Config
from mmx.registry import MODELS
from mmx.runner import BaseLoop, fast_dev_run, limit_batches, overfit_batches
from mmx.runner.trial import TrialError, run_trial


@pytest.fixture
def cfg(tmp_path, parts):
    MODELS.register_module("TrialNet", force=True, module=parts.Net)
    return Config(
        dict(
            model=dict(type="TrialNet"),
            work_dir=str(tmp_path / "work"),
            train_dataloader=parts.loader(),
            train_cfg=dict(by_epoch=True, max_epochs=50, val_interval=10),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
            val_dataloader=parts.loader(10, shuffle=False, seed=1),
            val_cfg=dict(),
            val_evaluator=[dict(type=parts.Accuracy)],
            test_dataloader=parts.loader(10, shuffle=False, seed=1),
            test_cfg=dict(),
            test_evaluator=[dict(type=parts.Accuracy)],
            randomness=dict(seed=1),
        )
    )


@pytest.mark.parametrize(
    "train_cfg",
    [
        dict(by_epoch=True, max_epochs=50, val_interval=10),
        dict(by_epoch=False, max_iters=500, val_interval=100),
    ],
)
def test_fast_dev_run_goes_the_whole_way_and_leaves_nothing_behind(
    cfg, tmp_path, train_cfg, monkeypatch
):
    cfg.train_cfg = train_cfg
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    # torch's own, which it makes when it is first asked for.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    runner = fast_dev_run(cfg, 2)
    assert runner.iter == 4
    assert not os.path.exists(runner.work_dir)
    assert not (tmp_path / "work").exists()
    assert os.listdir(tmp_path / "temporary") == []
    assert cfg.train_cfg == train_cfg


def test_fast_dev_run_notices_weights_that_do_not_survive(cfg, parts):
    class Changing(parts.Net):
        """Its weights change while they are loaded."""

        def init_weights(self):
            super().init_weights()
            self.first._register_load_state_dict_pre_hook(self._spoil)

        def _spoil(self, state_dict, prefix, *args):
            state_dict[prefix + "bias"] = state_dict[prefix + "bias"] + 1

    MODELS.register_module("TrialNet", force=True, module=Changing)
    with pytest.raises(TrialError, match=r"weights differ after saving and resuming: first\.bias"):
        fast_dev_run(cfg, 1)


def test_overfit_batches_trains_and_validates_on_the_same_samples(cfg):
    cfg.train_cfg = dict(by_epoch=True, max_epochs=40, val_interval=40)
    runner = overfit_batches(cfg, 2)
    assert len(runner.train_dataloader) == len(runner.val_dataloader) == 2
    assert runner.message_hub.get_scalar("val/acc/top1").current() == 1.0
    assert runner.message_hub.get_scalar("val/acc/count").current() == 8


def test_overfit_batches_validates_each_named_set_on_the_samples_of_training(cfg, parts):
    cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
    cfg.val_dataloader = dict(a=parts.loader(10, shuffle=False), b=parts.loader(6, batch_size=3))
    runner = overfit_batches(cfg, 2)
    metrics = {name: runner.message_hub.get_scalar(f"val/{name}").current() for name in (
        "a/acc/count", "b/acc/count", "a/acc/top1", "b/acc/top1")}  # fmt: skip
    assert metrics["a/acc/count"] == metrics["b/acc/count"] == 8
    assert metrics["a/acc/top1"] == metrics["b/acc/top1"]


def test_a_loop_of_ones_own_gets_only_what_it_takes_and_must_be_resumable(cfg):
    class Steps(BaseLoop):
        def __init__(self, runner, dataloader, steps):
            super().__init__(runner, dataloader)
            self.epoch, self.iter, self.max_epochs, self.max_iters = 0, 0, 1, steps

        def run(self):
            self.runner.call_hook("before_train")
            for idx, batch in enumerate(self.dataloader):
                outputs = self.runner.model.train_step(batch, self.runner.optim_wrapper)
                self.runner.call_hook(
                    "after_train_iter", batch_idx=idx, data_batch=batch, outputs=outputs
                )
                self.iter += 1
            self.runner.call_hook("after_train_epoch")
            self.epoch += 1
            self.runner.call_hook("after_train")
            return self.runner.model

    # Attributes, not the read-only properties of the base class.
    Steps.epoch = Steps.iter = None
    cfg.train_cfg = dict(type=Steps, steps=9)
    with pytest.raises(TrialError, match="was resumed after iteration"):
        fast_dev_run(cfg, 2)


def test_limits_shorten_the_loaders_of_a_copy(cfg):
    limited = limit_batches(cfg, train=2, val=1)
    assert limited.train_dataloader.num_batch_per_epoch == 2
    assert limited.val_dataloader.num_batch_per_epoch == 1
    assert "num_batch_per_epoch" not in cfg.train_dataloader
    cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
    runner = run_trial(cfg, limit_train_batches=3, limit_val_batches=1)
    assert runner.iter == 3
    assert runner.message_hub.get_scalar("val/acc/count").current() == 4


def test_a_limit_below_one_is_an_error(cfg):
    with pytest.raises(ValueError, match="number of val batches should be at least 1, got 0"):
        limit_batches(cfg, val=0)


def test_a_built_loader_cannot_be_limited(cfg, parts):
    import torch

    arguments = dict(cfg._cfg_dict, train_dataloader=torch.utils.data.DataLoader(parts.Points()))
    with pytest.raises(TypeError, match="train_dataloader is a built loader"):
        limit_batches(arguments, train=1)
