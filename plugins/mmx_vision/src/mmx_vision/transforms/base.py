"""What every transform is: a callable from a sample dict to a sample dict."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

import numpy as np
from PIL import Image

Sample = dict[str, Any]


class BaseTransform(metaclass=ABCMeta):
    """Base class of transforms. A transform that returns None drops the sample."""

    def __call__(self, results: Sample) -> Sample | None:
        return self.transform(results)

    @abstractmethod
    def transform(self, results: Sample) -> Sample | None:
        """Change a sample: ``img`` is uint8 ``(H, W, C)``, RGB or grey, ``gt_label`` an int."""


class ImageTransform(BaseTransform):
    """Base class of transforms that change the image alone."""

    def transform(self, results: Sample) -> Sample:
        """Replace ``img``."""
        results["img"] = self.apply(results["img"])
        return results

    @abstractmethod
    def apply(self, img: np.ndarray) -> np.ndarray:
        """Return the changed image, uint8 ``(H, W, C)``."""


def to_pil(img: np.ndarray) -> Image.Image:
    """Return a uint8 image ``(H, W, 1)`` or ``(H, W, 3)`` as a PIL image."""
    return Image.fromarray(img[..., 0] if img.shape[-1] == 1 else img)


def from_pil(img: Image.Image) -> np.ndarray:
    """Return a PIL image as uint8 ``(H, W, C)``."""
    array = np.asarray(img)
    return array[..., None] if array.ndim == 2 else array


def check_probability(name: str, value: float) -> float:
    """Return ``value``.

    Raises:
        ValueError: It is no probability.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")
    return value


def pair(name: str, value: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """Return ``(height, width)`` from one positive number or two.

    Raises:
        ValueError: It is anything else.
    """
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or not all(isinstance(v, int) and v > 0 for v in values):
        raise ValueError(
            f"{name} must be one or two positive whole numbers of pixels, got {value!r}"
        )
    return values
