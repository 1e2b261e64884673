"""Data sets made of other data sets."""

from __future__ import annotations

import bisect
import copy
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from torch.utils.data import ConcatDataset as _ConcatDataset

from mmx.dataset.base_dataset import force_full_init
from mmx.logging import print_log
from mmx.registry import DATASETS


def _build(dataset: Any) -> Any:
    """Return a data set from a dict or an object with a length and indexing.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(dataset, Mapping) and not hasattr(dataset, "full_init"):
        return DATASETS.build(dataset)
    if (
        isinstance(dataset, (str, bytes, list, tuple))
        or not hasattr(dataset, "__getitem__")
        or not hasattr(dataset, "__len__")
    ):
        raise TypeError(
            "elements in datasets sequence should be config or `BaseDataset` instance, but got "
            f"{type(dataset)}"
        )
    return dataset


def _metainfo(dataset: Any) -> dict[str, Any]:
    """Return the meta information of a data set; that of torch has none."""
    return dict(getattr(dataset, "metainfo", {}))


def _full_init(dataset: Any) -> None:
    if hasattr(dataset, "full_init"):
        dataset.full_init()


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)


class _WrapperMixin:
    """What the wrappers share: lazy loading, meta information and what they do not support."""

    _metainfo: dict[str, Any]
    _fully_initialized: bool = False

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the meta information, that of the (first) wrapped data set."""
        return copy.deepcopy(self._metainfo)

    def full_init(self) -> None:
        raise NotImplementedError

    def _warn_if_lazy(self) -> None:
        if not self._fully_initialized:
            print_log(
                "Please call `full_init` method manually to accelerate the speed.",
                logger="current",
                level=logging.WARNING,
            )
            self.full_init()

    def _no_subset(self) -> NoReturn:
        name = type(self).__name__
        raise NotImplementedError(
            f"`{name}` does not support `get_subset` and `get_subset_` interfaces because this will "
            "lead to ambiguous implementation of some methods. If you want to use `get_subset` or "
            f"`get_subset_` interfaces, please use them in the wrapped dataset first and then use `{name}`."
        )

    def get_subset_(self, indices: Sequence[int] | int) -> NoReturn:
        """Not supported: take the subset of the wrapped data set.

        Raises:
            NotImplementedError: Always.
        """
        self._no_subset()

    def get_subset(self, indices: Sequence[int] | int) -> NoReturn:
        """Not supported: take the subset of the wrapped data set.

        Raises:
            NotImplementedError: Always.
        """
        self._no_subset()


@DATASETS.register_module()
class ConcatDataset(_WrapperMixin, _ConcatDataset[Any]):
    """Several data sets, one after the other.

    Args:
        datasets: Data sets, or dicts to build them from.
        lazy_init: Leave loading the annotations to :meth:`full_init`.
        ignore_keys: Meta information that may differ; that of the first data set counts.

    Raises:
        TypeError: An argument is of the wrong type, or meta information of different types.
        ValueError: There is no data set, or their meta information differs.
    """

    def __init__(
        self,
        datasets: Sequence[Any],
        lazy_init: bool = False,
        ignore_keys: str | Sequence[str] | None = None,
    ) -> None:
        if isinstance(datasets, (str, Mapping)) or not isinstance(datasets, Sequence):
            raise TypeError(f"datasets should be a sequence of data sets, but got {type(datasets)}")
        if not datasets:
            raise ValueError("datasets is empty: ConcatDataset needs at least one data set")
        self.datasets = [_build(dataset) for dataset in datasets]
        if ignore_keys is None:
            self.ignore_keys: list[str] = []
        elif isinstance(ignore_keys, str):
            self.ignore_keys = [ignore_keys]
        elif isinstance(ignore_keys, (list, tuple)):
            self.ignore_keys = list(ignore_keys)
        else:
            raise TypeError(f"ignore_keys should be a list or str, but got {type(ignore_keys)}")
        self._metainfo = _metainfo(self.datasets[0])
        self._check_metainfo()
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def _check_metainfo(self) -> None:
        all_metainfo = [_metainfo(dataset) for dataset in self.datasets]
        keys = {key: None for metainfo in all_metainfo for key in metainfo}
        for number, metainfo in enumerate(all_metainfo, start=1):
            for key in keys:
                if key in self.ignore_keys:
                    continue
                if key not in metainfo:
                    raise ValueError(
                        f"{key} does not in the meta information of the {number}-th dataset; "
                        "ignore_keys lets it pass"
                    )
                # A key that only a later one has is an error already.
                first, value = all_metainfo[0][key], metainfo[key]
                if type(first) is not type(value):
                    raise TypeError(
                        f"The type {type(value)} of {key} in the {number}-th dataset should be the "
                        f"same with the first dataset {type(first)}; ignore_keys lets it pass"
                    )
                if not _equal(first, value):
                    raise ValueError(
                        f"The meta information of the {number}-th dataset does not match meta "
                        f"information of the first dataset: they differ in {key!r}, which ignore_keys "
                        "lets pass"
                    )

    def full_init(self) -> None:
        """Load the annotations of all data sets; once."""
        if self._fully_initialized:
            return
        for dataset in self.datasets:
            _full_init(dataset)
        # torch's constructor needs the lengths.
        super().__init__(self.datasets)
        self._fully_initialized = True

    @force_full_init
    def _get_ori_dataset_idx(self, idx: int) -> tuple[int, int]:
        """Return the data set's number and the index in it.

        Raises:
            ValueError: A negative index beyond the beginning.
            IndexError: An index beyond the end.
        """
        size = len(self)
        if idx < 0:
            if -idx > size:
                raise ValueError(
                    f"absolute value of index({idx}) should not exceed dataset length({size})."
                )
            idx += size
        elif idx >= size:
            raise IndexError(f"index {idx} is out of range for ConcatDataset with {size} samples")
        number = bisect.bisect_right(self.cumulative_sizes, idx)
        return number, idx - (self.cumulative_sizes[number - 1] if number else 0)

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a copy of the annotation ``idx``, as its data set gives it."""
        number, sample = self._get_ori_dataset_idx(idx)
        return self.datasets[number].get_data_info(sample)

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes in sample ``idx``, as its data set gives them."""
        number, sample = self._get_ori_dataset_idx(idx)
        return self.datasets[number].get_cat_ids(sample)

    @force_full_init
    def __len__(self) -> int:
        return super().__len__()

    def __getitem__(self, idx: int) -> Any:
        self._warn_if_lazy()
        number, sample = self._get_ori_dataset_idx(idx)
        return self.datasets[number][sample]


