"""Keeping an average of the weights, and validating and saving it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mmx.checkpoint import load_state_dict
from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.logging import print_log
from mmx.model import is_model_wrapper
from mmx.model.averaged_model import is_sharded
from mmx.registry import HOOKS, MODELS
from mmx.utils.errors import InvalidValueError

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class EMAHook(Hook):
    """Average the weights while training; validate, test and publish with the average.

    In a checkpoint ``state_dict`` holds the averaged weights, which is what is used afterwards, and
    ``ema_state_dict`` the ones in training under the averaged model's keys, as MMEngine writes
    them; :func:`mmx.model.averaged_model.source_state_dict` takes them out. What a checkpoint is
    good for:

    - saved with an average, resumed with this hook: weights and average go on exactly;
    - saved without, resumed with: the average begins with the checkpoint's weights;
    - saved with, loaded or resumed without this hook: the averaged weights are used;
    - loaded, not resumed, with this hook: weights and average begin with what is in ``state_dict``.

    Args:
        ema_type: Averaged model in ``MODELS``, by name or class.
        strict_load: Whether the state of the average must match exactly when it is loaded.
        begin_iter: Average from this iteration on, counted from 1; until then the average is a copy
            of the weights. 0 is from the first.
        begin_epoch: Average from this epoch on, counted from 1; not with ``begin_iter``.
        **kwargs: Arguments of the averaged model, such as ``momentum``.

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
        if begin_iter < 0:
            raise InvalidValueError(
                f"`begin_iter` must be larger than or equal to 0, but got begin_iter: {begin_iter}"
            )
        if begin_epoch < 0:
            raise InvalidValueError(
                f"`begin_epoch` must be larger than or equal to 0, but got begin_epoch: {begin_epoch}"
            )
        if begin_iter and begin_epoch:
            raise InvalidValueError(
                f"`begin_iter` and `begin_epoch` should not be both set, got {begin_iter} and {begin_epoch}"
            )
        self.begin_iter = begin_iter
        self.begin_epoch = begin_epoch
        self.enabled_by_epoch = begin_epoch > 0

    # Whether the model holds the average, and the average's module the weights in training.
    _swapped = False

    src_model: Any = None
    ema_model: Any = None

    def before_run(self, runner: RunnerLike) -> None:
        """Make the averaged model from the model, unless an earlier run of this runner has."""
        model = runner.model
        if is_model_wrapper(model):
            model = model.module
        if self.src_model is model:
            # `runner.val()` after `runner.train()` validates what was averaged in training.
            return
        self.src_model = model
        self.ema_model = MODELS.build(self.ema_cfg, default_args={"model": model})

    def before_train(self, runner: RunnerLike) -> None:
        """Check the beginning; take over weights that were initialised or loaded since.

        Raises:
            ValueError: Averaging would begin after training has ended.
        """
        if self.enabled_by_epoch:
            if runner.max_epochs is not None and self.begin_epoch > runner.max_epochs:
                raise InvalidValueError(
                    "self.begin_epoch should be smaller than or equal to runner.max_epochs: "
                    f"{runner.max_epochs}, but got begin_epoch: {self.begin_epoch}"
                )
        elif runner.max_iters is not None and self.begin_iter > runner.max_iters:
            raise InvalidValueError(
                "self.begin_iter should be smaller than or equal to runner.max_iters: "
                f"{runner.max_iters}, but got begin_iter: {self.begin_iter}"
            )
        if self.ema_model is not None and not self.ema_model.steps:
            # A validation before the first update must not see the weights of before_run.
            self._mirror()

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Take the new weights into the average, or copy them until averaging begins."""
        if self._ema_started(runner):
            self.ema_model.update_parameters(self.src_model)
        else:
            self._mirror()

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
        checkpoint["ema_state_dict"] = _whole(self.ema_model.state_dict())
        if not self._swapped:
            self._swap_ema_state_dict(checkpoint)

    def after_load_checkpoint(self, runner: RunnerLike, checkpoint: dict[str, Any]) -> None:
        """Take the average from a checkpoint; without one, begin with its weights."""
        if self.ema_model is None:  # loaded before a run has begun
            self.before_run(runner)
        resuming = getattr(runner, "_resume", False)
        if "ema_state_dict" in checkpoint and resuming:
            self._swap_ema_state_dict(checkpoint)
            state = _sharded_like(self.ema_model, checkpoint["ema_state_dict"])
            self.ema_model.load_state_dict(state, strict=self.strict_load)
            return
        if resuming:
            print_log(
                "There is no `ema_state_dict` in checkpoint. `EMAHook` will make a copy of `state_dict` as the "
                "initial `ema_state_dict`",
                logger="current",
                level=logging.WARNING,
            )
        # A file may hold bare weights, and weights may have been saved through a wrapper.
        state = checkpoint.get("state_dict", checkpoint)
        state = {key.removeprefix("module."): value for key, value in state.items()}
        load_state_dict(
            self.ema_model.module,
            _sharded_like(self.ema_model.module, state),
            strict=self.strict_load,
            logger="current",
        )

    def _tensor_pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        average, model = self.ema_model.module, self.src_model
        for ours, theirs in zip(
            itertools.chain(average.parameters(), average.buffers()),
            itertools.chain(model.parameters(), model.buffers()),
            strict=True,
        ):
            yield ours.data, theirs.data

    def _mirror(self) -> None:
        for average, value in self._tensor_pairs():
            average.copy_(value)

    def _swap_ema_parameters(self) -> None:
        """Exchange the values of the model and the average.

        By copying: what else holds the tensors (optimizers, captured graphs) must not see others.
        One at a time, so that no second copy of the model is in memory.
        """
        for average, value in self._tensor_pairs():
            kept = average.clone()
            average.copy_(value)
            value.copy_(kept)
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


def _whole(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict with sharded tensors put together. Every rank must call."""
    # The same object where nothing is sharded: it carries versions of modules, too.
    for key, value in state.items():
        if is_sharded(value):
            state[key] = value.full_tensor().cpu()
    return state


def _sharded_like(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict of whole tensors sharded as a module's are. Every rank must call."""
    own = {key: value for key, value in module.state_dict().items() if is_sharded(value)}
    if not own:
        return state
    from torch.distributed.tensor import distribute_tensor

    result = dict(state)
    for key, value in own.items():
        if key in state:
            device = value.to_local().device
            result[key] = distribute_tensor(
                state[key].to(device), value.device_mesh, value.placements
            )
    return result
