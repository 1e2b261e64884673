import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmx.dataset.sampler as sampler_module
from mmx.dataset.sampler import DefaultSampler, InfiniteSampler
from mmx.registry import DATA_SAMPLERS

GOLDEN = json.loads((Path(__file__).parents[2] / "contract" / "data" / "samplers.json").read_text())


def of_rank(kind, rank, world_size, *args, **kwargs):
    """Build a sampler as process ``rank`` of ``world_size`` would."""
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(sampler_module, "get_dist_info", lambda: (rank, world_size))
        return kind(*args, **kwargs)


sizes, worlds, seeds, epochs = (
    st.integers(0, 23),
    st.integers(1, 7),
    st.integers(0, 2**40),
    st.integers(0, 3),
)


@settings(deadline=None)
@given(sizes, worlds, seeds, epochs, st.booleans(), st.booleans())
def test_the_ranks_share_the_data_set(size, world, seed, epoch, shuffle, round_up):
    shares = []
    for rank in range(world):
        sampler = of_rank(
            DefaultSampler, rank, world, range(size), shuffle=shuffle, seed=seed, round_up=round_up
        )
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    together = [i for turn in itertools.zip_longest(*shares) for i in turn if i is not None]
    if shuffle and size:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    else:
        order = list(range(size))
    assert order == together[:size]
    if round_up:
        assert len(set(map(len, shares))) == 1
        repeated = together[size:]
        assert len(repeated) < world
        assert (order * world)[: len(repeated)] == repeated
    else:
        assert size == len(together)


@settings(deadline=None)
@given(st.integers(1, 23), worlds, seeds, st.booleans())
def test_the_ranks_share_the_endless_stream(size, world, seed, shuffle):
    count = 3 * size
    shares = [
        list(
            itertools.islice(
                of_rank(InfiniteSampler, rank, world, range(size), shuffle=shuffle, seed=seed),
                count,
            )
        )
        for rank in range(world)
    ]
    stream = [i for turn in zip(*shares, strict=True) for i in turn]
    for start in range(0, count, size):
        assert list(range(size)) == sorted(stream[start : start + size])
    if not shuffle:
        assert list(range(size)) * 3 == stream[:count]


@settings(deadline=None)
@given(st.data(), st.integers(1, 23), st.integers(1, 4), seeds, epochs)
def test_the_default_sampler_resumes_anywhere(data, size, world, seed, epoch):
    rank = data.draw(st.integers(0, world - 1))
    sampler = of_rank(DefaultSampler, rank, world, range(size), seed=seed)
    sampler.set_epoch(epoch)
    expected = list(sampler)
    sampler.start_at(0)
    taken = data.draw(st.integers(0, len(expected)))
    iterator = iter(sampler)
    assert expected[:taken] == list(itertools.islice(iterator, taken))
    resumed = of_rank(DefaultSampler, rank, world, range(size), seed=seed + 1)
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert expected[taken:] == list(resumed)
    assert expected == list(resumed)
    resumed.load_state_dict(sampler.state_dict())
    resumed.set_epoch(epoch + 1)
    assert len(expected) == len(list(resumed))


@settings(deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 7), seeds, st.booleans())
def test_the_endless_stream_resumes_anywhere(data, size, world, seed, shuffle):
    rank = data.draw(st.integers(0, world - 1))
    sampler = of_rank(InfiniteSampler, rank, world, range(size), shuffle=shuffle, seed=seed)
    expected = list(itertools.islice(sampler, 40))
    again = of_rank(InfiniteSampler, rank, world, range(size), shuffle=shuffle, seed=seed)
    taken = data.draw(st.integers(0, 30))
    assert expected[:taken] == list(itertools.islice(again, taken))
    resumed = of_rank(InfiniteSampler, rank, world, range(size), shuffle=shuffle, seed=seed + 1)
    resumed.load_state_dict(again.state_dict())
    assert expected[taken:] == list(itertools.islice(resumed, 40 - taken))


