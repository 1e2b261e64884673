"""``mmengine._strategy.utils``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class MetaTensorContext(TorchDispatchMode):
    """Creates tensors on the meta device inside the ``with`` block: shapes without memory."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, on the meta device where it takes a device."""
        named = dict(kwargs or {})
        if "device" in named:
            named["device"] = "meta"
        return func(*args, **named)
