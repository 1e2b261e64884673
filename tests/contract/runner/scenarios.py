"""Runs that both engines can make: what is recorded from one is compared with the other.

Nothing here imports an engine at module level; ``run(name, package, directory)`` takes the package.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import traces
from torch import nn


class _Data(torch.utils.data.Dataset):
    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, 4, generator=generator)
        self.y = (self.x.sum(dim=1) > 0).long()
        self.metainfo = {"classes": ("low", "high")}

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "y": self.y[index]}


def _model(package: str) -> Any:
    base = importlib.import_module(f"{package}.model").BaseModel

    class Model(base):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(11)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x: Any, y: Any = None, mode: str = "tensor") -> Any:
            out = self.net(x)
            if mode == "loss":
                ce = nn.functional.cross_entropy(out, y)
                return {"loss_ce": ce, "loss_l2": out.pow(2).mean() * 0.1, "spread": out.std()}
            if mode == "predict":
                return [{"score": s, "y": t} for s, t in zip(out, y, strict=False)]
            return out

    return Model()


def _metric(package: str) -> Any:
    base = importlib.import_module(f"{package}.evaluator").BaseMetric

    class Accuracy(base):  # type: ignore[misc,valid-type]
        default_prefix = "acc"

        def process(self, data_batch: Any, data_samples: Any) -> None:
            for sample in data_samples:
                self.results.append(float(sample["score"].argmax() == sample["y"]))

        def compute_metrics(self, results: list[float]) -> dict[str, float]:
            return {"top1": sum(results) / len(results), "count": len(results)}

    return Accuracy()


def _loader(size: int, seed: int, sampler: dict[str, Any], batch_size: int = 4) -> dict[str, Any]:
    return {
        "dataset": _Data(size, seed),
        "sampler": sampler,
        "batch_size": batch_size,
        "num_workers": 0,
        "collate_fn": {"type": "default_collate"},
    }


def _settings(package: str) -> dict[str, Any]:
    shuffled = {"type": "DefaultSampler", "shuffle": True}
    ordered = {"type": "DefaultSampler", "shuffle": False}
    return {
        "train_dataloader": _loader(18, 1, shuffled),
        "val_dataloader": _loader(10, 2, ordered, 5),
        "val_cfg": {},
        "val_evaluator": [_metric(package)],
        "test_dataloader": _loader(6, 3, ordered, 5),
        "test_cfg": {},
        "test_evaluator": [_metric(package)],
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
        "train_cfg": {"by_epoch": True, "max_epochs": 3},
        "randomness": {"seed": 5},
    }


SCENARIOS: dict[str, dict[str, Any]] = {
    "epochs": {
        "param_scheduler": {"type": "MultiStepLR", "milestones": [1, 2], "gamma": 0.5},
    },
    "epochs_late_and_dynamic_validation": {
        "train_cfg": {
            "by_epoch": True,
            "max_epochs": 7,
            "val_begin": 2,
            "val_interval": 3,
            "dynamic_intervals": [(5, 1)],
        },
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 3}},
    },
    "epochs_accumulating_and_clipping": {
        "optim_wrapper": {
            "optimizer": {"type": "Adam", "lr": 0.01},
            "accumulative_counts": 2,
            "clip_grad": {"max_norm": 0.5},
        },
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 6},
            {
                "type": "CosineAnnealingLR",
                "T_max": 2,
                "begin": 1,
                "end": 3,
                "convert_to_iter_based": True,
            },
        ],
    },
    "iterations": {
        "train_cfg": {
            "by_epoch": False,
            "max_iters": 13,
            "val_begin": 3,
            "val_interval": 4,
            "dynamic_intervals": [(9, 2)],
        },
        "train_sampler": {"type": "InfiniteSampler", "shuffle": True},
        "log_processor": {"by_epoch": False, "window_size": 3, "num_digits": 6},
        "param_scheduler": {"type": "PolyLR", "power": 0.9, "by_epoch": False},
        "default_hooks": {
            "checkpoint": {"type": "CheckpointHook", "interval": 5, "by_epoch": False}
        },
    },
    "iterations_over_a_finite_loader": {
        "train_cfg": {"by_epoch": False, "max_iters": 12, "val_interval": 5},
        "default_hooks": {
            "checkpoint": {"type": "CheckpointHook", "interval": 100, "by_epoch": False}
        },
    },
    "no_validation": {"val_dataloader": None, "val_cfg": None, "val_evaluator": None},
}


def run(name: str, package: str, directory: str, resume_from: str | None = None) -> dict[str, Any]:
    """Run a scenario and return what it did.

    Args:
        name: A key of SCENARIOS.
        package: ``mmengine`` or ``mmx``.
        directory: Where it may write.
        resume_from: Checkpoint to resume from.
    """
    runner_class = importlib.import_module(f"{package}.runner").Runner
    settings = {**_settings(package), **SCENARIOS[name]}
    settings["default_hooks"] = {
        "logger": {"type": "LoggerHook", "interval": 2},
        **settings.get("default_hooks", {}),
    }
    sampler = settings.pop("train_sampler", None)
    if sampler is not None:
        settings["train_dataloader"]["sampler"] = sampler
    if resume_from is not None:
        settings.update(resume=True, load_from=resume_from)
    tracer = traces.tracer(package)
    runner = runner_class(
        model=_model(package),
        work_dir=directory,
        custom_hooks=[tracer],
        experiment_name=name,
        **settings,
    )
    hooks, hooks_info = traces.hooks(runner), runner.get_hooks_info()
    runner.train()
    test = runner.test()
    return {
        "source": "tests",
        "hooks": hooks,
        "trace": tracer.trace,
        "losses": tracer.losses,
        "test": traces.plain(test),
        "files": traces.files(directory, package),
        "weights": traces.plain(dict(runner.model.state_dict())),
        "max": [runner.max_epochs, runner.max_iters, runner.epoch, runner.iter],
        "lines": traces.lines(runner.log_dir, hooks_info, directory),
        "records": traces.records(directory),
    }
