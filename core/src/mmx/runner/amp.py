"""Mixed precision regions on whatever device there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmx.device import get_device
from mmx.utils.errors import InvalidValueError


@contextmanager
def autocast(
    device_type: str | None = None,
    dtype: torch.dtype | None = None,
    enabled: bool = True,
    cache_enabled: bool | None = None,
) -> Iterator[None]:
    """Run a block under automatic mixed precision.

    A region inside another one keeps the outer device type if none is given, so that a model may
    disable it for a part of its own computation without knowing the device.

    Args:
        device_type: ``'cuda'``, ``'cpu'``, ``'mps'``, ...; None for the device of this process.
        dtype: Type of the computation. None means what torch takes for the device: float16 on
            accelerators, bfloat16 on the CPU.
        enabled: False computes in full precision.
        cache_enabled: Whether casts of weights are cached; None keeps torch's current setting.

    Raises:
        ValueError: The device type has no automatic mixed precision.
    """
    kind = device_type or get_device().split(":")[0]
    if not _is_available(kind):
        if not enabled:
            yield
            return
        raise InvalidValueError(
            f"User specified autocast device_type must be one with mixed precision, got {kind!r}; "
            "run on cpu, cuda, xpu, mps or npu, or in full precision"
        )
    if dtype is None:
        dtype = torch.get_autocast_dtype(kind)
    if cache_enabled is None:
        cache_enabled = torch.is_autocast_cache_enabled()
    with torch.autocast(
        device_type=kind, dtype=dtype, enabled=enabled, cache_enabled=cache_enabled
    ):
        yield


def _is_available(kind: str) -> bool:
    try:
        return torch.amp.is_autocast_available(kind)
    except RuntimeError:  # no device that torch knows
        return False
