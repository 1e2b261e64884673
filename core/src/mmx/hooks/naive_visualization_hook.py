"""Draws test samples with their predictions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.registry import HOOKS
from mmx.utils.dl_utils import tensor2imgs

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class NaiveVisualizationHook(Hook):
    """Hands test images and predictions to the visualizer's ``add_datasample``.

    Each item of a test batch is a dict with ``inputs``, ``(C, H, W)`` or ``(H, W)`` from 0 to 255,
    and ``data_sample`` (or ``data_samples``), whose metainfo says ``img_path``, ``ori_height`` and
    ``ori_width``, and, for padded images, ``pad_shape`` and ``scale`` (the size before padding,
    ``(width, height)``). The batch is a list of such items, or, as the usual collate functions make
    it, a dict of their columns; MMEngine's hook takes the former only.

    Args:
        interval: Batches between drawn ones.
        draw_gt: Draw annotations.
        draw_pred: Draw predictions.
    """

    priority = "NORMAL"

    def __init__(self, interval: int = 1, draw_gt: bool = True, draw_pred: bool = True) -> None:
        self.draw_gt = draw_gt
        self.draw_pred = draw_pred
        self._interval = interval

    def _unpad(
        self, input: np.ndarray[Any, Any], unpad_shape: tuple[int, int]
    ) -> np.ndarray[Any, Any]:
        """Return the upper left part of a padded image.

        Args:
            input: ``(H, W, C)``.
            unpad_shape: ``(width, height)`` before padding.
        """
        width, height = unpad_shape
        return input[:height, :width]

    def before_train(self, runner: RunnerLike) -> None:
        """Record the model's graph."""
        runner.visualizer.add_graph(runner.model, None)

    def after_test_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw the batch, if it is due."""
        if not self.every_n_inner_iters(batch_idx, self._interval):
            return
        for (inputs, sample), output in zip(_items(data_batch), outputs or (), strict=False):
            image = _as_image(inputs)
            size = (sample.ori_width, sample.ori_height)
            if "pad_shape" in sample:
                image = self._unpad(image, sample.get("scale", size))
            runner.visualizer.add_datasample(
                os.path.basename(sample.img_path),
                _resized(image, size),
                sample,
                output,
                self.draw_gt,
                self.draw_pred,
            )


def _items(data_batch: Any) -> Iterator[tuple[torch.Tensor, Any]]:
    """Yield inputs and data sample of each item of a batch."""
    if isinstance(data_batch, Mapping):
        yield from zip(data_batch["inputs"], _data_samples(data_batch), strict=True)
        return
    for item in data_batch or ():
        yield item["inputs"], _data_samples(item)


def _data_samples(part: Mapping[str, Any]) -> Any:
    return part["data_sample"] if "data_sample" in part else part["data_samples"]


def _as_image(inputs: torch.Tensor) -> np.ndarray[Any, Any]:
    chw = inputs[None] if inputs.ndim == 2 else inputs
    # Back ends store whole numbers only.
    return tensor2imgs(chw[None], to_bgr=False)[0].round().clip(0, 255).astype(np.uint8)


def _resized(image: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    width, height = size
    if image.shape[:2] == (height, width):
        return image
    chw = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
    scaled = F.interpolate(chw[None], (height, width), mode="bilinear", align_corners=False)[0]
    resized: np.ndarray[Any, Any] = scaled.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    return resized
