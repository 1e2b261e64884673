"""Residual networks (He et al., 2016, arXiv:1512.03385), for large and for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmx.model import BaseModule
from mmx_vision.registry import MODELS


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut; the stride is on the 3×3 one."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        channels_out = channels * self.expansion
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
    )


@MODELS.register_module()
class ResNet(BaseModule):
    """The backbone of a residual network; parameters are named as in torchvision.

    Args:
        depth: 18, 34, 50, 101 or 152; or a list with the number of blocks of each stage.
        block: ``'basic'`` or ``'bottleneck'``; None chooses by the depth.
        in_channels: Channels of the image.
        base_channels: Channels of the first stage; each further stage doubles them.
        stem: ``'imagenet'`` (7×7, stride 2, then pooling: an eighth of the resolution is gone
            before the second stage) or ``'small'`` (one 3×3 convolution of stride 1).
        out_indices: Stages whose output is returned, 0-based.
        init_cfg: How to initialise; the default is He's for convolutions, one for norms.
    """

    depths: dict[int, tuple[str, tuple[int, ...]]] = {
        18: ("basic", (2, 2, 2, 2)),
        34: ("basic", (3, 4, 6, 3)),
        50: ("bottleneck", (3, 4, 6, 3)),
        101: ("bottleneck", (3, 4, 23, 3)),
        152: ("bottleneck", (3, 8, 36, 3)),
    }
    blocks: dict[str, type[BasicBlock] | type[Bottleneck]] = {
        "basic": BasicBlock,
        "bottleneck": Bottleneck,
    }

    def __init__(
        self,
        depth: int | Sequence[int] = 18,
        block: str | None = None,
        in_channels: int = 3,
        base_channels: int = 64,
        stem: str = "imagenet",
        out_indices: Sequence[int] = (-1,),
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                {"type": "Kaiming", "layer": ["Conv2d"]},
                {"type": "Constant", "val": 1, "layer": ["BatchNorm2d"]},
            ]
        super().__init__(init_cfg)
        if isinstance(depth, int):
            if depth not in self.depths:
                known = ", ".join(map(str, self.depths))
                raise ValueError(
                    f"depth must be one of {known}, or a list of blocks for each stage; got {depth}"
                )
            default_block, num_blocks = self.depths[depth]
        else:
            default_block, num_blocks = "basic", tuple(depth)
        kind = block or default_block
        if kind not in self.blocks:
            raise ValueError(f"block must be one of {', '.join(self.blocks)}, got {kind!r}")
        unit = self.blocks[kind]
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, base_channels, 7, 2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, 2, padding=1)
        elif stem == "small":
            self.conv1 = nn.Conv2d(in_channels, base_channels, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        else:
            raise ValueError(f"stem must be 'imagenet' or 'small', got {stem!r}")
        self.bn1 = nn.BatchNorm2d(base_channels)
        self.relu = nn.ReLU(inplace=True)
        channels_in = base_channels
        self.stage_names = []
        for stage, count in enumerate(num_blocks):
            channels = base_channels * 2**stage
            units = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                units.append(unit(channels_in, channels, stride))
                channels_in = channels * unit.expansion
            name = f"layer{stage + 1}"
            self.add_module(name, nn.Sequential(*units))
            self.stage_names.append(name)
        self.out_channels = channels_in
        self.out_indices = {index % len(num_blocks) for index in out_indices}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the chosen stages' features, ``(N, C, H, W)`` each, from images ``(N, C, H, W)``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outputs = []
        for index, name in enumerate(self.stage_names):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)


@MODELS.register_module()
class GlobalAveragePooling(nn.Module):
    """A neck: the mean of each channel over all pixels, ``(N, C, H, W)`` to ``(N, C)``."""

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        return torch.mean(features[-1], dim=(2, 3))
