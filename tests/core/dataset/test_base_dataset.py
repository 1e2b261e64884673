import copy
import json
import logging
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from mmx.dataset import BaseDataset, Compose, force_full_init
from mmx.dataset.base_dataset import InvalidSampleError
from mmx.registry import DATASETS, TRANSFORMS


@pytest.fixture
def root(tmp_path):
    data = [{"img_path": f"{i}.jpg", "gt": i, "boxes": [i, [i]]} for i in range(6)]
    content = {"metainfo": {"classes": ["a", "b"], "x": 1}, "data_list": data}
    (tmp_path / "ann.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def messages(caplog):
    """Log messages, whichever logger takes them."""
    from mmx.logging import MMLogger

    logger = MMLogger.get_current_instance()
    caplog.set_level(logging.INFO)
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.removeHandler(caplog.handler)


def make(root, kind=BaseDataset, **kwargs):
    return kind("ann.json", data_root=str(root), **kwargs)


@pytest.mark.parametrize("serialize", [True, False])
def test_samples_come_from_the_annotation_file(root, serialize):
    dataset = make(root, data_prefix={"img_path": "imgs"}, serialize_data=serialize)
    assert len(dataset) == 6
    expected = {"img_path": f"{root}/imgs/2.jpg", "gt": 2, "boxes": [2, [2]], "sample_idx": 2}
    assert expected == dataset[2] == dataset.get_data_info(2) == dataset[-4]
    assert type(dataset.get_data_info(np.int64(2))["sample_idx"]) is int
    for index in (6, -7):
        with pytest.raises(
            IndexError, match=f"index {index} is out of range for BaseDataset with 6"
        ):
            dataset.get_data_info(index)


@pytest.mark.parametrize("serialize", [True, False])
def test_a_sample_is_a_copy(root, serialize):
    dataset = make(root, serialize_data=serialize)
    dataset[0]["boxes"][1].append(3)
    assert dataset[0]["boxes"] == [0, [0]]
    assert bool(dataset.data_list) is not serialize
    assert hasattr(dataset, "data_address") is serialize


def test_meta_information_comes_from_argument_class_and_file(root, messages):
    class Own(BaseDataset):
        METAINFO = {"classes": ("own",), "palette": [[1]]}

    own = make(root, Own, metainfo={"palette": [[2]]})
    assert own.metainfo == {"classes": ("own",), "palette": [[2]], "x": 1}
    own.metainfo["palette"][0].append(9)
    assert own.metainfo["palette"] == [[2]]
    assert Own.METAINFO == {"classes": ("own",), "palette": [[1]]}
    (root / "classes.txt").write_text("u\nv\n")
    assert make(root, metainfo={"classes": f"{root}/classes.txt"}).metainfo["classes"] == ["u", "v"]
    assert make(root, metainfo={"task": "seg"}).metainfo["task"] == "seg"
    assert "seg is not a meta file, simply parsed as meta information" in messages()
    with pytest.raises(
        TypeError, match="metainfo should be a Mapping or Config, but got <class 'int'>"
    ):
        make(root, metainfo=5)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("imgs", "{root}/imgs"),
        ("/abs", "/abs"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("", "{root}/"),
    ],
)
def test_prefixes_are_joined_to_the_root_unless_absolute(root, prefix, expected):
    dataset = make(root, data_prefix={"img_path": prefix}, lazy_init=True)
    assert dataset.data_prefix["img_path"].rstrip("/") == expected.format(root=root).rstrip("/")
    assert dataset.ann_file == f"{root}/ann.json"


def test_arguments_are_not_mutated(root):
    prefix, filters = {"img_path": "imgs"}, {"a": [1]}
    dataset = make(root, data_prefix=prefix, filter_cfg=filters)
    dataset.filter_cfg["a"].append(2)
    assert (prefix, filters) == ({"img_path": "imgs"}, {"a": [1]})
    assert BaseDataset(f"{root}/ann.json").data_prefix == {"img_path": ""}


@pytest.mark.parametrize("prefix", [1, None, ["a"]])
def test_a_prefix_must_be_a_string(root, prefix):
    with pytest.raises(
        TypeError, match=r"prefix should be a string, but got .*data_prefix\['img_path'"
    ):
        make(root, data_prefix={"img_path": prefix})


def test_a_missing_prefixed_field_is_named(root):
    with pytest.raises(KeyError, match="does not contain prefix key depth_path"):
        make(root, data_prefix={"depth_path": "x"})


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        ([1], TypeError, "annotation file should be a dict, but got <class 'list'>"),
        ({"a": 1}, ValueError, r"must have data_list and metainfo keys, but .*l.json has \['a'\]"),
    ],
)
def test_a_file_of_another_form_is_explained(root, content, error, text):
    (root / "l.json").write_text(json.dumps(content))
    with pytest.raises(error, match=text):
        BaseDataset(str(root / "l.json"))


