"""From a batch as the loader gives it to what a model takes: moved, normalised, stacked."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.rnn import PackedSequence

from mmx.model.utils import stack_batch
from mmx.registry import MODELS
from mmx.structures import BaseDataElement
from mmx.utils.errors import InvalidTypeError, InvalidValueError

_CPU = torch.device("cpu")
# Where a copy that was not waited for may be read before it is there, or may read what comes after.
# On all others what reads it comes behind it in the same stream, and torch keeps pinned memory.
_READ_TOO_EARLY = frozenset({"cpu", "mps"})
# What batches hold beside tensors: nothing is to be done for these.
_PLAIN = frozenset({str, bytes, int, float, bool, np.ndarray})


def _like(mapping: Any, items: dict[Any, Any]) -> Any:
    """Return a mapping of the same type with other values."""
    if isinstance(mapping, defaultdict):
        return type(mapping)(mapping.default_factory, items)
    try:
        return type(mapping)(items)
    except TypeError:
        # A type whose arguments are of its own kind; MMEngine makes a dict of every mapping.
        return items


def _vendor_device(kind: str, device: int | str | torch.device | None) -> torch.device:
    """Return a device of a vendor's type, which its own package registers with torch."""
    if device is None:
        return torch.device(kind)
    return torch.device(kind, device) if isinstance(device, int) else torch.device(device)


@MODELS.register_module()
class BaseDataPreprocessor(nn.Module):
    """Move a batch to the model's device.

    Args:
        non_blocking: Do not wait for copies. False waits, as MMEngine does. None, which models take
            that are given no preprocessor, waits only where a copy could be read too early: on the
            CPU and on Apple's devices.
    """

    def __init__(self, non_blocking: bool | None = False) -> None:
        super().__init__()
        self._non_blocking = non_blocking if non_blocking is None else bool(non_blocking)
        self._device = torch.device("cpu")

    def leaves_as_is(self, data: Any) -> bool:
        """Tell, at little cost, that the base class would hand on the very tensors of a dict.

        That is so for most batches of a model on the CPU. False may just mean that it is not known.
        """
        if data.__class__ is not dict or self._device != _CPU:
            return False
        for value in data.values():
            if value.__class__ is not Tensor or not value.is_cpu:
                return False
        # A hook on the module wants to be called.
        return not (self._forward_hooks or self._forward_pre_hooks or _has_any_global_hook())

    def _waits_not(self) -> bool:
        """Tell whether a copy to the device need not be waited for."""
        if self._non_blocking is None:
            return self._device.type not in _READ_TOO_EARLY
        return self._non_blocking

    def cast_data(self, data: Any) -> Any:
        """Return nested data with tensors and data elements on the model's device.

        Dicts, lists, tuples and named tuples keep their types and are new objects; what has a
        method ``to``, such as data elements and packed sequences, is moved by it; anything else
        (text, numbers, NumPy arrays, None) is returned as it is.
        """
        device = self._device
        if isinstance(data, Tensor):
            # Asking costs less than a call of `to` that does nothing.
            if data.device == device:
                return data
            return data.to(device, non_blocking=self._waits_not())
        kind = type(data)
        if kind is dict:
            cast = self.cast_data
            return {
                # Most batches are dicts of tensors that lie on the device already.
                key: value if value.__class__ is Tensor and value.device == device else cast(value)
                for key, value in data.items()
            }
        if kind is list:
            return [self.cast_data(value) for value in data]
        if kind is tuple:
            return tuple([self.cast_data(value) for value in data])
        if kind in _PLAIN or data is None:
            return data
        if isinstance(data, (BaseDataElement, PackedSequence)):
            moved: Any = data
            return moved.to(device, non_blocking=self._waits_not())
        if isinstance(data, Mapping):
            return _like(data, {key: self.cast_data(value) for key, value in data.items()})
        if isinstance(data, (str, bytes)):
            return data
        if isinstance(data, tuple) and hasattr(data, "_fields"):
            return kind(*(self.cast_data(value) for value in data))
        if isinstance(data, Sequence) and not isinstance(data, range):
            return kind([self.cast_data(value) for value in data])
        return data

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch on the device.

        Args:
            data: Batch.
            training: For subclasses: whether to augment.
        """
        return self.cast_data(data)

    @property
    def device(self) -> torch.device:
        """The device that batches are moved to."""
        return self._device

    def _set_device(self, device: torch.device) -> None:
        # A preprocessor may stand on another one, which must move batches to the same place.
        for module in self.modules():
            if isinstance(module, BaseDataPreprocessor):
                module._device = device

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the buffers, and from now on batches, to a device."""
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None:
            self._set_device(torch.device(device))
        return super().to(*args, **kwargs)

    def cuda(self, device: int | str | torch.device | None = None) -> Self:
        """Move the buffers, and from now on batches, to a CUDA device, by default the current."""
        index = torch.cuda.current_device() if device is None else device
        self._set_device(
            torch.device("cuda", index) if isinstance(index, int) else torch.device(index)
        )
        return super().cuda(self._device)

    def npu(self, device: int | str | torch.device | None = None) -> Self:
        """Move to Ascend's device."""
        return self.to(_vendor_device("npu", device))

    def mlu(self, device: int | str | torch.device | None = None) -> Self:
        """Move to Cambricon's device."""
        return self.to(_vendor_device("mlu", device))

    def musa(self, device: int | str | torch.device | None = None) -> Self:
        """Move to Moore Threads' device."""
        return self.to(_vendor_device("musa", device))

    def cpu(self, *args: Any, **kwargs: Any) -> Self:
        """Move the buffers, and from now on batches, to the CPU."""
        self._set_device(torch.device("cpu"))
        return super().cpu()


