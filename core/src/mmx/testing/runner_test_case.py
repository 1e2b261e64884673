"""A base of test cases that need a runner."""

from __future__ import annotations

import copy
import logging
import os
import tempfile
import time
from typing import Any
from unittest import TestCase
from uuid import uuid4

import torch
from torch import nn
from torch.utils.data import Dataset

from mmx.config import Config
from mmx.dist import is_distributed
from mmx.evaluator import BaseMetric
from mmx.logging import MessageHub, MMLogger
from mmx.model import BaseModel
from mmx.registry import DATASETS, METRICS, MODELS, DefaultScope
from mmx.runner import Runner
from mmx.visualization import Visualizer


class ToyModel(BaseModel):
    """Two linear layers that map two features to one; the loss is the mean output."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.linear1 = nn.Linear(2, 2)
        self.linear2 = nn.Linear(2, 1)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return the output, or the loss with ``mode='loss'``."""
        if isinstance(inputs, (list, tuple)):
            inputs = torch.stack(list(inputs))
        if isinstance(data_samples, (list, tuple)):
            data_samples = torch.stack(list(data_samples))
        outputs = self.linear2(self.linear1(inputs))
        if mode == "loss":
            return {"loss": (data_samples - outputs).sum()}
        return outputs


class ToyDataset(Dataset[Any]):
    """Twelve random samples of two features with labels of one."""

    METAINFO: dict[str, Any] = {}

    def __init__(self) -> None:
        self.data = torch.randn(12, 2)
        self.label = torch.ones(12)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Facts about the data set: none."""
        return self.METAINFO

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": self.data[index], "data_samples": self.label[index]}


class ToyMetric(BaseMetric):
    """A metric whose accuracy is always 1."""

    def __init__(self, collect_device: str = "cpu", dummy_metrics: Any = None) -> None:
        super().__init__(collect_device=collect_device)
        self.dummy_metrics = dummy_metrics

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Count the batch."""
        self.results.append({"acc": 1})

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Return the accuracy."""
        return {"acc": 1}


class RunnerTestCase(TestCase):
    """A base of test cases that need a runner.

    ``setUp`` registers ``ToyModel``, ``ToyDataset`` and ``ToyMetric`` and makes
    ``self.epoch_based_cfg`` and ``self.iter_based_cfg``, configs of a run of some seconds with a
    temporary work directory; :meth:`build_runner` makes a runner of one. ``tearDown`` removes the
    directory, closes the loggers and undoes what the runner left in the process.

    Attributes:
        dist_cfg: Environment variables that :meth:`setup_dist_env` sets for a group of one process.
        epoch_based_cfg: Config of two epochs with validation and test.
        iter_based_cfg: Config of twelve iterations with validation and test.
    """

    dist_cfg: dict[str, Any] = dict(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=29600, RANK="0", WORLD_SIZE="1", LOCAL_RANK="0"
    )

    epoch_based_cfg: Config
    iter_based_cfg: Config

    def setUp(self) -> None:
        """Register the toy parts and make the configs."""
        self.temp_dir = tempfile.TemporaryDirectory()
        for registry, part in ((MODELS, ToyModel), (METRICS, ToyMetric), (DATASETS, ToyDataset)):
            registry.register_module(module=part, force=True)

        def loader(sampler: str, shuffle: bool) -> dict[str, Any]:
            return dict(
                dataset=dict(type="ToyDataset"),
                sampler=dict(type=sampler, shuffle=shuffle),
                batch_size=3,
                num_workers=0,
            )

        self.epoch_based_cfg = Config(
            dict(
                work_dir=self.temp_dir.name,
                model=dict(type="ToyModel"),
                train_dataloader=loader("DefaultSampler", True),
                val_dataloader=loader("DefaultSampler", False),
                val_evaluator=[dict(type="ToyMetric")],
                test_dataloader=loader("DefaultSampler", False),
                test_evaluator=[dict(type="ToyMetric")],
                optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
                train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
                val_cfg=dict(),
                test_cfg=dict(),
                default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
                custom_hooks=[],
                env_cfg=dict(dist_cfg=dict(backend="nccl")),
                experiment_name="test1",
            )
        )
        self.iter_based_cfg = copy.deepcopy(self.epoch_based_cfg)
        self.iter_based_cfg.train_dataloader = loader("InfiniteSampler", True)
        self.iter_based_cfg.log_processor = dict(by_epoch=False)
        self.iter_based_cfg.train_cfg = dict(by_epoch=False, max_iters=12)
        self.iter_based_cfg.default_hooks = dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(type="CheckpointHook", interval=12, by_epoch=False),
        )

    def tearDown(self) -> None:
        """Undo what the test did to the process, and remove the work directory."""
        # Files that are still open cannot be removed on Windows, and warn elsewhere.
        logging.shutdown()
        MMLogger._instance_dict.clear()
        Visualizer._instance_dict.clear()
        DefaultScope._instance_dict.clear()
        MessageHub._instance_dict.clear()
        for registry, part in ((MODELS, ToyModel), (METRICS, ToyMetric), (DATASETS, ToyDataset)):
            registry.module_dict.pop(part.__name__, None)
        if is_distributed():
            torch.distributed.destroy_process_group()
        for name in self.dist_cfg:
            os.environ.pop(name, None)
        self.temp_dir.cleanup()

    def build_runner(self, cfg: Config) -> Runner:
        """Return a runner of a config, under an experiment name that no other test has."""
        cfg.experiment_name = self.experiment_name
        return Runner.from_cfg(cfg)

    @property
    def experiment_name(self) -> str:
        """A name that is new each time: two runners of one name would share their logger."""
        return f"{self._testMethodName}_{time.time()} + {uuid4()}"

    def setup_dist_env(self) -> None:
        """Set the environment of a process group of one process, on a port of its own."""
        self.dist_cfg["MASTER_PORT"] += 1
        os.environ.update({name: str(value) for name, value in self.dist_cfg.items()})

    def clear_work_dir(self) -> None:
        """Empty the work directory."""
        logging.shutdown()
        self.temp_dir.cleanup()
        os.makedirs(self.temp_dir.name, exist_ok=True)
