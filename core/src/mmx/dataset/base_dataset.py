"""The base class of data sets with annotation files, and the pipeline of transforms."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import Dataset

from mmx.dataset.annotations import deserialize, select, serialize
from mmx.fileio import join_path, list_from_file, load
from mmx.logging import print_log
from mmx.registry import DATASETS, TRANSFORMS
from mmx.utils.errors import InvalidIndexError, InvalidKeyError, InvalidValueError


class InvalidSampleError(RuntimeError):
    """The pipeline gave no valid sample.

    Attributes:
        index: The index that was asked for.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class Compose:
    """Apply transforms one after the other.

    Args:
        transforms: Transforms, or dicts to build them from. None: no transforms.

    Raises:
        TypeError: ``transforms`` is no sequence, or one of them is not callable.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any] | Callable[..., Any]] | None) -> None:
        if transforms is None:
            transforms = []
        if isinstance(transforms, (str, Mapping)) or not isinstance(transforms, Sequence):
            raise TypeError(
                f"transforms must be a sequence of callables or dicts, but got {type(transforms)}; "
                "put a single transform in a list"
            )
        self.transforms: list[Callable[..., Any]] = []
        for transform in transforms:
            # A callable mapping is a config all the same.
            if isinstance(transform, Mapping):
                built = TRANSFORMS.build(transform)
                if not callable(built):
                    raise TypeError(f"transform should be a callable object, but got {type(built)}")
                self.transforms.append(built)
            elif callable(transform):
                self.transforms.append(transform)
            else:
                raise TypeError(
                    f"transform must be a callable object or dict, but got {type(transform)}"
                )

    def __call__(self, data: Any) -> Any:
        """Return the transformed sample, or None as soon as one transform returns None."""
        for transform in self.transforms:
            data = transform(data)
            if data is None:
                return None
        return data

    def __repr__(self) -> str:
        lines = [f"    {transform!r}".replace("\n", "\n    ") for transform in self.transforms]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def force_full_init(old_func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method of a data set so that it first calls ``full_init`` if that is still due.

    Raises:
        AttributeError: At the call, if the object has no ``full_init``.
    """

    @functools.wraps(old_func)
    def wrapper(obj: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(obj, "_fully_initialized", False):
            if not hasattr(obj, "full_init"):
                raise AttributeError(f"{type(obj)} does not have full_init method.")
            print_log(
                f"Attribute `_fully_initialized` is not defined in {type(obj)} or "
                "`type(obj)._fully_initialized is False, `full_init` will be called and "
                f"{type(obj)}._fully_initialized will be set to True",
                logger="current",
                level=logging.WARNING,
            )
            obj.full_init()
            obj._fully_initialized = True
        return old_func(obj, *args, **kwargs)

    return wrapper


def is_absolute(path: str) -> bool:
    """Return whether a data root must not be put in front: absolute, or with a protocol."""
    import os.path

    return os.path.isabs(path) or "://" in path


@DATASETS.register_module()
class BaseDataset(Dataset[Any]):
    """A data set with an annotation file and a pipeline of transforms.

    The annotation file holds ``{"metainfo": {...}, "data_list": [{...}, ...]}``. Meta information
    comes, in this order of priority, from the argument, the class attribute ``METAINFO`` and the file.

    Annotations are kept as one block of bytes, so that worker processes share them: neither
    forking nor reading copies them.

    Args:
        ann_file: Path of the annotation file; relative to ``data_root``.
        metainfo: Meta information. A string value is a file with one item per line.
        data_root: Put in front of ``ann_file`` and of each of ``data_prefix`` that is relative.
        data_prefix: Field of an annotation -> what is put in front of its value.
        filter_cfg: Settings for :meth:`filter_data`.
        indices: Use only the first (negative: last) so many samples, or those of these indices.
        serialize_data: Keep the annotations as bytes. Otherwise as a list, which each worker copies
            in the course of time.
        pipeline: Transforms, or dicts to build them from.
        test_mode: An invalid sample is an error. Otherwise another, random one takes its place.
        lazy_init: Leave loading the annotations to :meth:`full_init`.
        max_refetch: How often another sample is tried in place of an invalid one.

    Attributes:
        data_list: The annotations, if not serialised.
        data_bytes: If serialised, the pickled annotations, uint8 of shape ``(bytes,)``.
        data_address: If serialised, ends of the annotations in ``data_bytes``, int64 of shape ``(samples,)``.
    """

    METAINFO: ClassVar[dict[str, Any]] = {}
    _fully_initialized: bool = False
    data_bytes: np.ndarray
    data_address: np.ndarray

    def __init__(
        self,
        ann_file: str | None = "",
        metainfo: Any = None,
        data_root: str | None = "",
        data_prefix: dict[str, Any] = {"img_path": ""},  # noqa: B006  # copied below
        filter_cfg: dict[str, Any] | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        pipeline: Sequence[Mapping[str, Any] | Callable[..., Any]] = (),
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        self.ann_file = str(ann_file) if ann_file is not None else ""
        self._metainfo = self._load_metainfo(copy.deepcopy(metainfo))
        self.data_root = str(data_root) if data_root is not None else None
        self.data_prefix = copy.copy(data_prefix)
        self.filter_cfg = copy.deepcopy(filter_cfg)
        self._indices = indices
        self.serialize_data = serialize_data
        self.test_mode = test_mode
        self.max_refetch = max_refetch
        self.data_list: list[dict[str, Any]] = []
        self._join_prefix()
        self.pipeline = Compose(pipeline)
        if not lazy_init:
            self.full_init()

    # -- annotations --------------------------------------------------------------------------

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the meta information."""
        return copy.deepcopy(self._metainfo)

    def full_init(self) -> None:
        """Load, filter and serialise the annotations; once."""
        if self._fully_initialized:
            return
        self.data_list = self.load_data_list()
        self.data_list = self.filter_data()
        if self._indices is not None:
            self.data_list = self._get_unserialized_subset(self._indices)
        if self.serialize_data:
            self.data_bytes, self.data_address = self._serialize_data()
        self._fully_initialized = True

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the annotations as bytes, and where each ends; empties ``data_list``."""
        serialized = serialize(self.data_list)
        self.data_list = []
        return serialized

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the annotations of the file. Override it for files of another form.

        Raises:
            TypeError: No file is named, the file holds no dict, or :meth:`parse_data_info` returns
                neither a dict nor a list of dicts.
            ValueError: The file lacks ``data_list`` or ``metainfo``.
        """
        if not self.ann_file:
            raise TypeError(
                f"{type(self).__name__} has no ann_file to load annotations from: pass ann_file=..., "
                "or override load_data_list"
            )
        annotations = load(self.ann_file)
        if not isinstance(annotations, dict):
            raise TypeError(
                "The annotations loaded from annotation file should be a dict, but got "
                f"{type(annotations)}! (file {self.ann_file})"
            )
        if "data_list" not in annotations or "metainfo" not in annotations:
            raise ValueError(
                f"Annotation must have data_list and metainfo keys, but {self.ann_file} has "
                f"{sorted(map(str, annotations))}"
            )
        for key, value in annotations["metainfo"].items():
            self._metainfo.setdefault(key, value)
        data_list: list[dict[str, Any]] = []
        for raw in annotations["data_list"]:
            info = self.parse_data_info(raw)
            if isinstance(info, dict):
                data_list.append(info)
            elif isinstance(info, list):
                for item in info:
                    if not isinstance(item, dict):
                        raise TypeError(f"data_info must be list of dict, but got {type(item)}")
                data_list.extend(info)
            else:
                raise TypeError(f"data_info should be a dict or list of dict, but got {type(info)}")
        return data_list

    def parse_data_info(
        self, raw_data_info: dict[str, Any]
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Return the sample, or the samples, that an item of the file's ``data_list`` stands for.

        Puts ``data_prefix`` in front of the fields that it names.

        Raises:
            KeyError: The item lacks a field that ``data_prefix`` names.
        """
        for key, prefix in self.data_prefix.items():
            if key not in raw_data_info:
                raise InvalidKeyError(
                    f"raw_data_info: {raw_data_info} does not contain prefix key {key}, please check "
                    "your data_prefix."
                )
            raw_data_info[key] = join_path(prefix, raw_data_info[key])
        return raw_data_info

    def filter_data(self) -> list[dict[str, Any]]:
        """Return those of ``self.data_list`` to keep, by ``self.filter_cfg``. Override it to filter."""
        return self.data_list

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a copy of the annotation ``idx``, with its index as ``sample_idx``.

        Raises:
            IndexError: There are not so many.
        """
        size = len(self)
        position = idx + size if idx < 0 else idx
        if not 0 <= position < size:
            raise IndexError(
                f"index {idx} is out of range for {type(self).__name__} with {size} samples"
            )
        if self.serialize_data:
            info = deserialize(self.data_bytes, self.data_address, position)
        else:
            info = copy.deepcopy(self.data_list[position])
        info["sample_idx"] = int(position)
        return info

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes in sample ``idx``; a subclass defines it for class-balanced sampling."""
        raise NotImplementedError(f"{type(self)} must implement `get_cat_ids` method")

    # -- samples ------------------------------------------------------------------------------

    def __getitem__(self, idx: int) -> Any:
        """Return sample ``idx`` after the pipeline.

        Raises:
            InvalidSampleError: The pipeline gave None: in test mode at once, otherwise for
                ``max_refetch`` other samples too.
        """
        if not self._fully_initialized:
            print_log(
                "Please call `full_init()` method manually to accelerate the speed.",
                logger="current",
                level=logging.WARNING,
            )
            self.full_init()
        if self.test_mode:
            data = self.prepare_data(idx)
            if data is None:
                raise InvalidSampleError(
                    f"Test time pipeline should not get `None` data_sample (sample {idx})", idx
                )
            return data
        chosen = idx
        for _ in range(self.max_refetch + 1):
            data = self.prepare_data(chosen)
            if data is not None:
                return data
            chosen = self._rand_another()
        raise InvalidSampleError(
            f"Cannot find valid image after {self.max_refetch}! Please check your image path and "
            f"pipeline (sample {idx})",
            idx,
        )

    def prepare_data(self, idx: int) -> Any:
        """Return sample ``idx`` after the pipeline, which may be None."""
        return self.pipeline(self.get_data_info(idx))

    @force_full_init
    def __len__(self) -> int:
        return len(self.data_address) if self.serialize_data else len(self.data_list)

    def _rand_another(self) -> int:
        """Return a random index."""
        return int(np.random.randint(0, len(self)))

    # -- subsets ------------------------------------------------------------------------------

    @force_full_init
    def get_subset_(self, indices: Sequence[int] | int) -> None:
        """Keep only some of the samples.

        Args:
            indices: The first (negative: last) so many samples, or those of these indices.

        Raises:
            TypeError: ``indices`` is neither an int nor a sequence of ints.
            IndexError: There is no such sample.
            ValueError: Of serialised annotations there are not so many.
        """
        if self.serialize_data:
            self.data_bytes, self.data_address = self._get_serialized_subset(indices)
        else:
            self.data_list = self._get_unserialized_subset(indices)

    @force_full_init
    def get_subset(self, indices: Sequence[int] | int) -> BaseDataset:
        """Return a copy with only some of the samples; see :meth:`get_subset_`."""
        subset = self._copy_without_annotation()
        if self.serialize_data:
            subset.data_bytes, subset.data_address = self._get_serialized_subset(indices)
        else:
            subset.data_list = copy.deepcopy(self._get_unserialized_subset(indices))
        return subset

    def _get_serialized_subset(self, indices: Sequence[int] | int) -> tuple[np.ndarray, np.ndarray]:
        size = len(self.data_address)
        if isinstance(indices, (int, np.integer)) and abs(indices) > size:
            raise InvalidValueError(f"{indices} is out of dataset length({size})")
        positions = _positions(indices, size)
        return select(self.data_bytes, self.data_address, positions)

    def _get_unserialized_subset(self, indices: Sequence[int] | int) -> list[dict[str, Any]]:
        return [self.data_list[i] for i in _positions(indices, len(self.data_list))]

    def _copy_without_annotation(self, memo: dict[int, Any] | None = None) -> BaseDataset:
        """Return a deep copy of everything but the annotations."""
        memo = {} if memo is None else memo
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        for key, value in self.__dict__.items():
            if key not in ("data_list", "data_bytes", "data_address"):
                setattr(other, key, copy.deepcopy(value, memo))
        return other

    # -- arguments ----------------------------------------------------------------------------

    @classmethod
    def _load_metainfo(cls, metainfo: Any = None) -> dict[str, Any]:
        """Return the class's meta information, updated by the argument's."""
        merged = copy.deepcopy(cls.METAINFO)
        if metainfo is None:
            return merged
        # A Config has items, and is no Mapping.
        if not isinstance(metainfo, Mapping) and not callable(getattr(metainfo, "items", None)):
            raise TypeError(f"metainfo should be a Mapping or Config, but got {type(metainfo)}")
        for key, value in metainfo.items():
            if isinstance(value, str):
                # A name of a file with one item per line, or just a string.
                try:
                    merged[key] = list_from_file(value)
                except (TypeError, FileNotFoundError):
                    print_log(
                        f"{value} is not a meta file, simply parsed as meta information",
                        logger="current",
                        level=logging.WARNING,
                    )
                    merged[key] = value
            else:
                merged[key] = value
        return merged

    def _join_prefix(self) -> None:
        """Put ``data_root`` in front of the annotation file and of the prefixes."""
        if self.ann_file and not is_absolute(self.ann_file) and self.data_root:
            self.ann_file = join_path(self.data_root, self.ann_file)
        for key, prefix in self.data_prefix.items():
            if not isinstance(prefix, str):
                raise TypeError(
                    f"prefix should be a string, but got {type(prefix)} for data_prefix[{key!r}]"
                )
            if not is_absolute(prefix) and self.data_root:
                self.data_prefix[key] = join_path(self.data_root, prefix)


def _positions(indices: Sequence[int] | int | np.ndarray, size: int) -> Sequence[int]:
    """Return the positions that ``indices`` of a subset mean, in ``[0, size)``."""
    if isinstance(indices, (int, np.integer)):
        return range(size)[:indices] if indices >= 0 else range(size)[indices:]
    if isinstance(indices, str) or not isinstance(indices, (Sequence, np.ndarray)):
        raise TypeError(f"indices should be a int or sequence of int, but got {type(indices)}")
    positions = []
    for index in indices:
        if not isinstance(index, (int, np.integer)):
            raise TypeError(f"indices should be a int or sequence of int, but it has {index!r}")
        if not -size <= index < size:
            raise InvalidIndexError(f"{index} is out of dataset length({size})")
        positions.append(int(index) % size)
    return positions
