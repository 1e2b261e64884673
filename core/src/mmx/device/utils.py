"""Questions about devices, answered by :mod:`torch.accelerator`."""

from __future__ import annotations

import torch


def get_device() -> str:
    """Return the type of the device to train on: the accelerator's, or ``'cpu'``."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if accelerator is None else accelerator.type


def is_cuda_available() -> bool:
    """Tell whether a CUDA (or ROCm) device can be used."""
    return torch.cuda.is_available()


def is_mps_available() -> bool:
    """Tell whether Apple's Metal device can be used."""
    return torch.backends.mps.is_available()


def _is_accelerator(kind: str) -> bool:
    # Vendors' devices register themselves with torch when their package is imported.
    return get_device() == kind


def is_npu_available() -> bool:
    """Tell whether Ascend's device is torch's accelerator here."""
    return _is_accelerator("npu")


def is_mlu_available() -> bool:
    """Tell whether Cambricon's device is torch's accelerator here."""
    return _is_accelerator("mlu")


def is_dipu_available() -> bool:
    """Tell whether DIPU's device is torch's accelerator here."""
    return _is_accelerator("dipu")


def is_musa_available() -> bool:
    """Tell whether Moore Threads' device is torch's accelerator here."""
    return _is_accelerator("musa")


def is_npu_support_full_precision() -> bool:
    """Tell whether the NPU computes in float32: without one, no."""
    return is_npu_available()


def get_max_memory(device: torch.device | None = None) -> int:
    """Return the peak of the accelerator's memory that tensors took, in MiB, and reset it.

    0 where there is no accelerator. Does not wait for the device.

    Args:
        device: Device; None is the current one.
    """
    if not torch.accelerator.is_available():
        return 0
    peak = torch.accelerator.max_memory_allocated(device)
    torch.accelerator.reset_peak_memory_stats(device)
    return int(peak) // (1024 * 1024)


def get_max_cuda_memory(device: torch.device | None = None) -> int:
    """Return the peak of CUDA memory that tensors took, in MiB, and reset it.

    Args:
        device: Device; None is the current one.
    """
    peak = torch.cuda.max_memory_allocated(device=device)
    torch.cuda.reset_peak_memory_stats(device)
    return int(peak) // (1024 * 1024)


def get_max_musa_memory(device: torch.device | None = None) -> int:
    """Return the peak of a MUSA device's memory in MiB, and reset it; 0 where there is none."""
    return get_max_memory(device) if is_musa_available() else 0
