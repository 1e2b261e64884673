"""Data elements whose fields all have one height and width."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import numpy as np
import torch

from mmx.structures.base_data_element import _PRIVATE, BaseDataElement
from mmx.utils.errors import InvalidTypeError, InvalidValueError

T = TypeVar("T", bound="PixelData")


class PixelData(BaseDataElement):
    """Data of the pixels of a sample: segmentation maps, depth, features.

    All data fields are tensors or arrays of shape ``(C, H, W)`` with the same height and width. A
    value of shape ``(H, W)`` gets a first axis of length 1, with a warning.

    Example:
        >>> import torch
        >>> PixelData(depth=torch.zeros(1, 20, 40))[:10, 5:].shape
        (10, 35)
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PRIVATE:
            self._set_private(name, value)
            return
        if not isinstance(value, (torch.Tensor, np.ndarray)):
            raise InvalidTypeError(
                f"Can not set {type(value)}, only support {(torch.Tensor, np.ndarray)} (field {name!r})"
            )
        if value.ndim not in (2, 3):
            raise InvalidValueError(
                f"The dim of value must be 2 or 3, but got {value.ndim} (field {name!r})"
            )
        shape = self.shape
        if shape is not None and tuple(value.shape[-2:]) != shape:
            raise InvalidValueError(
                f"The height and width of values {tuple(value.shape[-2:])} is not consistent with the "
                f"shape of this :obj:`PixelData` {shape} (field {name!r})"
            )
        if value.ndim == 2:
            warnings.warn(
                f"The shape of value will convert from {value.shape} to {value[None].shape}",
                stacklevel=2,
            )
            value = value[None]
        self.set_field(name=name, value=value, field_type="data", dtype=None)

    def __getitem__(self: T, item: tuple[int | slice, int | slice]) -> T:
        """Return the part of the given rows and columns as a new element; an int keeps its axis.

        Raises:
            TypeError: ``item`` is no tuple of ints and slices.
            ValueError: It has not two items.
        """
        if not isinstance(item, tuple):
            raise InvalidTypeError(f"Unsupported type {type(item)} for slicing PixelData")
        if len(item) != 2:
            raise InvalidValueError(
                f"Only support to slice height and width, but got {len(item)} indices"
            )
        window = []
        for index in item:
            if isinstance(index, (int, np.integer)):
                # -1 would end before it begins.
                index = slice(int(index), None if index == -1 else int(index) + 1)
            elif not isinstance(index, slice):
                raise InvalidTypeError(
                    f"The type of element in input must be int or slice, but got {type(index)}"
                )
            window.append(index)
        element = type(self)(metainfo=self.metainfo)
        for name, value in self.items():
            setattr(element, name, value[:, window[0], window[1]])
        return element

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width; None without data fields."""
        for name in self._data_fields:
            height, width = getattr(self, name).shape[-2:]
            return int(height), int(width)
        return None
