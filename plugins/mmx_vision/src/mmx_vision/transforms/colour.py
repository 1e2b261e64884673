"""What value pixels have: jitter, noise, erasing."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import ImageEnhance

from mmx_vision.registry import TRANSFORMS
from mmx_vision.transforms.base import ImageTransform, check_probability, from_pil, to_pil


@TRANSFORMS.register_module()
class ColorJitter(ImageTransform):
    """Change brightness, contrast and saturation by random factors, in random order.

    Args:
        brightness: The factor is drawn from ``1 - brightness`` to ``1 + brightness``; 0 is none.
        contrast: Likewise.
        saturation: Likewise.
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0
    ) -> None:
        wanted = {
            ImageEnhance.Brightness: brightness,
            ImageEnhance.Contrast: contrast,
            ImageEnhance.Color: saturation,
        }
        for value in wanted.values():
            if value < 0:
                raise ValueError(f"strengths must not be negative, got {value}")
        self.steps = [(kind, value) for kind, value in wanted.items() if value]

    def apply(self, img: np.ndarray) -> np.ndarray:
        """Jitter one image."""
        pil = to_pil(img)
        for kind, strength in random.sample(self.steps, len(self.steps)):
            pil = kind(pil).enhance(random.uniform(max(0.0, 1 - strength), 1 + strength))
        return from_pil(pil)


@TRANSFORMS.register_module()
class RandomErasing(ImageTransform):
    """Blank a random rectangle with a probability (Zhong et al., 2020).

    Args:
        prob: Probability, 0–1.
        area: Least and greatest share of the image's area.
        fill: Value of the blank, 0–255.
    """

    def __init__(
        self, prob: float = 0.5, area: tuple[float, float] = (0.02, 0.2), fill: int = 0
    ) -> None:
        self.prob = check_probability("prob", prob)
        if not 0 < area[0] <= area[1] < 1:
            raise ValueError(
                f"area must be (least, greatest) with 0 < least <= greatest < 1, got {area}"
            )
        self.area = area
        self.fill = fill

    def apply(self, img: np.ndarray) -> np.ndarray:
        """Erase from one image, or not."""
        if random.random() >= self.prob:
            return img
        height, width = img.shape[:2]
        target = height * width * random.uniform(*self.area)
        aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
        tall = min(height, max(1, round(math.sqrt(target * aspect))))
        wide = min(width, max(1, round(math.sqrt(target / aspect))))
        top, left = random.randint(0, height - tall), random.randint(0, width - wide)
        img = img.copy()
        img[top : top + tall, left : left + wide] = self.fill
        return img
