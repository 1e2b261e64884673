"""Examples of the chapters about the runner, its loops and its settings."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from playing import accuracy_metric, example, image_loaders, image_model
from torch import nn
from torch.utils.data import DataLoader, Dataset

# 15 minutes to get started -----------------------------------------------------------------------


@example
def fifteen_minutes(play):
    from torch.optim import SGD

    from mmengine.runner import Runner

    runner = Runner(
        model=image_model()(),
        work_dir="./work_dir",
        optim_wrapper=dict(optimizer=dict(type=SGD, lr=0.001, momentum=0.9)),
        train_cfg=dict(by_epoch=True, max_epochs=5, val_interval=1),
        val_cfg=dict(),
        val_evaluator=dict(type=accuracy_metric()),
        **image_loaders(),
        randomness=dict(seed=0),
    )
    play(runner, "train")


# The runner --------------------------------------------------------------------------------------


def register_awesome_parts():
    from mmengine.evaluator import BaseMetric
    from mmengine.model import BaseModel
    from mmengine.registry import DATASETS, METRICS, MODELS

    @MODELS.register_module()
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
            sequence = [nn.Linear(2, 8), act_type()]
            for _ in range(layers - 1):
                sequence.extend([nn.Linear(8, 8), act_type()])
            self.mlp = nn.Sequential(*sequence)
            self.classifier = nn.Linear(8, 2)

        def forward(self, data, labels, mode):
            x = self.mlp(data)
            x = self.classifier(x)
            if mode == "tensor":
                return x
            elif mode == "predict":
                return F.softmax(x, dim=1), labels
            elif mode == "loss":
                return {"loss": F.cross_entropy(x, labels)}

    @DATASETS.register_module()
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

    @METRICS.register_module()
    class Accuracy(BaseMetric):
        def __init__(self):
            super().__init__()

        def process(self, data_batch, data_samples):
            score, gt = data_samples
            self.results.append(
                {"batch_size": len(gt), "correct": (score.argmax(dim=1) == gt).sum().cpu()}
            )

        def compute_metrics(self, results):
            total_correct = sum(r["correct"] for r in results)
            total_size = sum(r["batch_size"] for r in results)
            return dict(accuracy=100 * total_correct / total_size)

    return MyAwesomeModel, MyDataset, Accuracy


@example
def beginner_friendly(play):
    from torch.optim import Adam
    from torch.utils.data import default_collate

    from mmengine.runner import Runner

    MyAwesomeModel, MyDataset, Accuracy = register_awesome_parts()
    runner = Runner(
        model=MyAwesomeModel(layers=2, activation="relu"),
        work_dir="exp/my_awesome_model",
        train_dataloader=DataLoader(
            dataset=MyDataset(is_train=True, size=40),
            shuffle=True,
            collate_fn=default_collate,
            batch_size=16,
            num_workers=0,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=4, val_begin=2, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type=Adam, lr=0.001)),
        param_scheduler=dict(type="MultiStepLR", by_epoch=True, milestones=[2, 3], gamma=0.1),
        val_dataloader=DataLoader(
            dataset=MyDataset(is_train=False, size=20),
            shuffle=False,
            collate_fn=default_collate,
            batch_size=10,
            num_workers=0,
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
    play(runner, "train")


EXAMPLE_CONFIG = """
model = dict(type='MyAwesomeModel',
    layers=2,
    activation='relu')
work_dir = 'exp/my_awesome_model'

train_dataloader = dict(
    dataset=dict(type='MyDataset',
        is_train=True,
        size=40),
    sampler=dict(
        type='DefaultSampler',
        shuffle=True),
    collate_fn=dict(type='default_collate'),
    batch_size=16,
    num_workers=0)
train_cfg = dict(
    by_epoch=True,
    max_epochs=4,
    val_begin=2,
    val_interval=1)
optim_wrapper = dict(
    optimizer=dict(
        type='Adam',
        lr=0.001))
param_scheduler = dict(
    type='MultiStepLR',
    by_epoch=True,
    milestones=[2, 3],
    gamma=0.1)

