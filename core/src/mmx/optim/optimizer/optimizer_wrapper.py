"""The optimizer wrapper of single precision: accumulation and clipping of gradients."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from mmx.logging import MessageHub, print_log
from mmx.optim.optimizer.base import STATE_VERSION, BaseOptimWrapper
from mmx.registry import OPTIM_WRAPPERS
from mmx.utils.dl_utils import has_batch_norm
from mmx.utils.errors import InvalidTypeError, InvalidValueError

_NOTHING: AbstractContextManager[None] = nullcontext()


@OPTIM_WRAPPERS.register_module()
class OptimWrapper(BaseOptimWrapper):
    """Updates parameters from a loss, with gradients accumulated and clipped as configured.

    ``optim_wrapper.update_params(loss)`` is ``loss.backward()``, ``optimizer.step()`` and
    ``optimizer.zero_grad()``; each is also there on its own.

    Gradient accumulation sums the gradients of ``accumulative_counts`` iterations, the loss of
    each divided by that number. If the length of training is known
    (:meth:`initialize_count_status`, which the runner calls) and is no multiple of it, the last
    iterations are averaged among themselves and end in a step too.

    Args:
        optimizer: The optimizer.
        accumulative_counts: Iterations per step of the optimizer. Lengths counted in iterations
            (``max_iters``, schedulers with ``by_epoch=False``) count iterations, not steps.
        clip_grad: None for no clipping, or a dict. With ``type='norm'`` (default): arguments of
            :func:`torch.nn.utils.clip_grad_norm_`, such as ``max_norm``, ``norm_type`` and
            ``error_if_nonfinite``; the norm before clipping is logged as ``grad_norm``. With
            ``type='value'`` or ``clip_value``: arguments of
            :func:`torch.nn.utils.clip_grad_value_`.

    Raises:
        TypeError: ``optimizer`` is none, ``accumulative_counts`` is no integer or ``clip_grad`` no
            dict.
        ValueError: ``accumulative_counts`` is below 1, or ``clip_grad`` is of no known type or has
            no arguments.
    """

    # Set by a strategy that has put gradients of a resumed accumulation where they belong, which
    # need not be the weights' `grad`.
    has_resumed_gradients = False

    def __init__(
        self,
        optimizer: Optimizer,
        accumulative_counts: int = 1,
        clip_grad: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(optimizer, Optimizer) and not hasattr(optimizer, "param_groups"):
            raise InvalidTypeError(
                f"`optimizer` should be a torch.optim.Optimizer, but got {type(optimizer).__name__}"
            )
        if isinstance(accumulative_counts, bool) or not isinstance(accumulative_counts, int):
            raise InvalidTypeError(
                f"accumulative_counts should be an int, but got {accumulative_counts!r}"
            )
        if accumulative_counts < 1:
            raise InvalidValueError(
                "_accumulative_counts at least greater than or equal to 1, but got "
                f"{accumulative_counts}"
            )
        super().__init__(optimizer)
        self._accumulative_counts = accumulative_counts
        self.clip_func: Callable[..., torch.Tensor | None] | None = None
        self.grad_name = "grad_norm"
        self.clip_grad_kwargs: dict[str, Any] | None = None
        if clip_grad is not None:
            self._set_clipping(clip_grad)
        self._message_hub: MessageHub | None = None
        # Iterations so far, and how many there will be (-1: unknown). The last `_remainder_counts`
        # of them are fewer than a whole group.
        self._inner_count = 0
        self._max_counts = -1
        self._remainder_counts = -1

    def _set_clipping(self, clip_grad: dict[str, Any]) -> None:
        if not isinstance(clip_grad, dict) or not clip_grad:
            raise InvalidTypeError(
                "If `clip_grad` is not None, it should be a `dict` which is the arguments of "
                "`torch.nn.utils.clip_grad_norm_` or clip_grad_value_`, such as dict(max_norm=1); "
                f"got {clip_grad!r}"
            )
        kwargs = dict(clip_grad)
        kind = kwargs.pop("type", "value" if "clip_value" in kwargs else "norm")
        if kind == "norm":
            self.clip_func = clip_grad_norm_
        elif kind == "value":
            self.clip_func = clip_grad_value_
            self.grad_name = "grad_value"
        else:
            raise InvalidValueError(f'type of clip_grad should be "norm" or "value" but got {kind}')
        if not kwargs:
            raise InvalidValueError(
                "`clip_grad` should contain other arguments besides `type`. The arguments should "
                "match with the `torch.nn.utils.clip_grad_norm_` or clip_grad_value_`"
            )
        self.clip_grad_kwargs = kwargs

    @property
    def message_hub(self) -> MessageHub:
        """Where the norm of gradients is logged: the hub of the run that is under way."""
        return self._message_hub or MessageHub.get_current_instance()

    @message_hub.setter
    def message_hub(self, value: MessageHub) -> None:
        self._message_hub = value

    def update_params(
        self,
        loss: torch.Tensor,
        step_kwargs: dict[str, Any] | None = None,
        zero_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Compute gradients of the loss, and if enough have been summed up, update parameters.

        Args:
            loss: 0-d tensor, not yet divided by the number of accumulated iterations.
            step_kwargs: Arguments of the optimizer's ``step``.
            zero_kwargs: Arguments of the optimizer's ``zero_grad``.
        """
        self.backward(self.scale_loss(loss))
        if self.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Compute gradients. A subclass that overrides this adds 1 to ``_inner_count``.

        Args:
            loss: 0-d tensor.
            **kwargs: Arguments of :meth:`torch.Tensor.backward`.
        """
        loss.backward(**kwargs)
        self._inner_count += 1

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear gradients.

        Args:
            **kwargs: Arguments of :meth:`torch.optim.Optimizer.zero_grad`.
        """
        self.optimizer.zero_grad(**kwargs)

    def step(self, **kwargs: Any) -> None:
        """Clip gradients if so configured, and update parameters.

        Args:
            **kwargs: Arguments of :meth:`torch.optim.Optimizer.step`.
        """
        if self.clip_grad_kwargs:
            self._clip_grad()
        self.optimizer.step(**kwargs)

    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return the context of the forward pass.

        While gradients accumulate, a distributed model does not average them over the ranks until
        the iteration that ends in a step.

        Args:
            model: The model as it is called. It takes part if it has ``no_sync`` (distributed data
                parallel) or ``set_requires_gradient_sync`` (fully sharded).
        """
        if self._accumulative_counts == 1:
            return _NOTHING
        sync = self.should_sync()
        if hasattr(model, "set_requires_gradient_sync"):
            # Read in the backward pass, which may come after this context: it holds until the
            # next iteration sets it.
            model.set_requires_gradient_sync(sync)  # type: ignore[operator]  # fully_shard's method
            return _NOTHING
        if sync or not hasattr(model, "no_sync"):
            return _NOTHING
        context: AbstractContextManager[Any] = model.no_sync()  # type: ignore[operator]  # DDP's
        return context

    def _clip_grad(self) -> None:
        """Clip the gradients and log their norm, which stays on its device until it is read."""
        params = [
            param
            for group in self.optimizer.param_groups
            for param in group["params"]
            if param.requires_grad and param.grad is not None
        ]
        if not params or self.clip_func is None:
            return
        norm = self.clip_func(params, **(self.clip_grad_kwargs or {}))
        # Clipping by value measures nothing.
        if norm is not None:
            self.message_hub.update_scalar(f"train/{self.grad_name}", norm)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Tell how many iterations have been done and how many there will be.

        Args:
            model: The model; accumulation is warned of if it has batch normalization, whose
                statistics stay those of single iterations.
            init_counts: Iterations done.
            max_counts: Iterations in all, so that the last group may be smaller; -1 if unknown.
        """
        self._set_counts(init_counts, max_counts)
        if self._accumulative_counts == 1:
            return
        if init_counts % self._accumulative_counts != 0 and not self._has_gradients():
            print_log(
                "Resumed iteration number is not divisible by `_accumulative_counts` "
                f"({init_counts} by {self._accumulative_counts}) and no accumulated gradients were "
                "resumed, which means the gradient of some iterations is lost and the result may "
                "be influenced slightly.",
                logger="current",
                level=logging.WARNING,
            )
        if has_batch_norm(model):
            print_log(
                "Gradient accumulative may slightly decrease performance because the model has "
                "BatchNorm layers.",
                logger="current",
                level=logging.WARNING,
            )

    def _set_counts(self, inner_count: int, max_counts: int) -> None:
        self._inner_count = inner_count
        self._max_counts = max_counts
        self._remainder_counts = max_counts % self._accumulative_counts

    def _parameters(self) -> list[torch.Tensor]:
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    def _has_gradients(self) -> bool:
        return self.has_resumed_gradients or any(
            param.grad is not None for param in self._parameters()
        )

    def should_update(self) -> bool:
        """Tell, after the backward pass, whether this iteration ends in a step."""
        return (
            self._inner_count % self._accumulative_counts == 0
            or self._inner_count == self._max_counts
        )

    def should_sync(self) -> bool:
        """Tell, before the backward pass, whether this iteration will end in a step."""
        count = self._inner_count + 1
        return count % self._accumulative_counts == 0 or count == self._max_counts

    def scale_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss divided by the number of iterations whose gradients are summed up.

        Raises:
            ValueError: More iterations were done than :meth:`initialize_count_status` was told.
        """
        factor = self._accumulative_counts
        if factor == 1:
            return loss
        if self._max_counts >= 0 and self._inner_count >= self._max_counts - self._remainder_counts:
            factor = self._remainder_counts
            if factor <= 0:
                raise InvalidValueError(
                    "loss_factor should be larger than zero! This error could happened when "
                    "initialize_count_status called with an error `init_counts` or `max_counts`: "
                    f"this is iteration {self._inner_count + 1} of {self._max_counts}"
                )
        return loss / factor

    @property
    def inner_count(self) -> int:
        """Number of backward passes so far."""
        return self._inner_count

    def extra_state_dict(self) -> dict[str, Any]:
        """Return what is saved beside the optimizer's state.

        ``accumulation`` is there only once gradients accumulate, so that other states stay plain
        states of optimizers: the counts and, in the middle of an accumulation, the gradients.
        """
        state = super().extra_state_dict()
        if self._accumulative_counts != 1 and self._inner_count:
            state["accumulation"] = {
                "version": STATE_VERSION,
                "inner_count": self._inner_count,
                "max_counts": self._max_counts,
                "gradients": self._accumulated_gradients(),
            }
        return state

    def _accumulated_gradients(self) -> list[torch.Tensor | None] | None:
        """Return copies of the gradients, None between two accumulations."""
        if self.should_update():
            return None
        return [
            None if param.grad is None else param.grad.detach().clone()
            for param in self._parameters()
        ]

    def load_extra_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`extra_state_dict` returned; what is missing stays as it is.

        Raises:
            ValueError: A newer version of mmx wrote it, or the gradients are of another number of
                parameters.
        """
        super().load_extra_state_dict(state_dict)
        saved = state_dict.get("accumulation")
        if saved is None:
            return
        if saved["version"] > STATE_VERSION:
            raise InvalidValueError(
                f"the state of gradient accumulation is of version {saved['version']}, this mmx "
                f"reads up to {STATE_VERSION}; load it with the version of mmx that wrote it"
            )
        self._set_counts(saved["inner_count"], saved["max_counts"])
        gradients = saved["gradients"]
        if gradients is None:
            return
        params = self._parameters()
        if len(params) != len(gradients):
            raise InvalidValueError(
                f"the accumulated gradients of {len(gradients)} parameters do not fit an optimizer "
                f"of {len(params)}"
            )
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = None if gradient is None else gradient.to(param.device, copy=True)

    def __repr__(self) -> str:
        return (
            f"Type: {type(self).__name__}\n"
            f"_accumulative_counts: {self._accumulative_counts}\n"
            f"optimizer: \n{self.optimizer!r}\n"
        )
