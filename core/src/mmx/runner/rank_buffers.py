"""Buffers that differ between ranks, such as running statistics of the samples that each has seen.

A checkpoint holds the weights of rank 0. Buffers are not averaged like gradients, so that the other
ranks would go on with rank 0's, and a validation soon after a resume would come to other results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmx.checkpoint import unwrap
from mmx.dist import all_gather_object, gather_object, get_world_size
from mmx.model.averaged_model import is_sharded

if TYPE_CHECKING:
    from mmx.runner.runner import Runner

# By name, for the model and then for each of its averages.
Buffers = list[dict[str, torch.Tensor]]


def differing_buffers(runner: Runner) -> list[Buffers] | None:
    """Return for each rank the buffers that are not as on rank 0. Every rank must call.

    Returns:
        The list on rank 0, on the CPU; None elsewhere, and if all ranks have the same.
    """
    if get_world_size() == 1:
        return None
    own = [_on_cpu(dict(_buffers(module))) for module in _holders(runner)]
    digests = [{name: _digest(value) for name, value in part.items()} for part in own]
    first, *others = all_gather_object(digests)
    if all(first == other for other in others):
        return None
    differing = [
        {name: value for name, value in part.items() if mine[name] != theirs.get(name)}
        for part, mine, theirs in zip(own, digests, first, strict=True)
    ]
    return gather_object(differing)


def load_buffers(runner: Runner, saved: Buffers | None) -> None:
    """Put buffers of this rank back into a model that has rank 0's."""
    for module, values in zip(_holders(runner), saved or (), strict=False):
        for name, buffer in _buffers(module):
            value = values.get(name)
            if value is not None and value.shape == buffer.shape:
                buffer.copy_(value)


def _holders(runner: Runner) -> list[nn.Module]:
    """Return the module with the weights in training, then those with averages of them."""
    modules = [unwrap(runner.model)]
    for hook in runner.hooks:
        # A hook of one's own may have something else under this name.
        average = getattr(getattr(hook, "ema_model", None), "module", None)
        if isinstance(average, nn.Module):
            modules.append(average)
            if getattr(hook, "_swapped", False):  # during a validation
                modules[0], modules[-1] = modules[-1], modules[0]
    return modules


def _buffers(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what a state dict holds of a module's buffers, but for those that ranks share."""
    for prefix, part in module.named_modules():
        for name, buffer in part._buffers.items():
            if buffer is None or name in part._non_persistent_buffers_set:
                continue
            if not is_sharded(buffer) and buffer.layout is torch.strided and not buffer.is_meta:
                yield f"{prefix}.{name}" if prefix else name, buffer.detach()


def _on_cpu(buffers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return buffers on the CPU, with one transfer for all of a type: there may be hundreds."""
    kinds: dict[Any, list[str]] = {}
    for name, buffer in buffers.items():
        if buffer.device.type != "cpu":
            kinds.setdefault((buffer.device, buffer.dtype), []).append(name)
    result = dict(buffers)
    for names in kinds.values():
        flat = torch.cat([buffers[name].reshape(-1) for name in names]).cpu()
        parts = flat.split([buffers[name].numel() for name in names])
        for name, part in zip(names, parts, strict=True):
            # A copy: a view would be saved with all of them.
            result[name] = part.view(buffers[name].shape).clone()
    return result


def _digest(tensor: torch.Tensor) -> str:
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    kind = f"{tensor.dtype} {tuple(tensor.shape)}"
    return hashlib.blake2b(data.tobytes(), digest_size=16, person=b"buffer").hexdigest() + kind
