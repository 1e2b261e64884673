import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
)

from mmx.dataset import DefaultSampler, build_dataloader, default_collate, pseudo_collate
from mmx.registry import DATASETS, FUNCTIONS


class Lazy:
    """A data set of numbers that must be initialised."""

    ready = False

    def __init__(self, size=10):
        self.size = size
        self.metainfo = {"size": size}

    def full_init(self):
        self.ready = True

    def __len__(self):
        assert self.ready
        return self.size

    def __getitem__(self, index):
        return {"x": torch.tensor(index)}


@pytest.fixture
def config():
    DATASETS.register_module(name="LazyNumbers", module=Lazy)
    yield {
        "batch_size": 4,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": {"type": "LazyNumbers", "size": 10},
    }
    DATASETS._module_dict.pop("LazyNumbers")


def test_a_loader_is_built_from_dicts(config):
    before = copy.deepcopy(config)
    loader = build_dataloader(config, seed=3)
    assert config == before
    assert isinstance(loader, DataLoader)
    assert loader.dataset.ready
    assert isinstance(loader.sampler, DefaultSampler)
    assert loader.sampler.seed == 3
    assert [len(batch["x"]) for batch in loader] == [4, 4, 2]
    assert loader.collate_fn is pseudo_collate
    assert isinstance(next(iter(loader))["x"], list)


def test_a_finished_loader_is_returned_as_it_is():
    loader = DataLoader([1])
    assert build_dataloader(loader) is loader


def test_the_samplers_seed_is_left_to_the_ranks_if_theirs_differ(config, monkeypatch):
    monkeypatch.setattr("mmx.dataset.sampler.sync_random_seed", lambda: 99)
    assert build_dataloader(config, seed=3, diff_rank_seed=True).sampler.seed == 99


@pytest.mark.parametrize(
    "collate",
    ["default_collate", {"type": "default_collate"}, {"type": default_collate}, default_collate],
)
def test_the_collate_function_may_be_a_name_a_dict_or_a_function(config, collate):
    batch = next(iter(build_dataloader({**config, "collate_fn": collate})))
    assert torch.equal(batch["x"], torch.arange(4))


def test_other_keys_of_collate_fn_are_arguments(config):
    def padded(batch, value, times=1):
        return value * times, len(batch)

    FUNCTIONS.register_module(name="padded", module=padded)
    try:
        loader = build_dataloader(
            {**config, "collate_fn": {"type": "padded", "value": 2, "times": 3}}
        )
        assert next(iter(loader)) == (6, 4)
    finally:
        FUNCTIONS._module_dict.pop("padded")


@pytest.mark.parametrize(
    ("collate", "text"),
    [
        (5, "collate_fn should be a dict or callable object, but got 5"),
        (
            {"type": 5},
            "type of collate_fn should be string or callable object, but got <class 'int'>",
        ),
        (
            {"x": 5},
            "type of collate_fn should be string or callable object, but got <class 'NoneType'>",
        ),
    ],
)
def test_a_wrong_collate_function_is_explained(config, collate, text):
    with pytest.raises(TypeError, match=text):
        build_dataloader({**config, "collate_fn": collate})


def seeded(worker_id, extra):
    return worker_id + extra


def test_worker_init_fn_is_the_default_one_or_the_users(config, monkeypatch):
    monkeypatch.setattr("mmx.dataset.loader.get_rank", lambda: 2)
    function = build_dataloader(
        {**config, "disable_subprocess_warning": True}, seed=3
    ).worker_init_fn
    assert isinstance(function, partial)
    assert function.keywords == {
        "num_workers": 0,
        "rank": 2,
        "seed": 3,
        "disable_subprocess_warning": True,
    }
    assert build_dataloader(config).worker_init_fn is None
    assert build_dataloader({**config, "worker_init_fn": None}, seed=3).worker_init_fn is None
    assert build_dataloader({**config, "worker_init_fn": seeded}).worker_init_fn is seeded
    given = build_dataloader(
        {**config, "worker_init_fn": {"type": seeded, "extra": 2}}
    ).worker_init_fn
    assert given(1) == 3
    with pytest.raises(TypeError, match="worker_init_fn should be a dict or callable object"):
        build_dataloader({**config, "worker_init_fn": 5})


