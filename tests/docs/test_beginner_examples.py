"""The introductory examples of the system that mmx implements, run as its documents have them."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from mmx.config import Config
from mmx.evaluator import BaseMetric
from mmx.model import BaseModel
from mmx.registry import DATASETS, METRICS, MODELS
from mmx.runner import Runner

pytestmark = pytest.mark.usefixtures("isolated")


class Accuracy(BaseMetric):
    def process(self, data_batch, data_samples):
        score, gt = data_samples
        self.results.append(
            {"batch_size": len(gt), "correct": (score.argmax(dim=1) == gt).sum().cpu()}
        )

    def compute_metrics(self, results):
        total_correct = sum(item["correct"] for item in results)
        total_size = sum(item["batch_size"] for item in results)
        return dict(accuracy=100 * total_correct / total_size)


def test_fifteen_minutes(tmp_path: Path) -> None:
    """Eighty lines from nothing to a trained network; digits stand in for a downloaded data set."""
    from sklearn.datasets import load_digits

    class MMResNet(BaseModel):
        def __init__(self):
            super().__init__()
            from mmx_vision.models.resnet import GlobalAveragePooling, ResNet

            self.resnet = nn.Sequential(
                ResNet([1, 1], in_channels=1, base_channels=16, stem="small"),
                GlobalAveragePooling(),
                nn.Linear(32, 10),
            )

        def forward(self, imgs, labels, mode):
            x = self.resnet(imgs)
            if mode == "loss":
                return {"loss": F.cross_entropy(x, labels)}
            elif mode == "predict":
                return x, labels
            return x

    digits = load_digits()
    imgs = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    train_dataloader = DataLoader(
        batch_size=32, shuffle=True, dataset=TensorDataset(imgs[:1500], labels[:1500])
    )
    val_dataloader = DataLoader(
        batch_size=32, shuffle=False, dataset=TensorDataset(imgs[1500:], labels[1500:])
    )

    torch.manual_seed(0)
    runner = Runner(
        model=MMResNet(),
        work_dir=str(tmp_path / "work_dir"),
        train_dataloader=train_dataloader,
        optim_wrapper=dict(optimizer=dict(type=SGD, lr=0.05, momentum=0.9)),
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
        val_dataloader=val_dataloader,
        val_cfg=dict(),
        val_evaluator=dict(type=Accuracy),
        randomness=dict(seed=0),
    )
    runner.train()
    assert runner.epoch == 2
    assert runner.iter == 2 * len(train_dataloader)
    assert runner.message_hub.get_scalar("val/accuracy").current() > 80
    assert (tmp_path / "work_dir" / "epoch_2.pth").is_file()
    assert (tmp_path / "work_dir" / "last_checkpoint").read_text().endswith("epoch_2.pth")


def register_awesome_parts() -> None:
    @MODELS.register_module(force=True)
    class MyAwesomeModel(BaseModel):
        def __init__(self, layers=4, activation="relu") -> None:
            super().__init__()
            if activation == "relu":
                act_type = nn.ReLU
            elif activation == "silu":
                act_type = nn.SiLU
            elif activation == "none":
                act_type = nn.Identity
            else:
                raise NotImplementedError
            sequence = [nn.Linear(2, 64), act_type()]
            for _ in range(layers - 1):
                sequence.extend([nn.Linear(64, 64), act_type()])
            self.mlp = nn.Sequential(*sequence)
            self.classifier = nn.Linear(64, 2)

        def forward(self, data, labels, mode):
            x = self.mlp(data)
            x = self.classifier(x)
            if mode == "tensor":
                return x
            elif mode == "predict":
                return F.softmax(x, dim=1), labels
            elif mode == "loss":
                return {"loss": F.cross_entropy(x, labels)}

    @DATASETS.register_module(force=True)
    class MyDataset(Dataset):
        def __init__(self, is_train, size):
            self.is_train = is_train
            if self.is_train:
                torch.manual_seed(0)
                self.labels = torch.randint(0, 2, (size,))
            else:
                torch.manual_seed(3407)
                self.labels = torch.randint(0, 2, (size,))
            r = 3 * (self.labels + 1) + torch.randn(self.labels.shape)
            theta = torch.rand(self.labels.shape) * 2 * torch.pi
            self.data = torch.vstack([r * torch.cos(theta), r * torch.sin(theta)]).T

        def __getitem__(self, index):
            return self.data[index], self.labels[index]

        def __len__(self):
            return len(self.data)

    METRICS.register_module(name="AwesomeAccuracy", module=Accuracy, force=True)


def test_beginner_example_with_objects(tmp_path: Path) -> None:
    register_awesome_parts()
    runner = Runner(
        # your model
        model=MODELS.get("MyAwesomeModel")(layers=2, activation="relu"),
        # work directory for saving checkpoints and logs
        work_dir=str(tmp_path / "exp"),
        # training data
        train_dataloader=DataLoader(
            dataset=DATASETS.get("MyDataset")(is_train=True, size=10000),
            shuffle=True,
            collate_fn=default_collate,
            batch_size=64,
            num_workers=2,
        ),
        # training configurations
        train_cfg=dict(by_epoch=True, max_epochs=3, val_begin=2, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type=Adam, lr=0.001)),
        param_scheduler=dict(type="MultiStepLR", by_epoch=True, milestones=[1, 2], gamma=0.1),
        # validation data
        val_dataloader=DataLoader(
            dataset=DATASETS.get("MyDataset")(is_train=False, size=1000),
            shuffle=False,
            collate_fn=default_collate,
            batch_size=1000,
            num_workers=2,
        ),
        val_cfg=dict(),
        val_evaluator=dict(type=Accuracy),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
        launcher="none",
        env_cfg=dict(cudnn_benchmark=False, backend="nccl", mp_cfg=dict(mp_start_method="fork")),
        log_level="INFO",
        load_from=None,
        resume=False,
        randomness=dict(seed=0),
    )
    runner.train()
    assert runner.message_hub.get_scalar("val/accuracy").current() > 90
    # Validation began with the second epoch.
    assert len(runner.message_hub.get_scalar("val/accuracy").data[0]) == 2
    assert runner.optim_wrapper.get_lr()["lr"] == pytest.approx([1e-5])
    assert {p.name for p in (tmp_path / "exp").glob("*.pth")} == {
        f"epoch_{n}.pth" for n in (1, 2, 3)
    }


CONFIG = """
model = dict(type='MyAwesomeModel',
    layers=2,
    activation='relu')