@settings(deadline=None)
@given(st.sampled_from([DefaultSampler, InfiniteSampler]), seeds)
def test_a_step_of_all_ranks_takes_the_same_samples_for_any_number_of_ranks(kind, seed):
    steps = {}
    for world in (1, 2, 4):
        batch = 8 // world
        shares = [
            list(itertools.islice(of_rank(kind, rank, world, range(24), seed=seed), 24 // world))
            for rank in range(world)
        ]
        steps[world] = [
            sorted(i for share in shares for i in share[at : at + batch])
            for at in range(0, 24 // world, batch)
        ]
    assert steps[1] == steps[2] == steps[4]


@pytest.mark.parametrize("kind", [DefaultSampler, InfiniteSampler])
def test_a_position_is_valid_for_another_number_of_ranks(kind):
    two = [of_rank(kind, rank, 2, range(24), seed=3) for rank in range(2)]
    for sampler in two:
        assert len(list(itertools.islice(sampler, 4))) == 4
    states = [sampler.state_dict() for sampler in two]
    assert states[0] == states[1]
    one = of_rank(kind, 0, 1, range(24), seed=3)
    all_of_it = list(itertools.islice(one, 24))
    resumed = of_rank(kind, 0, 1, range(24), seed=0)
    resumed.load_state_dict(states[0])
    assert all_of_it[8:] == list(itertools.islice(resumed, 16))


@pytest.mark.parametrize("kind", [DefaultSampler, InfiniteSampler])
def test_a_state_that_does_not_fit_is_refused(kind):
    sampler = of_rank(kind, 0, 2, range(24), seed=3)
    with pytest.raises(
        ValueError, match=r"position 3 of .*Sampler does not divide by the 2 processes"
    ):
        sampler.load_state_dict({"version": 1, "seed": 0, "epoch": 0, "position": 3})
    with pytest.raises(ValueError, match="has version 99; this mmx knows 1 at most: update mmx"):
        sampler.load_state_dict({"version": 99, "seed": 0, "epoch": 0, "position": 0})
    with pytest.raises(ValueError, match="position must not be negative, got -1"):
        sampler.start_at(-1)


def test_an_epoch_is_another_order():
    sampler = DefaultSampler(range(50), seed=0)
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)


def test_a_second_iterator_of_the_stream_goes_on():
    sampler = InfiniteSampler(range(5), shuffle=False)
    assert list(itertools.islice(sampler, 3)) == [0, 1, 2]
    assert list(itertools.islice(sampler, 3)) == [3, 4, 0]
    sampler.set_epoch(3)
    assert len(sampler) == 5


def test_an_empty_stream_is_an_error():
    with pytest.raises(ValueError, match="InfiniteSampler got an empty list"):
        next(iter(InfiniteSampler([], seed=0)))


def test_without_a_seed_the_ranks_agree_on_one(monkeypatch):
    monkeypatch.setattr(sampler_module, "sync_random_seed", lambda: 77)
    assert DefaultSampler(range(3)).seed == 77
    assert InfiniteSampler(range(3)).seed == 77


def test_samplers_are_built_by_name():
    built = DATA_SAMPLERS.build({"type": "DefaultSampler", "dataset": range(3), "shuffle": False})
    assert list(built) == [0, 1, 2]
    built = DATA_SAMPLERS.build({"type": "InfiniteSampler", "dataset": range(3), "seed": 1})
    assert isinstance(built, InfiniteSampler)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_the_order_is_that_of_mmengine(case):
    kind = {"DefaultSampler": DefaultSampler, "InfiniteSampler": InfiniteSampler}[case["type"]]
    sampler = of_rank(kind, *case["dist"], range(case["size"]), **case["kwargs"])
    sampler.set_epoch(case["epoch"])
    assert case["order"] == list(itertools.islice(sampler, len(case["order"])))
    assert case["length"] == len(sampler)
