"""Whether torch is tracing."""

from __future__ import annotations


def is_jit_tracing() -> bool:
    """Tell whether torch.jit traces the running code."""
    import torch

    return bool(torch._C._is_tracing())
