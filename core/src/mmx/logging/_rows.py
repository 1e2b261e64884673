"""Rows of numbers that are logged together, on their way into their histories."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mmx.logging._scalars import read_tensors
from mmx.logging.history_buffer import HistoryBuffer
from mmx.utils.errors import InvalidValueError

if TYPE_CHECKING:
    import torch

# The types of numbers that a row takes as they are, and the types of tensors met so far.
FLOATS = {float}
FAST = frozenset((float, int, bool))
TENSORS: set[type] = set()
KNOWN: set[type] = set(FAST)
# The type of plain tensors alone, and what reads one; empty until one was met.
TENSOR: set[type] = set()
READERS: list[Callable[[Any], Any]] = []


def learn_tensor_types(kinds: set[type]) -> bool:
    """Add the types of tensors among ``kinds`` to those known; False if others remain."""
    torch = sys.modules.get("torch")
    if torch is not None:
        TENSORS.update(kind for kind in kinds if issubclass(kind, torch.Tensor))
        KNOWN.update(TENSORS)
        if torch.Tensor in TENSORS and not TENSOR:
            READERS.append(torch.Tensor.item)
            TENSOR.add(torch.Tensor)
    return kinds <= KNOWN


def kept(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor to be read later. One that is changed in place now and then is copied.

    Raises:
        ValueError: It has more than one element.
    """
    if tensor.numel() != 1:
        raise InvalidValueError("a tensor of more than one element")
    return tensor.detach().clone() if tensor._version else tensor.detach()


class RowGroup:
    """Numbers that are logged together, a row per iteration, waiting for a reader.

    Args:
        buffers: Where each column goes.
    """

    __slots__ = ("all_tensors", "buffers", "has_tensors", "lanes", "open_for", "rivals", "values")

    def __init__(self, buffers: list[HistoryBuffer]) -> None:
        self.buffers = buffers
        # Row after row; the list is never replaced.
        self.values: list[Any] = []
        # Whether any of the waiting values is a tensor still.
        self.has_tensors = False
        # Whether the latest row was one of tensors on the CPU: most likely the next one is, too.
        self.all_tensors = False
        # The names of a dict of tensors on the CPU that `append` may be called with; else None.
        self.open_for: tuple[str, ...] | None = None
        # Groups that share a buffer with this one; at most one of them has waiting rows, so that
        # the order within each buffer is the order of the calls.
        self.rivals: list[RowGroup] = []
        # Its names that are logged through a lane as well: rows then do not wait, for the same
        # reason.
        self.lanes: list[str] = []

    def close(self) -> None:
        """Let rows come through the hub again, which looks at them."""
        self.open_for = None

    def append(self, log_dict: Mapping[str, Any]) -> bool:
        """Append the values of a dict whose names are those of :attr:`open_for`.

        Returns:
            False, with nothing done, if they are not what the group is open for.
        """
        values = self.values
        try:
            values.extend(map(READERS[0], log_dict.values()))
        except (RuntimeError, TypeError):  # other values this time
            del values[len(values) - len(values) % len(self.buffers) :]
            self.close()
            return False
        return True

    def read(self) -> None:
        """Read all tensors among the values in one go."""
        if self.has_tensors:
            values = self.values
            places = [i for i, v in enumerate(values) if v.__class__ not in FAST]
            numbers = read_tensors([values[i] for i in places])
            for place, number in zip(places, numbers, strict=True):
                values[place] = number
            self.has_tensors = False

    def hand_over(self) -> None:
        """Move the rows into their buffers; tensors are read there, when somebody asks for them."""
        if not self.values:
            return
        waiting = self.values[:]
        # Cleared first: a buffer that is asked for its values flushes its source.
        self.values.clear()
        has_tensors, self.has_tensors = self.has_tensors, False
        width = len(self.buffers)
        for column, buffer in enumerate(self.buffers):
            buffer._extend(waiting[column::width], has_tensors)
