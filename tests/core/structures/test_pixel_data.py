import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmx.structures import PixelData


@pytest.fixture
def pixels():
    return PixelData(metainfo={"m": 1}, a=torch.arange(24).view(2, 3, 4), b=np.ones((1, 3, 4)))


def test_all_fields_have_one_height_and_width(pixels):
    assert pixels.shape == (3, 4)
    assert PixelData().shape is None
    with pytest.raises(
        ValueError, match=r"The height and width of values \(2, 2\) is not consistent"
    ):
        pixels.c = torch.ones(1, 2, 2)


def test_a_plane_gets_a_channel_with_a_warning(pixels):
    with pytest.warns(UserWarning, match=r"will convert from \(3, 4\) to \(1, 3, 4\)"):
        pixels.c = np.ones((3, 4))
    assert pixels.c.shape == (1, 3, 4)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1, TypeError, "Can not set <class 'int'>, only support"),
        ([[1]], TypeError, "Can not set <class 'list'>, only support"),
        (torch.ones(3), ValueError, "The dim of value must be 2 or 3, but got 1"),
        (torch.ones(1, 1, 3, 4), ValueError, "The dim of value must be 2 or 3, but got 4"),
    ],
)
def test_other_values_are_refused(pixels, value, error, text):
    with pytest.raises(error, match=text):
        pixels.c = value


@given(st.integers(-3, 2), st.integers(-4, 3))
def test_ints_choose_a_row_and_a_column_and_keep_their_axes(row, column):
    values = torch.arange(24).view(2, 3, 4)
    cut = PixelData(a=values)[row, column]
    assert cut.shape == (1, 1)
    assert torch.equal(values[:, row, column], cut.a.reshape(2))


def test_slices_cut_a_window(pixels):
    window = pixels[1:, ::2]
    assert (2, 2) == window.shape == tuple(window.b.shape[1:])
    assert torch.equal(pixels.a[:, 1:, ::2], window.a)
    assert window.metainfo == {"m": 1}


@pytest.mark.parametrize(
    ("index", "error", "text"),
    [
        (1, TypeError, "Unsupported type <class 'int'> for slicing PixelData"),
        ([0, 1], TypeError, "Unsupported type <class 'list'> for slicing PixelData"),
        ((1.5, 1), TypeError, "must be int or slice, but got <class 'float'>"),
        ((1,), ValueError, "Only support to slice height and width"),
        ((1, 1, 1), ValueError, "Only support to slice height and width"),
    ],
)
def test_other_indices_are_refused(pixels, index, error, text):
    with pytest.raises(error, match=text):
        pixels[index]
