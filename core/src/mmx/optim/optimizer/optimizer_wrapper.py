"""The optimizer wrapper: accumulation and clipping of gradients around any optimizer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from mmx.logging import MessageHub, print_log
from mmx.optim.optimizer.base import BaseOptimWrapper
from mmx.registry import OPTIM_WRAPPERS
from mmx.utils.dl_utils import has_batch_norm

_NO_CONTEXT = nullcontext()


@OPTIM_WRAPPERS.register_module()
class OptimWrapper(BaseOptimWrapper):
    """Update parameters in ordinary precision.

    Args:
        optimizer: Optimizer.
        accumulative_counts: Update the parameters every so many iterations, with the mean of their
            gradients. What is left when the iterations of a run do not divide is updated with the
            mean of the remainder, once :meth:`initialize_count_status` has said how many there are.
        clip_grad: Arguments of ``clip_grad_norm_`` (``max_norm``, ``norm_type``) or, with
            ``type='value'``, of ``clip_grad_value_`` (``clip_value``). The norm before clipping is
            logged as ``grad_norm``.

    Raises:
        ValueError: ``accumulative_counts`` is below 1 or ``clip_grad`` is empty.
        TypeError: An argument is of another type.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        accumulative_counts: int = 1,
        clip_grad: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(accumulative_counts, int) or accumulative_counts <= 0:
            raise ValueError(
                f"_accumulative_counts at least greater than or equal to 1, got {accumulative_counts!r}"
            )
        self._accumulative_counts = accumulative_counts
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be a `torch.optim.Optimizer` instance, but got {type(optimizer)}"
            )
        super().__init__(optimizer)
        self.clip_func: Callable[..., Any] | None = None
        self.grad_name = "grad_norm"
        self.clip_grad_kwargs: dict[str, Any] = {}
        if clip_grad is not None:
            self._set_clipping(clip_grad)
        # How many calls of update_params there were, and how many there will be.
        self._inner_count = 0
        self._max_counts = -1
        # Iterations after the last full accumulation.
        self._remainder_counts = -1
        self._last_counts = -1
        # Whether a checkpoint brought back the gradients of an accumulation under way.
        self._restored = False

    def _set_clipping(self, clip_grad: dict[str, Any]) -> None:
        if not isinstance(clip_grad, dict) or not clip_grad:
            raise TypeError(
                "If `clip_grad` is not None, it should be a `dict` which is the arguments of "
                "`torch.nn.utils.clip_grad_norm_` or clip_grad_value_`, such as dict(max_norm=1.0); "
                f"got {clip_grad!r}"
            )
        arguments = dict(clip_grad)
        kind = arguments.pop("type", "norm")
        if kind == "norm":
            self.clip_func, self.grad_name = clip_grad_norm_, "grad_norm"
        elif kind == "value":
            self.clip_func, self.grad_name = clip_grad_value_, "grad_value"
        else:
            raise ValueError(f'type of clip_grad should be "norm" or "value" but got {kind}')
        if not arguments:
            raise ValueError("`clip_grad` should contain other arguments besides `type`.")
        self.clip_grad_kwargs = arguments

    def update_params(
        self,
        loss: Tensor,
        step_kwargs: dict[str, Any] | None = None,
        zero_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Go backward from a loss and, if it is time, update the parameters and clear gradients.

        Args:
            loss: Scalar.
            step_kwargs: For the optimizer's ``step``.
            zero_kwargs: For the optimizer's ``zero_grad``.
        """
        if self._accumulative_counts != 1:
            loss = self.scale_loss(loss)
        self.backward(loss)
        if self.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Go backward from a loss and count it."""
        loss.backward(**kwargs)
        self._inner_count += 1

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad(**kwargs)

    def step(self, **kwargs: Any) -> None:
        """Clip the gradients, if so configured, and update the parameters."""
        if self.clip_grad_kwargs:
            self._clip_grad()
        self.optimizer.step(**kwargs)

    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return a context for the forward and backward pass of an iteration.

        In iterations that only accumulate, wrapped models do not synchronise their gradients.
        """
        if self._accumulative_counts != 1 and not self.should_sync():
            no_sync = getattr(model, "no_sync", None)
            if no_sync is not None:
                context: AbstractContextManager[Any] = no_sync()
                return context
        return _NO_CONTEXT

    def _clip_grad(self) -> None:
        """Clip the gradients and log their norm (or the bound, for clipping by value)."""
        params = [
            param
            for group in self.optimizer.param_groups
            for param in group["params"]
            if param.requires_grad and param.grad is not None
        ]
        if not params:
            return
        assert self.clip_func is not None
        result = self.clip_func(params, **self.clip_grad_kwargs)
        # Clipping by value returns nothing. The norm stays a tensor: no waiting for the device.
        if result is not None and MessageHub._instance_dict:
            MessageHub.get_current_instance().update_scalar(f"train/{self.grad_name}", result)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Say where in the run we are, so that the last, shorter accumulation is scaled rightly.

        Args:
            model: The model: a warning tells if it has batch normalisation, whose statistics do
                not accumulate.
            init_counts: Iterations done.
            max_counts: Iterations of the whole run.
        """
        self._inner_count = init_counts
        self._max_counts = max_counts
        if self._inner_count % self._accumulative_counts != 0 and not self._restored:
            print_log(
                "Resumed iteration number is not divisible by `_accumulative_counts` and the checkpoint holds no "
                "gradients, which means the gradient of some iterations is lost and the result may be "
                "influenced slightly.",
                logger="current",
                level=logging.WARNING,
            )
        if self._accumulative_counts > 1 and has_batch_norm(model):
            print_log(
                "Gradient accumulative may slightly influence performance because the model has BatchNorm layers.",
                logger="current",
                level=logging.WARNING,
            )
        self._remainder_counts = self._max_counts % self._accumulative_counts
        self._last_counts = self._max_counts - self._remainder_counts

    def should_update(self) -> bool:
        """Tell whether this iteration updates the parameters: a full accumulation, or the last one."""
        return (
            self._inner_count % self._accumulative_counts == 0
            or self._inner_count == self._max_counts
        )

    def should_sync(self) -> bool:
        """Tell, before the forward pass, whether this iteration will update the parameters."""
        count = self._inner_count + 1
        return count % self._accumulative_counts == 0 or count == self._max_counts

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return a loss divided by the number of iterations that are accumulated with it."""
        if self._accumulative_counts == 1:
            return loss
        if self._max_counts == -1 or self._inner_count < self._last_counts:
            factor = self._accumulative_counts
        else:
            factor = self._remainder_counts or self._accumulative_counts
        return loss / factor

    @property
    def inner_count(self) -> int:
        """Number of losses gone backward from."""
        return self._inner_count

    def accumulated_gradients(self) -> list[Tensor | None] | None:
        """Return the gradients of an accumulation under way, None between two.

        A checkpoint saves them, so that a run that is killed in the middle resumes to the same bits.
        """
        if self._inner_count % self._accumulative_counts == 0:
            return None
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        return [None if p.grad is None else p.grad.detach() for p in params]

    def restore_accumulation(self, gradients: list[Tensor | None]) -> None:
        """Put back what :meth:`accumulated_gradients` returned.

        Raises:
            ValueError: The number of parameters is another.
        """
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        if len(params) != len(gradients):
            raise ValueError(
                f"gradients of {len(gradients)} parameters do not fit {len(params)} parameters"
            )
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = (
                None if gradient is None else gradient.to(param.device, param.dtype).clone()
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state and, amid an accumulation, the gradients so far."""
        state = super().state_dict()
        gradients = self.accumulated_gradients()
        if gradients is not None:
            state["accumulation"] = {
                "version": 1,
                "count": self._inner_count,
                "gradients": gradients,
            }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state of ours or of MMEngine."""
        state_dict = dict(state_dict)
        accumulation = state_dict.pop("accumulation", None)
        super().load_state_dict(state_dict)
        if accumulation is not None:
            self._inner_count = accumulation["count"]
            self.restore_accumulation(accumulation["gradients"])
            self._restored = True
