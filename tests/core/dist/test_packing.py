"""Objects that travel as bytes come back equal."""

import math
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmx.dist.packing import _Stream, pack, unpack


def equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or a == b
    return bool(a == b)


leaves = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=4),
    st.builds(lambda v: torch.tensor(v), st.integers(-5, 5)),
    st.builds(lambda v: torch.ones(v, 2), st.integers(0, 3)),
    st.builds(lambda v: np.arange(v, dtype=np.float32), st.integers(0, 3)),
    st.builds(np.float32, st.integers(0, 3)),
)
values = st.recursive(
    leaves,
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.tuples(children, children),
        st.dictionaries(st.sampled_from("abc"), children, max_size=3),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, max_size=3), st.integers(1, 30))
def test_any_object_comes_back_equal(rows: list[Any], times: int) -> None:
    rows = rows * times
    assert equal(rows, unpack(pack(rows)))


def make_rows(make: Any, number: int = 20) -> list[Any]:
    return [make(i) for i in range(number)]


@pytest.mark.parametrize(
    "rows",
    [
        make_rows(lambda i: {"pred": i, "score": i / 3, "ok": i % 2 == 0}),
        make_rows(lambda i: {"one": i}),
        make_rows(lambda i: dict.fromkeys("abcde", i)),
        make_rows(lambda i: dict.fromkeys("abcdefg", i)),
        make_rows(lambda i: {"a": torch.tensor(i), "b": torch.full((2, 3), i)}),
        make_rows(lambda i: {"boxes": torch.ones(i, 4)}),
        make_rows(lambda i: {"x": torch.ones(2, dtype=torch.bfloat16) * i}),
        make_rows(lambda i: {"x": torch.tensor(i % 2 == 0)}),
        make_rows(lambda i: {"x": torch.complex(torch.tensor(1.0), torch.tensor(float(i)))}),
        make_rows(lambda i: {"x": torch.empty(0, 3)}),
        make_rows(lambda i: torch.arange(6).reshape(2, 3).T),
        make_rows(lambda i: np.full((2, i), i)),
        make_rows(lambda i: np.array(["a", "bc"])),
        make_rows(lambda i: np.array([None, i], dtype=object)),
        make_rows(lambda i: np.float64(i)),
        make_rows(lambda i: np.datetime64(i, "s")),
        make_rows(lambda i: (i, [float(i)] * i, str(i))),
        make_rows(lambda i: [[i], [i, i]]),
        make_rows(lambda i: 2**70 + i),
        make_rows(lambda i: OrderedDict(a=i)),
        make_rows(lambda i: {"a": i} if i else {"b": 1}),
        make_rows(lambda i: {"a": i} if i else {"a": 1, "b": 1}),
        make_rows(lambda i: {"a": i if i % 2 else None}),
        make_rows(lambda i: {}),
        make_rows(lambda i: []),
        [],
    ],
)
def test_rows_come_back_equal(rows: list[Any]) -> None:
    assert equal(rows, unpack(pack(rows)))


def test_keys_keep_the_order_of_the_first_row() -> None:
    rows = [{"b": i, "a": i} for i in range(20)]
    assert list(unpack(pack(rows))[5]) == ["b", "a"]


def test_nan_comes_back() -> None:
    assert math.isnan(unpack(pack([float("nan")] * 20))[3])


def test_what_rows_share_is_sent_once() -> None:
    shared = torch.zeros(100_000)
    rows = [{"id": i, "shared": shared} for i in range(64)]
    data = pack(rows)
    assert data.numel() < 2 * shared.numel() * 4
    back = unpack(data)
    assert back[0]["shared"] is back[1]["shared"]


def test_a_tensor_that_came_back_holds_no_others() -> None:
    for rows in (
        [torch.tensor(i) for i in range(1000)],
        [torch.ones(i % 3) for i in range(1000)],
        [{"object": object, "x": torch.tensor(i)} for i in range(1000)],
    ):
        back = unpack(pack(rows))[7]
        tensor = back["x"] if isinstance(back, dict) else back
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_a_gradient_does_not_travel() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert not unpack(pack({"x": weight * 2}))["x"].requires_grad


def test_a_list_that_contains_itself_comes_back() -> None:
    rows: list[Any] = [[i] for i in range(20)]
    rows[3].append(rows)
    back = unpack(pack(rows))
    assert back[3][1][3][1] is not None


def test_arrays_that_came_back_can_be_written() -> None:
    back = unpack(pack([np.zeros(2) for _ in range(20)]))
    back[0][0] = 1
    assert back[1][0] == 0


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bytes_in_memory_are_read_like_a_file(protocol: int) -> None:
    obj = {"number": 3, "kind": OrderedDict, "bytes": bytes(100_000), "names": ["a", "b\n"]}
    first, second = pickle.dumps(obj, protocol), pickle.dumps([obj], protocol)
    stream = _Stream(memoryview(first + second + b"rest\nof it"))
    assert [obj, [obj]] == [pickle.Unpickler(stream).load() for _ in range(2)]
    assert [b"rest\n", b"of it", b"", b""] == [
        *(stream.readline() for _ in range(3)),
        stream.read(),
    ]


def test_what_pickle_refuses_raises() -> None:
    with pytest.raises((AttributeError, TypeError), match=r"lambda|pickle"):
        pack([lambda: 1] * 20)
