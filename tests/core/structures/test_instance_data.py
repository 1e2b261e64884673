import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmx.structures import InstanceData


class Boxes:
    """A user's type with the three things that indexing needs."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __len__(self):
        return len(self.tensor)

    def __getitem__(self, index):
        return Boxes(self.tensor[index] if isinstance(index, slice) else self.tensor[index][None])

    @staticmethod
    def cat(boxes):
        return Boxes(torch.cat([b.tensor for b in boxes]))


def make(size=4):
    return InstanceData(
        metainfo={"size": (1, 2), "notes": ["a"]},
        tensor=torch.arange(2 * size).view(size, 2),
        array=np.arange(size),
        entries=list(range(size)),
        text="abcdefghij"[:size],
        pair=tuple(range(size)),
        boxes=Boxes(torch.arange(size)),
    )


def indices(size):
    numbers = st.lists(st.integers(-size, size - 1), max_size=2 * size)
    masks = st.lists(st.booleans(), min_size=size, max_size=size)
    slices = st.builds(
        slice,
        st.none() | st.integers(-size - 2, size + 2),
        st.none() | st.integers(-size - 2, size + 2),
        st.none() | st.integers(1, size + 1),
    )
    long = numbers.map(lambda v: torch.tensor(v, dtype=torch.int64))
    return st.one_of(
        slices,
        numbers,
        masks,
        long,
        masks.map(torch.tensor),
        numbers.map(lambda v: np.array(v, dtype=np.int64)),
        masks.map(np.array),
    )


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_all_fields_are_indexed_as_torch_indexes_a_tensor(data):
    size = data.draw(st.integers(1, 6))
    instances = make(size)
    index = data.draw(indices(size))
    chosen = instances[index]
    as_tensor = index
    if isinstance(index, (list, np.ndarray)):
        empty = len(index) == 0
        as_tensor = torch.zeros(0, dtype=torch.int64) if empty else torch.as_tensor(index)
    expected = torch.arange(size)[as_tensor].tolist()
    assert len(expected) == len(chosen)
    assert torch.equal(instances.tensor[as_tensor], chosen.tensor)
    assert expected == chosen.array.tolist()
    assert expected == chosen.entries == list(chosen.pair)
    assert "".join(instances.text[i] for i in expected) == chosen.text
    assert expected == chosen.boxes.tensor.tolist()
    assert instances.metainfo == chosen.metainfo


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.data())
def test_cat_undoes_a_split(size, data):
    instances = make(size)
    at = data.draw(st.integers(0, size))
    joined = InstanceData.cat([instances[:at], instances[at:]])
    assert torch.equal(instances.tensor, joined.tensor)
    assert (instances.text, instances.pair) == (joined.text, joined.pair)
    assert instances.array.tolist() == joined.array.tolist()
    assert instances.boxes.tensor.tolist() == joined.boxes.tensor.tolist()


def test_an_int_keeps_the_axis():
    assert make()[1].tensor.tolist() == [[2, 3]]
    assert make()[-1].text == "d"
    assert make()[np.int64(3)].pair == (3,)


@pytest.mark.parametrize("index", [4, -5])
def test_an_int_out_of_range_is_an_index_error(index):
    with pytest.raises(IndexError, match=f"Index {index} out of range!"):
        make()[index]


def test_a_name_returns_the_field():
    instances = make()
    assert instances.tensor is instances["tensor"]
    with pytest.raises(AttributeError):
        instances["absent"]


@pytest.mark.parametrize(
    ("index", "error", "text"),
    [
        (None, TypeError, "an index must be a str, an int, a slice"),
        (1.5, TypeError, "an index must be a str, an int, a slice"),
        ((0, 1), TypeError, "an index must be a str, an int, a slice"),
        ([0.5], TypeError, "ints or bools, but got dtype float64"),
        (torch.tensor([0.5]), TypeError, "ints or bools, but got a tensor of torch.float32"),
        (torch.tensor([1], dtype=torch.uint8), TypeError, r"make bools with `.bool\(\)`"),
        (np.array([1], dtype=np.uint8), TypeError, r"make bools with `.astype\(bool\)`"),
        (np.array([0.5]), IndexError, "ints or bools, but got dtype float64"),
        (None, AssertionError, "an index must be"),
        (torch.tensor(0), AssertionError, "along the first dimension"),
        (torch.tensor([[0]]), ValueError, "along the first dimension"),
        (torch.tensor(0), ValueError, "along the first dimension"),
        ([True], ValueError, r"input\(BoolTensor\) 1 does not match .* 4 at first dimension"),
    ],
)
def test_a_wrong_index_is_explained(index, error, text):
    with pytest.raises(error, match=text):
        make()[index]


def test_a_value_whose_int_index_drops_the_axis_is_picked_from_by_slices():
    class Scores(Boxes):
        def __getitem__(self, index):
            return Scores(self.tensor[index])

        @staticmethod
        def cat(parts):
            return Scores(torch.cat([part.tensor for part in parts]))

    instances = InstanceData(scores=Scores(torch.arange(3)))
    assert [2, 0] == instances[[-1, 0]].scores.tensor.tolist()
    assert [0, 2] == instances[torch.tensor([True, False, True])].scores.tensor.tolist()


def test_an_index_does_not_share_meta_information():
    instances = make()
    part = instances[:2]
    part.notes.append("b")
    part.extra = [1, 2]
    assert instances.notes == ["a"]
    assert "extra" not in instances
    with pytest.raises(ValueError, match="The length of values 3 is not consistent"):
        part.more = [1, 2, 3]


def test_fields_must_have_one_length():
    instances = InstanceData(a=torch.ones(2))
    with pytest.raises(
        ValueError, match=r"The length of values 3 is not consistent .* 2 \(field 'b'"
    ):
        instances.b = [1, 2, 3]
    with pytest.raises(TypeError, match="value must contain `__len__` attribute"):
        instances.b = 1
    instances["b"] = [1, 2]
    assert instances.keys() == ["a", "b"]
    del instances["b"]
    assert instances.keys() == ["a"]


def test_without_fields_the_length_is_zero():
    assert len(InstanceData(metainfo={"a": 1})) == 0
    assert len(InstanceData()[:3]) == 0


def test_a_field_that_cannot_be_chosen_from_says_so():
    instances = InstanceData(a=range(4))
    assert range(1, 3) == instances[1:3].a
    with pytest.raises(
        ValueError, match="The type of `a` is `<class 'range'>`, which has no attribute"
    ):
        instances[[0, 2]]
    with pytest.raises(
        ValueError, match="The type of `a` is `<class 'range'>` which has no attribute"
    ):
        InstanceData.cat([instances, instances])


def test_cat_checks_its_list():
    one = InstanceData(a=[1])
    assert one is InstanceData.cat([one])
    with pytest.raises(ValueError, match="instances_list is empty"):
        InstanceData.cat([])
    with pytest.raises(TypeError, match="must hold InstanceData only"):
        InstanceData.cat([one, 1])
    with pytest.raises(ValueError, match="There are different keys in `instances_list`"):
        InstanceData.cat([one, InstanceData(b=[1])])


def test_cat_keeps_the_meta_information_of_the_first():
    joined = InstanceData.cat(
        [InstanceData(metainfo={"m": 1}, a=[1]), InstanceData(metainfo={"m": 2}, a=[2])]
    )
    assert (joined.metainfo, joined.a) == ({"m": 1}, [1, 2])


def test_stack_adds_an_axis():
    stacked = InstanceData.stack([make(3), make(3)])
    assert tuple(stacked.tensor.shape) == (2, 3, 2)
    assert stacked.array.shape == (2, 3)
    assert stacked.text == ["abc", "abc"]
    assert len(stacked) == 2
    with pytest.raises(ValueError, match="instances_list is empty: stack needs at least one"):
        InstanceData.stack([])


def test_a_subclass_with_a_property_or_a_constructor_is_indexed_through_them():
    class Typed(InstanceData):
        @property
        def scores(self):
            return self._scores

        @scores.setter
        def scores(self, value):
            self.set_field(value, "_scores", dtype=torch.Tensor)

    typed = Typed(metainfo={"m": 1}, scores=torch.arange(3))
    assert typed[[0, 2]].scores.tolist() == [0, 2]
    assert typed[:1].keys() == ["scores"]
    assert len(typed) == 3
    assert isinstance(typed[0], Typed)

    class Counted(InstanceData):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.__dict__["made"] = True

    assert Counted(a=[1, 2])[0].made


def test_changing_the_choice_leaves_the_source():
    instances = make()
    chosen = instances[[0, 1]]
    chosen.tensor.zero_()
    assert int(instances.tensor.sum()) == 28
