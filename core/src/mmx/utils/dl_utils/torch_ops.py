"""torch functions whose arguments changed between versions."""

from __future__ import annotations

from typing import Any


def torch_meshgrid(*tensors: Any) -> tuple[Any, ...]:
    """Return :func:`torch.meshgrid` with ``indexing='ij'``."""
    import torch

    return torch.meshgrid(*tensors, indexing="ij")
