"""Data elements of labels."""

from __future__ import annotations

import torch

from mmx.structures.base_data_element import BaseDataElement
from mmx.utils.errors import InvalidTypeError, InvalidValueError


class LabelData(BaseDataElement):
    """Data of the labels of a sample, with conversions between indices and one-hot form."""

    @staticmethod
    def onehot_to_label(onehot: torch.Tensor) -> torch.Tensor:
        """Return the class indices, int64 of shape ``(labels,)``, of a one-hot or multi-hot vector.

        Args:
            onehot: Zeros and ones, of shape ``(classes,)``.

        Raises:
            TypeError: No tensor is given.
            ValueError: It has more than one axis, or other values than 0 and 1.
        """
        if not isinstance(onehot, torch.Tensor):
            raise InvalidTypeError(f"onehot must be a tensor, but got {type(onehot)}")
        if onehot.ndim != 1 or not bool(((onehot == 0) | (onehot == 1)).all()):
            raise InvalidValueError("input is not one-hot and can not convert to label")
        return onehot.nonzero().view(-1)

    @staticmethod
    def label_to_onehot(label: torch.Tensor, num_classes: int) -> torch.Tensor:
        """Return the one-hot or multi-hot vector, of shape ``(classes,)``, of class indices.

        Args:
            label: Class indices from 0, of an integer type and shape ``(labels,)``.
            num_classes: Number of classes.

        Raises:
            TypeError: ``label`` is no tensor of integers.
            ValueError: It has more than one axis, or an index is not below ``num_classes``.
        """
        if not isinstance(label, torch.Tensor) or label.is_floating_point() or label.is_complex():
            raise InvalidTypeError(
                "label must be a tensor of integers, but got "
                f"{label.dtype if isinstance(label, torch.Tensor) else type(label)}"
            )
        if label.ndim > 1:
            raise InvalidValueError(f"label must have one axis, but has shape {tuple(label.shape)}")
        if label.numel() and not 0 <= int(label.min()) <= int(label.max()) < num_classes:
            raise InvalidValueError(
                f"label must lie in [0, {num_classes}), but got values from {int(label.min())} to "
                f"{int(label.max())}"
            )
        onehot = label.new_zeros((num_classes,))
        onehot[label.long()] = 1
        return onehot
