import json
import math

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from mmx.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmx.registry import DATASETS


class Classed(BaseDataset):
    def get_cat_ids(self, idx):
        return self.get_data_info(idx)["cats"]


@pytest.fixture
def make(tmp_path):
    def make(size, offset=0, cats=lambda i: [0], meta=None, **kwargs):
        path = tmp_path / f"{size}-{offset}.json"
        data = [{"gt": i + offset, "cats": cats(i)} for i in range(size)]
        path.write_text(json.dumps({"metainfo": meta or {"classes": ["a"]}, "data_list": data}))
        return Classed(str(path), data_prefix={}, **kwargs)

    return make


def test_concatenated_data_sets_follow_each_other(make):
    joined = ConcatDataset([make(3), make(2, 10)])
    assert [joined[i]["gt"] for i in range(len(joined))] == [0, 1, 2, 10, 11]
    assert (joined[-1]["gt"], joined.get_data_info(-5)["gt"], joined.get_cat_ids(3)) == (11, 0, [0])
    assert joined.cumulative_sizes == [3, 5]
    assert joined.metainfo == {"classes": ["a"]}
    with pytest.raises(
        IndexError, match="index 5 is out of range for ConcatDataset with 5 samples"
    ):
        joined[5]
    with pytest.raises(
        ValueError, match=r"absolute value of index\(-6\) should not exceed dataset length"
    ):
        joined[-6]


def test_meta_information_of_all_must_agree(make):
    one, other = make(1, meta={"a": 1, "b": 1}), make(2, meta={"a": 2, "b": 1})
    with pytest.raises(
        ValueError, match=r"of the 2-th dataset does not match .* they differ in 'a'"
    ):
        ConcatDataset([one, other])
    assert ConcatDataset([one, other], ignore_keys="a").metainfo == {"a": 1, "b": 1}
    assert ConcatDataset([one, other], ignore_keys=["a"]).ignore_keys == ["a"]
    with pytest.raises(ValueError, match="b does not in the meta information of the 2-th dataset"):
        ConcatDataset([one, make(3, meta={"a": 1})])
    with pytest.raises(ValueError, match="c does not in the meta information of the 1-th dataset"):
        ConcatDataset([one, make(3, meta={"a": 1, "b": 1, "c": 1})])
    with pytest.raises(
        TypeError, match="ignore_keys should be a list or str, but got <class 'int'>"
    ):
        ConcatDataset([one], ignore_keys=5)


def test_meta_information_of_another_type_is_a_type_error(make):
    with pytest.raises(TypeError, match="of classes in the 2-th dataset should be the same"):
        ConcatDataset([make(1, metainfo={"classes": c}) for c in (["a"], ("a",))])


def test_arrays_in_meta_information_are_compared(make):
    one, other = make(1, metainfo={"p": np.ones(2)}), make(2, metainfo={"p": np.ones(2)})
    assert len(ConcatDataset([one, other])) == 3
    with pytest.raises(ValueError, match="they differ in 'p'"):
        ConcatDataset([one, make(3, metainfo={"p": np.zeros(2)})])


@pytest.mark.parametrize(
    ("datasets", "error", "text"),
    [
        ([], ValueError, "datasets is empty"),
        (
            [0],
            TypeError,
            "elements in datasets sequence should be config or `BaseDataset` instance",
        ),
        ("ab", TypeError, "datasets should be a sequence of data sets"),
        ({"type": "X"}, TypeError, "datasets should be a sequence of data sets"),
    ],
)
def test_only_data_sets_are_concatenated(datasets, error, text):
    with pytest.raises(error, match=text):
        ConcatDataset(datasets)


@pytest.mark.parametrize("kind", [RepeatDataset, ClassBalancedDataset])
def test_only_data_sets_are_wrapped(kind):
    with pytest.raises(
        TypeError, match="should be config or `BaseDataset` instance, but got <class 'int'>"
    ):
        kind(5, 1)


def test_a_repeated_data_set_is_longer(make):
    repeated = RepeatDataset(make(3), 2)
    assert [repeated[i]["gt"] for i in range(len(repeated))] == [0, 1, 2, 0, 1, 2]
    assert (repeated[-1]["gt"], repeated.get_data_info(4)["gt"], repeated.get_cat_ids(5)) == (
        2,
        1,
        [0],
    )
    assert repeated.metainfo == {"classes": ["a"]}
    for index in (6, -7):
        with pytest.raises(IndexError, match=f"index {index} is out of range for RepeatDataset"):
            repeated[index]
    assert len(RepeatDataset(make(3), 0)) == 0
    with pytest.raises(ValueError, match="times should not be negative, but got -1"):
        RepeatDataset(make(3), -1)
    with pytest.raises(TypeError, match="times should be an int, but got <class 'float'>"):
        RepeatDataset(make(3), 1.5)


def test_rare_classes_are_repeated(make):
    balanced = ClassBalancedDataset(make(6, cats=lambda i: [0] if i < 5 else [1, 1]), 0.3)
    assert [balanced[i]["gt"] for i in range(len(balanced))] == [0, 1, 2, 3, 4, 5, 5]
    assert balanced.repeat_indices == [0, 1, 2, 3, 4, 5, 5]
    assert (balanced.get_cat_ids(6), balanced.get_data_info(-1)["gt"]) == ([1, 1], 5)
    factors = balanced._get_repeat_factors(balanced.dataset, 0.9)
    assert factors == pytest.approx([math.sqrt(0.9 * 6 / 5)] * 5 + [math.sqrt(0.9 * 6)])
    empty = make(7, cats=lambda i: [])
    assert len(ClassBalancedDataset(empty, 0.5)) == 7


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: ConcatDataset([d], lazy_init=True),
        lambda d: RepeatDataset(d, 1, lazy_init=True),
        lambda d: ClassBalancedDataset(d, 0.1, lazy_init=True),
    ],
)
def test_wrappers_are_lazy_and_have_no_subsets(make, wrap):
    wrapped = wrap(make(3, lazy_init=True))
    assert not wrapped._fully_initialized
    assert wrapped[1]["gt"] == 1
    assert len(wrap(make(3, lazy_init=True))) == 3
    assert wrap(make(3, lazy_init=True)).get_data_info(2)["gt"] == 2
    for method in ("get_subset", "get_subset_"):
        with pytest.raises(
            NotImplementedError, match="does not support `get_subset` and `get_subset_`"
        ):
            getattr(wrapped, method)(1)


def test_wrapped_data_sets_are_built_from_dicts(tmp_path, make):
    path = make(3).ann_file
    inner = {"type": "BaseDataset", "ann_file": path, "data_prefix": {}}
    built = DATASETS.build(
        {
            "type": "RepeatDataset",
            "times": 2,
            "dataset": {"type": "ConcatDataset", "datasets": [inner, inner]},
        }
    )
    assert len(built) == 12


def test_data_sets_of_torch_are_wrapped_too():
    data = TensorDataset(torch.arange(3))
    assert RepeatDataset(data, 2)[4] == (torch.tensor(1),)
    assert ConcatDataset([data, data]).metainfo == {}
