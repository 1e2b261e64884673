"""The optimizer wrapper of mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from mmx.optim.optimizer.optimizer_wrapper import OptimWrapper
from mmx.registry import OPTIM_WRAPPERS
from mmx.utils.errors import InvalidTypeError, InvalidValueError


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """Trains in mixed precision: the forward pass in a 16-bit type where torch deems it safe.

    Works on every device that torch has mixed precision for, the CPU included (bfloat16).

    Args:
        loss_scale: Scale of the loss, which keeps small gradients representable in float16.
            ``'dynamic'`` adapts it; a number fixes it; a dict has arguments of
            :class:`torch.amp.GradScaler`. bfloat16 has the range of float32 and needs no scale:
            there ``'dynamic'`` means none.
        dtype: ``'float16'``, ``'bfloat16'``, ``'float32'`` or ``'float64'``. None is what torch
            takes for the device: float16 on accelerators, bfloat16 on the CPU.
        use_fsdp: Share the scaler's decisions among the ranks of
            ``torch.distributed.fsdp.FullyShardedDataParallel``. ``fully_shard`` does not need it.
        **kwargs: Arguments of :class:`OptimWrapper`, ``optimizer`` among them.

    Raises:
        TypeError: ``loss_scale`` is of another type.
        ValueError: ``dtype`` is none of the above, or the device has no mixed precision.
    """

    valid_dtypes = ("float16", "bfloat16", "float32", "float64")

    def __init__(
        self,
        loss_scale: str | float | dict[str, Any] = "dynamic",
        dtype: str | torch.dtype | None = None,
        use_fsdp: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
        if name is not None and name not in self.valid_dtypes:
            raise InvalidValueError(
                f"dtype should be any of {self.valid_dtypes} or None, but got {dtype!r}"
            )
        self.cast_dtype: torch.dtype | None = None if name is None else getattr(torch, name)
        self._scale_update_param: float | None = None
        device = self._device_type()
        if not torch.amp.is_autocast_available(device):
            raise InvalidValueError(
                f"``AmpOptimWrapper`` needs a device with mixed precision, which {device!r} is "
                "not; use OptimWrapper, or train on another device"
            )
        options: dict[str, Any]
        if loss_scale == "dynamic":
            in_half = (self.cast_dtype or torch.get_autocast_dtype(device)) is torch.float16
            options = {"enabled": in_half}
        elif isinstance(loss_scale, int | float) and not isinstance(loss_scale, bool):
            options = {"init_scale": float(loss_scale)}
            self._scale_update_param = float(loss_scale)
        elif isinstance(loss_scale, dict):
            options = dict(loss_scale)
        else:
            raise InvalidTypeError(
                f'loss_scale must be of type float, dict, or "dynamic", but got {loss_scale!r}'
            )
        self.loss_scaler: torch.amp.GradScaler = _scaler(device, use_fsdp, options)

    def _device_type(self) -> str:
        for group in getattr(self.optimizer, "param_groups", ()):
            for param in group["params"]:
                return str(param.device.type)
        return "cpu"

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Compute gradients of the scaled loss.

        Args:
            loss: 0-d tensor.
            **kwargs: Arguments of :meth:`torch.Tensor.backward`.
        """
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        """Undo the scale, clip gradients if so configured, and update parameters.

        The step is skipped if gradients overflowed, and the scale lowered.

        Args:
            **kwargs: Arguments of :meth:`torch.optim.Optimizer.step`.
        """
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self._scale_update_param)

    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return the context of the forward pass.

        In it computation is in mixed precision and, while gradients accumulate, a distributed
        model does not average them.

        Args:
            model: The model as it is called.
        """
        return self._mixed_precision(model)

    @contextmanager
    def _mixed_precision(self, model: nn.Module) -> Iterator[None]:
        # Where the model computes: it may have moved since the optimizer was wrapped.
        first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        device = self._device_type() if first is None else first.device.type
        with super().optim_context(model), torch.autocast(device, dtype=self.cast_dtype):
            yield

    def extra_state_dict(self) -> dict[str, Any]:
        """Return what is saved beside the optimizer's state: also that of the loss scaler."""
        state = super().extra_state_dict()
        state["loss_scaler"] = self.loss_scaler.state_dict()
        return state

    def load_extra_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`extra_state_dict` returned; what is missing stays as it is."""
        super().load_extra_state_dict(state_dict)
        # Empty where the run that saved it needed no scale.
        if state_dict.get("loss_scaler"):
            self.loss_scaler.load_state_dict(state_dict["loss_scaler"])


def _scaler(device: str, use_fsdp: bool, options: dict[str, Any]) -> torch.amp.GradScaler:
    if use_fsdp:
        from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

        return ShardedGradScaler(device=device, **options)
    return torch.amp.GradScaler(device, **options)
