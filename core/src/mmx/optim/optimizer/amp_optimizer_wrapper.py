"""Mixed precision around any optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from mmx.device import get_device
from mmx.optim.optimizer.optimizer_wrapper import OptimWrapper
from mmx.registry import OPTIM_WRAPPERS

_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """Run the forward pass in mixed precision; scale the loss where gradients would vanish.

    Args:
        loss_scale: ``'dynamic'``, a fixed number, or a dict of arguments of ``GradScaler``. With
            ``bfloat16``, whose range is that of float32, no scaling is needed and none is done.
        dtype: ``'float16'``, ``'bfloat16'`` or None, which is the device's default.
        use_fsdp: Whether gradients are sharded.
        **kwargs: As for :class:`OptimWrapper`.

    Raises:
        ValueError: ``dtype`` is not known.
        TypeError: ``loss_scale`` is of another type.
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
        if isinstance(dtype, str) and dtype not in self.valid_dtypes:
            raise ValueError(f"dtype should be any of {self.valid_dtypes}, got {dtype}")
        self.cast_dtype = _DTYPES[dtype] if isinstance(dtype, str) else dtype
        self.device_type = get_device()
        self._scale_update_param: float | None = None
        scales = self._amp_dtype() is torch.float16
        options: dict[str, Any] = {"device": self.device_type, "enabled": scales}
        if loss_scale == "dynamic":
            pass
        elif isinstance(loss_scale, (int, float)) and not isinstance(loss_scale, bool):
            self._scale_update_param = float(loss_scale)
            options["init_scale"] = float(loss_scale)
        elif isinstance(loss_scale, dict):
            options.update(loss_scale)
        else:
            raise TypeError(
                f'loss_scale must be of type float, dict, or "dynamic", but got {loss_scale!r}'
            )
        if use_fsdp:
            from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

            self.loss_scaler: GradScaler = ShardedGradScaler(**options)
        else:
            self.loss_scaler = GradScaler(**options)

    def _amp_dtype(self) -> torch.dtype:
        if self.cast_dtype is not None:
            return self.cast_dtype
        return torch.get_autocast_dtype(self.device_type)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Go backward from the scaled loss."""
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        """Unscale and clip the gradients, and update the parameters unless they overflowed."""
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self._scale_update_param if self.loss_scaler.is_enabled() else None)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state and, under ``loss_scaler``, the scaler's."""
        state = super().state_dict()
        state["loss_scaler"] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state of ours, of MMEngine, or of a run without mixed precision."""
        state_dict = dict(state_dict)
        scaler = state_dict.pop("loss_scaler", None)
        if scaler and self.loss_scaler.is_enabled():
            self.loss_scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run a block in mixed precision."""
        with (
            super().optim_context(model),
            torch.autocast(
                self.device_type,
                dtype=self.cast_dtype,
                enabled=self._amp_dtype() is not torch.float32,
            ),
        ):
            yield
