"""Batches of images, anomalous parameters, and synchronised normalisation."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.logging import print_log
from mmx.utils.errors import InvalidTypeError, InvalidValueError


def stack_batch(
    tensor_list: list[Tensor], pad_size_divisor: int = 1, pad_value: int | float = 0
) -> Tensor:
    """Pad tensors to one shape, at the end of each dimension but the first, and stack them.

    Args:
        tensor_list: Tensors ``(C, ...)`` of one number of dimensions and of channels.
        pad_size_divisor: Pad to multiples of this.
        pad_value: Value of padding.

    Returns:
        ``(N, C, ...)``.

    Raises:
        TypeError: ``tensor_list`` is no list of tensors.
        ValueError: It is empty, or the dimensions differ.
    """
    if not isinstance(tensor_list, list):
        raise InvalidTypeError(f"Expected input type to be list, but got {type(tensor_list)}")
    if not tensor_list:
        raise InvalidValueError("`tensor_list` could not be an empty list")
    if len({tensor.ndim for tensor in tensor_list}) != 1:
        raise InvalidValueError(
            f"Expected the dimensions of all tensors must be the same, but got {[t.ndim for t in tensor_list]}"
        )
    dim = tensor_list[0].dim()
    sizes = torch.tensor([list(tensor.shape) for tensor in tensor_list])
    largest = torch.ceil(sizes.amax(dim=0) / pad_size_divisor) * pad_size_divisor
    padding = largest - sizes
    padding[:, 0] = 0  # channels are never padded
    if padding.sum() == 0:
        return torch.stack(tensor_list)
    pads = torch.zeros(len(tensor_list), 2 * dim, dtype=torch.int)
    pads[:, 1::2] = padding[:, range(dim - 1, -1, -1)]
    return torch.stack(
        [
            F.pad(tensor, tuple(pad.tolist()), value=pad_value)
            for tensor, pad in zip(tensor_list, pads, strict=True)
        ]
    )


def detect_anomalous_params(loss: Tensor, model: nn.Module) -> set[str]:
    """Return the names of parameters that need a gradient but have no part in a loss.

    They are logged, too: distributed training waits for their gradients in vain.

    Args:
        loss: Scalar, before ``backward``.
        model: Model.
    """
    in_graph: set[Any] = set()
    seen: set[Any] = set()
    stack = [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            in_graph.add(node.variable)
        stack.extend(parent for parent, _ in node.next_functions)
    parameters = model.named_parameters()
    names = [name for name, p in parameters if p not in in_graph and p.requires_grad]
    for name in names:
        print_log(
            f"{name} with shape {model.get_parameter(name).size()} is not in the computational graph",
            logger="current",
            level=logging.ERROR,
        )
    return set(names)


def merge_dict(*args: dict[Any, Any]) -> dict[Any, Any]:
    """Return the union of dicts; later ones win.

    Raises:
        TypeError: An argument is no dict.
    """
    output: dict[Any, Any] = {}
    for item in args:
        if not isinstance(item, dict):
            raise InvalidTypeError(
                f"all arguments of merge_dict should be a dict, but got {type(item)}"
            )
        output.update(item)
    return output


class _BatchNormXd(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation that takes inputs of any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        return


def revert_sync_batchnorm(module: Any) -> Any:
    """Return a module with synchronised batch normalisation replaced by the ordinary one.

    Weights and statistics are kept. For running on one device, or on the CPU.
    """
    if type(module).__name__ == "SyncBatchNorm" and type(module).__module__.startswith("mmcv."):
        kinds: tuple[type, ...] = (nn.SyncBatchNorm, type(module))
    else:
        kinds = (nn.SyncBatchNorm,)
    result: Any = module
    is_synchronised: bool = isinstance(module, kinds)
    if is_synchronised:
        result = _BatchNormXd(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
        )
        if module.affine:
            # The same parameters, so that an optimizer that holds them goes on working.
            result.weight, result.bias = module.weight, module.bias
        result.running_mean, result.running_var = module.running_mean, module.running_var
        result.num_batches_tracked = module.num_batches_tracked
        result.training = module.training
        if hasattr(module, "qconfig"):
            result.qconfig = module.qconfig
    for name, child in module.named_children():
        changed = revert_sync_batchnorm(child)
        if changed is not child:
            result.add_module(name, changed)
    return result


def convert_sync_batchnorm(module: Any, implementation: str = "torch") -> Any:
    """Return a module with batch normalisation synchronised between processes.

    Args:
        module: Module.
        implementation: ``'torch'``, or ``'mmcv'`` where mmcv is installed with its operators.

    Raises:
        ValueError: ``implementation`` is another.
    """
    if implementation == "torch":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if implementation != "mmcv":
        raise InvalidValueError(f'sync_bn should be "torch" or "mmcv", but got {implementation}')
    try:
        from mmcv.ops import SyncBatchNorm  # type: ignore[import-not-found,unused-ignore]  # optional
    except ImportError as error:
        error.add_note("sync_bn='mmcv' needs mmcv with its compiled operators")
        raise
    result: Any = module
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        result = SyncBatchNorm(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
        )
        if module.affine:
            with torch.no_grad():
                result.weight, result.bias = module.weight, module.bias
        result.running_mean, result.running_var = module.running_mean, module.running_var
        result.num_batches_tracked = module.num_batches_tracked
    for name, child in module.named_children():
        result.add_module(name, convert_sync_batchnorm(child, implementation))
    return result
