"""Questions about devices, on a machine without an accelerator."""

import pytest
import torch

from mmx import device
from mmx.device import utils

no_accelerator = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="this machine has an accelerator"
)


@no_accelerator
def test_without_an_accelerator_the_cpu_is_used() -> None:
    assert "cpu" == device.get_device()
    assert not any(
        ask()
        for ask in (
            device.is_cuda_available,
            device.is_npu_available,
            device.is_mlu_available,
            device.is_mps_available,
            device.is_dipu_available,
            device.is_musa_available,
            device.is_npu_support_full_precision,
        )
    )
    assert 0 == utils.get_max_memory() == device.get_max_musa_memory()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_of_memory_is_told_and_reset() -> None:
    assert "cuda" == device.get_device()
    device.get_max_cuda_memory()
    x = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    assert 64 <= device.get_max_cuda_memory()
    del x
    device.get_max_cuda_memory()
    assert 64 > utils.get_max_memory()


def test_an_accelerator_of_any_vendor_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a vendor's package registers with torch.
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: torch.device("xpu")
    )
    assert "xpu" == device.get_device()
    assert not device.is_npu_available()
