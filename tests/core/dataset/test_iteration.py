"""Positions, random numbers and workers of `iterate_from`."""

import os
import random
import signal
import time
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    get_worker_info,
)

from mmx.dataset.iteration import (
    DataWorkerError,
    dataloader_state,
    iterate_from,
    load_dataloader_state,
)
from mmx.dataset.sampler import DefaultSampler, InfiniteSampler

# The machine may have fewer cores than the tests have workers.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Noisy(Dataset):
    """Index and three random numbers; counts its reads in shared memory."""

    def __init__(self, size=24):
        self.size = size
        self.reads = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.reads += 1
        return torch.tensor(
            [index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64
        )


class Whole(Noisy):
    """Reads whole batches."""

    def __getitems__(self, indices):
        assert type(indices) is list
        return [self[index] for index in indices]


class Stream(IterableDataset):
    """Each worker yields its own numbers, with noise and the epoch."""

    def __init__(self, size=6):
        self.size = size
        self.epoch = -1

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        info = get_worker_info()
        worker = 0 if info is None else info.id
        assert info is None or info.dataset is self
        for number in range(self.size):
            yield torch.tensor([worker, number, self.epoch, random.random()], dtype=torch.float64)


def loader(dataset=None, workers=2, **kwargs):
    dataset = Noisy() if dataset is None else dataset
    if "sampler" not in kwargs and "batch_sampler" not in kwargs:
        kwargs["sampler"] = DefaultSampler(dataset, seed=3)
    if "batch_sampler" not in kwargs:
        kwargs.setdefault("batch_size", 4)
    return DataLoader(dataset, num_workers=workers, **kwargs)


def listed(batches):
    return [batch.tolist() for batch in batches]


def passes(dataloader, seed=5, epochs=2):
    return [listed(iterate_from(dataloader, epoch=e, seed=seed)) for e in range(epochs)]


@pytest.fixture(scope="module")
def reference():
    return passes(loader(workers=1))


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("persistent", [False, True])
def test_random_numbers_in_workers_depend_on_the_position_alone(reference, workers, persistent):
    assert reference == passes(loader(workers=workers, persistent_workers=persistent))


@pytest.mark.parametrize("dataset", [Whole(), Noisy()])
def test_epochs_ranks_and_seeds_differ(monkeypatch, reference, dataset):
    assert reference[0] != reference[1]
    flat = [x for batch in reference[0] for row in batch for x in row[1:]]
    assert len(flat) == len(set(flat))
    assert reference[0] != passes(loader(dataset), seed=6, epochs=1)[0]
    monkeypatch.setattr("mmx.dataset.iteration.get_rank", lambda: 1)
    assert reference[0] != passes(loader(dataset), epochs=1)[0]


def test_a_dataset_that_reads_whole_batches_gives_the_same(reference):
    assert reference == passes(loader(Whole()))


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("skip", [1, 4, 6, 9])
def test_a_pass_in_workers_begins_anywhere_without_reading(reference, skip, persistent):
    resumed = loader(persistent_workers=persistent)
    if persistent:
        next(iterate_from(resumed, epoch=7, seed=1))
    before = int(resumed.dataset.reads) if not persistent else None
    assert reference[1][skip:] == listed(iterate_from(resumed, epoch=1, skip_batches=skip, seed=5))
    if not persistent:
        assert max(0, 24 - 4 * skip) == int(resumed.dataset.reads) - before
    assert reference[0] == listed(iterate_from(resumed, epoch=0, seed=5))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_works_with_samplers_of_all_kinds(workers):
    class Backwards(SequentialSampler):
        def __iter__(self):
            return iter(range(len(self.data_source) - 1, -1, -1))

    class Doubled(DefaultSampler):
        def __iter__(self):
            for index in super().__iter__():
                yield index
                yield index

    data = range(24)
    for arguments in (
        {"batch_size": 4, "shuffle": False},
        {"batch_size": 5, "drop_last": True, "sampler": DefaultSampler(data, seed=1)},
        {"batch_size": 5, "sampler": Backwards(data)},
        {"batch_size": 5, "sampler": Doubled(data, seed=1)},
        {"batch_sampler": BatchSampler(DefaultSampler(data, seed=1), 4, False)},
        {"batch_sampler": [[0, 1], [2], [5, 4, 3]]},
        {"batch_size": None, "sampler": DefaultSampler(data, seed=1)},
        {"batch_size": None, "sampler": BatchSampler(SequentialSampler(data), 4, True)},
    ):
        dataset = [[i] for i in data]
        if arguments.get("batch_size", 1) is None and isinstance(
            arguments["sampler"], BatchSampler
        ):
            dataset = np.arange(24)
        plain = DataLoader(dataset, num_workers=workers, **arguments)
        if hasattr(plain.sampler, "set_epoch"):
            plain.sampler.set_epoch(2)
        if hasattr(plain.batch_sampler, "sampler") and hasattr(
            plain.batch_sampler.sampler, "set_epoch"
        ):
            plain.batch_sampler.sampler.set_epoch(2)
        expected = [torch.as_tensor(x[0] if isinstance(x, list) else x).tolist() for x in plain]
        for skip in (0, 2, 99):
            got = iterate_from(plain, epoch=2, skip_batches=skip, seed=1)
            got = [torch.as_tensor(x[0] if isinstance(x, list) else x).tolist() for x in got]
            assert expected[skip:] == got


def test_the_endless_sampler_is_positioned_too():
    endless = loader(workers=0, sampler=InfiniteSampler(range(24), seed=1))
    batches = iterate_from(endless, epoch=0, seed=0)
    expected = [next(batches)[:, 0].tolist() for _ in range(12)]
    batches = iterate_from(endless, epoch=0, skip_batches=7, seed=0)
    assert expected[7:] == [next(batches)[:, 0].tolist() for _ in range(5)]


def random_states():
    return random.random(), np.random.rand(), torch.rand(()).item()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampler", [None, "random"])
def test_a_run_resumed_in_the_middle_of_a_pass_finds_the_same_random_state(workers, sampler):
    """The caller sets the state of the pass's beginning, calls, and sets the state of the position."""

    def make():
        dataset = Noisy()
        chosen = DefaultSampler(dataset, seed=3) if sampler is None else RandomSampler(dataset)
        return loader(dataset, workers, sampler=chosen)

    def states():
        return random.getstate(), np.random.get_state(), torch.get_rng_state()

    def restore(saved):
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])

    torch.manual_seed(0)
    straight = make()
    begin = states()
    expected, drawn = [], []
    for number, batch in enumerate(iterate_from(straight, epoch=0, seed=5)):
        if number == 3:
            # With workers=0 the batch has already drawn; a run saves between batches.
            pass
        expected.append(batch.tolist())
        drawn.append(torch.rand(()).item())
        if number == 2:
            middle = states()
    torch.manual_seed(99)
    restore(begin)
    batches = iterate_from(make(), epoch=0, skip_batches=3, seed=5)
    restore(middle)
    resumed, redrawn = [], []
    for batch in batches:
        resumed.append(batch.tolist())
        redrawn.append(torch.rand(()).item())
    assert expected[3:] == resumed
    assert drawn[3:] == redrawn


