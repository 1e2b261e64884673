"""Base classes of torch's layers, under the names that downstream code imports."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.batchnorm import SyncBatchNorm as SyncBatchNorm_
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.conv import _ConvTransposeNd as _ConvTransposeMixin
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd
from torch.utils.data import DataLoader

TORCH_VERSION = torch.__version__


class SyncBatchNorm(SyncBatchNorm_):
    """torch's synchronised batch normalisation, whose error names the dimensions of the input."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")


def is_rocm_pytorch() -> bool:
    """Tell whether torch was built for ROCm."""
    return torch.version.hip is not None


def is_cuda_available() -> bool:
    """Tell whether a CUDA device can be used."""
    return torch.cuda.is_available()


def _get_cuda_home() -> str | None:
    from torch.utils import cpp_extension

    home: Any = cpp_extension.ROCM_HOME if is_rocm_pytorch() else cpp_extension.CUDA_HOME
    return None if home is None else str(home)


def _get_dataloader() -> tuple[type, type]:
    return DataLoader, PoolDataLoader


def _get_extension() -> tuple[Any, Any, Any]:
    # Slow to import, and only those who compile need it.
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    return BuildExtension, CppExtension, CUDAExtension


def _get_conv() -> tuple[type, type]:
    return _ConvNd, _ConvTransposeMixin


def _get_norm() -> tuple[type, type, type]:
    return _BatchNorm, _InstanceNorm, SyncBatchNorm_


def _get_pool() -> tuple[type, type, type, type]:
    return _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd


PoolDataLoader = DataLoader
get_build_config = torch.__config__.show

__all__ = [
    "TORCH_VERSION",
    "DataLoader",
    "PoolDataLoader",
    "SyncBatchNorm",
    "SyncBatchNorm_",
    "_AdaptiveAvgPoolNd",
    "_AdaptiveMaxPoolNd",
    "_AvgPoolNd",
    "_BatchNorm",
    "_ConvNd",
    "_ConvTransposeMixin",
    "_InstanceNorm",
    "_MaxPoolNd",
    "get_build_config",
    "is_cuda_available",
    "is_rocm_pytorch",
]
