import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader

import mmx.dataset.batch_sampler as module
import mmx.dataset.sampler as sampler_module
from mmx.dataset import (
    AspectRatioBatchSampler,
    ClassBalancedBatchSampler,
    DefaultSampler,
    MultiSourceBatchSampler,
    build_dataloader,
    iterate_from,
)


class Shaped:
    def __init__(self, shapes):
        self.shapes = shapes

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, index):
        return index

    def get_data_info(self, index):
        width, height = self.shapes[index]
        return {"width": width, "height": height}

    def get_cat_ids(self, index):
        return [self.shapes[index][0]]


@pytest.fixture
def distributed(monkeypatch):
    def make(kind, rank, world, dataset, batch_size, seed=0, **kwargs):
        for place in (module, sampler_module):
            monkeypatch.setattr(place, "get_dist_info", lambda: (rank, world))
        return kind(DefaultSampler(dataset, seed=seed), batch_size, **kwargs)

    return make


shapes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=30)


@settings(deadline=None)
@given(shapes, st.integers(1, 5), st.booleans())
def test_full_batches_hold_one_orientation_and_nothing_is_lost(shapes, size, drop_last):
    dataset = Shaped(shapes)
    sampler = AspectRatioBatchSampler(DefaultSampler(dataset, seed=0), size, drop_last)
    batches = list(sampler)
    assert len(sampler) == len(batches)
    seen = [index for batch in batches for index in batch]
    assert len(seen) == len(set(seen))
    assert len(seen) == (len(shapes) // size * size if drop_last else len(shapes))
    mixed = sum(len({shapes[i][0] < shapes[i][1] for i in batch}) > 1 for batch in batches)
    assert mixed <= 1
    assert all(len(batch) == size for batch in batches[:-1])


def test_several_boundaries_make_several_groups():
    ratios = [0.4, 0.9, 1.1, 3.0] * 4
    sampler = AspectRatioBatchSampler(
        DefaultSampler(range(16), shuffle=False), 4, boundaries=(0.5, 1, 2), aspect_ratios=ratios
    )
    assert [sorted({ratios[i] for i in batch}) for batch in sampler] == [[0.4], [0.9], [1.1], [3.0]]
    with pytest.raises(ValueError, match="boundaries must ascend"):
        AspectRatioBatchSampler(DefaultSampler(range(4)), 2, boundaries=(2, 1))


@pytest.mark.parametrize(("sampler", "size"), [(5, 1), (None, 1)])
def test_a_sampler_is_wanted(sampler, size):
    with pytest.raises(TypeError, match="sampler should be an instance of ``Sampler``"):
        AspectRatioBatchSampler(sampler, size)


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_the_batch_size_is_positive(size):
    with pytest.raises(ValueError, match="batch_size should be a positive integer value"):
        AspectRatioBatchSampler(DefaultSampler(range(4)), size)


def test_classes_are_equally_frequent(distributed):
    dataset = Shaped([(0, 0)] * 20 + [(1, 0)] * 3 + [(2, 0)])
    sampler = distributed(ClassBalancedBatchSampler, 0, 1, dataset, 6)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 4
    for batch in batches:
        assert Counter(dataset.shapes[i][0] for i in batch) == {0: 2, 1: 2, 2: 2}
    common = [i for batch in batches for i in batch if i < 20]
    assert len(common) == len(set(common))
    by_labels = distributed(
        ClassBalancedBatchSampler, 0, 1, range(24), 6, labels=[s[0] for s in dataset.shapes]
    )
    assert list(by_labels) == batches


def test_labels_must_fit(distributed):
    with pytest.raises(ValueError, match="labels must be one for each of 3 samples, got 1"):
        distributed(ClassBalancedBatchSampler, 0, 1, range(3), 2, labels=[1])
    with pytest.raises(ValueError, match="no sample has a class"):
        distributed(ClassBalancedBatchSampler, 0, 1, range(3), 2, labels=[[], [], []])


def test_each_source_gives_its_share(distributed):
    dataset = ConcatDataset([list(range(10)), list(range(10, 14))])
    sampler = distributed(
        MultiSourceBatchSampler, 0, 1, dataset, 4, source_ratio=[1, 3], num_batches=8
    )
    batches = list(sampler)
    assert len(batches) == 8
    assert all(sum(i >= 10 for i in batch) == 3 for batch in batches)
    small = [i for batch in batches for i in batch if i >= 10]
    assert all(sorted(small[at : at + 4]) == [10, 11, 12, 13] for at in range(0, 24, 4))
    ordered = distributed(
        MultiSourceBatchSampler, 0, 1, dataset, 4, source_ratio=[1, 3], shuffle=False
    )
    assert next(iter(ordered)) == [0, 10, 11, 12]


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        ([1], "one positive number for each of 2 sources"),
        ([1, 0], "one positive number for each of 2 sources"),
        ([1, 2], "batch_size 4 does not divide by source_ratio"),
    ],
)
def test_wrong_ratios_are_refused(distributed, ratio, text):
    dataset = ConcatDataset([[1], [2]])
    with pytest.raises(ValueError, match=text):
        distributed(MultiSourceBatchSampler, 0, 1, dataset, 4, source_ratio=ratio)