def test_skipping_leaves_the_random_state_of_this_process():
    shuffled = loader(workers=0, sampler=RandomSampler(range(24)))
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    iterate_from(shuffled, epoch=0, skip_batches=2, seed=5)
    after = random_states()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    assert random_states() == after


def test_new_and_persistent_workers_draw_equally_from_this_process():
    states = []
    for persistent in (False, True):
        torch.manual_seed(4)
        dataloader = loader(persistent_workers=persistent)
        for epoch in range(2):
            listed(iterate_from(dataloader, epoch=epoch, seed=5))
        states.append(torch.rand(()).item())
    assert states[0] == states[1]


def test_persistent_workers_are_reused_and_serve_plain_iteration():
    dataloader = loader(persistent_workers=True)
    plain = listed(dataloader)
    listed(iterate_from(dataloader, epoch=0, seed=5))
    pids = [worker.pid for worker in dataloader._iterator._workers]
    listed(iterate_from(dataloader, epoch=1, skip_batches=2, seed=5))
    dataloader.sampler.set_epoch(0)
    again = [[row[0] for row in batch] for batch in listed(dataloader)]
    assert [[row[0] for row in batch] for batch in plain] == again
    listed(iterate_from(dataloader, epoch=2, seed=5))
    assert pids == [worker.pid for worker in dataloader._iterator._workers]


def test_an_abandoned_pass_of_persistent_workers_does_not_leak_into_the_next(reference):
    dataloader = loader(persistent_workers=True)
    next(iterate_from(dataloader, epoch=0, seed=5))
    assert reference[1] == listed(iterate_from(dataloader, epoch=1, seed=5))


def note_worker(worker_id):
    info = get_worker_info()
    info.dataset.size = 8
    info.dataset.noted = worker_id


class Noted(Noisy):
    noted = None

    def __getitem__(self, index):
        assert self.size == 8
        return torch.tensor([index, self.noted])


def test_worker_init_fn_finds_the_users_dataset():
    dataloader = loader(Noted(), worker_init_fn=note_worker)
    seen = {row[1] for batch in listed(iterate_from(dataloader, epoch=0, seed=1)) for row in batch}
    assert {0, 1} == seen


def test_spawned_workers_give_the_same(reference):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert reference[0] == passes(loader(multiprocessing_context="spawn"), epochs=1)[0]


@pytest.mark.parametrize("persistent", [False, True])
def test_iterable_datasets_learn_the_epoch_and_are_reproducible(persistent):
    def all_of(dataloader):
        return [listed(iterate_from(dataloader, epoch=e, seed=5)) for e in range(2)]

    dataloader = DataLoader(Stream(), batch_size=2, num_workers=2, persistent_workers=persistent)
    first = all_of(dataloader)
    assert {0.0} == {row[2] for batch in first[0] for row in batch}
    assert {1.0} == {row[2] for batch in first[1] for row in batch}
    assert first == all_of(DataLoader(Stream(), batch_size=2, num_workers=2))
    noise = [row[3] for one in first for batch in one for row in batch]
    assert len(noise) == len(set(noise))
    skipped = listed(iterate_from(dataloader, epoch=1, skip_batches=3, seed=5))
    assert first[1][3:] == skipped


