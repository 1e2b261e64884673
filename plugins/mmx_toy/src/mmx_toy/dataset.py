"""Two noisy rings of points in the plane, one for each class."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmx_toy.registry import DATASETS


@DATASETS.register_module()
class TwoRings(Dataset[tuple[Tensor, Tensor]]):
    """Points at a distance of about 3 (class 0) or 6 (class 1) from the origin.

    Each sample is a point, float32 of shape ``(2,)``, and its class, int64 of shape ``()``.

    Args:
        size: Number of points.
        seed: Two data sets of one seed are equal.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 2, (size,), generator=generator)
        radius = 3 * (self.labels + 1) + 0.6 * torch.randn(size, generator=generator)
        angle = 2 * torch.pi * torch.rand(size, generator=generator)
        self.points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index], self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)
