"""What a config changes about a model's computation, through a runner."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.model import BaseModel
from mmx.runner import Runner


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        self.head = nn.Linear(2, 1)
        self.passes = 0
        self.backbone[2].register_forward_pre_hook(self._count)

    def _count(self, *args):
        self.passes += 1

    def forward(self, x, mode="tensor"):
        out = self.head(self.backbone(x).mean((2, 3)))
        return {"loss": out.square().mean()} if mode == "loss" else out


def train(work_dir, name, cfg=None, hooks=()):
    torch.manual_seed(1)
    runner = Runner(
        model=Net(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=[{"x": torch.randn(1, 6, 6)} for _ in range(4)],
            batch_size=2,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(logger=None, checkpoint=None),
        custom_hooks=list(hooks),
        randomness=dict(seed=0),
        experiment_name=name,
        cfg=cfg or {},
    )
    runner.train()
    return runner


def test_named_parts_compute_their_activations_again(tmp_path):
    plain = train(tmp_path, "plain").model
    again = train(tmp_path, "again", {"activation_checkpointing": ["backbone"]}).model
    assert (plain.passes, again.passes) == (4, 8)
    assert list(plain.state_dict()) == list(again.state_dict())
    assert torch.equal(plain.head.weight, again.head.weight)


def test_named_parts_join_convolutions_with_their_normalisation(tmp_path):
    plain = train(tmp_path, "unjoined").model.eval()
    runner = train(
        tmp_path,
        "joined",
        {"efficient_conv_bn_eval": "backbone"},
        [dict(type="EMAHook")],
    )
    joined = runner.model.eval()
    x = torch.randn(2, 1, 6, 6)
    torch.testing.assert_close(plain(x), joined(x))
    assert "forward" in vars(joined.backbone[0])


def test_a_part_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="has no module named 'neck'"):
        train(tmp_path, "absent", {"activation_checkpointing": "neck"})
