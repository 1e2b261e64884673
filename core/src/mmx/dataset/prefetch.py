"""Batches that are on the device before they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch


class DevicePrefetcher:
    """A data loader's batches on an accelerator, copied while the one before is computed on.

    The copy of the next batch runs on a stream of its own; it is asynchronous where the loader has
    ``pin_memory=True``. On the CPU, batches pass through as they are.
    Data elements, tensors, and lists, tuples and dicts of them are moved.

    Args:
        dataloader: Any iterable of batches; other attributes are read through.
        device: Where to.
    """

    def __init__(self, dataloader: Any, device: torch.device | str) -> None:
        self.dataloader = dataloader
        self.device = torch.device(device)

    def __getattr__(self, name: str) -> Any:
        if name == "dataloader":
            raise AttributeError(name)
        return getattr(self.dataloader, name)

    def __len__(self) -> int:
        return len(self.dataloader)

    def __iter__(self) -> Iterator[Any]:
        return self.prefetch(iter(self.dataloader))

    def prefetch(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Return an iterator over the same batches on the device, one copy ahead."""
        if self.device.type == "cpu":
            return iter(batches)
        return self._copied(batches)

    def _copied(self, batches: Iterator[Any]) -> Iterator[Any]:
        side = torch.Stream(self.device)
        waiting: tuple[Any, list[Any]] | None = None
        for batch in batches:
            # Each tensor's memory comes from the side stream's pool.
            with side:
                copied = _move(batch, self.device), [batch]
            if waiting is not None:
                yield self._hand_over(waiting, side)
            # The source stays alive until its copy has been waited for.
            waiting = copied
        if waiting is not None:
            yield self._hand_over(waiting, side)

    def _hand_over(self, waiting: tuple[Any, list[Any]], side: torch.Stream) -> Any:
        current = torch.accelerator.current_stream(self.device)
        current.wait_stream(side)
        _record(waiting[0], current)
        return waiting[0]


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor) or (hasattr(value, "to") and hasattr(value, "metainfo")):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return type(value)({key: _move(item, device) for key, item in value.items()})  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_move(item, device) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_move(item, device) for item in value)
    return value


def _record(value: Any, stream: torch.Stream) -> None:
    """Keep the allocator from reusing the memory before ``stream`` is done with it."""
    if isinstance(value, torch.Tensor):
        value.record_stream(stream)
    elif isinstance(value, Mapping) or (hasattr(value, "metainfo") and hasattr(value, "items")):
        for _, item in value.items():
            _record(item, stream)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _record(item, stream)