work_dir = '{work_dir}'

train_dataloader = dict(
    dataset=dict(type='MyDataset',
        is_train=True,
        size=10000),
    sampler=dict(
        type='DefaultSampler',
        shuffle=True),
    collate_fn=dict(type='default_collate'),
    batch_size=64,
    num_workers=2)
train_cfg = dict(
    by_epoch=True,
    max_epochs=3,
    val_begin=2,
    val_interval=1)
optim_wrapper = dict(
    optimizer=dict(
        type='Adam',
        lr=0.001))
param_scheduler = dict(
    type='MultiStepLR',
    by_epoch=True,
    milestones=[1, 2],
    gamma=0.1)

val_dataloader = dict(
    dataset=dict(type='MyDataset',
        is_train=False,
        size=1000),
    sampler=dict(
        type='DefaultSampler',
        shuffle=False),
    collate_fn=dict(type='default_collate'),
    batch_size=1000,
    num_workers=2)
val_cfg = dict()
val_evaluator = dict(type='AwesomeAccuracy')

default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=1))
launcher = 'none'
env_cfg = dict(
    cudnn_benchmark=False,
    backend='nccl',
    mp_cfg=dict(mp_start_method='fork'))
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
"""


def test_beginner_example_as_a_config_file(tmp_path: Path) -> None:
    register_awesome_parts()
    (tmp_path / "example_config.py").write_text(CONFIG.format(work_dir=tmp_path / "exp"))
    config = Config.fromfile(tmp_path / "example_config.py")
    before = config.to_dict()
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.message_hub.get_scalar("val/accuracy").current() > 90
    assert config.to_dict() == before, "the runner must not change the config that it is given"
    assert (tmp_path / "exp" / "example_config.py").is_file()