def test_sources_are_needed(distributed):
    with pytest.raises(TypeError, match="needs a ConcatDataset"):
        distributed(MultiSourceBatchSampler, 0, 1, range(4), 4, source_ratio=[1])


KINDS = {
    "balanced": (ClassBalancedBatchSampler, {"labels": [i % 3 for i in range(24)]}),
    "sources": (MultiSourceBatchSampler, {"source_ratio": [1, 1]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_all_ranks_is_the_same_for_any_number_of_ranks(distributed, kind):
    cls, kwargs = KINDS[kind]
    dataset = ConcatDataset([list(range(12)), list(range(12, 24))])
    steps = {}
    for world in (1, 2, 4):
        shares = [
            list(distributed(cls, rank, world, dataset, 8 // world, seed=5, **kwargs))
            for rank in range(world)
        ]
        steps[world] = [sorted(itertools.chain(*step)) for step in zip(*shares, strict=True)]
    assert steps[1] == steps[2] == steps[4]


@pytest.mark.parametrize("kind", ["balanced", "sources", "ratio"])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_batch_samplers_resume_anywhere(distributed, kind, taken):
    dataset = ConcatDataset([list(range(12)), list(range(12, 24))])
    cls, kwargs = KINDS.get(kind, (AspectRatioBatchSampler, {"aspect_ratios": [0.5, 2.0] * 12}))
    sampler = distributed(cls, 0, 1, dataset, 4, **kwargs)
    sampler.set_epoch(2)
    expected = list(sampler)
    assert len(expected) == 6
    sampler.start_at(0)
    assert list(itertools.islice(sampler, taken)) == expected[:taken]
    resumed = distributed(cls, 0, 1, dataset, 4, seed=9, **kwargs)
    resumed.load_state_dict(sampler.state_dict())
    assert list(resumed) == expected[taken:]
    assert list(resumed) == expected
    resumed.set_epoch(3)
    assert list(resumed) != expected
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=list)
    assert list(iterate_from(loader, epoch=2, skip_batches=taken)) == expected[taken:]
    assert list(iterate_from(loader, epoch=2)) == expected
    with pytest.raises(ValueError, match="has version 7"):
        resumed.load_state_dict({"version": 7})
    with pytest.raises(ValueError, match="position must not be negative"):
        resumed.start_at(-1)


def test_batch_samplers_are_built_from_dicts():
    loader = build_dataloader(
        {
            "dataset": torch.utils.data.TensorDataset(torch.arange(8)),
            "sampler": {"type": "DefaultSampler"},
            "batch_sampler": {"type": "ClassBalancedBatchSampler", "labels": [0, 1] * 4},
            "batch_size": 2,
        },
        seed=0,
    )
    assert [sorted(int(x) % 2 for x in batch[0]) for batch in loader] == [[0, 1]] * 4
