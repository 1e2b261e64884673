"""Single numbers in their many forms, and how they come off their device."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

from mmx.utils.errors import InvalidTypeError, InvalidValueError

Number = int | float


def is_tensor(value: Any) -> bool:
    """Tell whether ``value`` is a tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


@cache
def tensors_live_on_cpu() -> bool:
    """Tell whether this machine has no accelerator, so that reading a tensor never waits."""
    import torch

    return not torch.accelerator.is_available()


def as_number(value: Any) -> Any:
    """Return a single number as an ``int`` or ``float``, or a device tensor to be read later.

    A tensor on the CPU is read at once, which costs no more than keeping it. One on another
    device is kept; where it may be changed in place later, or holds on to larger storage, a copy
    is kept.

    Raises:
        TypeError: ``value`` is no number.
        ValueError: It is an array or tensor of more than one element.
    """
    if isinstance(value, int | float):
        return value
    if is_tensor(value):
        if value.numel() != 1:
            raise InvalidValueError(
                f"a logged tensor needs exactly one element, but got the shape "
                f"{tuple(value.shape)}; reduce it first, for example with .mean()"
            )
        if value.is_cpu:
            return value.item()
        value = value.detach().reshape(())
        if value._version or value.untyped_storage().nbytes() > value.element_size():
            value = value.clone()
        return value
    item = getattr(value, "item", None)
    if item is None or not hasattr(value, "dtype"):
        raise InvalidTypeError(
            "a logged value should be an int, a float, or a NumPy array or tensor of one element, "
            f"but got {type(value).__name__}"
        )
    if value.size != 1:
        raise InvalidValueError(
            f"a logged array needs exactly one element, but got the shape {value.shape}; reduce "
            "it first, for example with .mean()"
        )
    number = item()
    if not isinstance(number, int | float):
        raise InvalidTypeError(f"a logged value should be a real number, but got {number!r}")
    return number


def read_tensors(tensors: Sequence[Any]) -> list[Number]:
    """Return the values of one-element tensors, with one transfer per device and type."""
    import torch

    groups: dict[Any, list[int]] = {}
    for position, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(position)
    numbers: list[Number] = [0] * len(tensors)
    for (device, _), positions in groups.items():
        chosen = [tensors[p].detach() for p in positions]
        if device.type == "cpu":
            values: list[Number] = [tensor.item() for tensor in chosen]
        else:
            values = torch.stack([tensor.reshape(()) for tensor in chosen]).tolist()
        for position, number in zip(positions, values, strict=True):
            numbers[position] = number
    return numbers
