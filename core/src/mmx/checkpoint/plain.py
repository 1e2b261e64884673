"""What a checkpoint may hold: tensors and plain data, so that it loads with ``weights_only=True``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_ATOMS = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    torch.Tensor,
    torch.dtype,
    torch.device,
)


def to_plain(value: Any, path: str = "checkpoint") -> Any:
    """Return ``value`` with its containers as plain ``dict``, ``list``, ``tuple`` and ``set``.

    Tensors are kept as they are, not copied. NumPy arrays and scalars stay (the loader's fixed
    allow-list knows them). ``state_dict`` metadata of an ``OrderedDict`` is kept.

    Raises:
        TypeError: For any other object; the message names its place in the checkpoint.
    """
    kind = type(value)
    if kind in _PLAIN_TYPES or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, Mapping):
        items = ((_key(k, path), to_plain(v, f"{path}[{k!r}]")) for k, v in value.items())
        if isinstance(value, OrderedDict):
            result: dict[Any, Any] = OrderedDict(items)
            metadata = getattr(value, "_metadata", None)
            if metadata is not None:
                # torch keeps the version of each module here and needs it to load old layouts.
                result._metadata = to_plain(metadata, f"{path}._metadata")  # type: ignore[attr-defined]  # as torch does
            return result
        return dict(items)
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [to_plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
        if isinstance(value, list):
            return parts
        return tuple(parts) if isinstance(value, tuple) else set(parts)
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.hasobject:
            raise TypeError(_complaint(path, value, "a NumPy array of Python objects"))
        return value
    if isinstance(value, (int, float)):  # subclasses, for example enums of numbers
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(
        _complaint(path, value, f"an object of type {kind.__module__}.{kind.__qualname__}")
    )


_PLAIN_TYPES = frozenset(_ATOMS)


def _key(key: Any, path: str) -> Any:
    if type(key) in (str, int, float, bool, bytes, type(None), tuple):
        return key
    if isinstance(key, (str, int, float)):
        return to_plain(key, f"{path}.keys()")
    raise TypeError(_complaint(f"{path}.keys()", key, f"a key of type {type(key).__qualname__}"))


def _complaint(path: str, value: Any, what: str) -> str:
    return (
        f"{path} is {what} ({value!r:.80}), which a checkpoint cannot hold: only tensors and plain data "
        "load back safely. Save its numbers, strings, lists or tensors instead, for example by its state_dict()."
    )