@DATASETS.register_module()
class RepeatDataset(_WrapperMixin):
    """A data set repeated a number of times: epochs become longer, and their ends rarer.

    Args:
        dataset: A data set, or a dict to build it from.
        times: How often.
        lazy_init: Leave loading the annotations to :meth:`full_init`.

    Raises:
        TypeError: ``dataset`` is neither; or ``times`` is no int.
        ValueError: ``times`` is negative.
    """

    def __init__(self, dataset: Any, times: int, lazy_init: bool = False) -> None:
        self.dataset = _build(dataset)
        if not isinstance(times, int):
            raise TypeError(f"times should be an int, but got {type(times)}")
        if times < 0:
            raise ValueError(f"times should not be negative, but got {times}")
        self.times = times
        self._metainfo = _metainfo(self.dataset)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Load the annotations; once."""
        if self._fully_initialized:
            return
        _full_init(self.dataset)
        self._ori_len = len(self.dataset)
        self._fully_initialized = True

    @force_full_init
    def _get_ori_dataset_idx(self, idx: int) -> int:
        size = self.times * self._ori_len
        if not -size <= idx < size:
            raise IndexError(f"index {idx} is out of range for RepeatDataset with {size} samples")
        return idx % self._ori_len

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a copy of the annotation that ``idx`` stands for."""
        return self.dataset.get_data_info(self._get_ori_dataset_idx(idx))

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes in the sample that ``idx`` stands for."""
        return self.dataset.get_cat_ids(self._get_ori_dataset_idx(idx))

    def __getitem__(self, idx: int) -> Any:
        self._warn_if_lazy()
        return self.dataset[self._get_ori_dataset_idx(idx)]

    @force_full_init
    def __len__(self) -> int:
        return self.times * self._ori_len


@DATASETS.register_module()
class ClassBalancedDataset(_WrapperMixin):
    """A data set in which samples of rare classes are repeated.

    From "LVIS: A Dataset for Large Vocabulary Instance Segmentation" (arXiv:1908.03195). With f(c) the
    share of samples that contain class c, its repeat factor is r(c) = max(1, sqrt(t / f(c))), and a
    sample's is the largest of its classes', rounded up.

    Args:
        dataset: A data set with ``get_cat_ids(idx)``, or a dict to build it from.
        oversample_thr: t: classes in a smaller share of the samples are repeated.
        lazy_init: Leave loading the annotations to :meth:`full_init`.

    Raises:
        TypeError: ``dataset`` is neither.
    """

    def __init__(self, dataset: Any, oversample_thr: float, lazy_init: bool = False) -> None:
        self.dataset = _build(dataset)
        self.oversample_thr = oversample_thr
        self._metainfo = _metainfo(self.dataset)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Load the annotations and count the classes; once."""
        if self._fully_initialized:
            return
        _full_init(self.dataset)
        factors = self._get_repeat_factors(self.dataset, self.oversample_thr)
        self.repeat_indices = [
            index for index, factor in enumerate(factors) for _ in range(math.ceil(factor))
        ]
        self._fully_initialized = True

    def _get_repeat_factors(self, dataset: Any, repeat_thr: float) -> list[float]:
        """Return the repeat factor of each sample."""
        size = len(dataset)
        classes = [set(dataset.get_cat_ids(index)) for index in range(size)]
        counts = Counter(c for present in classes for c in present)
        by_class = {c: max(1.0, math.sqrt(repeat_thr * size / n)) for c, n in counts.items()}
        return [max((by_class[c] for c in present), default=1.0) for present in classes]

    @force_full_init
    def _get_ori_dataset_idx(self, idx: int) -> int:
        return self.repeat_indices[idx]

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes in the sample that ``idx`` stands for."""
        return self.dataset.get_cat_ids(self._get_ori_dataset_idx(idx))

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a copy of the annotation that ``idx`` stands for."""
        return self.dataset.get_data_info(self._get_ori_dataset_idx(idx))

    def __getitem__(self, idx: int) -> Any:
        self._warn_if_lazy()
        return self.dataset[self._get_ori_dataset_idx(idx)]

    @force_full_init
    def __len__(self) -> int:
        return len(self.repeat_indices)
