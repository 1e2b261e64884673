"""From a batch as the loader gives it to what a model takes: moved, normalised, stacked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.model.utils import stack_batch
from mmx.registry import MODELS
from mmx.structures import BaseDataElement


def _vendor_device(kind: str, device: int | str | torch.device | None) -> torch.device:
    """Return a device of a vendor's type, which its own package registers with torch."""
    if device is None:
        return torch.device(kind)
    return torch.device(kind, device) if isinstance(device, int) else torch.device(device)


@MODELS.register_module()
class BaseDataPreprocessor(nn.Module):
    """Move a batch to the model's device.

    Args:
        non_blocking: Do not wait for copies from pinned memory.
    """

    def __init__(self, non_blocking: bool | None = False) -> None:
        super().__init__()
        self._non_blocking = bool(non_blocking)
        self._device = torch.device("cpu")

    def cast_data(self, data: Any) -> Any:
        """Return nested data with tensors and data elements on the model's device.

        Dicts, lists, tuples and named tuples keep their types; text, numbers and None are kept.

        Raises:
            TypeError: A value is of another type, for example a NumPy array: the loader's
                ``collate_fn`` should have made a tensor of it.
        """
        if isinstance(data, Tensor):
            # Asking costs less than a call of `to` that does nothing.
            return (
                data
                if data.device == self._device
                else data.to(self._device, non_blocking=self._non_blocking)
            )
        if isinstance(data, Mapping):
            return type(data)({key: self.cast_data(value) for key, value in data.items()})  # type: ignore[call-arg]  # mappings are made from mappings
        if isinstance(data, (str, bytes)) or data is None:
            return data
        if isinstance(data, tuple) and hasattr(data, "_fields"):
            return type(data)(*(self.cast_data(value) for value in data))
        if isinstance(data, Sequence):
            return type(data)(self.cast_data(value) for value in data)  # type: ignore[call-arg]  # sequences are made from iterables
        if isinstance(data, BaseDataElement):
            return data.to(self._device, non_blocking=self._non_blocking)
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

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the buffers, and from now on batches, to a device."""
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None:
            self._device = torch.device(device)
        return super().to(*args, **kwargs)

    def cuda(self, *args: Any, **kwargs: Any) -> Self:
        """Move the buffers, and from now on batches, to the current CUDA device."""
        self._device = torch.device(torch.cuda.current_device())
        return super().cuda()

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
        self._device = torch.device("cpu")
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
        non_blocking: Do not wait for copies from pinned memory.

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
            raise ValueError("`bgr2rgb` and `rgb2bgr` cannot be set to True at the same time")
        if (mean is None) != (std is None):
            raise ValueError("mean and std should be both None or both given")
        if mean is not None and std is not None:
            for name, values in (("mean", mean), ("std", std)):
                if len(values) not in (1, 3):
                    raise ValueError(
                        f"`{name}` should have 1 or 3 values, to be compatible with gray or RGB images, "
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

    def _normalise(self, imgs: Tensor) -> Tensor:
        """Swap channels, convert and normalise images ``(C, H, W)`` or ``(N, C, H, W)``."""
        if self._channel_conversion:
            imgs = imgs.flip(-3)
        imgs = imgs.float()
        if self._enable_normalize:
            imgs = (imgs - self.mean) / self.std
        return imgs

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any] | list[Any]:
        """Return the batch with ``inputs`` as a float32 tensor ``(N, C, H, W)``.

        Args:
            data: Dict with ``inputs`` and, for most models, ``data_samples``.
            training: For subclasses: whether to augment.

        Raises:
            TypeError: ``inputs`` is neither a list of tensors nor a tensor.
            ValueError: An image or a batch has another number of dimensions or of channels.
        """
        data = self.cast_data(data)
        inputs = data["inputs"]
        if isinstance(inputs, (list, tuple)) and all(isinstance(img, Tensor) for img in inputs):
            images = []
            for img in inputs:
                if self._enable_normalize and self.mean.shape[0] == 3:
                    _check_image(img)
                images.append(self._normalise(img))
            batch = stack_batch(images, self.pad_size_divisor, self.pad_value)
        elif isinstance(inputs, Tensor):
            if inputs.dim() != 4:
                raise ValueError(
                    "The input of `ImgDataPreprocessor` should be a NCHW tensor or a list of tensor, "
                    f"but got a tensor with shape: {inputs.shape}"
                )
            batch = self._normalise(inputs)
            height, width = batch.shape[-2:]
            divisor = self.pad_size_divisor
            below = math.ceil(height / divisor) * divisor - height
            right = math.ceil(width / divisor) * divisor - width
            if below or right:
                batch = F.pad(batch, (0, right, 0, below), "constant", self.pad_value)
        else:
            raise TypeError(
                "Output of `cast_data` should be a dict of list/tuple with inputs and data_samples, "
                f"but got inputs of {type(inputs)}: images should be a list of tensors or a tensor"
            )
        data["inputs"] = batch
        data.setdefault("data_samples", None)
        return data


def _check_image(img: Tensor) -> None:
    if img.dim() != 3 or img.shape[0] != 3:
        raise ValueError(
            "If the mean has 3 values, the input tensor should in shape of (3, H, W), "
            f"but got the tensor with shape {tuple(img.shape)}"
        )
