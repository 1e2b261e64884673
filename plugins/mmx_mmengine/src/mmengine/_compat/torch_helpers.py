"""Small helpers of the old package around torch."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys as _IncompatibleKeys
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from mmx import device, dist
from mmx.analysis.jit_handles import SUPPORTED_ACT_OPS, SUPPORTED_FLOP_OPS

_DEFAULT_SUPPORTED_FLOP_OPS = SUPPORTED_FLOP_OPS
_DEFAULT_SUPPORTED_ACT_OPS = SUPPORTED_ACT_OPS

# What there is when this module is imported.
IS_NPU_AVAILABLE = device.is_npu_available()
IS_MLU_AVAILABLE = device.is_mlu_available()
IS_DIPU_AVAILABLE = device.is_dipu_available()
IS_MUSA_AVAILABLE = device.is_musa_available()
DEVICE = device.get_device()

# The optimizers that torch_npu registered, by name; mmx registers none.
NPU_OPTIMIZERS: list[str] = []


def check_kineto() -> bool:
    """Whether torch's profiler can trace devices."""
    return bool(torch.profiler.kineto_available())


def wrap_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward function that computes its activations again in the backward pass."""
    return functools.wraps(forward)(functools.partial(checkpoint, forward, use_reentrant=False))


def _named_modules_with_dup(model: nn.Module, prefix: str = "") -> Iterable[tuple[str, nn.Module]]:
    """Yield all modules under all their names; a module with two names comes twice."""
    yield from model.named_modules(prefix=prefix, remove_duplicate=False)


def _named_modules_without_dup(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules, each under its first name."""
    yield from model.named_modules()


def _no_grad_trunc_normal_(
    tensor: torch.Tensor, mean: float, std: float, a: float, b: float
) -> torch.Tensor:
    """Fill a tensor with numbers of the normal distribution cut off at ``a`` and ``b``."""
    from mmx.model.weight_init import trunc_normal_

    return trunc_normal_(tensor, mean, std, a, b)


def _get_batch_size(dataloader: Any) -> int:
    """Return the batch size of a data loader or of its config.

    Raises:
        ValueError: A config has none, or it is neither.
    """
    if isinstance(dataloader, dict):
        if "batch_size" in dataloader:
            return int(dataloader["batch_size"])
        sampler = dataloader.get("batch_sampler")
        if isinstance(sampler, dict) and "batch_size" in sampler:
            return int(sampler["batch_size"])
        raise ValueError(
            "Please set batch_size in `Dataloader` or `batch_sampler`, but got a config with "
            f"{', '.join(map(str, dataloader)) or 'nothing'}"
        )
    if isinstance(dataloader, DataLoader):
        size = dataloader.batch_sampler if dataloader.batch_size is None else dataloader
        return int(size.batch_size)  # type: ignore[union-attr,arg-type]  # samplers of batches have it
    raise ValueError(
        f"dataloader should be a dict or a Dataloader instance, but got {type(dataloader)}"
    )


class _SlicedDataset(Dataset[Any]):
    """The first samples of a data set.

    Args:
        dataset: The data set.
        length: How many of its samples there are.
    """

    def __init__(self, dataset: Any, length: int) -> None:
        self._dataset = dataset
        self._length = length

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_dataset":
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __getitem__(self, idx: int) -> Any:
        return self._dataset[idx]

    def __len__(self) -> int:
        return self._length


def _save_to_state_dict(
    module: nn.Module, destination: dict[str, Any], prefix: str, keep_vars: bool
) -> None:
    """Put a module's own parameters and buffers into a state dict, those not persistent too."""
    for part in (module._parameters, module._buffers):
        for name, value in part.items():
            if value is not None:
                destination[prefix + name] = value if keep_vars else value.detach()


def _process_mmcls_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of a classifier's backbone: ``{'state_dict': ...}`` without the prefix."""
    prefix = "backbone."
    state = checkpoint.get("state_dict", checkpoint)
    return {
        "state_dict": OrderedDict(
            (key.removeprefix(prefix), value)
            for key, value in state.items()
            if key.startswith(prefix)
        )
    }


def _broadcast_object_list(object_list: list[Any], src: int = 0, group: Any = None) -> None:
    """Replace the objects of a list by those of rank ``src``. Every rank must call."""
    dist.broadcast_object_list(object_list, src, group)


def _all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
    """Fill a list with every rank's object. Every rank must call."""
    object_list[:] = dist.all_gather_object(obj, group)


def _gather_object(
    obj: Any, object_gather_list: list[Any] | None = None, dst: int = 0, group: Any = None
) -> None:
    """Fill a list on rank ``dst`` with every rank's object. Every rank must call."""
    found = dist.gather_object(obj, dst, group)
    if object_gather_list is not None and found is not None:
        object_gather_list[:] = found


def _collect_results_device(result_part: list[Any], size: int) -> list[Any] | None:
    """Gather parts of results by device communication; see `mmx.dist.collect_results`."""
    return dist.collect_results(result_part, size, "gpu")


def _init_dist_pytorch(backend: str, init_backend: str = "torch", **kwargs: Any) -> None:
    """Start the process group of a job that torchrun started."""
    dist.init_dist("pytorch", backend, init_backend, **kwargs)


def _init_dist_mpi(backend: str, **kwargs: Any) -> None:
    """Start the process group of a job that mpirun started."""
    dist.init_dist("mpi", backend, **kwargs)


def _init_dist_slurm(
    backend: str, port: int | None = None, init_backend: str = "torch", **kwargs: Any
) -> None:
    """Start the process group of a job that srun started."""
    dist.init_dist("slurm", backend, init_backend, port=port, **kwargs)


def register_torch_npu_optimizers() -> list[str]:
    """Return the names of optimizers that were registered for Ascend devices: none."""
    return NPU_OPTIMIZERS


def load_from_pavi(filename: str, map_location: Any = None) -> Any:
    """Refuse: the service is closed.

    Raises:
        ValueError: The address does not begin with ``pavi://``.
        ImportError: Else, always.
    """
    if not filename.startswith("pavi://"):
        raise ValueError(f"Expected filename startswith `pavi://`, but get {filename}")
    raise ImportError(
        "pavi:// addresses need the package pavi, which cannot be had any more: download the file "
        "and name its path"
    )