@MODELS.register_module()
class ImgDataPreprocessor(BaseDataPreprocessor):
    """Normalise images and pad them to one shape, on the model's device.

    ``data['inputs']`` is a list of images ``(C, H, W)`` of any sizes, as ``pseudo_collate`` gives,
    or a batch ``(N, C, H, W)``; it becomes a float32 batch ``(N, C, H', W')``. Steps, in this order:
    move, swap channels, convert to float32, normalise, pad right and below, stack.

    Args:
        mean: Mean of each channel, one or three values, in the units of the images; with ``std``.
        std: Standard deviation of each channel.
        pad_size_divisor: Pad height and width to multiples of this.
        pad_value: Value of padding, after normalisation.
        bgr_to_rgb: Swap the first and the last of three channels.
        rgb_to_bgr: The same, under the name that fits.
        non_blocking: Do not wait for copies; see :class:`BaseDataPreprocessor`.

    Raises:
        ValueError: Only one of ``mean`` and ``std`` is given, they have other lengths, or both
            swaps are asked for.
    """

    def __init__(
        self,
        mean: Sequence[float | int] | None = None,
        std: Sequence[float | int] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float | int = 0,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        non_blocking: bool | None = False,
    ) -> None:
        super().__init__(non_blocking)
        if bgr_to_rgb and rgb_to_bgr:
            raise InvalidValueError(
                "`bgr2rgb` and `rgb2bgr` cannot be set to True at the same time"
            )
        if (mean is None) != (std is None):
            raise InvalidValueError(
                f"mean and std should be both None or both given, but got mean={mean} and std={std}"
            )
        if mean is not None and std is not None:
            for name, values in (("mean", mean), ("std", std)):
                if len(values) not in (1, 3):
                    raise InvalidValueError(
                        f"`{name}` should have 1 or 3 values, to be compatible with RGB or gray image, "
                        f"but got {len(values)}"
                    )
            self._enable_normalize = True
            self.register_buffer(
                "mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), False
            )
            self.register_buffer(
                "std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), False
            )
        else:
            self._enable_normalize = False
        self._channel_conversion = rgb_to_bgr or bgr_to_rgb
        self.pad_size_divisor = pad_size_divisor
        self.pad_value = pad_value

    mean: Tensor
    std: Tensor

    def _swap(self, imgs: Tensor, channel_axis: int) -> Tensor:
        channels = imgs.shape[channel_axis]
        if channels < 3:
            raise InvalidValueError(
                "`bgr_to_rgb` and `rgb_to_bgr` swap the first and third channel, "
                f"but got images with {channels}, of shape {tuple(imgs.shape)}"
            )
        # More than three: the first three are kept, swapped, as MMEngine does.
        return imgs.narrow(channel_axis, 0, 3).flip(channel_axis)

    def _normalise(self, imgs: Tensor, channel_axis: int) -> Tensor:
        """Swap channels, convert and normalise an image ``(C, ...)`` or a batch ``(N, C, ...)``."""
        if self._channel_conversion:
            imgs = self._swap(imgs, channel_axis)
        if not self._enable_normalize:
            return imgs.float()
        # Every type but float64 becomes float32 by subtracting, without a pass of its own.
        return (_at_most_float32(imgs) - self.mean).div_(self.std)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any] | list[Any]:
        """Return the batch with ``inputs`` as a float32 tensor ``(N, C, H, W)``.

        Args:
            data: Dict with ``inputs`` and, for most models, ``data_samples``.
            training: For subclasses: whether to augment.

        Raises:
            TypeError: The batch is no dict with ``inputs``, or these are neither a list of tensors nor
                a tensor.
            ValueError: An image or a batch has another number of dimensions or of channels.
        """
        data = self.cast_data(data)
        if not isinstance(data, dict) or "inputs" not in data:
            raise InvalidTypeError(
                "ImgDataPreprocessor expects a dict with the key 'inputs', as `pseudo_collate` gives, "
                f"but got {_described(data)}"
            )
        inputs = data["inputs"]
        if isinstance(inputs, (list, tuple)) and all(isinstance(img, Tensor) for img in inputs):
            if self._enable_normalize and self.mean.shape[0] == 3:
                for img in inputs:
                    self._check_image(img)
            batch = self._batch(list(inputs))
        elif isinstance(inputs, Tensor):
            if inputs.dim() != 4:
                raise InvalidValueError(
                    "The input of `ImgDataPreprocessor` should be a NCHW tensor or a list of tensor, "
                    f"but got a tensor with shape: {inputs.shape}"
                )
            batch = self._pad(self._normalise(inputs, 1))
        else:
            raise InvalidTypeError(
                "Output of `cast_data` should be a dict of list/tuple with inputs and data_samples, "
                f"but got {type(data)} with inputs of {type(inputs)}: they should be a list of tensors "
                "or a tensor"
            )
        data["inputs"] = batch
        data.setdefault("data_samples", None)
        return data

    def _batch(self, images: list[Tensor]) -> Tensor:
        """Normalise, pad and stack images ``(C, ...)``."""
        first = images[0] if images else None
        plain = first is not None and all(
            image.dim() == 3 and len(image) == len(first) and not image.requires_grad
            for image in images
        )
        if first is None or not plain:
            images = [self._normalise(image, 0) for image in images]
            return stack_batch(images, self.pad_size_divisor, self.pad_value)
        sizes = {(image.shape, image.dtype) for image in images}
        if len(sizes) == 1 and not first.is_cpu:
            # A few kernels for the batch, not some for each image.
            return self._pad(self._normalise(torch.stack(images), 1))
        # Straight to where each image ends up: without copies, and on a CPU within its cache.
        if self._channel_conversion:
            images = [self._swap(image, 0) for image in images]
        divisor = self.pad_size_divisor
        height, width = (
            math.ceil(max(image.shape[axis] for image in images) / divisor) * divisor
            for axis in (1, 2)
        )
        batch = torch.empty(
            (len(images), len(images[0]), height, width), dtype=torch.float32, device=first.device
        )
        if len(sizes) > 1 or (height, width) != first.shape[1:]:
            batch.fill_(self.pad_value)
        for row, image in zip(batch, images, strict=True):
            place = row[:, : image.shape[1], : image.shape[2]]
            if self._enable_normalize:
                torch.sub(_at_most_float32(image), self.mean, out=place).div_(self.std)
            else:
                place.copy_(image)
        return batch

    def _pad(self, batch: Tensor) -> Tensor:
        """Pad a batch at the end of each dimension but the first two."""
        divisor = self.pad_size_divisor
        pads: list[int] = []
        for size in reversed(batch.shape[2:]):
            pads += [0, math.ceil(size / divisor) * divisor - size]
        return F.pad(batch, pads, "constant", self.pad_value) if any(pads) else batch

    def _check_image(self, img: Tensor) -> None:
        channels = 3 if self._channel_conversion and img.dim() == 3 and img.shape[0] > 3 else None
        if img.dim() != 3 or (channels or img.shape[0]) != 3:
            raise InvalidValueError(
                "If the mean has 3 values, the input tensor should in shape of (3, H, W), "
                f"but got the tensor with shape {tuple(img.shape)}"
            )


def _at_most_float32(imgs: Tensor) -> Tensor:
    return imgs.float() if imgs.dtype == torch.float64 else imgs


def _described(data: Any) -> str:
    if isinstance(data, Mapping):
        return f"{type(data)} with the keys {sorted(map(str, data))}"
    return f"{type(data)}"