def test_a_missing_file_and_no_file_are_errors(root):
    with pytest.raises(FileNotFoundError):
        BaseDataset(str(root / "absent.json"))
    with pytest.raises(TypeError, match="BaseDataset has no ann_file to load annotations from"):
        BaseDataset()


@pytest.mark.parametrize("serialize", [True, False])
def test_a_data_set_may_be_empty(root, serialize):
    (root / "l.json").write_text(json.dumps({"metainfo": {}, "data_list": []}))
    dataset = BaseDataset(str(root / "l.json"), serialize_data=serialize)
    assert len(dataset) == 0
    with pytest.raises(IndexError):
        dataset[0]
    assert len(dataset.get_subset([])) == 0


def test_one_item_may_stand_for_several_samples(root):
    class Twice(BaseDataset):
        returned = None

        def parse_data_info(self, raw_data_info):
            return [raw_data_info, dict(raw_data_info)] if self.returned is None else self.returned

    assert len(make(root, Twice)) == 12
    Twice.returned = 5
    with pytest.raises(
        TypeError, match="data_info should be a dict or list of dict, but got <class 'int'>"
    ):
        make(root, Twice)
    Twice.returned = [{}, 5]
    with pytest.raises(TypeError, match="data_info must be list of dict, but got <class 'int'>"):
        make(root, Twice)


def test_samples_are_filtered_before_indices_count(root):
    class Large(BaseDataset):
        def filter_data(self):
            return [info for info in self.data_list if info["gt"] >= self.filter_cfg["min"]]

    dataset = make(root, Large, filter_cfg={"min": 2}, indices=[0, 3])
    assert [dataset[i]["gt"] for i in range(2)] == [2, 5]


@pytest.mark.parametrize("serialize", [True, False])
@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        (2, [0, 1]),
        (0, []),
        (-2, [4, 5]),
        (6, [0, 1, 2, 3, 4, 5]),
        ([5, 0, 5, -1], [5, 0, 5, 5]),
        ((1, 2), [1, 2]),
        (np.array([3]), [3]),
        ([], []),
    ],
)
def test_subsets(root, serialize, indices, expected):
    dataset = make(root, serialize_data=serialize)
    subset = dataset.get_subset(indices)
    assert [subset[i]["gt"] for i in range(len(subset))] == expected
    assert len(dataset) == 6
    dataset.get_subset_(indices)
    assert [dataset[i]["gt"] for i in range(len(dataset))] == expected
    chosen = make(root, serialize_data=serialize, indices=indices)
    assert [chosen[i]["gt"] for i in range(len(chosen))] == expected
    assert [chosen[i]["sample_idx"] for i in range(len(chosen))] == list(range(len(expected)))


@pytest.mark.parametrize("serialize", [True, False])
def test_wrong_subsets_are_refused(root, serialize):
    dataset = make(root, serialize_data=serialize)
    for indices in ("a", 1.5, [0.5], None):
        with pytest.raises(TypeError, match="indices should be a int or sequence of int"):
            dataset.get_subset(indices)
    for index in (6, -7):
        with pytest.raises(IndexError, match=rf"{index} is out of dataset length\(6\)"):
            dataset.get_subset_([index])


def test_a_subset_shares_nothing_that_changes(root):
    dataset = make(root, metainfo={"palette": [1]}, serialize_data=False)
    subset = dataset.get_subset(2)
    subset._metainfo["palette"].append(2)
    subset.data_list[0]["boxes"].append(1)
    assert dataset.metainfo["palette"] == [1]
    assert dataset[0]["boxes"] == [0, [0]]


def test_lazy_data_sets_load_when_asked(root, messages):
    dataset = make(root, lazy_init=True)
    assert not dataset._fully_initialized
    assert dataset[1]["gt"] == 1
    assert any("Please call `full_init()` method manually" in m for m in messages())
    dataset = make(root, lazy_init=True)
    assert len(dataset) == 6
    assert any("`full_init` will be called" in m for m in messages())
    dataset = make(root, lazy_init=True)
    dataset.get_subset_(2)
    assert len(dataset) == 2
    calls = []
    dataset.load_data_list = lambda: calls.append(1)
    dataset.full_init()
    assert not calls


def test_get_cat_ids_is_the_subclasss_business(root):
    with pytest.raises(NotImplementedError, match="must implement `get_cat_ids` method"):
        make(root).get_cat_ids(0)