def test_a_batch_sampler_gets_the_sampler_and_the_batch_size(config):
    loader = build_dataloader(
        {**config, "batch_sampler": {"type": BatchSampler, "drop_last": True}}
    )
    assert [len(batch["x"]) for batch in loader] == [4, 4]
    assert isinstance(loader.batch_sampler.sampler, DefaultSampler)
    config.pop("sampler")
    made = BatchSampler(SequentialSampler(range(10)), 5, False)
    assert [len(b["x"]) for b in build_dataloader({**config, "batch_sampler": made})] == [5, 5]


def test_objects_serve_in_place_of_dicts(config):
    dataset = Lazy()
    dataset.full_init()
    sampler = SequentialSampler(dataset)
    loader = build_dataloader({"dataset": dataset, "sampler": sampler, "batch_size": 5})
    assert loader.sampler is sampler
    assert loader.dataset is dataset


def test_a_trial_uses_some_batches_only(config, monkeypatch):
    loader = build_dataloader({**config, "num_batch_per_epoch": 2})
    assert len(loader) == 2
    assert loader.dataset.metainfo == {"size": 10}
    assert len(build_dataloader({**config, "num_batch_per_epoch": 20})) == 3
    monkeypatch.setattr("mmx.dataset.loader.get_world_size", lambda: 2)
    assert len(build_dataloader({**config, "num_batch_per_epoch": 1}).dataset) == 8
    batch_sampler = {"type": BatchSampler, "drop_last": True, "batch_size": 3}
    config.pop("batch_size")
    sliced = build_dataloader({**config, "num_batch_per_epoch": 1, "batch_sampler": batch_sampler})
    assert len(sliced.dataset) == 6
    with pytest.raises(ValueError, match="num_batch_per_epoch needs batch_size"):
        build_dataloader({**config, "num_batch_per_epoch": 1})


def test_missing_and_unknown_keys_are_named(config):
    with pytest.raises(
        TypeError, match=r"dataloader.num_worker is no argument .*did you mean 'num_workers'"
    ):
        build_dataloader({**config, "num_worker": 2})
    with pytest.raises(KeyError, match=r"sampler=dict\(type='DefaultSampler', shuffle=True\)"):
        build_dataloader({"dataset": [1], "shuffle": True})
    with pytest.raises(KeyError, match=r"dataloader.dataset is missing"):
        build_dataloader({"batch_size": 1})
    with pytest.raises(ValueError, match="mutually exclusive") as raised:
        build_dataloader({**config, "shuffle": True})
    assert "while building the data loader of Lazy" in raised.value.__notes__[0]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(5))


def test_an_iterable_data_set_needs_no_sampler():
    loader = build_dataloader({"dataset": Stream(), "batch_size": 2})
    assert list(loader) == [[0, 1], [2, 3], [4]]
    with pytest.raises(
        TypeError, match="num_batch_per_epoch cuts data sets with a length, but Stream"
    ):
        build_dataloader({"dataset": Stream(), "batch_size": 2, "num_batch_per_epoch": 1})


class HuggingFaceLike:
    """As `datasets.Dataset`: no subclass of torch's, reads whole batches."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"a": index}

    def __getitems__(self, indices):
        return [{"a": index} for index in indices]


@pytest.mark.parametrize(
    "dataset", [HuggingFaceLike(), TensorDataset(torch.arange(6)), np.arange(6), [1, 2, 3, 4, 5, 6]]
)
def test_any_indexable_object_is_a_data_set(dataset):
    config = {"dataset": dataset, "batch_size": 4, "sampler": {"type": "DefaultSampler"}}
    assert len(list(build_dataloader(config, seed=0))) == 2


def test_workers_of_a_built_loader_see_the_sliced_data_set(config):
    config.update(num_workers=1, num_batch_per_epoch=1, multiprocessing_context="spawn")
    assert [len(batch["x"]) for batch in build_dataloader(config, seed=1)] == [4]
