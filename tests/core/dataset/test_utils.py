import random
import warnings
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate as torch_default_collate

from mmx.dataset import COLLATE_FUNCTIONS, default_collate, pseudo_collate, worker_init_fn
from mmx.registry import FUNCTIONS
from mmx.structures import BaseDataElement

Pair = namedtuple("Pair", "x y")


class Names(list):
    """A list of one's own."""


leaves = st.sampled_from(["number", "float", "string", "tensor", "array", "bool"])
structures = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(tuple),
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
        st.tuples(inner, inner).map(lambda two: Pair(*two)),
    ),
    max_leaves=6,
)


def fill(structure, number):
    """Return a sample of the given structure."""
    values = {
        "number": number,
        "float": number / 2,
        "string": str(number),
        "tensor": torch.full((2,), number),
        "array": np.full(3, number),
        "bool": number % 2 == 0,
    }
    if isinstance(structure, str):
        return values[structure]
    if isinstance(structure, dict):
        return {key: fill(inner, number) for key, inner in structure.items()}
    if isinstance(structure, Pair):
        return Pair(*(fill(inner, number) for inner in structure))
    return type(structure)(fill(inner, number) for inner in structure)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(structures, st.integers(1, 4))
def test_default_collate_agrees_with_torch(structure, size):
    batch = [fill(structure, number) for number in range(size)]
    assert same(torch_default_collate(list(batch)), default_collate(batch))


@given(structures, st.integers(1, 4))
def test_pseudo_collate_only_transposes(structure, size):
    batch = [fill(structure, number) for number in range(size)]

    def check(collated, samples, structure):
        if isinstance(structure, str):
            assert len(collated) == len(samples)
            assert all(a is b for a, b in zip(collated, samples, strict=True))
        elif isinstance(structure, dict):
            for key, inner in structure.items():
                check(collated[key], [s[key] for s in samples], inner)
        else:
            assert isinstance(collated, Pair if isinstance(structure, Pair) else list)
            for position, inner in enumerate(structure):
                check(collated[position], [s[position] for s in samples], inner)

    check(pseudo_collate(batch), batch, structure)


def test_data_elements_stay_a_list():
    batch = [{"inputs": torch.ones(2), "data_samples": BaseDataElement(a=1)} for _ in range(2)]
    for collate in (pseudo_collate, default_collate):
        collated = collate(batch)
        assert [batch[0]["data_samples"], batch[1]["data_samples"]] == collated["data_samples"]
    assert default_collate(batch)["inputs"].shape == (2, 2)
    assert len(pseudo_collate(batch)["inputs"]) == 2


@pytest.mark.parametrize("collate", [pseudo_collate, default_collate])
def test_container_types_are_kept(collate):
    assert type(collate([Names([1, 2]), Names([3, 4])])) is Names
    assert type(collate([OrderedDict(a=1), OrderedDict(a=2)])) is OrderedDict
    assert type(collate([(1, 2), (3, 4)])) is list


@pytest.mark.parametrize("collate", [pseudo_collate, default_collate])
def test_sequences_of_different_lengths_are_refused(collate):
    with pytest.raises(
        RuntimeError, match="each item of a batch should be of equal size: item 0 has 2"
    ):
        collate([[1, 2], [3]])


def test_what_torch_cannot_collate_is_refused():
    with pytest.raises(TypeError, match="batch must contain tensors, numpy arrays"):
        default_collate([object(), object()])
    assert len(pseudo_collate([None, None])) == 2


def test_collate_functions_are_registered():
    assert COLLATE_FUNCTIONS is FUNCTIONS
    assert FUNCTIONS.get("pseudo_collate") is pseudo_collate
    assert FUNCTIONS.get("default_collate") is default_collate


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_workers_are_seeded_by_rank_and_number():
    seen = set()
    for rank in range(2):
        for worker in range(3):
            worker_init_fn(worker, 3, rank, 7)
            first = draw()
            worker_init_fn(worker, 3, rank, 7)
            assert draw() == first
            seen.add(first)
    assert len(seen) == 6
    worker_init_fn(1, num_workers=3, rank=0, seed=6)
    other = draw()
    worker_init_fn(0, num_workers=3, rank=0, seed=7)
    assert draw() == other
    worker_init_fn(0, 1, 0, 2**40)


def test_warnings_of_other_workers_are_silenced_on_request():
    for worker, count in ((0, 1), (1, 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            worker_init_fn(worker, 2, 0, 0, disable_subprocess_warning=True)
            warnings.warn("said", stacklevel=1)
        assert len(caught) == count
