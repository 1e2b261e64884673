import copy
import pickle

import numpy as np
import pytest
import torch
from torch import multiprocessing

from mmx.structures import BaseDataElement, InstanceData
from mmx.structures.base_data_element import FieldNames


class Detection(BaseDataElement):
    """An element with a typed field, as downstream projects write them."""

    @property
    def boxes(self):
        return self._boxes

    @boxes.setter
    def boxes(self, value):
        self.set_field(value, "_boxes", dtype=torch.Tensor)

    @boxes.deleter
    def boxes(self):
        del self._boxes


@pytest.fixture
def element():
    return BaseDataElement(
        metainfo={"size": (4, 5), "nested": {"list": [1]}},
        scores=torch.ones(2),
        name="x",
        inner=BaseDataElement(metainfo={"k": 1}, array=np.ones(2)),
    )


def test_fields_are_listed_in_the_order_of_setting(element):
    assert element.keys() == ["scores", "name", "inner"]
    assert element.metainfo_keys() == ["size", "nested"]
    assert element.all_keys() == ["size", "nested", "scores", "name", "inner"]
    assert element.all_keys() == [key for key, _ in element.all_items()]
    assert element.metainfo_values() == [(4, 5), {"list": [1]}]
    assert "x" == element.values()[1] == element.all_values()[3]
    assert element.metainfo == {"size": (4, 5), "nested": {"list": [1]}}


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError):
        BaseDataElement({"a": 1})


def test_meta_information_is_copied_deeply_and_data_is_not():
    meta, data = {"a": [1]}, [1]
    element = BaseDataElement(metainfo=meta, data=data)
    meta["a"].append(2)
    assert element.a == [1]
    assert element.data is data


def test_meta_fields_are_not_overwritten_by_assignment(element):
    with pytest.raises(AttributeError, match="size is already a metainfo field"):
        element.size = 1
    element.set_metainfo({"size": (1, 1)})
    assert element.size == (1, 1)


def test_data_fields_do_not_become_meta_fields(element):
    with pytest.raises(AttributeError, match="name is already a data field"):
        element.set_metainfo({"name": 1})


@pytest.mark.parametrize("name", ["_data_fields", "_metainfo_fields"])
def test_the_sets_of_names_are_immutable(element, name):
    with pytest.raises(AttributeError, match="private attribute, which is immutable"):
        setattr(element, name, 1)
    with pytest.raises(AttributeError, match="private attribute, which is immutable"):
        delattr(element, name)


