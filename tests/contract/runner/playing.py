"""Plays examples of the documents, run as they are written there, and what they share.

Each is a function that imports ``mmengine``, whichever engine goes by that name, and hands its
runner over with ``play(runner, "train")`` where the document says ``runner.train()``. Data, models
and lengths are small; everything else is what the document has. They are in the files
``examples_*.py`` beside this one.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import traces
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXAMPLES: dict[str, Callable[[Play], None]] = {}
FILES = ("examples_runner", "examples_logging", "examples_training")


class Play:
    """Runs the runners of an example, in a directory of its own, and keeps what they did.

    Attributes:
        runs: What each runner did.
    """

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []

    def __call__(self, runner: Any, *tasks: str, **more: Any) -> None:
        """Let a runner do one task after another; ``more`` is written down besides."""
        hooks, hooks_info = traces.hooks(runner), runner.get_hooks_info()
        tracer = traces.tracer("mmengine")
        runner.register_hook(tracer)
        results = [getattr(runner, task)() for task in tasks]
        metrics = [r for r in results if isinstance(r, dict)]
        self.runs.append(
            {
                "source": "documents",
                "hooks": hooks,
                "trace": tracer.trace,
                "losses": tracer.losses,
                "test": traces.plain(metrics[-1] if metrics else {}),
                "files": traces.files(os.getcwd(), "mmengine"),
                "weights": traces.plain(dict(runner.model.state_dict())),
                "max": [runner.max_epochs, runner.max_iters, runner.epoch, runner.iter],
                "lines": traces.lines(runner.log_dir, hooks_info, os.getcwd()),
                "records": traces.records(os.getcwd()),
                **more,
            }
        )
        # The next runner may be made within the same second, and write to the same files.
        shutil.rmtree(runner.log_dir)
        for path in Path().rglob("*.json"):
            path.unlink()


def run(name: str, directory: str) -> dict[str, dict[str, Any]]:
    """Run an example and return name -> what each of its runners did.

    Args:
        name: A key of EXAMPLES.
        directory: Where it may write.
    """
    play = Play()
    before = os.getcwd()
    os.chdir(directory)
    torch.manual_seed(1)  # for models that are built before there is a runner
    try:
        EXAMPLES[name](play)
    finally:
        os.chdir(before)
    return {f"{name}.{n}" if n else name: found for n, found in enumerate(play.runs)}


def example(function: Callable[[Play], None]) -> Callable[[Play], None]:
    EXAMPLES[function.__name__] = function
    return function


def images(size: int, seed: int) -> TensorDataset:
    """Small images of four kinds, and which kind each is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (size,), generator=generator)
    pictures = torch.randn(size, 3, 4, 4, generator=generator) + labels.view(-1, 1, 1, 1)
    return TensorDataset(pictures, labels)


def classifier() -> nn.Module:
    """What stands for a ResNet."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4)
    )


def accuracy_metric() -> type:
    """The metric that most examples share."""
    from mmengine.evaluator import BaseMetric

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

    return Accuracy


def image_model() -> type:
    from mmengine.model import BaseModel

    class MMResNet50(BaseModel):
        def __init__(self):
            super().__init__()
            self.resnet = classifier()

        def forward(self, imgs, labels, mode):
            x = self.resnet(imgs)
            if mode == "loss":
                return {"loss": F.cross_entropy(x, labels)}
            elif mode == "predict":
                return x, labels

    return MMResNet50


def image_loaders() -> dict[str, DataLoader]:
    return dict(
        train_dataloader=DataLoader(batch_size=8, shuffle=True, dataset=images(24, 1)),
        val_dataloader=DataLoader(batch_size=8, shuffle=False, dataset=images(12, 2)),
    )


def load_all() -> None:
    """Fill EXAMPLES."""
    for name in FILES:
        importlib.import_module(name)
