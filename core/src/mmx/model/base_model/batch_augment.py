"""Augmentation that mixes the samples of a batch: MixUp and CutMix."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.model.base_model.data_preprocessor import BaseDataPreprocessor
from mmx.registry import MODELS


class BatchMixDataPreprocessor(BaseDataPreprocessor):
    """Base class of preprocessors that mix each sample of a training batch with another one.

    A batch is a tuple or list that begins with images and labels, or a dict with them. Images are
    ``(N, C, ...)``; labels are classes ``(N,)``, or probabilities ``(N, num_classes)``. In training
    they come out as float32 probabilities ``(N, num_classes)``, which
    :func:`torch.nn.functional.cross_entropy` takes; otherwise they are left as they are. Draws from
    NumPy's and torch's random state.

    Args:
        num_classes: Number of classes.
        alpha: λ, the share that a sample keeps, is drawn from Beta(``alpha``, ``alpha``).
        prob: Probability that a batch is mixed.
        data_preprocessor: What moves and normalises first, such as ``ImgDataPreprocessor``, or its
            config; None only moves.
        inputs_key: Key of the images where a batch is a dict.
        labels_key: Key of the labels where a batch is a dict.
        non_blocking: Do not wait for copies; see :class:`BaseDataPreprocessor`.

    Raises:
        ValueError: ``alpha`` is not positive, ``prob`` is no probability, or there are not at least
            two classes.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: float = 1.0,
        prob: float = 1.0,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        inputs_key: str = "inputs",
        labels_key: str = "labels",
        non_blocking: bool | None = False,
    ) -> None:
        super().__init__(non_blocking)
        if num_classes < 2:
            raise ValueError(f"num_classes should be at least 2, but got {num_classes}")
        if not alpha > 0:
            raise ValueError(f"alpha should be positive, but got {alpha}")
        if not 0 <= prob <= 1:
            raise ValueError(f"prob should be between 0 and 1, but got {prob}")
        self.num_classes = num_classes
        self.alpha = alpha
        self.prob = prob
        self.inputs_key = inputs_key
        self.labels_key = labels_key
        if isinstance(data_preprocessor, dict):
            data_preprocessor = MODELS.build(data_preprocessor)
        self.data_preprocessor: Any = data_preprocessor

    @abstractmethod
    def mix(self, imgs: Tensor, index: Tensor, lam: float) -> tuple[Tensor, float]:
        """Mix each image with another one.

        Args:
            imgs: Images ``(N, C, ...)``, floating-point; not to be changed.
            index: For each image the number of the other one, ``(N,)``.
            lam: The share that was drawn for the image itself.

        Returns:
            Mixed images, and the share that they really have of themselves.
        """

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch, mixed if it is for training.

        Args:
            data: Batch.
            training: Whether to mix.

        Raises:
            TypeError: The batch is of another type.
            KeyError: A dict lacks the images or the labels.
            ValueError: Images and labels are no batches of one size, or the labels have another
                shape.
        """
        if self.data_preprocessor is None:
            data = self.cast_data(data)
        else:
            data = self.data_preprocessor(data, training)
        if not training:
            return data
        if isinstance(data, dict):
            for key in (self.inputs_key, self.labels_key):
                if key not in data:
                    raise KeyError(
                        f"{type(self).__name__} needs {key!r} in the batch, which has {list(data)}; "
                        "inputs_key and labels_key name the images and labels"
                    )
            imgs, labels = self._mixed(data[self.inputs_key], data[self.labels_key])
            return {**data, self.inputs_key: imgs, self.labels_key: labels}
        if isinstance(data, (tuple, list)) and len(data) >= 2:
            return type(data)((*self._mixed(data[0], data[1]), *data[2:]))
        raise TypeError(
            f"{type(self).__name__} mixes batches that are a dict, or a tuple or list of images and "
            f"labels, but got {type(data)}"
        )

    def _mixed(self, imgs: Any, labels: Any) -> tuple[Tensor, Tensor]:
        if isinstance(labels, list):
            labels = torch.stack([torch.as_tensor(label) for label in labels]).to(self._device)
        if not isinstance(imgs, Tensor) or imgs.dim() < 2:
            what = tuple(imgs.shape) if isinstance(imgs, Tensor) else type(imgs).__name__
            raise ValueError(
                f"{type(self).__name__} needs images as one tensor (N, C, ...), but got {what}; give it "
                "a data_preprocessor that stacks them, such as ImgDataPreprocessor"
            )
        scores = self._scores(labels)
        if len(imgs) != len(scores):
            raise ValueError(f"there are {len(imgs)} images but {len(scores)} labels")
        if not imgs.is_floating_point():
            imgs = imgs.float()
        if self.prob < 1 and np.random.rand() >= self.prob:
            return imgs, scores
        lam = float(np.random.beta(self.alpha, self.alpha))
        index = torch.randperm(len(imgs), device=imgs.device)
        imgs, lam = self.mix(imgs, index, lam)
        return imgs, scores[index].lerp_(scores, lam)

    def _scores(self, labels: Tensor) -> Tensor:
        if labels.dim() == 1 and not labels.is_floating_point():
            return F.one_hot(labels.long(), self.num_classes).float()
        if labels.dim() == 2 and labels.shape[1] == self.num_classes:
            return labels.float()
        raise ValueError(
            f"labels should be classes (N,) or probabilities (N, {self.num_classes}), but got "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )


@MODELS.register_module()
class MixUpDataPreprocessor(BatchMixDataPreprocessor):
    """Blend each image of a training batch, and its label, with another (Zhang et al., 2018).

    ``λ · image + (1 - λ) · other``, and labels alike: arXiv:1710.09412. Arguments are those of
    :class:`BatchMixDataPreprocessor`.
    """

    def mix(self, imgs: Tensor, index: Tensor, lam: float) -> tuple[Tensor, float]:
        """Blend."""
        return imgs[index].lerp_(imgs, lam), lam


@MODELS.register_module()
class CutMixDataPreprocessor(BatchMixDataPreprocessor):
    """Paste a box of another image into each of a training batch (Yun et al., 2019).

    The box has the share 1 - λ of the image, wherever its centre lies; what falls outside is cut
    off, and λ of the labels becomes the share of the image that is really left: arXiv:1905.04899.
    Arguments are those of :class:`BatchMixDataPreprocessor`; images are ``(N, C, H, W)``.
    """

    def mix(self, imgs: Tensor, index: Tensor, lam: float) -> tuple[Tensor, float]:
        """Paste."""
        if imgs.dim() != 4:
            raise ValueError(
                f"CutMixDataPreprocessor needs images (N, C, H, W), but got {tuple(imgs.shape)}"
            )
        height, width = imgs.shape[-2:]
        share = (1.0 - lam) ** 0.5
        (top, bottom), (left, right) = _span(height, share), _span(width, share)
        box = (..., slice(top, bottom), slice(left, right))
        mixed = imgs.clone()
        mixed[box] = imgs[box][index]
        return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)


def _span(size: int, share: float) -> tuple[int, int]:
    """Return begin and end of a span of about ``share`` of a side, around a random centre."""
    length = int(size * share)
    centre = int(np.random.randint(size))
    return max(centre - length // 2, 0), min(centre - length // 2 + length, size)
