"""Data elements whose fields all have one length: one entry for each instance."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any, TypeVar

import numpy as np
import torch

from mmx.structures.base_data_element import _PRIVATE, BaseDataElement, FieldNames, _copy_meta
from mmx.utils.errors import InvalidTypeError, InvalidValueError

T = TypeVar("T", bound="InstanceData")

Index = str | slice | int | list[Any] | np.ndarray | torch.Tensor


class IndexTypeError(InvalidTypeError, IndexError):
    """An index of a type that cannot index; tensors call this an IndexError."""


class InstanceData(BaseDataElement):
    """Data of the instances in a sample, boxes and labels for example.

    All data fields have the same length and are indexed together along their first axis. Values are
    tensors, arrays, lists, tuples, strings, or objects of a class that has ``__len__``,
    ``__getitem__`` and, for everything but slices, a static method ``cat(list)``.

    Example:
        >>> import torch
        >>> found = InstanceData(scores=torch.tensor([0.9, 0.2, 0.7]), names=["cat", "dog", "cow"])
        >>> found[found.scores > 0.5].names
        ['cat', 'cow']
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PRIVATE:
            self._set_private(name, value)
            return
        if not isinstance(value, Sized):
            raise InvalidTypeError(
                f"value must contain `__len__` attribute, but {name!r} is a {type(value)}"
            )
        size = len(self)
        if size > 0 and len(value) != size:
            raise InvalidValueError(
                f"The length of values {len(value)} is not consistent with the length of this "
                f":obj:`InstanceData` {size} (field {name!r})"
            )
        self.set_field(name=name, value=value, field_type="data", dtype=None)

    __setitem__ = __setattr__

    def __len__(self) -> int:
        """Return the number of instances; 0 without data fields."""
        for name in self._data_fields:
            return len(self.__dict__[name] if name in self.__dict__ else getattr(self, name))
        return 0

    def __getitem__(self: T, item: Index) -> Any:
        """Return the chosen instances as a new element, or the field of a name.

        Args:
            item: A name; an int (the result has length 1); a slice; ints or bools as a list, an
                array or a tensor of one axis. Bools are as many as there are instances.

        Raises:
            TypeError: An index of another type.
            IndexError: An int out of range.
            ValueError: An array of more than one axis, or of the wrong number of bools; or a field
                that can only be sliced.
        """
        if isinstance(item, str):
            return getattr(self, item)
        if isinstance(item, (int, np.integer)):
            size = len(self)
            if not -size <= item < size:
                raise IndexError(f"Index {item} out of range!")
            # The axis is kept, and a negative index is no special case.
            item = slice(int(item), None, size)
        if isinstance(item, slice):
            return self._like({name: value[item] for name, value in self.items()})
        index = _as_tensor(item)
        if index.dim() != 1:
            raise InvalidValueError(
                "Only support to get the values along the first dimension, but the index has "
                f"{index.dim()} dimensions"
            )
        if index.dtype == torch.bool and len(index) != len(self):
            raise InvalidValueError(
                f"The shape of the input(BoolTensor) {len(index)} does not match the shape of the "
                f"indexed tensor in results_field {len(self)} at first dimension."
            )
        return self._like(_take(dict(self.items()), index))

    def _like(self: T, data: dict[str, Any]) -> T:
        """Return a new element of this class with these data fields and copied meta fields."""
        cls = type(self)
        if (
            cls.__init__ is BaseDataElement.__init__
            and cls.__setattr__ is InstanceData.__setattr__
            and cls.set_field is BaseDataElement.set_field
            and not any(hasattr(cls, name) for name in data)
        ):
            # The values have one length, and their names are fields of this element already:
            # nothing is left to check.
            element = cls.__new__(cls)
            own = self.__dict__
            attributes = {name: _copy_meta(own[name]) for name in self._metainfo_fields}
            attributes.update(data)
            attributes["_metainfo_fields"] = FieldNames(self._metainfo_fields)
            attributes["_data_fields"] = FieldNames.fromkeys(data)
            element.__dict__.update(attributes)
            return element
        element = cls(metainfo=self.metainfo)
        for name, value in data.items():
            setattr(element, name, value)
        return element

    @staticmethod
    def cat(instances_list: Sequence[T]) -> T:
        """Return the instances of all elements as one, with the meta fields of the first.

        Raises:
            TypeError: An item is no InstanceData.
            ValueError: The list is empty, the elements differ in their fields, or a field's type
                cannot be concatenated.
        """
        first = _check_list(instances_list, "cat")
        if len(instances_list) == 1:
            return first
        element = type(first)(metainfo=first.metainfo)
        for name, _ in first.items():
            setattr(element, name, _cat(name, [getattr(e, name) for e in instances_list]))
        return element

    @staticmethod
    def stack(instances_list: Sequence[T]) -> T:
        """Return elements of equal length as one with a new first axis, and meta fields of the first.

        Tensors and arrays are stacked, ``(N, ...)`` to ``(len(instances_list), N, ...)``; other
        fields become lists of the elements' values.

        Raises:
            TypeError: An item is no InstanceData.
            ValueError: The list is empty, or the elements differ in their fields.
        """
        first = _check_list(instances_list, "stack")
        element = type(first)(metainfo=first.metainfo)
        for name, _ in first.items():
            values = [getattr(e, name) for e in instances_list]
            if isinstance(values[0], torch.Tensor):
                setattr(element, name, torch.stack(values))
            elif isinstance(values[0], np.ndarray):
                setattr(element, name, np.stack(values))
            else:
                setattr(element, name, values)
        return element


