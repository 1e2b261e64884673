"""Keeping an average of the weights, and validating and saving it."""

from __future__ import annotations

import copy
import itertools
import logging
from typing import TYPE_CHECKING, Any

from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.logging import print_log
from mmx.model import is_model_wrapper
from mmx.registry import HOOKS, MODELS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class EMAHook(Hook):
    """Average the weights while training; validate, test and publish with the average.

    In a checkpoint ``state_dict`` holds the averaged weights, which is what is used afterwards, and
    ``ema_state_dict`` the other ones under the averaged model's keys, as MMEngine writes them; on
    resume they are swapped back. A checkpoint without an average can be resumed: averaging then
    begins with its weights. One with an average can be used without this hook.

    Args:
        ema_type: Averaged model in ``MODELS``.
        strict_load: Whether ``ema_state_dict`` must match exactly.
        begin_iter: Iteration from which to average, 0-based.
        begin_epoch: Epoch from which to average, 0-based; not with ``begin_iter``.
        **kwargs: Arguments of the averaged model.

    Raises:
        ValueError: A beginning is negative, or both are given.
    """

    priority = "NORMAL"

    def __init__(
        self,
        ema_type: str = "ExponentialMovingAverage",
        strict_load: bool = False,
        begin_iter: int = 0,
        begin_epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        self.strict_load = strict_load
        self.ema_cfg = {"type": ema_type, **kwargs}
        if begin_iter < 0 or begin_epoch < 0:
            raise ValueError(
                f"`begin_iter` and `begin_epoch` must not be negative, got {begin_iter} and {begin_epoch}"
            )
        if begin_iter and begin_epoch:
            raise ValueError("`begin_iter` and `begin_epoch` should not be both set.")
        self.begin_iter = begin_iter
        self.begin_epoch = begin_epoch
        # A disabled hook leaves checkpoints alone: there is no training that made an average.
        self.enabled_by_epoch = begin_epoch > 0

    # Whether the model holds the average.
    _swapped = False

    def before_run(self, runner: RunnerLike) -> None:
        """Make the averaged model from the model."""
        model = runner.model
        if is_model_wrapper(model):
            model = model.module
        self.src_model = model
        self.ema_model: Any = MODELS.build(self.ema_cfg, default_args={"model": self.src_model})

    def before_train(self, runner: RunnerLike) -> None:
        """Check the beginning, and mirror the model until it is reached.

        Raises:
            ValueError: Averaging would begin after training has ended.
        """
        if self.enabled_by_epoch:
            if runner.max_epochs is not None and self.begin_epoch > runner.max_epochs:
                raise ValueError(
                    f"self.begin_epoch should be smaller than or equal to runner.max_epochs: "
                    f"{runner.max_epochs}, but got begin_epoch: {self.begin_epoch}"
                )
        elif runner.max_iters is not None and self.begin_iter > runner.max_iters:
            raise ValueError(
                f"self.begin_iter should be smaller than or equal to runner.max_iters: "
                f"{runner.max_iters}, but got begin_iter: {self.begin_iter}"
            )

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Take the new weights into the average."""
        if self._ema_started(runner):
            self.ema_model.update_parameters(self.src_model)
        else:
            for average, value in zip(
                itertools.chain(
                    self.ema_model.module.parameters(), self.ema_model.module.buffers()
                ),
                itertools.chain(self.src_model.parameters(), self.src_model.buffers()),
                strict=True,
            ):
                average.data.copy_(value.data)

    def before_val_epoch(self, runner: RunnerLike) -> None:
        """Put the average into the model."""
        self._swap_ema_parameters()

    def after_val_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Put the weights back."""
        self._swap_ema_parameters()

    def before_test_epoch(self, runner: RunnerLike) -> None:
        """Put the average into the model."""
        self._swap_ema_parameters()

    def after_test_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Put the weights back."""
        self._swap_ema_parameters()

    def abort_val(self, runner: RunnerLike) -> None:
        """Put the weights back after a validation that was given up."""
        if self._swapped:
            self._swap_ema_parameters()

    def abort_test(self, runner: RunnerLike) -> None:
        """Put the weights back after a test that was given up."""
        self.abort_val(runner)

    def before_save_checkpoint(self, runner: RunnerLike, checkpoint: dict[str, Any]) -> None:
        """Save the average as the weights, and the weights beside it."""
        checkpoint["ema_state_dict"] = self.ema_model.state_dict()
        self._swap_ema_state_dict(checkpoint)

    def after_load_checkpoint(self, runner: RunnerLike, checkpoint: dict[str, Any]) -> None:
        """Take the average from a checkpoint; without one, begin with its weights."""
        from mmx.checkpoint import load_state_dict

        resuming = getattr(runner, "_resume", False)
        if "ema_state_dict" in checkpoint and resuming:
            self._swap_ema_state_dict(checkpoint)
            self.ema_model.load_state_dict(checkpoint["ema_state_dict"], strict=self.strict_load)
            return
        if resuming:
            print_log(
                "There is no `ema_state_dict` in checkpoint. `EMAHook` will make a copy of `state_dict` as the initial "
                "`ema_state_dict`",
                logger="current",
                level=logging.WARNING,
            )
        # Weights that are only loaded are those to use: the average starts from them.
        load_state_dict(
            self.ema_model.module, copy.deepcopy(checkpoint["state_dict"]), strict=self.strict_load
        )

    def _swap_ema_parameters(self) -> None:
        """Exchange the values of the model and the average.

        By copying: what else holds the tensors (optimizers, captured graphs) must not see others.
        """
        average, model = self.ema_model.module, self.src_model
        for ours, theirs in zip(
            itertools.chain(average.parameters(), average.buffers()),
            itertools.chain(model.parameters(), model.buffers()),
            strict=True,
        ):
            kept = ours.data.clone()
            ours.data.copy_(theirs.data)
            theirs.data.copy_(kept)
        self._swapped = not self._swapped

    def _swap_ema_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Exchange the weights and the average in a checkpoint."""
        model_state = checkpoint["state_dict"]
        ema_state = checkpoint["ema_state_dict"]
        for key in [k for k in ema_state if k.startswith("module.")]:
            name = key[len("module.") :]
            if name in model_state:
                model_state[name], ema_state[key] = ema_state[key], model_state[name]

    def _ema_started(self, runner: RunnerLike) -> bool:
        """Tell whether averaging has begun."""
        if self.enabled_by_epoch:
            return runner.epoch + 1 >= self.begin_epoch
        return runner.iter + 1 >= self.begin_iter
