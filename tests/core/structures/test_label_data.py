import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmx.structures import LabelData


@given(st.sets(st.integers(0, 9)))
def test_labels_survive_the_way_to_onehot_and_back(labels):
    label = torch.tensor(sorted(labels), dtype=torch.int64)
    onehot = LabelData.label_to_onehot(label, 10)
    assert tuple(onehot.shape) == (10,)
    assert torch.equal(label, LabelData.onehot_to_label(onehot))


@pytest.mark.parametrize(
    ("label", "error", "text"),
    [
        ([1], TypeError, "label must be a tensor of integers"),
        (
            torch.tensor([1.0]),
            TypeError,
            "label must be a tensor of integers, but got torch.float32",
        ),
        (torch.tensor([4]), ValueError, r"label must lie in \[0, 4\)"),
        (torch.tensor([-1]), ValueError, r"label must lie in \[0, 4\)"),
        (torch.tensor([[1]]), ValueError, "label must have one axis"),
    ],
)
def test_wrong_labels_are_refused(label, error, text):
    with pytest.raises(error, match=text):
        LabelData.label_to_onehot(label, 4)


@pytest.mark.parametrize("onehot", [torch.tensor([0, 2]), torch.tensor([[0, 1]])])
def test_what_is_no_onehot_is_refused(onehot):
    with pytest.raises(ValueError, match="input is not one-hot and can not convert to label"):
        LabelData.onehot_to_label(onehot)


def test_onehot_must_be_a_tensor():
    with pytest.raises(TypeError, match="onehot must be a tensor"):
        LabelData.onehot_to_label([0, 1])
