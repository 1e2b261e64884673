"""The base class of data elements."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Set
from typing import Any, TypeVar

import numpy as np
import torch

from mmx.utils.errors import InvalidTypeError, InvalidValueError

T = TypeVar("T", bound="BaseDataElement")

_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None)})
# Types that are no elements, told without a call.
_LEAVES = _ATOMS | {tuple, list, dict, torch.Tensor, np.ndarray}
_PRIVATE = ("_metainfo_fields", "_data_fields")


class FieldNames(dict[str, None]):
    """A set of field names that keeps their order and compares equal to plain sets."""

    def add(self, name: str) -> None:
        """Add a name; nothing happens if it is in."""
        self[name] = None

    def remove(self, name: str) -> None:
        """Remove a name.

        Raises:
            KeyError: The name is not in.
        """
        del self[name]

    def discard(self, name: str) -> None:
        """Remove a name if it is in."""
        dict.pop(self, name, None)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (Set, FieldNames)):
            return set(self) == set(other)
        return NotImplemented

    __hash__ = None  # mutable, as sets are

    # What else a set can do, for code that knows the fields as plain sets. Results are plain sets.

    def pop(self) -> str:  # type: ignore[override]  # a set's
        """Remove and return a name.

        Raises:
            KeyError: There is none.
        """
        return self.popitem()[0]

    def update(self, *others: Iterable[str]) -> None:  # type: ignore[override]  # a set's
        """Add all names."""
        for other in others:
            for name in other:
                self[name] = None

    def copy(self) -> FieldNames:
        """Return a copy."""
        return FieldNames(self)

    def union(self, *others: Iterable[str]) -> set[str]:
        """Return the names in any."""
        return set(self).union(*others)

    def intersection(self, *others: Iterable[str]) -> set[str]:
        """Return the names in all."""
        return set(self).intersection(*others)

    def difference(self, *others: Iterable[str]) -> set[str]:
        """Return the names that are in no other."""
        return set(self).difference(*others)

    def symmetric_difference(self, other: Iterable[str]) -> set[str]:
        """Return the names that are in one only."""
        return set(self).symmetric_difference(other)

    def issubset(self, other: Iterable[str]) -> bool:
        """Tell whether all names are in the other."""
        return set(self).issubset(other)

    def issuperset(self, other: Iterable[str]) -> bool:
        """Tell whether all names of the other are in."""
        return set(self).issuperset(other)

    def isdisjoint(self, other: Iterable[str]) -> bool:
        """Tell whether no name is in both."""
        return set(self).isdisjoint(other)

    def __le__(self, other: Any) -> bool:
        return set(self) <= set(other)

    def __lt__(self, other: Any) -> bool:
        return set(self) < set(other)

    def __ge__(self, other: Any) -> bool:
        return set(self) >= set(other)

    def __gt__(self, other: Any) -> bool:
        return set(self) > set(other)

    def __sub__(self, other: Any) -> set[str]:
        return set(self) - set(other)

    def __rsub__(self, other: Any) -> set[str]:
        return set(other) - set(self)

    def __and__(self, other: Any) -> set[str]:
        return set(self) & set(other)

    def __or__(self, other: Any) -> Any:
        return set(self) | set(other)

    def __xor__(self, other: Any) -> set[str]:
        return set(self) ^ set(other)

    __rand__ = __and__
    __ror__ = __or__
    __rxor__ = __xor__

    def __repr__(self) -> str:
        return "{" + ", ".join(map(repr, self)) + "}" if self else "set()"


def _as_dict(value: Any) -> Any:
    return value.to_dict() if isinstance(value, BaseDataElement) else value


def _copy_meta(value: Any) -> Any:
    """Return a deep copy; what cannot change is returned as it is, which is much faster."""
    kind = type(value)
    if kind in _ATOMS or (kind is tuple and all(type(v) in _ATOMS for v in value)):
        return value
    return copy.deepcopy(value)


class BaseDataElement:
    """A sample's data and meta information, as attributes of one object.

    Data fields are what is predicted or annotated (boxes, labels, masks): assigning to an attribute
    makes one. Meta fields describe the sample (image size, path): they are set with
    :meth:`set_metainfo`, copied deeply, and not overwritten by assignment. Elements may hold elements.

    A subclass narrows a field's type with a property that stores under a private name::

        class DetSample(BaseDataElement):
            @property
            def gt_instances(self):
                return self._gt_instances

            @gt_instances.setter
            def gt_instances(self, value):
                self.set_field(value, "_gt_instances", dtype=BaseDataElement)

            @gt_instances.deleter
            def gt_instances(self):
                del self._gt_instances

    Args:
        metainfo: Meta fields.
        **kwargs: Data fields.
    """

    _metainfo_fields: FieldNames
    _data_fields: FieldNames

    def __init__(self, *, metainfo: dict[str, Any] | None = None, **kwargs: Any) -> None:
        attributes = self.__dict__
        attributes["_metainfo_fields"] = FieldNames()
        attributes["_data_fields"] = FieldNames()
        if metainfo is not None:
            self.set_metainfo(metainfo=metainfo)
        if kwargs:
            self.set_data(kwargs)

    # -- setting ------------------------------------------------------------------------------

    def set_metainfo(self, metainfo: dict[str, Any]) -> None:
        """Add or change meta fields; values are copied deeply.

        Raises:
            TypeError: ``metainfo`` is not a dict.
            AttributeError: A name is that of a data field.
        """
        if not isinstance(metainfo, dict):
            raise InvalidTypeError(f"metainfo should be a ``dict`` but got {type(metainfo)}")
        for name, value in metainfo.items():
            self.set_field(name=name, value=_copy_meta(value), field_type="metainfo", dtype=None)

    def set_data(self, data: dict[str, Any]) -> None:
        """Add or change data fields, through the properties of the class where it has them.

        Raises:
            TypeError: ``data`` is not a dict.
            AttributeError: A name is that of a meta field.
        """
        if not isinstance(data, dict):
            raise InvalidTypeError(f"data should be a `dict` but got {data!r}")
        for name, value in data.items():
            setattr(self, name, value)

    def update(self, instance: BaseDataElement) -> None:
        """Take over all fields of another element.

        Raises:
            TypeError: ``instance`` is not a data element.
            AttributeError: A name is a data field in one and a meta field in the other.
        """
        if not isinstance(instance, BaseDataElement):
            raise InvalidTypeError(
                f"instance should be a `BaseDataElement` but got {type(instance)}"
            )
        self.set_metainfo(dict(instance.metainfo_items()))
        self.set_data(dict(instance.items()))

    def set_field(
        self,
        value: Any,
        name: str,
        dtype: type | tuple[type, ...] | None = None,
        field_type: str = "data",
    ) -> None:
        """Set one field.

        Args:
            value: Its value.
            name: Its name.
            dtype: Type that the value must have, if given.
            field_type: ``'data'`` or ``'metainfo'``.

        Raises:
            ValueError: ``field_type`` is neither.
            TypeError: The value is not of type ``dtype``.
            AttributeError: The name is that of a field of the other kind.
        """
        if dtype is not None and not isinstance(value, dtype):
            raise InvalidTypeError(f"{value} should be a {dtype} but got {type(value)}")
        if field_type == "data":
            if name in self._metainfo_fields:
                raise AttributeError(
                    f"Cannot set {name} to be a field of data because {name} is already a metainfo field"
                )
            self._data_fields[name] = None
        elif field_type == "metainfo":
            if name in self._data_fields:
                raise AttributeError(
                    f"Cannot set {name} to be a field of metainfo because {name} is already a data field"
                )
            self._metainfo_fields[name] = None
        else:
            raise InvalidValueError(f"field_type must be 'data' or 'metainfo', got {field_type!r}")
        object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PRIVATE:
            self._set_private(name, value)
        else:
            self.set_field(name=name, value=value, field_type="data", dtype=None)

    def _set_private(self, name: str, value: Any) -> None:
        # Only a subclass that does not call our __init__ gets here with a name that is not set.
        if name in self.__dict__:
            raise AttributeError(
                f"{name} has been used as a private attribute, which is immutable."
            )
        self.__dict__[name] = FieldNames.fromkeys(value)

    def __delattr__(self, name: str) -> None:
        if name in _PRIVATE:
            raise AttributeError(
                f"{name} has been used as a private attribute, which is immutable."
            )
        object.__delattr__(self, name)
        self._metainfo_fields.discard(name)
        self._data_fields.discard(name)

    __delitem__ = __delattr__

    def pop(self, *args: Any) -> Any:
        """Remove a field and return its value: ``pop(name)`` or ``pop(name, default)``.

        Raises:
            TypeError: None or more than two arguments are given.
            KeyError: There is no such field, and no default.
        """
        if not 1 <= len(args) <= 2:
            raise InvalidTypeError(
                f"``pop`` get more than 2 arguments: expected a name and a default, got {len(args)}"
                if args
                else "``pop`` expected a name and perhaps a default, got no argument"
            )
        name = args[0]
        if name in self._metainfo_fields or name in self._data_fields:
            value = getattr(self, name)
            if name in self.__dict__:
                del self.__dict__[name]
                self._metainfo_fields.discard(name)
                self._data_fields.discard(name)
            else:
                delattr(self, name)
            return value
        if len(args) == 2:
            return args[1]
        raise KeyError(f"{name} is not contained in metainfo or data")

    # -- reading ------------------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """Return the field or attribute ``key``, or ``default`` if there is none."""
        return getattr(self, key, default)

    def __contains__(self, item: str) -> bool:
        return item in self._data_fields or item in self._metainfo_fields

    def keys(self) -> list[str]:
        """Return the names of the data fields, in the order in which they were first set."""
        return [
            name
            for name in self.__dict__["_data_fields"]
            if name[:1] != "_" or not self._is_storage(name)
        ]

    def _is_storage(self, name: str) -> bool:
        """Whether a name is the private storage of a property, which is no field of its own."""
        return name[1:] in self._data_fields and isinstance(
            getattr(type(self), name[1:], None), property
        )

    def metainfo_keys(self) -> list[str]:
        """Return the names of the meta fields."""
        return list(self._metainfo_fields)

    def values(self) -> list[Any]:
        """Return the values of the data fields."""
        return [getattr(self, name) for name in self.keys()]

    def metainfo_values(self) -> list[Any]:
        """Return the values of the meta fields."""
        return [getattr(self, name) for name in self._metainfo_fields]

    def all_keys(self) -> list[str]:
        """Return the names of all fields, meta fields first."""
        return self.metainfo_keys() + self.keys()

    def all_values(self) -> list[Any]:
        """Return the values of all fields, meta fields first."""
        return self.metainfo_values() + self.values()

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield names and values of the data fields."""
        for name in self.keys():
            yield name, getattr(self, name)

    def metainfo_items(self) -> Iterator[tuple[str, Any]]:
        """Yield names and values of the meta fields."""
        for name in self.metainfo_keys():
            yield name, getattr(self, name)

    def all_items(self) -> Iterator[tuple[str, Any]]:
        """Yield names and values of all fields, meta fields first."""
        yield from self.metainfo_items()
        yield from self.items()

    @property
    def metainfo(self) -> dict[str, Any]:
        """The meta fields, as a new dict."""
        return dict(self.metainfo_items())

    # -- copies -------------------------------------------------------------------------------

    def _empty(self: T) -> T:
        return type(self)()

    def new(self: T, *, metainfo: dict[str, Any] | None = None, **kwargs: Any) -> T:
        """Return a new element of this class.

        Args:
            metainfo: Its meta fields. None: a deep copy of this element's.
            **kwargs: Its data fields. None given: those of this element, not copied.
        """
        element = self._empty()
        element.set_metainfo(dict(self.metainfo_items()) if metainfo is None else metainfo)
        element.set_data(kwargs or dict(self.items()))
        return element

    def clone(self: T) -> T:
        """Return a new element with a deep copy of the meta fields and the same data values."""
        element = self._empty()
        element.set_metainfo(dict(self.metainfo_items()))
        element.set_data(dict(self.items()))
        return element

    def _with_data(self: T, data: dict[str, Any]) -> T:
        element = self._empty()
        element.set_metainfo(dict(self.metainfo_items()))
        element.set_data(data)
        return element

    def to(self: T, *args: Any, **kwargs: Any) -> T:
        """Return a new element; ``to(*args, **kwargs)`` is called on each data value that has it."""
        return self._with_data(
            {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self.items()}
        )

    def _move(self: T, method: str) -> T:
        return self._with_data(
            {
                k: getattr(v, method)() if isinstance(v, (torch.Tensor, BaseDataElement)) else v
                for k, v in self.items()
            }
        )

    def cpu(self: T) -> T:
        """Return a new element with its tensors on the CPU."""
        return self._move("cpu")

    def cuda(self: T) -> T:
        """Return a new element with its tensors on the current CUDA device."""
        return self._move("cuda")

    def npu(self: T) -> T:
        """Return a new element with its tensors on the current NPU; torch_npu provides it."""
        return self._move("npu")

    def mlu(self: T) -> T:
        """Return a new element with its tensors on the current MLU; torch_mlu provides it."""
        return self._move("mlu")

    def musa(self: T) -> T:
        """Return a new element with its tensors on the current MUSA device; torch_musa provides it."""
        return self._move("musa")

    def detach(self: T) -> T:
        """Return a new element with its tensors detached from the graph."""
        return self._move("detach")

    def numpy(self: T) -> T:
        """Return a new element with arrays in place of its tensors, detached and on the CPU."""
        data = {}
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                value = value.detach().cpu().numpy()
            elif isinstance(value, BaseDataElement):
                value = value.numpy()
            data[name] = value
        return self._with_data(data)

    def to_tensor(self: T) -> T:
        """Return a new element with tensors in place of its arrays; they share memory."""
        data = {}
        for name, value in self.items():
            if isinstance(value, np.ndarray):
                value = torch.from_numpy(value)
            elif isinstance(value, BaseDataElement):
                value = value.to_tensor()
            data[name] = value
        return self._with_data(data)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as a dict, meta fields first; elements in fields become dicts too."""
        # Runs for each sample of a validation, so without calls where none is needed.
        attributes = self.__dict__
        names = [*attributes["_metainfo_fields"], *attributes["_data_fields"]]
        try:
            return {
                name: value if type(value := attributes[name]) in _LEAVES else _as_dict(value)
                for name in names
            }
        except KeyError:
            # Only properties are no attributes of the object; only they have a private storage.
            return {name: _as_dict(getattr(self, name)) for name in self.all_keys()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copies must not share the sets of names; MMEngine pickled plain sets.
        self.__dict__.update(state)
        for name in _PRIVATE:
            self.__dict__[name] = FieldNames.fromkeys(state[name])

    # -- printing -----------------------------------------------------------------------------

    def __repr__(self) -> str:
        lines = ["", "META INFORMATION"]
        lines += [_entry(name, value) for name, value in self.metainfo_items()]
        lines += ["", "DATA FIELDS"]
        lines += [_entry(name, value) for name, value in self.items()]
        body = "\n".join(f"    {line}".replace("\n", "\n    ") if line else "" for line in lines)
        return f"<{type(self).__name__}(\n{body}\n) at {hex(id(self))}>"


def _entry(name: str, value: Any) -> str:
    return f"{name}: " + _text(value).replace("\n", "\n    ")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "".join("\n" + _entry(key, item) for key, item in value.items())
    if isinstance(value, list):
        # Only a dict of its own gets lines of its own.
        parts = (repr(item) if isinstance(item, dict) else _text(item) for item in value)
        return "[" + ", ".join(parts) + "]"
    return repr(value)