def test_an_invalid_sample_is_replaced_by_another_in_training(root):
    tried = []

    def only_three(info):
        tried.append(info["sample_idx"])
        return info if info["gt"] == 3 else None

    assert make(root, pipeline=[only_three])[0]["gt"] == 3
    assert tried[0] == 0
    tried.clear()
    with pytest.raises(InvalidSampleError, match=r"Cannot find valid image after 2! .*sample 1"):
        make(root, pipeline=[lambda info: tried.append(info)], max_refetch=2)[1]
    assert len(tried) == 3


def test_an_invalid_sample_is_an_error_in_testing(root):
    with pytest.raises(
        InvalidSampleError, match="Test time pipeline should not get `None`"
    ) as raised:
        make(root, pipeline=[lambda info: None], test_mode=True)[4]
    assert raised.value.index == 4
    assert isinstance(raised.value, Exception)


def test_downstream_hooks_on_serialisation_are_kept(root):
    """Projects call `_serialize_data` after changing `data_list`."""
    dataset = make(root, serialize_data=True)
    dataset.data_list = [{"gt": 9}]
    dataset.data_bytes, dataset.data_address = dataset._serialize_data()
    assert (len(dataset), dataset[0]["gt"], dataset.data_list) == (1, 9, [])
    assert dataset.data_bytes.dtype == np.uint8


def test_a_subset_of_more_samples_than_there_are_is_an_error_where_they_are_serialised(root):
    with pytest.raises(ValueError, match=r"100 is out of dataset length\(6\)"):
        make(root).get_subset(100)
    with pytest.raises(AssertionError):
        make(root).get_subset_([6])
    assert len(make(root, indices=100)) == 6
    assert len(make(root, serialize_data=False).get_subset(100)) == 6


def test_a_missing_prefix_field_is_a_failed_assertion_to_old_code(root):
    with pytest.raises(AssertionError, match="does not contain prefix key seg"):
        make(root, data_prefix={"seg": "s"})


def test_arguments_are_kept_as_they_were_given(root):
    assert make(root).data_root == str(root)
    plain = BaseDataset(str(root / "ann.json"), data_root=None, serialize_data=False)
    assert plain.data_root is None
    assert not hasattr(plain, "data_bytes")


def test_data_sets_are_copied_and_pickled(root):
    dataset = make(root)
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert other[3] == dataset[3]
        other.get_subset_(1)
    assert len(dataset) == 6


def test_data_sets_are_built_by_name(root):
    config = {
        "type": "BaseDataset",
        "ann_file": str(root / "ann.json"),
        "pipeline": [{"type": "AddOne"}],
    }

    class AddOne:
        def __call__(self, info):
            return {**info, "gt": info["gt"] + 1}

    TRANSFORMS.register_module(module=AddOne)
    try:
        assert DATASETS.build(config)[0]["gt"] == 1
        assert isinstance(Compose([{"type": "AddOne"}]).transforms[0], AddOne)
    finally:
        TRANSFORMS._module_dict.pop("AddOne")


def test_compose_applies_transforms_until_one_returns_none():
    assert Compose([lambda x: x + 1, lambda x: x * 2])(1) == 4
    assert Compose([lambda x: None, lambda x: 1 / 0])(1) is None
    assert Compose(None)(1) == 1
    assert Compose([]).transforms == []


def test_compose_prints_its_transforms():
    expected = "Compose(\n    ReLU()\n    Sequential(\n      (0): ReLU()\n    )\n)"
    assert repr(Compose([nn.ReLU(), nn.Sequential(nn.ReLU())])) == expected
    assert repr(Compose([])) == "Compose(\n)"


@pytest.mark.parametrize("transforms", [5, "abc", {"type": "X"}])
def test_compose_wants_a_sequence(transforms):
    with pytest.raises(TypeError, match="transforms must be a sequence of callables or dicts"):
        Compose(transforms)


def test_compose_wants_callables():
    with pytest.raises(
        TypeError, match="transform must be a callable object or dict, but got <class 'int'>"
    ):
        Compose([5])


def test_force_full_init_needs_full_init():
    class Without:
        @force_full_init
        def method(self):
            return 1

    with pytest.raises(AttributeError, match="does not have full_init method"):
        Without().method()

    class With(Without):
        calls = 0

        def full_init(self):
            self.calls += 1

    instance = With()
    assert (instance.method(), instance.method(), instance.calls) == (1, 1, 1)


def test_tensors_in_annotations_survive(root):
    class Tensors(BaseDataset):
        def load_data_list(self):
            return [{"t": torch.arange(3), "a": np.arange(2)}]

    assert Tensors()[0]["t"].tolist() == [0, 1, 2]
