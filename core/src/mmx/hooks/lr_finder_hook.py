"""Looking for a learning rate to train with, before training."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmx import dist
from mmx.dataset.iteration import dataloader_state, iterate_from, load_dataloader_state
from mmx.hooks.hook import Hook
from mmx.logging import MessageHub
from mmx.optim import OptimWrapperDict
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike

# Points at the ends of the curve that tell nothing: the average is not warm, or the loss explodes.
_SKIP_BEGIN, _SKIP_END = 10, 5


@dataclass(frozen=True)
class LRFinderResult:
    """What a search has found.

    Attributes:
        lrs: Learning rates that were tried, rising.
        losses: Smoothed loss at each.
        suggestion: Where the loss falls fastest; None if it never fell.
    """

    lrs: list[float]
    losses: list[float]
    suggestion: float | None


@HOOKS.register_module()
class LRFinderHook(Hook):
    """Trains for a while with a learning rate that rises, and suggests one before training begins.

    The test of `Cyclical Learning Rates <https://arxiv.org/abs/1506.01186>`_ (section 3.3): the
    rate rises exponentially from step to step until the loss diverges; a good one is where the
    loss falls fastest. Parameter groups keep their ratios. Afterwards weights, buffers, optimizer,
    random states and data are as if nothing had happened, and training takes its course. The curve
    is drawn into ``lr_find.png`` and written to ``lr_find.json`` in the log directory.

    Args:
        start_lr: First learning rate.
        end_lr: Last learning rate.
        num_steps: Steps of the optimizer between them.
        smoothing: Weight of the past in the moving average of the loss, in [0, 1).
        divergence: The search ends when the smoothed loss is this many times the best.
        train: Train afterwards; with False the run ends.
        out_dir: Where the curve goes; None is the log directory.

    Attributes:
        result: What was found, None before.

    Raises:
        ValueError: A setting is out of range.
    """

    # Before hooks that watch the optimizer, which the search must not alarm.
    priority = "VERY_HIGH"

    def __init__(
        self,
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        num_steps: int = 100,
        smoothing: float = 0.9,
        divergence: float = 4.0,
        train: bool = True,
        out_dir: str | None = None,
    ) -> None:
        if not 0 < start_lr < end_lr:
            raise ValueError(
                f"0 < start_lr < end_lr is needed, but got start_lr={start_lr}, end_lr={end_lr}"
            )
        if num_steps < 2:
            raise ValueError(f"num_steps should be at least 2, but got {num_steps}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing should be in [0, 1), but got {smoothing}")
        if divergence <= 1:
            raise ValueError(f"divergence should be above 1, but got {divergence}")
        self.start_lr, self.end_lr, self.num_steps = start_lr, end_lr, num_steps
        self.smoothing, self.divergence = smoothing, divergence
        self.train, self.out_dir = train, out_dir
        self.result: LRFinderResult | None = None

    def before_train(self, runner: RunnerLike) -> None:
        """Search, write down what was found, and put everything back.

        Raises:
            TypeError: The run has several optimizers.
        """
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            raise TypeError(
                "LRFinderHook looks for the learning rate of one optimizer, but the run has "
                f"{list(runner.optim_wrapper.keys())}: search with one of them at a time"
            )
        runner.logger.info(
            f"Looking for a learning rate from {self.start_lr:g} to {self.end_lr:g} in "
            f"{self.num_steps} steps"
        )
        # What the search logs is not of this run.
        with _restored(runner), MessageHub("lr_finder").as_current():
            lrs, losses = self._search(runner)
        self.result = LRFinderResult(lrs, losses, suggest_lr(lrs, losses))
        self._report(runner, self.result)
        if not self.train:
            runner.train_loop.stop_training = True

    def _search(self, runner: RunnerLike) -> tuple[list[float], list[float]]:
        wrapper = runner.optim_wrapper
        groups = wrapper.param_groups
        ratios = _ratios(wrapper)
        per_step = getattr(wrapper, "_accumulative_counts", 1)
        if hasattr(wrapper, "_inner_count"):
            wrapper._inner_count, wrapper._max_counts, wrapper._remainder_counts = 0, -1, -1
        wrapper.zero_grad()
        batches = _endless(runner.train_dataloader)
        lrs: list[float] = []
        losses: list[float] = []
        average, best = 0.0, math.inf
        runner.model.train()
        for step in range(self.num_steps):
            progress = step / (self.num_steps - 1)
            lr = self.start_lr * (self.end_lr / self.start_lr) ** progress
            for group, ratio in zip(groups, ratios, strict=True):
                group["lr"] = lr * ratio
            loss = sum(
                _loss(runner.model.train_step(next(batches), optim_wrapper=wrapper))
                for _ in range(per_step)
            )
            loss = _mean_over_ranks(loss / per_step)
            if not math.isfinite(loss):
                break
            average = self.smoothing * average + (1 - self.smoothing) * loss
            # The average began at 0.
            smoothed = average / (1 - self.smoothing ** (step + 1))
            lrs.append(lr)
            losses.append(smoothed)
            best = min(best, smoothed)
            if step >= _SKIP_BEGIN and smoothed > self.divergence * best:
                break
        return lrs, losses

    def _report(self, runner: RunnerLike, result: LRFinderResult) -> None:
        if result.suggestion is None:
            runner.logger.warning(
                f"No learning rate to suggest: in {len(result.lrs)} steps from {self.start_lr:g} "
                f"to {self.end_lr:g} the loss did not fall. Try another range, or more steps"
            )
        else:
            runner.logger.info(
                f"Suggested learning rate: {result.suggestion:.3g} (the loss falls fastest there)"
            )
        if not dist.is_main_process():
            return
        out_dir = self.out_dir or runner.log_dir
        os.makedirs(out_dir, exist_ok=True)
        path = os.path.join(out_dir, "lr_find.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(
                {"lr": result.lrs, "loss": result.losses, "suggestion": result.suggestion}, file
            )
        try:
            picture = draw_lr_curve(result, os.path.join(out_dir, "lr_find.png"))
        except ImportError as error:
            runner.logger.info(f"The curve is in {path}; it was not drawn: {error}")
        else:
            runner.logger.info(f"The curve is in {picture}")


def suggest_lr(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the learning rate at which the loss falls fastest, None if it falls nowhere.

    Args:
        lrs: Learning rates, rising exponentially.
        losses: Smoothed loss at each.
    """
    inner = slice(_SKIP_BEGIN, len(losses) - _SKIP_END)
    rates, values = np.log(np.asarray(lrs))[inner], np.asarray(losses)[inner]
    if len(values) < 2:
        return None
    # Batches differ: the slope is that of a line through a fifth of the curve.
    half = max(len(values) // 10, 1)
    slopes = np.array(
        [
            np.polyfit(
                rates[max(i - half, 0) : i + half + 1], values[max(i - half, 0) : i + half + 1], 1
            )[0]
            for i in range(len(values))
        ]
    )
    steepest = int(np.argmin(slopes))
    return float(np.exp(rates[steepest])) if slopes[steepest] < 0 else None


def draw_lr_curve(result: LRFinderResult, path: str) -> str:
    """Draw the loss over the learning rate, and return the path of the picture.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from mmx.visualization.utils import require_matplotlib

    agg = require_matplotlib("matplotlib.backends.backend_agg")
    figure = require_matplotlib("matplotlib.figure").Figure(figsize=(6, 4), layout="constrained")
    agg.FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(result.lrs, result.losses)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("smoothed loss")
    axes.grid(alpha=0.3)
    if result.losses:
        # What explodes at the end would flatten the rest.
        low, first = min(result.losses), result.losses[0]
        margin = 0.05 * max(first - low, 1e-12)
        axes.set_ylim(low - margin, max(first, low + 1.2 * (first - low)) + margin)
    if result.suggestion is not None:
        axes.axvline(result.suggestion, color="tab:red", label=f"{result.suggestion:.3g}")
        axes.legend(title="suggestion")
    figure.savefig(path, dpi=120)
    return path


def _ratios(wrapper: Any) -> list[float]:
    """Return the learning rate of each group as a multiple of the optimizer's."""
    base = float(wrapper.defaults.get("lr") or 0.0)
    # Schedulers may have changed the present ones already.
    first = [float(group.get("initial_lr", group["lr"])) for group in wrapper.param_groups]
    if not base:
        return [1.0] * len(first)
    return [lr / base for lr in first]


def _endless(dataloader: Any) -> Iterator[Any]:
    epoch = 0
    while True:
        empty = True
        for batch in iterate_from(dataloader, epoch=epoch):
            empty = False
            yield batch
        if empty:
            raise ValueError("the data loader of training has no batches")
        epoch += 1


def _loss(log_vars: Any) -> float:
    """Return the loss of what a training step returned."""
    if "loss" in log_vars:
        return float(log_vars["loss"])
    losses = [float(value) for name, value in log_vars.items() if "loss" in name]
    if not losses:
        raise KeyError(
            f"the model's train_step returned no loss, but {list(log_vars)}: name one 'loss'"
        )
    return sum(losses)


def _mean_over_ranks(loss: float) -> float:
    if dist.get_world_size() == 1:
        return loss
    tensor = torch.tensor([loss], dtype=torch.float64)
    tensor = tensor.to(dist.get_comm_device())
    dist.all_reduce(tensor, "mean")
    return float(tensor.item())


@contextlib.contextmanager
def _restored(runner: RunnerLike) -> Iterator[None]:
    """Undo what a block does to model, optimizer, data and random states."""
    model, wrapper, loader = runner.model, runner.optim_wrapper, runner.train_dataloader
    tensors = [*model.parameters(), *model.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    state = copy.deepcopy(wrapper.state_dict())
    plain = {
        name: value
        for name, value in vars(wrapper).items()
        if isinstance(value, int | float | type(None))
    }
    data = dataloader_state(loader)
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=_devices(model)):
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
        wrapper.load_state_dict(state)
        vars(wrapper).update(plain)
        if len(data) > 1:
            load_dataloader_state(loader, data)
        random.setstate(python)
        np.random.set_state(arrays)


def _devices(model: torch.nn.Module) -> list[int]:
    """Return the accelerators whose random state the model may use."""
    if not torch.cuda.is_available():
        return []
    return sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
