"""Collectives on 2 and 4 processes."""

import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmx import dist
from mmx.dist import objects, utils
from mmx.testing import run_distributed


def _tensors() -> None:
    rank, world_size = dist.get_dist_info()
    total = sum(range(world_size))
    for op, expected in {
        "sum": float(total),
        "mean": total / world_size,
        "max": float(world_size - 1),
        "min": 0.0,
        "product": 0.0,
    }.items():
        data = torch.full((2, 2), float(rank))
        dist.all_reduce(data, op)
        assert [expected] * 4 == data.flatten().tolist(), op
    counts = torch.tensor([rank, 3])
    dist.all_reduce(counts, "mean")
    assert [total // world_size, 3] == counts.tolist()
    assert torch.int64 == counts.dtype
    with pytest.raises(
        ValueError, match=r"reduce op should be one of sum, product, .* but got median"
    ):
        dist.all_reduce(counts, "median")

    # In place, also where the memory is not contiguous and where a graph would be in the way.
    base = torch.full((2, 3), float(rank))
    view = base.t()
    dist.all_reduce(view, "mean")
    assert [total / world_size] * 6 == base.flatten().tolist()
    weight = torch.nn.Parameter(torch.full((1,), float(rank)))
    dist.all_reduce(weight, "mean")
    assert total / world_size == weight.item()

    gathered = dist.all_gather(torch.tensor([rank, 7]))
    assert [[r, 7] for r in range(world_size)] == [t.tolist() for t in gathered]
    last = world_size - 1
    gathered = dist.gather(torch.tensor([rank]).t(), dst=last)
    assert ([[r] for r in range(world_size)] if rank == last else []) == [
        t.tolist() for t in gathered
    ]
    data = torch.full((2, 3), float(rank)).t()
    dist.broadcast(data, src=last)
    assert [float(last)] * 6 == data.flatten().tolist()


def _dicts_and_parameters() -> None:
    rank, world_size = dist.get_dist_info()
    mean = sum(range(world_size)) / world_size
    # Another order on each rank, and several dtypes; the mean of integers need not be one.
    data = {"a": torch.tensor(float(rank)), "b": torch.full((2,), rank), "c": torch.ones(1) * rank}
    kept = data["a"]
    if rank:
        data = dict(reversed(data.items()))
    dist.all_reduce_dict(data, "mean")
    assert (mean, [mean] * 2, [mean]) == (
        data["a"].item(),
        data["b"].tolist(),
        data["c"].tolist(),
    )
    assert rank == kept.item()
    dist.all_reduce_dict({})

    for options in ({"coalesce": True}, {"coalesce": False}, {"bucket_size_mb": 1}):
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(rank)
        model[1].num_batches_tracked += rank * 2
        dist.all_reduce_params(model.parameters(), op="mean", **options)
        dist.all_reduce_params(model.buffers(), op="mean", **options)
        assert {mean} == {v for p in model.parameters() for v in p.flatten().tolist()}
        assert int(mean * 2) == model[1].num_batches_tracked.item()


def _objects() -> None:
    rank, world_size = dist.get_dist_info()
    last = world_size - 1
    mine = {"rank": rank, "data": [torch.tensor(rank), "x" * (10 * rank)]}
    everyone = dist.all_gather_object(mine)
    assert list(range(world_size)) == [o["rank"] for o in everyone]
    assert [10 * r for r in range(world_size)] == [len(o["data"][1]) for o in everyone]
    assert everyone[rank] is mine
    gathered = dist.gather_object(rank * 2, dst=last)
    assert ([2 * r for r in range(world_size)] if rank == last else None) == gathered
    told: list[Any] = [{"a": torch.ones(2)}, "b"] if rank == last else [None, None]
    same = told
    dist.broadcast_object_list(told, src=last)
    assert same is told
    assert (told[0]["a"].tolist(), told[1]) == ([1.0, 1.0], "b")
    seeds = dist.all_gather_object(dist.sync_random_seed())
    assert len(set(seeds)) == 1
    if rank == 0:
        dist.broadcast_object_list([1, 2])
    else:
        with pytest.raises(
            ValueError, match="rank 0 sends a list of 2 objects, but this rank gave one of 1"
        ):
            dist.broadcast_object_list([1])


class _Recorder(TorchDispatchMode):
    """Notes the bytes of each tensor that a collective gets, and the most memory that was in use.

    All collectives of torch come through here, whatever function they were called by.
    """

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[int] = []
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else each process imports all of the compiler, for seconds.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            sent = [t for t in tree_leaves(args) if isinstance(t, torch.Tensor)]
            self.messages += [t.numel() * t.element_size() for t in sent]
        # Python's own memory, as of bytes, may have been larger in between.
        self._look(tracemalloc.get_traced_memory()[1])
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        tracemalloc.reset_peak()
        self._look(tracemalloc.get_traced_memory()[0])
        return out

    def _look(self, traced: int) -> None:
        self._storages = {k: v for k, v in self._storages.items() if not v[0].expired()}
        self.peak = max(self.peak, traced + sum(size for _, size in self._storages.values()))


def _cost(collective: Callable[[], Any]) -> tuple[int, int]:
    """Return the largest message of a collective, and the memory it takes beside its result."""
    tracemalloc.start()
    try:
        with _Recorder() as recorder:
            result = collective()
        kept, last = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return max(recorder.messages), max(recorder.peak, last) - kept


PAYLOAD = 1 << 20


def _bounded() -> dict[str, Any]:
    """Return the messages and memory of all object collectives, in payloads."""
    objects._TOGETHER = objects._CHUNK = objects._PART_BYTES = PAYLOAD // 8
    rank, world_size = dist.get_dist_info()
    payload = bytes([rank]) * PAYLOAD
    rows = [{"id": i, "mask": bytes([rank]) * (PAYLOAD // 64)} for i in range(64)]

    def collect(device: str) -> Any:
        collected = dist.collect_results(rows, 64 * world_size, device)
        ids = [i for i in range(64) for _ in range(world_size)]
        assert (None if rank else ids) == (collected and [row["id"] for row in collected])
        return collected

    collectives: dict[str, Callable[[], Any]] = {
        "broadcast": lambda: dist.broadcast_object_list([payload, rank], 1),
        "all_gather": lambda: dist.all_gather_object(payload),
        "gather": lambda: dist.gather_object(payload),
        "collect on cpu": lambda: collect("cpu"),
        "collect on gpu": lambda: collect("gpu"),
    }
    found = {name: _cost(collective) for name, collective in collectives.items()}
    # And what they cost without the bounds.
    objects._TOGETHER = objects._PART_BYTES = 1 << 40
    for name in ("all_gather", "collect on cpu"):
        found[f"unbounded {name}"] = _cost(collectives[name])
    objects._TOGETHER, objects._CHUNK = 0, 1 << 40
    for name, collective in collectives.items():
        found[f"in one message {name}"] = _cost(collective)
    return {n: (m / PAYLOAD, extra / PAYLOAD) for n, (m, extra) in found.items()}


@pytest.mark.parametrize("world_size", [2, 4])
def test_large_objects_travel_in_small_messages_and_take_little_memory(world_size: int) -> None:
    ranks = run_distributed(_bounded, world_size)
    names = {"broadcast", "all_gather", "gather", "collect on cpu", "collect on gpu"}
    for found in ranks:
        costs = {name: cost for name, cost in found.items() if name in names}
        assert names == costs.keys()
        for name, (message, memory) in costs.items():
            assert message <= 1 / 8, name
            # What is sent, and what comes or is just packed; no more of them on more ranks. Of rows
            # three parts of an eighth, as packing one takes two, while the one before is sent.
            assert memory <= (0.5 if name.startswith("collect") else 2.2), (name, memory)
        for name in names:
            assert found[f"in one message {name}"][0] >= 1, name
        assert found["unbounded all_gather"][1] >= world_size + 1
        assert found["unbounded collect on cpu"][1] >= 1


def test_the_bounds_of_messages_and_parts() -> None:
    # As the constants say; and back ends count bytes in 32 bits.
    assert (64 << 20, 64 << 20, 256 << 20) == (
        objects._TOGETHER,
        objects._PART_BYTES,
        objects._CHUNK,
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], [0]),
        ([1], [1]),
        ([1, 2], [2]),
        ([bytes([i]) * 400 for i in range(9)], [4, 4, 1]),
        # What they share is sent once.
        ([bytes(400)] * 9, [9]),
        ([bytes(5000)] * 3, [1, 1, 1]),
        ([{"id": i} for i in range(100)], [40, 40, 20]),
        ((bytes(400),) * 9, [9]),
    ],
)
def test_a_list_is_split_by_rows_and_bytes(
    rows: Any, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_PART", 40)
    monkeypatch.setattr(objects, "_PART_BYTES", 2000)
    parts = objects._parts(rows)
    assert expected == [len(part) for part in parts]
    assert list(rows) == [row for part in parts for row in part]


def _large_objects() -> None:
    # One rank after the other, in several messages each.
    objects._TOGETHER = 100
    objects._CHUNK = 1000
    rank, world_size = dist.get_dist_info()
    payload = bytes([rank]) * (5000 + rank)
    expected = [bytes([r]) * (5000 + r) for r in range(world_size)]
    assert expected == dist.all_gather_object(payload)
    assert (expected if rank == 1 else None) == dist.gather_object(payload, dst=1)
    told = [payload]
    dist.broadcast_object_list(told, src=1)
    assert [expected[1]] == told


def _long_lists() -> None:
    # In several parts of rows; a failure in the middle is raised on all.
    objects._PART = 7
    rank = dist.get_rank()
    rows = [{"id": 2 * i + rank} for i in range(50)]
    collected = dist.collect_results(rows, 99)
    assert (None if rank else list(range(99))) == (collected and [row["id"] for row in collected])
    if rank == 1:
        with pytest.raises(RuntimeError, match="I stay here"):
            dist.collect_results([*rows[:20], _Unpicklable(), *rows[20:]], 99)
    else:
        with pytest.raises(dist.CollectiveError, match=r"failed on rank 1.*I stay here"):
            dist.collect_results(rows, 99)
    if rank == 0:
        with pytest.raises(RuntimeError, match="I arrive broken"):
            dist.collect_results(rows, 99)
    else:
        with pytest.raises(dist.CollectiveError, match=r"failed on rank 0.*I arrive broken"):
            dist.collect_results([*rows[:20], _Unreadable(), *rows[20:]], 99)
    assert [0, 1] == dist.all_gather_object(rank)


_WRITTEN: list[Any] = []


def _note_files(event: str, args: Any) -> None:
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event == "open" and args[2] & writes:
        _WRITTEN.append(args[0])
    elif event.startswith(("os.mkdir", "os.rename", "os.link", "os.symlink", "tempfile.")):
        _WRITTEN.append((event, args))


def _results(device: str, folder: str) -> None:
    rank, world_size = dist.get_dist_info()
    # As on machines that share nothing.
    os.environ["TMPDIR"] = own_folder = os.path.join(folder, f"machine{rank}")
    os.mkdir(own_folder)
    os.chdir(own_folder)
    sys.addaudithook(_note_files)
    _collect(device)
    exchange = os.path.join(folder, "exchange")
    if device == "cpu":
        # MMEngine's argument for where ranks exchange files.
        assert (None if rank else [0] * world_size) == dist.collect_results(
            [0], world_size, device, tmpdir=exchange
        )
    assert [] == _WRITTEN
    assert [] == os.listdir()
    assert not os.path.exists(exchange)
    with open("seen", "w"):
        pass
    os.mkdir("seen, too")
    assert ["seen", "os.mkdir"] == [w if isinstance(w, str) else w[0] for w in _WRITTEN]


def _collect(device: str) -> None:
    rank, world_size = dist.get_dist_info()
    samples = list(range(10))
    # As a sampler deals them: the last ranks repeat the first samples.
    padded = samples + samples[: -len(samples) % world_size]
    own = [{"id": i, "x": torch.tensor(i)} for i in padded[rank::world_size]]
    collected = dist.collect_results(own, len(samples), device)
    if rank:
        assert collected is None
    else:
        assert collected is not None
        assert samples == [row["id"] for row in collected]
        assert samples == [int(row["x"]) for row in collected]
    # Shares that are uneven, without padding.
    collected = dist.collect_results(samples[rank::world_size], len(samples), device)
    assert (None if rank else samples) == collected
    assert (None if rank else []) == dist.collect_results([], 0, device)


def _groups() -> None:
    rank, world_size = dist.get_dist_info()
    with pytest.raises(ValueError, match="4 processes cannot be split into machines of 3"):
        dist.init_local_group(0, 3)
    with pytest.raises(ValueError, match="node_rank must be from 0 to 1, but got 2"):
        dist.init_local_group(2, 2)
    node = rank // 2
    assert (rank, world_size) == (dist.get_local_rank(), dist.get_local_size())
    dist.init_local_group(node, 2)
    assert (rank % 2, 2) == (dist.get_local_rank(), dist.get_local_size())
    local = dist.get_local_group()
    assert (rank % 2, 2) == dist.get_dist_info(local)
    assert (rank % 2 == 0) == dist.is_main_process(local)
    data = torch.tensor(rank)
    dist.all_reduce(data, group=local)
    assert 4 * node + 1 == data.item()
    assert [2 * node, 2 * node + 1] == dist.all_gather_object(rank, local)
    # Sources and destinations are ranks among all processes.
    first = 2 * node
    told = [rank]
    dist.broadcast_object_list(told, first + 1, local)
    assert [first + 1] == told
    data = torch.tensor(rank)
    dist.broadcast(data, first + 1, local)
    assert first + 1 == data.item()
    assert ([first, first + 1] if rank == first + 1 else None) == dist.gather_object(
        rank, first + 1, local
    )
    assert ([first, first + 1] if rank == first + 1 else []) == [
        int(t) for t in dist.gather(torch.tensor(rank), first + 1, local)
    ]
    dist.barrier(local)


def _object_group() -> None:
    group = dist.get_object_group()
    assert group is not None
    assert group is not dist.get_default_group()
    assert group is dist.get_object_group()
    assert "gloo" == dist.get_backend(group) == dist.get_backend()
    assert torch.device("cpu") == dist.get_comm_device(group)
    with pytest.raises(RuntimeError, match="please use `init_local_group`"):
        dist.get_local_group()


class _Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("I stay here")


class _Unreadable:
    def __reduce__(self) -> Any:
        return (_refuse, ())


def _refuse() -> None:
    raise RuntimeError("I arrive broken")


def _failures() -> None:
    rank = dist.get_rank()
    for collective in (
        dist.all_gather_object,
        lambda o: dist.gather_object(o, 0),
        lambda o: dist.broadcast_object_list([o], 1),
        lambda o: dist.collect_results([o], 2),
    ):
        if rank == 1:
            with pytest.raises(RuntimeError, match="I stay here"):
                collective(_Unpicklable())
        else:
            with pytest.raises(
                dist.CollectiveError, match=r"failed on rank 1.*I stay here"
            ) as caught:
                collective(0)
            assert caught.value.rank == 1
    # What cannot be read is found by the receiver, and all learn of it.
    if rank == 0:
        with pytest.raises(RuntimeError, match="I arrive broken"):
            dist.collect_results([0], 2)
    else:
        with pytest.raises(dist.CollectiveError, match=r"failed on rank 0.*I arrive broken"):
            dist.collect_results([_Unreadable()], 2)
    # And everything still works.
    assert dist.all_gather_object(rank) == [0, 1]


@dist.master_only
def _only_once() -> str:
    return "done"


def _main_process() -> str | None:
    return _only_once()


def test_tensors_on_two_processes() -> None:
    run_distributed(_tensors, 2)


def test_tensors_and_objects_on_four_processes() -> None:
    run_distributed(_tensors, 4)
    run_distributed(_objects, 4)


@pytest.mark.parametrize("world_size", [2, 4])
def test_dicts_and_parameters_are_reduced(world_size: int) -> None:
    run_distributed(_dicts_and_parameters, world_size)


def test_objects_on_two_processes() -> None:
    run_distributed(_objects, 2)


@pytest.mark.parametrize("world_size", [2, 4])
def test_large_objects_travel_one_after_the_other(world_size: int) -> None:
    run_distributed(_large_objects, world_size)


def test_long_lists_travel_in_parts() -> None:
    run_distributed(_long_lists, 2)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_results_are_collected_in_the_order_of_the_data_set_without_files(
    device: str, world_size: int, tmp_path: Path
) -> None:
    run_distributed(_results, world_size, device, str(tmp_path))


def test_local_groups_are_those_of_one_machine() -> None:
    run_distributed(_groups, 4)


def test_objects_have_a_group_of_their_own() -> None:
    run_distributed(_object_group, 2)


def test_a_failure_on_one_rank_is_raised_on_all() -> None:
    run_distributed(_failures, 2)


def test_master_only_runs_on_the_main_process() -> None:
    assert run_distributed(_main_process, 2) == ["done", None]


# Starting


def _init(launcher: str) -> tuple[int, int, int]:
    if launcher == "slurm":
        os.environ["SLURM_PROCID"] = os.environ.pop("RANK")
        os.environ["SLURM_NTASKS"] = os.environ.pop("WORLD_SIZE")
        os.environ["SLURM_LOCALID"] = os.environ.pop("LOCAL_RANK")
        # On a machine without slurm's commands.
        os.environ.pop("MASTER_ADDR")
        os.environ["SLURM_NODELIST"] = "127.0.0.[1-3],another"
    elif launcher == "mpi":
        os.environ["OMPI_COMM_WORLD_RANK"] = os.environ.pop("RANK")
        os.environ["OMPI_COMM_WORLD_SIZE"] = os.environ.pop("WORLD_SIZE")
        os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] = os.environ.pop("LOCAL_RANK")
    assert launcher == dist.infer_launcher()
    port = {"port": int(os.environ["MASTER_PORT"])} if launcher == "slurm" else {}
    dist.init_dist(launcher, timeout=20, **port)
    assert dist.get_backend() == "gloo"
    data = torch.tensor(dist.get_rank())
    dist.all_reduce(data)
    dist.barrier()
    return (*dist.get_dist_info(), int(data))


@pytest.mark.parametrize("launcher", ["pytorch", "slurm", "mpi"])
def test_process_groups_start_with_every_launcher(launcher: str) -> None:
    assert run_distributed(_init, 2, launcher, init=False) == [(0, 2, 1), (1, 2, 1)]


def _init_own_rendezvous(path: str) -> int:
    rank = int(os.environ["RANK"])
    dist.init_dist(
        "pytorch", backend="gloo", init_method=f"file://{path}", rank=rank, world_size=2, timeout=20
    )
    return dist.get_world_size()


def test_a_rendezvous_of_ones_own_is_used(tmp_path: Any) -> None:
    assert run_distributed(_init_own_rendezvous, 2, str(tmp_path / "meet"), init=False) == [2, 2]


def _init_with_absent_ranks(absent: list[int]) -> str | None:
    if int(os.environ["RANK"]) in absent:
        # Stays away as long as the others wait.
        time.sleep(3)
        return None
    begin = time.monotonic()
    with pytest.raises(dist.AbsentRanksError) as caught:
        dist.init_dist("pytorch", startup_timeout=1)
    # Not torch's own ten minutes; what is more than one second is for a busy machine.
    assert time.monotonic() - begin < 5
    assert absent == caught.value.ranks
    assert isinstance(caught.value, TimeoutError)
    assert not dist.is_distributed()
    return str(caught.value)


def test_ranks_that_do_not_start_are_named() -> None:
    texts = run_distributed(_init_with_absent_ranks, 4, [1, 3], init=False)
    for rank in (0, 2):
        text = f"rank {rank} of 4 has waited 1 s, but ranks 1, 3 have not started: look at their"
        assert text in texts[rank]


def test_an_absent_rank_0_is_named() -> None:
    texts = run_distributed(_init_with_absent_ranks, 2, [0], init=False)
    assert "rank 1 of 2 cannot reach rank 0 at 127.0.0.1:" in texts[1]


def test_of_very_many_absent_ranks_the_first_are_named() -> None:
    assert f"ranks {', '.join(map(str, range(20)))}, … have" == utils._name_ranks([*range(50)])


def _slow_rank() -> None:
    dist.init_dist("pytorch", timeout=1)
    if dist.get_rank() == 1:
        time.sleep(2)
    assert [0, 1] == dist.all_gather_object(dist.get_rank())


def test_objects_are_waited_for_longer_than_the_timeout_of_tensors() -> None:
    run_distributed(_slow_rank, 2, init=False)


def test_starting_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    run_distributed(_main_process, 2)
    assert before == threading.active_count()
