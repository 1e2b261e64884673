"""Questions about layers, and batches of tensors back to images."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from mmx.utils.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn


def is_norm(layer: nn.Module, exclude: type | tuple[type, ...] | None = None) -> bool:
    """Tell whether a layer normalises: batch, instance, group or layer normalisation.

    Args:
        layer: Layer.
        exclude: Types that do not count.

    Raises:
        TypeError: ``exclude`` is neither a type nor a tuple of types.
    """
    from torch.nn import GroupNorm, LayerNorm

    from mmx.utils.dl_utils.parrots_wrapper import _BatchNorm, _InstanceNorm

    if exclude is not None:
        exclude = exclude if isinstance(exclude, tuple) else (exclude,)
        if not all(isinstance(kind, type) for kind in exclude):
            raise InvalidTypeError(
                f'"exclude" must be either None or type or a tuple of types, but got {exclude!r}'
            )
        if isinstance(layer, exclude):
            return False
    return isinstance(layer, (_BatchNorm, _InstanceNorm, GroupNorm, LayerNorm))


def has_batch_norm(model: nn.Module) -> bool:
    """Tell whether a model contains batch normalisation."""
    from mmx.utils.dl_utils.parrots_wrapper import _BatchNorm

    return any(isinstance(module, _BatchNorm) for module in model.modules())


def tensor2imgs(
    tensor: torch.Tensor,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    to_bgr: bool = True,
) -> list[np.ndarray[Any, Any]]:
    """Turn a normalised batch back into images.

    Args:
        tensor: ``(N, C, H, W)`` with C of 3 or 1.
        mean: Mean of each channel that was subtracted; None is 0.
        std: Standard deviation of each channel that was divided by; None is 1.
        to_bgr: Reverse the order of three channels.

    Returns:
        Images, float32 ``(H, W, C)``, contiguous, in the range that was normalised.

    Raises:
        TypeError: ``tensor`` is no tensor.
        ValueError: Its shape, or the length of ``mean`` or ``std``, is another.
    """
    import numpy as np
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise InvalidTypeError(f"tensor must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.ndim != 4:
        raise InvalidValueError(
            f"tensor must have the shape (N, C, H, W), got {tuple(tensor.shape)}"
        )
    channels = tensor.size(1)
    if channels not in (1, 3):
        raise InvalidValueError(f"tensor must have 1 or 3 channels, got {channels}")
    mean = mean if mean is not None else (0,) * channels
    std = std if std is not None else (1,) * channels
    if not channels == len(mean) == len(std):
        raise InvalidValueError(
            f"mean and std need {channels} values each, got {len(mean)} and {len(std)}"
        )
    if to_bgr and channels != 3:
        raise InvalidValueError("to_bgr needs three channels")
    imgs = []
    for img_chw in tensor.detach().cpu().float().numpy():
        img = img_chw.transpose(1, 2, 0) * np.asarray(std, np.float32) + np.asarray(
            mean, np.float32
        )
        imgs.append(np.ascontiguousarray(img[..., ::-1] if to_bgr else img))
    return imgs


def mmcv_full_available() -> bool:
    """Tell whether mmcv is installed with its compiled operators."""
    try:
        return importlib.util.find_spec("mmcv._ext") is not None
    except ImportError:
        return False
