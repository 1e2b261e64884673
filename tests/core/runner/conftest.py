"""Small parts that the runner's tests put together."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmx.evaluator import BaseMetric
from mmx.hooks.hook import Hook
from mmx.model import BaseModel
from mmx.runner import Runner


class Points(torch.utils.data.Dataset):
    """Points in the plane with a label; ``augment`` moves them at random when they are read."""

    metainfo = {"classes": ("left", "right")}

    def __init__(self, size: int = 20, seed: int = 0, augment: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, 4, generator=generator)
        self.y = (self.x.sum(1) > 0).long()
        self.augment = augment
        self.reads = 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads += 1
        x = self.x[index]
        return {
            "x": x + torch.randn(4) * 0.1 if self.augment else x,
            "y": self.y[index],
            "i": index,
        }


class Net(BaseModel):
    """A classifier with batch normalisation and dropout."""

    def __init__(self, dropout: float = 0.0, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Any, y: Any = None, i: Any = None, mode: str = "tensor") -> Any:
        out = self.last(self.dropout(self.norm(self.first(x)).relu()))
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(out, y)}
        if mode == "predict":
            return [{"score": score, "y": target} for score, target in zip(out, y, strict=True)]
        return out


class Accuracy(BaseMetric):
    """Share of right answers."""

    default_prefix = "acc"

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [float(s["score"].argmax() == s["y"]) for s in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return {"top1": sum(results) / len(results), "count": len(results)}


class Recorder(Hook):
    """Writes down what is trained on, and each stage's name."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.samples: list[list[int]] = []
        self.losses: list[float] = []
        self.stages: list[str] = []

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.samples.append(data_batch["i"].tolist())
        self.losses.append(float(outputs["loss"]))
        self.stages.append("after_train_iter")


def _record_stages() -> None:
    def stage(name: str) -> Any:
        def method(self: Recorder, runner: Any, *args: Any, **kwargs: Any) -> None:
            self.stages.append(name)

        return method

    for name in Hook.stages:
        if name not in vars(Recorder):
            setattr(Recorder, name, stage(name))


_record_stages()


def loader(
    size: int = 20, *, batch_size: int = 4, shuffle: bool = True, workers: int = 0, **data: Any
) -> dict[str, Any]:
    """The dict of a data loader over points."""
    return {
        "dataset": Points(size, **data),
        "sampler": {"type": "DefaultSampler", "shuffle": shuffle},
        "batch_size": batch_size,
        "num_workers": workers,
        "collate_fn": {"type": "default_collate"},
    }


def settings(**changes: Any) -> dict[str, Any]:
    """Arguments of a runner that trains and validates for two epochs."""
    arguments: dict[str, Any] = {
        "train_dataloader": loader(),
        "train_cfg": {"by_epoch": True, "max_epochs": 2},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
        "val_dataloader": loader(10, shuffle=False, seed=1),
        "val_cfg": {},
        "val_evaluator": [Accuracy()],
        "randomness": {"seed": 3},
        "default_hooks": {"logger": {"type": "LoggerHook", "interval": 2}},
    }
    arguments.update(changes)
    return {key: value for key, value in arguments.items() if value is not None}


@pytest.fixture
def parts() -> SimpleNamespace:
    """The small parts themselves."""
    return SimpleNamespace(
        Points=Points, Net=Net, Accuracy=Accuracy, Recorder=Recorder, loader=loader
    )


@pytest.fixture
def make_runner(tmp_path):
    """Return a function that makes a runner; keyword arguments replace the usual ones."""
    made = []

    def make(
        *, dropout: float = 0.0, model_seed: int = 7, runner_class: Any = Runner, **changes: Any
    ) -> Runner:
        torch.manual_seed(model_seed)
        model = changes.pop("model", None) or Net(dropout)
        work_dir = changes.pop("work_dir", tmp_path / f"run{len(made)}")
        runner = runner_class(model=model, work_dir=str(work_dir), **settings(**changes))
        made.append(runner)
        return runner

    yield make
    for runner in made:
        for handler in list(getattr(runner.logger, "handlers", [])):
            handler.close()


@pytest.fixture(autouse=True)
def _random_state_kept():
    """Seeds that a runner sets do not reach other tests."""
    state = torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_rng_state(copy.copy(state))
    torch.use_deterministic_algorithms(deterministic)
