"""Tells the message hub where the run is and what each iteration returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.logging import MessageHub
from mmx.optim.optimizer.base import BaseOptimWrapper
from mmx.registry import HOOKS
from mmx.utils.errors import InvalidTypeError
from mmx.version import __version__

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class RuntimeInfoHook(Hook):
    """Keeps the message hub informed: epoch, iteration, learning rates, losses, metrics.

    Parts that do not know the runner read from the hub: ``epoch``, ``iter``, ``max_epochs``,
    ``max_iters``, ``loop_stage``, ``dataset_meta``, ``cfg``, ``seed``, ``experiment_name``.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._last_loop_stage: str | None = None
        # The optimizer of `_wrapper` where reading its rate is all that `get_lr` would do.
        self._wrapper: Any = None
        self._plain_optimizer: Any = None
        # The shortest ways to the hub, of the run that trains.
        self._hub: Any = None
        self._facts: dict[str, Any] = {}
        self._log_rate: Callable[[float], None] | None = None
        self._log_losses: Callable[[dict[str, Any]], None] | None = None

    def before_run(self, runner: RunnerLike) -> None:
        """Tell what the run is."""
        runner.message_hub.update_info_dict(
            {
                "cfg": runner.cfg.pretty_text,
                "seed": runner.seed,
                "experiment_name": runner.experiment_name,
                "mmx_version": __version__,
            }
        )

    def before_train(self, runner: RunnerLike) -> None:
        """Tell where training begins, after a resume as well."""
        hub = runner.message_hub
        hub.update_info("loop_stage", "train")
        hub.update_info("epoch", runner.epoch)
        hub.update_info("iter", runner.iter)
        hub.update_info("max_epochs", runner.max_epochs)
        hub.update_info("max_iters", runner.max_iters)
        dataset = getattr(runner.train_dataloader, "dataset", None)
        metainfo = getattr(dataset, "metainfo", None)
        if metainfo is not None:
            hub.update_info("dataset_meta", metainfo)

    def after_train(self, runner: RunnerLike) -> None:
        """Take the stage back."""
        runner.message_hub.pop_info("loop_stage")

    def before_train_epoch(self, runner: RunnerLike) -> None:
        """Tell the epoch."""
        runner.message_hub.update_info("epoch", runner.epoch)

    def before_train_iter(
        self, runner: RunnerLike, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Tell the iteration and its learning rates."""
        hub, wrapper = runner.message_hub, runner.optim_wrapper
        if self._log_rate is not None and self._knows(runner):
            self._facts["iter"] = runner.iter
            rate = self._plain_optimizer.param_groups[0]["lr"]
            if rate.__class__ is float:
                self._log_rate(rate)
            else:
                hub.update_scalar("train/lr", rate)
            return
        hub.update_info("iter", runner.iter)
        self._hub, self._wrapper, self._log_rate, self._log_losses = hub, wrapper, None, None
        self._plain_optimizer = _optimizer_with_one_rate(wrapper)
        if self._plain_optimizer is not None and isinstance(hub, MessageHub):
            self._facts, self._log_rate = hub.runtime_info, hub.lane("train/lr")
            self._log_losses = hub.row_lane("train/")
        rates = wrapper.get_lr()
        if not isinstance(rates, dict):
            raise InvalidTypeError(
                "`runner.optim_wrapper.get_lr()` should return a dict of learning rate when "
                f"training, but got {type(rates).__name__}"
            )
        for name, values in rates.items():
            hub.update_scalar(f"train/{name}", values[0])

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Hand the iteration's losses on, all at once and as they are."""
        if outputs is None:
            return
        if self._log_losses is not None and runner.message_hub is self._hub:
            self._log_losses(outputs)
        else:
            runner.message_hub.update_row("train/", outputs)

    def short_ways(self, runner: RunnerLike) -> tuple[Any, Callable[[float], None]] | None:
        """Return the optimizer and what logs its learning rate.

        None if there are several rates, or before an iteration with this hub and wrapper.
        """
        if self._log_rate is None or not self._knows(runner):
            return None
        return self._plain_optimizer, self._log_rate

    def _knows(self, runner: RunnerLike) -> bool:
        """Tell whether what was found out still belongs to the run."""
        wrapper = runner.optim_wrapper
        return (
            runner.message_hub is self._hub
            and wrapper is self._wrapper
            and wrapper.optimizer is self._plain_optimizer
        )

    def before_val(self, runner: RunnerLike) -> None:
        """Tell the stage."""
        self._enter(runner, "val")

    def after_val(self, runner: RunnerLike) -> None:
        """Go back to the stage before validation."""
        self._leave(runner)

    def after_val_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Hand the validation's metrics on."""
        self._record(runner, "val", metrics)

    def before_test(self, runner: RunnerLike) -> None:
        """Tell the stage."""
        self._enter(runner, "test")

    def after_test(self, runner: RunnerLike) -> None:
        """Go back to the stage before the test."""
        self._leave(runner)

    def after_test_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Hand the test's metrics on."""
        self._record(runner, "test", metrics)

    def _enter(self, runner: RunnerLike, stage: str) -> None:
        self._last_loop_stage = runner.message_hub.get_info("loop_stage")
        runner.message_hub.update_info("loop_stage", stage)

    def _leave(self, runner: RunnerLike) -> None:
        if self._last_loop_stage is None:
            runner.message_hub.pop_info("loop_stage")
        else:
            runner.message_hub.update_info("loop_stage", self._last_loop_stage)
            self._last_loop_stage = None

    def _record(self, runner: RunnerLike, mode: str, metrics: dict[str, Any] | None) -> None:
        for name, value in (metrics or {}).items():
            if _is_scalar(value):
                runner.message_hub.update_scalar(f"{mode}/{name}", value)
            else:
                runner.message_hub.update_info(f"{mode}/{name}", value)


def _optimizer_with_one_rate(wrapper: Any) -> Any:
    """Return the optimizer of a wrapper whose ``get_lr`` is the usual one and has one entry."""
    method = getattr(type(wrapper), "get_lr", None)
    if method is not BaseOptimWrapper.get_lr or "get_lr" in vars(wrapper):
        return None
    return wrapper.optimizer if set(wrapper.get_lr()) == {"lr"} else None


def _is_scalar(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.size == 1
    if isinstance(value, int | float | np.number):
        return True
    return isinstance(value, torch.Tensor) and value.numel() == 1