@pytest.mark.parametrize(
    ("method", "argument", "text"),
    [
        ("set_metainfo", [1], "metainfo should be a ``dict`` but got <class 'list'>"),
        ("set_data", [1], "data should be a `dict` but got"),
        ("update", {"a": 1}, "instance should be a `BaseDataElement` but got <class 'dict'>"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(element, method, argument, text):
    with pytest.raises(TypeError, match=text):
        getattr(element, method)(argument)


def test_set_field_checks_type_and_kind(element):
    element.set_field(3, "number", dtype=int)
    element.set_field("a", "place", field_type="metainfo")
    assert "place" in element.metainfo_keys()
    with pytest.raises(TypeError, match="3 should be a <class 'str'> but got <class 'int'>"):
        element.set_field(3, "number", dtype=str)
    with pytest.raises(ValueError, match="field_type must be 'data' or 'metainfo', got 'x'"):
        element.set_field(3, "number", field_type="x")


def test_update_takes_over_all_fields(element):
    other = BaseDataElement(metainfo={"size": (1, 1), "new": 1}, name="y", more=2)
    element.update(other)
    assert (element.name, element.more, element.size, element.new) == ("y", 2, (1, 1), 1)
    with pytest.raises(AttributeError, match="size is already a metainfo field"):
        element.update(BaseDataElement(size=1))


def test_pop_removes_a_field_of_either_kind(element):
    assert element.pop("name") == "x"
    assert element.pop("size") == (4, 5)
    assert "name" not in element
    assert "size" not in element
    assert not hasattr(element, "name")
    assert element.pop("name", 7) == 7
    with pytest.raises(KeyError, match="name is not contained in metainfo or data"):
        element.pop("name")
    with pytest.raises(TypeError, match="``pop`` get more than 2 arguments"):
        element.pop("a", 1, 2)
    with pytest.raises(TypeError, match="got no argument"):
        element.pop()


def test_deleting_a_field_forgets_its_name(element):
    del element.name
    del element.size
    assert element.keys() == ["scores", "inner"]
    assert element.metainfo_keys() == ["nested"]
    with pytest.raises(AttributeError):
        del element.name
    element.size = 3
    assert "size" in element.keys()  # noqa: SIM118


def test_get_returns_a_default(element):
    assert element.get("name") == "x"
    assert element.get("absent") is None
    assert element.get("absent", 1) == 1


def test_clone_copies_meta_and_keeps_data(element):
    clone = element.clone()
    assert clone.scores is element.scores
    assert clone.nested is not element.nested
    assert element.all_keys() == clone.all_keys()


def test_new_replaces_what_is_given(element):
    assert element.scores is element.new().scores
    assert element.new(metainfo={"k": 1}).metainfo_keys() == ["k"]
    new = element.new(metainfo={}, other=1)
    assert (new.metainfo_keys(), new.keys()) == ([], ["other"])


def test_a_property_shows_as_one_field_and_keeps_its_type():
    detection = Detection(boxes=torch.ones(2, 4))
    assert detection.keys() == ["boxes"]
    assert {"boxes", "_boxes"} == detection._data_fields
    assert list(detection.to_dict()) == ["boxes"]
    assert "boxes" in detection
    assert "    boxes: tensor" in repr(detection)
    assert "_boxes" not in repr(detection)
    with pytest.raises(TypeError, match=r"should be a <class 'torch.Tensor'>"):
        detection.boxes = 1


@pytest.mark.parametrize("operation", ["clone", "new", "cpu", "numpy", "detach"])
def test_copies_go_through_the_property(operation):
    detection = Detection(boxes=torch.ones(2, 4))
    if operation == "numpy":
        with pytest.raises(TypeError, match=r"should be a <class 'torch.Tensor'>"):
            detection.numpy()
    else:
        assert getattr(detection, operation)().keys() == ["boxes"]


def test_a_property_is_deleted_and_popped_as_a_whole():
    detection = Detection(boxes=torch.ones(2, 4))
    del detection.boxes
    assert ("boxes" in detection, detection.keys()) == (False, [])
    detection.boxes = torch.zeros(1)
    assert torch.equal(torch.zeros(1), detection.pop("boxes"))
    assert set() == detection._data_fields


def test_tensors_and_elements_are_moved_and_converted(element):
    assert torch.float64 == element.to(torch.float64).scores.dtype
    assert isinstance(element.numpy().scores, np.ndarray)
    assert isinstance(element.to_tensor().inner.array, torch.Tensor)
    assert element.cpu().name == "x"
    grad = BaseDataElement(a=torch.ones(1, requires_grad=True), b=BaseDataElement(c=torch.ones(1)))
    assert not grad.detach().a.requires_grad
    assert isinstance(grad.numpy().b.c, np.ndarray)
    assert grad.a.requires_grad


@pytest.mark.parametrize("device", ["npu", "mlu", "musa"])
def test_moving_to_a_device_that_torch_does_not_know_fails(element, device):
    with pytest.raises(AttributeError):
        getattr(element, device)()


def test_to_dict_converts_nested_elements(element):
    assert {
        "size": element.to_dict()["size"],
        "k": element.to_dict()["inner"]["k"],
    } == {"size": (4, 5), "k": 1}


def test_a_deep_copy_and_a_pickle_are_independent(element):
    for copied in (copy.deepcopy(element), pickle.loads(pickle.dumps(element))):
        copied.scores.zero_()
        copied.extra = 1
        assert element.scores.sum() == 2
        assert "extra" not in element
        assert element.inner.all_keys() == copied.inner.all_keys()
    shallow = copy.copy(element)
    shallow.extra = 1
    assert "extra" not in element


def test_a_pickle_with_plain_sets_is_read():
    state = {"_metainfo_fields": {"a"}, "_data_fields": {"b"}, "a": 1, "b": 2}
    element = BaseDataElement.__new__(BaseDataElement)
    element.__setstate__(state)
    element.c = 3
    assert element.keys() == ["b", "c"]
    assert element.to_dict() == {"a": 1, "b": 2, "c": 3}


def _double(queue_in, queue_out):
    element = queue_in.get()
    element.scores = element.scores * 2
    queue_out.put(element)
    # The parent opens the shared memory before this process may end.
    queue_in.get()


def test_an_element_travels_between_processes():
    context = multiprocessing.get_context("fork")
    there, back = context.Queue(), context.Queue()
    process = context.Process(target=_double, args=(there, back), daemon=True)
    process.start()
    there.put(InstanceData(metainfo={"a": 1}, scores=torch.ones(3)))
    received = back.get(timeout=30)
    there.put(None)
    process.join(30)
    assert received.scores.tolist() == [2, 2, 2]
    assert received.metainfo == {"a": 1}


def test_field_names_behave_as_a_set():
    names = FieldNames.fromkeys(["b", "a"])
    assert {"a", "b"} == names
    assert names == {"a", "b"}
    assert names != {"a"}
    assert {"b"} == names - {"a"}
    assert {"a"} == names & {"a"}
    assert {"a", "b", "c"} == names | {"c"}
    assert repr(names) == "{'b', 'a'}"
    names.discard("c")
    with pytest.raises(KeyError):
        names.remove("c")


def test_each_element_has_its_own_repr_address():
    one = BaseDataElement()
    assert hex(id(one)) in repr(one)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: BaseDataElement(metainfo=1),
        lambda: BaseDataElement().set_data(1),
        lambda: BaseDataElement().update({}),
        lambda: BaseDataElement().pop("a", 1, 2),
        lambda: BaseDataElement().set_field(1, "a", dtype=str),
        lambda: BaseDataElement().set_field(1, "a", field_type="x"),
    ],
)
def test_wrong_arguments_are_failed_assertions_to_old_code(wrong):
    with pytest.raises(AssertionError):
        wrong()


def test_the_names_of_fields_are_used_like_sets():
    fields = FieldNames.fromkeys("ab")
    assert {"c"} == {"b", "c"} - fields
    assert {"b"} == {"b", "c"} & fields == fields & {"b", "c"} == fields.intersection("bc")
    assert {"a", "b", "c"} == {"b", "c"} | fields == fields | {"c"} == fields.union("c")
    assert {"a", "c"} == {"b", "c"} ^ fields == fields ^ {"b", "c"}
    assert {"a", "c"} == fields.symmetric_difference("bc")
    assert {"a"} == fields - {"b"} == fields.difference("b")
    assert {"a"} <= fields < {"a", "b", "c"}
    assert fields >= {"a"}
    assert fields > {"a"}
    assert fields.issubset("abc")
    assert fields.issuperset("a")
    assert fields.isdisjoint("c")
    other = fields.copy()
    other.update("c", ["d"])
    assert ["a", "b", "c", "d"] == list(other)
    assert "d" == other.pop()
    assert ["a", "b"] == list(fields)