val_dataloader = dict(
    dataset=dict(type='MyDataset',
        is_train=False,
        size=20),
    sampler=dict(
        type='DefaultSampler',
        shuffle=False),
    collate_fn=dict(type='default_collate'),
    batch_size=10,
    num_workers=0)
val_cfg = dict()
val_evaluator = dict(type='Accuracy')

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
randomness = dict(seed=3)
"""


@example
def config_file(play):
    from mmengine.config import Config
    from mmengine.runner import Runner

    register_awesome_parts()
    Path("example_config.py").write_text(EXAMPLE_CONFIG)
    config = Config.fromfile("example_config.py")
    runner = Runner.from_cfg(config)
    play(runner, "train")


# Arguments of the runner -------------------------------------------------------------------------


def register_toy_parts():
    from mmengine.evaluator import BaseMetric
    from mmengine.model import BaseModel
    from mmengine.registry import DATASETS, METRICS, MODELS

    @MODELS.register_module()
    class ToyModel(BaseModel):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 1)

        def forward(self, inputs, data_samples, mode="tensor"):
            outputs = self.linear(torch.stack(inputs))
            if mode == "loss":
                return dict(loss=(torch.stack(data_samples) - outputs).pow(2).mean())
            return outputs

    @DATASETS.register_module()
    class ToyDataset(Dataset):
        METAINFO = dict()
        data = torch.randn(6, 2, generator=torch.Generator().manual_seed(4))

        @property
        def metainfo(self):
            return self.METAINFO

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            return dict(inputs=self.data[index], data_samples=self.data[index].sum(0, True))

    @METRICS.register_module()
    class ToyEvaluator(BaseMetric):
        def process(self, data_batch, data_samples):
            for target, predicted in zip(data_batch["data_samples"], data_samples, strict=True):
                self.results.append((predicted - target).abs().item())

        def compute_metrics(self, results):
            return dict(acc=1 - sum(results) / len(results), worst=max(results))


def reference_config(**changes):
    """The example of the reference, in which the optimizer hook is no more."""
    return dict(
        model=dict(type="ToyModel"),
        work_dir="path/of/work_dir",
        train_dataloader=dict(
            dataset=dict(type="ToyDataset"),
            sampler=dict(type="DefaultSampler", shuffle=True),
            batch_size=1,
            num_workers=0,
        ),
        val_dataloader=dict(
            dataset=dict(type="ToyDataset"),
            sampler=dict(type="DefaultSampler", shuffle=False),
            batch_size=1,
            num_workers=0,
        ),
        test_dataloader=dict(
            dataset=dict(type="ToyDataset"),
            sampler=dict(type="DefaultSampler", shuffle=False),
            batch_size=1,
            num_workers=0,
        ),
        auto_scale_lr=dict(base_batch_size=16, enable=False),
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01)),
        param_scheduler=dict(type="MultiStepLR", milestones=[1, 2]),
        val_evaluator=dict(type="ToyEvaluator"),
        test_evaluator=dict(type="ToyEvaluator"),
        train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1),
        val_cfg=dict(),
        test_cfg=dict(),
        custom_hooks=[],
        default_hooks=dict(
            timer=dict(type="IterTimerHook"),
            checkpoint=dict(type="CheckpointHook", interval=1),
            logger=dict(type="LoggerHook"),
            param_scheduler=dict(type="ParamSchedulerHook"),
        ),
        launcher="none",
        env_cfg=dict(dist_cfg=dict(backend="nccl")),
        log_processor=dict(window_size=20),
        visualizer=dict(
            type="Visualizer", vis_backends=[dict(type="LocalVisBackend", save_dir="temp_dir")]
        ),
        randomness=dict(seed=1),
        **changes,
    )


@example
def reference(play):
    from mmengine.runner import Runner

    register_toy_parts()
    runner = Runner.from_cfg(reference_config())
    play(runner, "train", "test")


@example
def scaled_learning_rate(play):
    from mmengine.runner import Runner

    register_toy_parts()
    cfg = reference_config()
    cfg["auto_scale_lr"] = dict(base_batch_size=16, enable=True)
    cfg["default_hooks"]["logger"]["interval"] = 2
    runner = Runner.from_cfg(cfg)
    play(runner, "val", "test", "train", "val")


# Loops, hooks and runners of one's own -----------------------------------------------------------


@example
def custom_loop_hook_and_runner(play):
    """The loop derives from the usual one, for `BaseLoop` takes no evaluator and has no iteration;
    the runner's method takes what it is called with.
    """
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS, LOOPS, RUNNERS
    from mmengine.runner import Runner, ValLoop

    called = []

    @LOOPS.register_module()
    class CustomValLoop(ValLoop):
        def __init__(self, runner, dataloader, evaluator, dataloader2):
            super().__init__(runner, dataloader, evaluator)
            self.dataloader2 = runner.build_dataloader(dataloader2)

        def run(self):
            self.runner.call_hook("before_val_epoch")
            self.runner.model.eval()
            for idx, data_batch in enumerate(self.dataloader):
                self.run_iter(idx, data_batch)
            metric = self.evaluator.evaluate(len(self.dataloader.dataset))

            # add extra loop for validation purpose
            for idx, data_batch in enumerate(self.dataloader2):
                # add new hooks
                self.runner.call_hook(
                    "before_valloader2_iter", batch_idx=idx, data_batch=data_batch
                )
                outputs = self.runner.model.val_step(data_batch)
                self.evaluator.process(data_samples=outputs, data_batch=data_batch)
                # add new hooks
                self.runner.call_hook(
                    "after_valloader2_iter",
                    batch_idx=idx,
                    data_batch=data_batch,
                    outputs=outputs,
                )
            metric2 = self.evaluator.evaluate(len(self.dataloader2.dataset))
            metric.update({f"{k}2": v for k, v in metric2.items()})

            self.runner.call_hook("after_val_epoch", metrics=metric)
            self.runner.model.train()

    @HOOKS.register_module()
    class CustomValHook(Hook):
        def before_valloader2_iter(self, runner, batch_idx, data_batch):
            called.append(["before_valloader2_iter", runner.iter, batch_idx])

        def after_valloader2_iter(self, runner, batch_idx, data_batch, outputs):
            called.append(["after_valloader2_iter", runner.iter, batch_idx, len(outputs)])

    @RUNNERS.register_module()
    class CustomRunner(Runner):
        def setup_env(self, env_cfg):
            called.append(["setup_env", sorted(env_cfg)])
            super().setup_env(env_cfg)

    register_toy_parts()
    cfg = reference_config()
    cfg["runner_type"] = "CustomRunner"
    # Customized validation loop
    cfg["val_cfg"] = dict(
        type="CustomValLoop",
        dataloader2=dict(
            dataset=dict(type="ToyDataset"),
            sampler=dict(type="DefaultSampler", shuffle=False),
            batch_size=4,
        ),
    )
    # Customized hook with extra hook position
    cfg["custom_hooks"] = [dict(type="CustomValHook")]
    runner = RUNNERS.build(cfg)
    play(runner, "train", called=called)


# Loading and resuming ----------------------------------------------------------------------------


@example
def resume_and_load_from(play):
    from mmengine.runner import Runner

    register_toy_parts()
    cfg = reference_config(experiment_name="first")
    cfg["train_cfg"]["val_interval"] = 2
    play(Runner.from_cfg(cfg), "train")

    # resume training from the latest checkpoint of the directory, as if it had ended there
    directory = Path("path/of/work_dir").absolute()
    for name in ("epoch_2.pth", "epoch_3.pth"):
        (directory / name).unlink()
    (directory / "last_checkpoint").write_text(str(directory / "epoch_1.pth"))
    cfg = reference_config(experiment_name="resumed", resume=True)
    cfg["train_cfg"]["val_interval"] = 2
    play(Runner.from_cfg(cfg), "train")

    # load model weights from given path
    cfg = reference_config(experiment_name="loaded", load_from="path/of/work_dir/epoch_1.pth")
    cfg["work_dir"] = "path/of/another"
    play(Runner.from_cfg(cfg), "test", "train")

    # resume training from the given path
    cfg = reference_config(experiment_name="resumed_from", load_from="path/of/work_dir/epoch_2.pth")
    cfg.update(work_dir="path/of/a_third", resume=True)
    cfg["train_cfg"]["val_interval"] = 2
    play(Runner.from_cfg(cfg), "train")