def test_an_iterable_dataset_without_workers_is_skipped_by_reading():
    dataloader = DataLoader(Stream(), batch_size=2)
    batches = listed(iterate_from(dataloader, epoch=4, skip_batches=2, seed=5))
    assert [[row[1] for row in batch] for batch in batches] == [[4.0, 5.0]]
    assert batches[0][0][2] == 4.0


def test_any_iterable_serves_as_a_loader():
    assert list(iterate_from([1, 2, 3, 4], epoch=0, skip_batches=2)) == [3, 4]
    assert list(iterate_from([1], epoch=0, skip_batches=2)) == []
    with pytest.raises(ValueError, match="skip_batches must not be negative, got -1"):
        iterate_from([1], epoch=0, skip_batches=-1)


class Stateful:
    """A loader that knows its own position, as torchdata's does."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < 5:
            self.at += 1
            yield self.at
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_a_loader_with_a_state_of_its_own_is_not_skipped_twice():
    one = Stateful()
    batches = iterate_from(one, epoch=0)
    assert [next(batches), next(batches)] == [1, 2]
    other = Stateful()
    load_dataloader_state(other, dataloader_state(one))
    assert list(iterate_from(other, epoch=0, skip_batches=2)) == [3, 4, 5]
    assert list(iterate_from(other, epoch=1, skip_batches=2)) == [3, 4, 5]


@pytest.mark.parametrize("workers", [0, 2])
def test_generators_of_a_loader_are_part_of_its_state(workers):
    def make():
        generator = torch.Generator().manual_seed(8)
        return DataLoader(
            list(range(12)), 3, shuffle=True, generator=generator, num_workers=workers
        )

    straight = make()
    expected = [listed(iterate_from(straight, epoch=e, seed=1)) for e in range(3)]

    stopped = make()
    listed(iterate_from(stopped, epoch=0, seed=1))
    batches = iterate_from(stopped, epoch=1, seed=1)
    assert expected[1][:2] == [next(batches).tolist(), next(batches).tolist()]
    state = dataloader_state(stopped)
    resumed = make()
    load_dataloader_state(resumed, state)
    assert expected[1][2:] == listed(iterate_from(resumed, epoch=1, skip_batches=2, seed=1))
    assert expected[2] == listed(iterate_from(resumed, epoch=2, seed=1))

    between = make()
    listed(iterate_from(between, epoch=0, seed=1))
    resumed = make()
    load_dataloader_state(resumed, dataloader_state(between))
    assert expected[1] == listed(iterate_from(resumed, epoch=1, seed=1))


def test_a_state_that_does_not_fit_is_refused():
    plain = loader(workers=0)
    with pytest.raises(ValueError, match="the data loader's state has version 9"):
        load_dataloader_state(plain, {"version": 9})
    state = {"version": 1, "generators": [torch.get_rng_state()], "pass_generators": []}
    with pytest.raises(ValueError, match="with 1 random generators, this one has 0"):
        load_dataloader_state(plain, state)


class Deadly(Noisy):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def __getitem__(self, index):
        if index == 13:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(self.how)
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        (3, r"worker 1 \(pid \d+\) exited with code 3 while batches were still due"),
        ("kill", r"worker 1 \(pid \d+\) was ended by signal 9, SIGKILL"),
    ],
)
@pytest.mark.parametrize("persistent", [False, True])
def test_a_dead_worker_is_named_and_ends_the_others(how, text, persistent):
    dataset = Deadly(how)
    dataloader = loader(dataset, sampler=SequentialSampler(dataset), persistent_workers=persistent)
    start = time.monotonic()
    batches = iterate_from(dataloader, epoch=0, seed=1)
    workers = list(batches._workers)
    with pytest.raises(DataWorkerError, match=text) as raised:
        listed(batches)
    assert time.monotonic() - start < 10
    assert list(raised.value.workers) == [1]
    assert not any(worker.is_alive() for worker in workers)


class Faulty(Noisy):
    def __getitem__(self, index):
        if index == 5:
            raise RuntimeError("cannot read sample 5")
        return super().__getitem__(index)


def test_an_error_of_the_dataset_is_raised_as_it_is_and_iteration_goes_on():
    dataset = Faulty()
    batches = iterate_from(loader(dataset, sampler=SequentialSampler(dataset)), epoch=0, seed=1)
    next(batches)
    with pytest.raises(RuntimeError, match="cannot read sample 5") as raised:
        next(batches)
    assert not isinstance(raised.value, DataWorkerError)
    assert len(batches) == 6
    assert [batch[0, 0].item() for batch in batches] == [8.0, 12.0, 16.0, 20.0]
