"""Clipping gradients of which each rank holds a part, on one mesh of ranks or on several."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from mmx.utils.errors import InvalidValueError


def clip_sharded_norm_(
    parameters: Iterable[torch.Tensor] | torch.Tensor,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> torch.Tensor:
    """Clip by the norm over all ranks' parts, and return that norm as a plain tensor.

    Every rank must call. As :func:`torch.nn.utils.clip_grad_norm_`, which takes weights of one mesh
    only.
    """
    given = [parameters] if isinstance(parameters, torch.Tensor) else parameters
    meshes: dict[Any, list[torch.Tensor]] = {}
    for parameter in given:
        if parameter.grad is not None:
            mesh = parameter.grad.device_mesh if isinstance(parameter.grad, DTensor) else None
            meshes.setdefault(mesh, []).append(parameter)
    if not meshes:
        return torch.tensor(0.0)
    norms = []
    for held in meshes.values():
        norm = get_total_norm([p.grad for p in held if p.grad is not None], norm_type)
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    total = torch.linalg.vector_norm(torch.stack(norms), norm_type)
    if error_if_nonfinite and not bool(total.isfinite()):
        raise RuntimeError(_not_finite(norm_type))
    for held in meshes.values():
        clip_grads_with_norm_(held, max_norm, total, foreach=foreach)
    return total


def clip_by_whole_norm(model: nn.Module, wrappers: list[Any]) -> None:
    """Let the optimizer of a model in torch's first kind of sharding clip by the norm of all parts.

    Of other models nothing is changed. Its own parts alone would give each rank another norm.

    Args:
        model: The wrapped model.
        wrappers: Its optimizer wrappers.

    Raises:
        ValueError: Several optimizers clip; torch clips the weights of the whole model at once.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(model, fsdp.FullyShardedDataParallel):
        return
    clipping = [w for w in wrappers if getattr(w, "clip_func", None) is clip_grad_norm_]
    if not clipping:
        return
    if len(wrappers) > 1:
        raise InvalidValueError(
            f"clip_grad of {len(wrappers)} optimizers does not work with {type(model).__name__}, "
            "which clips by the norm of all weights; use strategy=dict(type='FSDPStrategy')"
        )

    def clip(
        parameters: Any,
        max_norm: float,
        norm_type: float = 2.0,
        error_if_nonfinite: bool = False,
        foreach: bool | None = None,
    ) -> torch.Tensor:
        norm: torch.Tensor = model.clip_grad_norm_(max_norm, norm_type)
        if error_if_nonfinite and not bool(norm.isfinite()):
            raise RuntimeError(_not_finite(norm_type))
        return norm

    clipping[0].clip_func = clip


def _not_finite(norm_type: float) -> str:
    return (
        f"the total norm of order {norm_type} of the gradients is not finite, so they cannot "
        "be clipped; set error_if_nonfinite=False to go on with them"
    )
