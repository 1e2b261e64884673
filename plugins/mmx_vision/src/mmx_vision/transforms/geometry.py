"""Where pixels go: resizing, cropping, flipping, affine maps."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image

from mmx_vision.registry import TRANSFORMS
from mmx_vision.transforms.base import ImageTransform, check_probability, from_pil, pair, to_pil

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def _resampling(name: str) -> Image.Resampling:
    if name not in RESAMPLING:
        raise ValueError(f"interpolation must be one of {', '.join(RESAMPLING)}, got {name!r}")
    return RESAMPLING[name]


@TRANSFORMS.register_module()
class Resize(ImageTransform):
    """Resize to ``(height, width)``; a single number is the length of the shorter side.

    Args:
        scale: Pixels.
        interpolation: ``'nearest'``, ``'bilinear'`` or ``'bicubic'``.
    """

    def __init__(self, scale: int | tuple[int, int], interpolation: str = "bilinear") -> None:
        self.scale = scale if isinstance(scale, int) else pair("scale", scale)
        self.resampling = _resampling(interpolation)

    def apply(self, img: np.ndarray) -> np.ndarray:
        """Resize one image."""
        if isinstance(self.scale, int):
            height, width = img.shape[:2]
            factor = self.scale / min(height, width)
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
        else:
            size = (self.scale[1], self.scale[0])
        return from_pil(to_pil(img).resize(size, self.resampling))


@TRANSFORMS.register_module()
class CenterCrop(ImageTransform):
    """Cut out the middle.

    Args:
        size: ``(height, width)`` or one number for both, in pixels, not above the image's.
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        self.size = pair("size", size)

    def apply(self, img: np.ndarray) -> np.ndarray:
        """Crop one image."""
        top, left = (have - want for have, want in zip(img.shape[:2], self.size, strict=True))
        if min(top, left) < 0:
            raise ValueError(f"cannot cut {self.size} pixels out of an image of {img.shape[:2]}")
        top, left = top // 2, left // 2
        return img[top : top + self.size[0], left : left + self.size[1]]


@TRANSFORMS.register_module()
class RandomCrop(ImageTransform):
    """Cut out a window at a random place, after padding.

    Args:
        size: ``(height, width)`` or one number for both, in pixels.
        padding: Pixels added on each side.
        fill: Value of added pixels, 0–255.
    """

    def __init__(self, size: int | tuple[int, int], padding: int = 0, fill: int = 0) -> None:
        self.size = pair("size", size)
        self.padding = padding
        self.fill = fill

    def apply(self, img: np.ndarray) -> np.ndarray:
        """Crop one image."""
        if self.padding:
            around = ((self.padding, self.padding), (self.padding, self.padding), (0, 0))
            img = np.pad(img, around, constant_values=self.fill)
        room = [have - want for have, want in zip(img.shape[:2], self.size, strict=True)]
        if min(room) < 0:
            raise ValueError(f"cannot cut {self.size} pixels out of an image of {img.shape[:2]}")
        top, left = random.randint(0, room[0]), random.randint(0, room[1])
        return img[top : top + self.size[0], left : left + self.size[1]]


@TRANSFORMS.register_module()
class RandomResizedCrop(ImageTransform):
    """Cut out a window of random area and aspect ratio and resize it (Szegedy et al., 2015).

    Args:
        size: ``(height, width)`` of the result, or one number for both, in pixels.
        area: Least and greatest share of the image's area.
        ratio: Least and greatest width divided by height.
        interpolation: ``'nearest'``, ``'bilinear'`` or ``'bicubic'``.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        area: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ) -> None:
        self.size = pair("size", size)
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(
                f"area must be (least, greatest) with 0 < least <= greatest <= 1, got {area}"
            )
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio must be (least, greatest), both positive, got {ratio}")
        self.area = area
        self.log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
        self.resampling = _resampling(interpolation)

    def apply(self, img: np.ndarray) -> np.ndarray:
        """Crop and resize one image."""
        full_height, full_width = img.shape[:2]
        for _ in range(10):
            target = full_height * full_width * random.uniform(*self.area)
            aspect = math.exp(random.uniform(*self.log_ratio))
            width, height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if 0 < width <= full_width and 0 < height <= full_height:
                break
        else:  # no window of that shape fits: take the largest square in the middle
            width = height = min(full_height, full_width)
        top = random.randint(0, full_height - height)
        left = random.randint(0, full_width - width)
        box = (left, top, left + width, top + height)
        return from_pil(to_pil(img).resize((self.size[1], self.size[0]), self.resampling, box=box))


@TRANSFORMS.register_module()
class RandomFlip(ImageTransform):
    """Mirror the image with a probability.

    Args:
        prob: Probability, 0–1.
        direction: ``'horizontal'`` or ``'vertical'``.
    """

    def __init__(self, prob: float = 0.5, direction: str = "horizontal") -> None:
        self.prob = check_probability("prob", prob)
        if direction not in ("horizontal", "vertical"):
            raise ValueError(f"direction must be 'horizontal' or 'vertical', got {direction!r}")
        self.axis = 1 if direction == "horizontal" else 0

    def apply(self, img: np.ndarray) -> np.ndarray:
        """Flip one image, or not."""
        return np.flip(img, self.axis) if random.random() < self.prob else img


@TRANSFORMS.register_module()
class RandomAffine(ImageTransform):
    """Rotate, scale, shear and shift at random around the middle of the image.

    Args:
        degrees: Greatest rotation, in degrees, either way.
        translate: Greatest shift, as a share of height and width, any way.
        scale: Least and greatest magnification.
        shear: Greatest shear, in degrees, either way.
        fill: Value of pixels from outside, 0–255.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        translate: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        shear: float = 0.0,
        fill: int = 0,
    ) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be (least, greatest), both positive, got {scale}")
        self.degrees, self.shear = math.radians(degrees), math.radians(shear)
        self.translate, self.scale, self.fill = translate, scale, fill

    def apply(self, img: np.ndarray) -> np.ndarray:
        """Map one image."""
        angle = random.uniform(-self.degrees, self.degrees)
        shear = math.tan(random.uniform(-self.shear, self.shear))
        zoom = random.uniform(*self.scale)
        height, width = img.shape[:2]
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        shift_x = random.uniform(-self.translate, self.translate) * width
        shift_y = random.uniform(-self.translate, self.translate) * height
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        # PIL wants the inverse map: where each pixel of the result comes from.
        a, b, d, e = cos + sin * shear, sin, cos * shear - sin, cos
        c = middle_x - a * (middle_x + shift_x) - b * (middle_y + shift_y)
        f = middle_y - d * (middle_x + shift_x) - e * (middle_y + shift_y)
        # PIL measures from pixel corners, half a pixel off our centres.
        c, f = c + (1 - a - b) / 2, f + (1 - d - e) / 2
        pil = to_pil(img)
        fill = self.fill if img.shape[-1] == 1 else (self.fill,) * 3
        moved = pil.transform(
            pil.size,
            Image.Transform.AFFINE,
            (a, b, c, d, e, f),
            Image.Resampling.BILINEAR,
            fillcolor=fill,
        )
        return from_pil(moved)