def _check_list(instances_list: Sequence[T], operation: str) -> T:
    if len(instances_list) == 0:
        raise InvalidValueError(
            f"instances_list is empty: {operation} needs at least one InstanceData"
        )
    for element in instances_list:
        if not isinstance(element, InstanceData):
            raise InvalidTypeError(
                f"instances_list must hold InstanceData only, but it has a {type(element)}"
            )
    first = instances_list[0]
    names = set(first.all_keys())
    for element in instances_list:
        if set(element.all_keys()) != names:
            raise InvalidValueError(
                f"There are different keys in `instances_list`, which may cause the {operation} "
                "operation to fail. Please make sure all elements in `instances_list` have the exact "
                f"same key. They differ in {sorted(names ^ set(element.all_keys()))}."
            )
    return first


def _as_tensor(item: Any) -> torch.Tensor:
    """Return an index as a tensor of int64 or bool."""
    index = item
    if isinstance(item, list):
        index = np.array(item) if item else np.empty(0, dtype=np.int64)
    if isinstance(index, np.ndarray):
        # Unsigned bytes may be a mask or numbers: tensors, arrays and lists disagree about them.
        if index.dtype.kind not in "iub" or index.dtype == np.uint8:
            raise IndexTypeError(
                f"an index must hold ints or bools, but got dtype {index.dtype}; of a uint8 mask "
                "make bools with `.astype(bool)`"
            )
        index = torch.from_numpy(index if index.dtype.kind == "b" else index.astype(np.int64))
    if not isinstance(index, torch.Tensor):
        raise IndexTypeError(
            "an index must be a str, an int, a slice, or a list, array or tensor of ints or bools, "
            f"but got {type(item)}"
        )
    if index.dtype == torch.bool or index.dtype == torch.int64:
        return index
    if index.dtype in (torch.int32, torch.int16, torch.int8):
        return index.long()
    raise IndexTypeError(
        f"an index must hold ints or bools, but got a tensor of {index.dtype}; of a uint8 mask "
        "make bools with `.bool()`"
    )


def _take(data: dict[str, Any], index: torch.Tensor) -> dict[str, Any]:
    """Return the fields at ``index``; the index is converted once for each kind of field."""
    # A mask becomes positions once, not for each field. They are not negative.
    is_mask = index.dtype == torch.bool
    if is_mask:
        index = index.nonzero().view(-1)
    array: np.ndarray | None = None
    positions: list[int] | None = None
    on_cpu = index if index.device.type == "cpu" else None
    taken: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, torch.Tensor):
            if value.device == index.device:
                taken[name] = value.index_select(0, index) if is_mask else value[index]
                continue
            # Any tensor takes an index on the CPU.
            on_cpu = index.cpu() if on_cpu is None else on_cpu
            taken[name] = value[on_cpu]
        elif isinstance(value, np.ndarray):
            array = index.cpu().numpy() if array is None else array
            taken[name] = value[array]
        elif isinstance(value, (list, tuple, str)) or (
            hasattr(value, "__getitem__") and hasattr(value, "cat")
        ):
            if positions is None:
                positions = index.tolist()
            taken[name] = _pick(value, positions)
        else:
            raise InvalidValueError(
                f"The type of `{name}` is `{type(value)}`, which has no attribute of `cat`, so it does "
                "not support slice with `bool`"
            )
    return taken


def _pick(value: Any, positions: list[int]) -> Any:
    if isinstance(value, list):
        return [value[i] for i in positions]
    if isinstance(value, tuple):
        return tuple(value[i] for i in positions)
    if isinstance(value, str):
        return "".join(value[i] for i in positions)
    if not positions:
        return value[0:0]
    # Slices keep the first axis, which an int may drop; a negative position is no special case.
    size = len(value)
    return value.cat([value[slice(i, None, size)] for i in positions])


def _cat(name: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(values, dim=0)
    if isinstance(first, np.ndarray):
        return np.concatenate(values, axis=0)
    if isinstance(first, str):
        return "".join(values)
    if isinstance(first, list):
        return [item for value in values for item in value]
    if isinstance(first, tuple):
        return tuple(item for value in values for item in value)
    if hasattr(first, "cat"):
        return first.cat(values)
    raise InvalidValueError(
        f"The type of `{name}` is `{type(first)}` which has no attribute of `cat`"
    )
