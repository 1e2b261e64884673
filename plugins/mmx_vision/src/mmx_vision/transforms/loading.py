"""From files to arrays, and from arrays to tensors."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from mmx.fileio import get
from mmx_vision.registry import TRANSFORMS
from mmx_vision.transforms.base import BaseTransform, Sample, from_pil


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Read ``img_path`` into ``img``, uint8 ``(H, W, C)``.

    Args:
        color: ``'rgb'`` (3 channels) or ``'grey'`` (1 channel).
        backend_args: Arguments of the file back end, for addresses like ``s3://…``.
    """

    def __init__(self, color: str = "rgb", backend_args: dict | None = None) -> None:
        if color not in ("rgb", "grey"):
            raise ValueError(f"color must be 'rgb' or 'grey', got {color!r}")
        self.mode = "RGB" if color == "rgb" else "L"
        self.backend_args = backend_args

    def transform(self, results: Sample) -> Sample:
        """Read the image."""
        data = get(results["img_path"], backend_args=self.backend_args)
        with Image.open(io.BytesIO(data)) as img:
            results["img"] = from_pil(img.convert(self.mode))
        results["ori_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class PackInputs(BaseTransform):
    """End a pipeline: return what the model takes.

    ``inputs`` is the image as a tensor ``(C, H, W)`` of its own dtype, ``data_samples`` its class
    as int64 of shape ``()``, if it is known.
    """

    def transform(self, results: Sample) -> Sample:
        """Pack one sample."""
        img_chw = np.array(results["img"].transpose(2, 0, 1))  # a copy, contiguous and writable
        packed = {"inputs": torch.from_numpy(img_chw)}
        # A sample to predict on has no class.
        if "gt_label" in results:
            packed["data_samples"] = torch.tensor(results["gt_label"], dtype=torch.int64)
        return packed
