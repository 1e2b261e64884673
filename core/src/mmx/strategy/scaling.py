"""Scaling the loss of weights of which each rank holds a part, on one mesh of ranks or on several."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch.distributed.tensor import DTensor

from mmx.dist import all_reduce


class SplitGradScaler(torch.amp.GradScaler):
    """A gradient scaler that looks at each rank's parts, and then asks all ranks.

    torch's takes gradients of one mesh only.
    """

    def _unscale_grads_(
        self,
        optimizer: torch.optim.Optimizer,
        inv_scale: torch.Tensor,
        found_inf: torch.Tensor,
        allow_fp16: bool,
    ) -> dict[torch.device, torch.Tensor]:
        held = [{"params": [_own_part(p) for p in g["params"]]} for g in optimizer.param_groups]
        parts = cast("torch.optim.Optimizer", SimpleNamespace(param_groups=held))
        found = super()._unscale_grads_(parts, inv_scale, found_inf, allow_fp16)
        # A rank without gradients must ask, too.
        any_inf = torch.stack(
            [value.to(found_inf.device) for value in found.values()] or [found_inf]
        )
        worst = any_inf.amax(0)
        all_reduce(worst, op="max")
        for value in found.values():
            value.copy_(worst)
        return found


def _own_part(parameter: Any) -> Any:
    """Return a weight with the part of the gradient that is here, the same memory."""
    if not isinstance(parameter.grad, DTensor):
        return parameter
    local = parameter.grad.to_local()
    part = torch.empty_like(local)
    part.grad = local
    return part
