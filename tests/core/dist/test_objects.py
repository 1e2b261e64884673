"""Objects that travel: whole, in parts, one after the other, and those that cannot."""

from __future__ import annotations

import contextlib
import datetime
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmx import dist
from mmx.dist import objects, utils
from mmx.testing import run_distributed

PAYLOAD = 1 << 20


class _Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("I stay here")


class _Unreadable:
    def __reduce__(self) -> Any:
        return (_refuse, ())


def _refuse() -> None:
    raise RuntimeError("I arrive broken")


def _failures() -> None:
    rank, world_size = dist.get_dist_info()
    for collective in (
        dist.all_gather_object,
        lambda o: dist.gather_object(o, 0),
        lambda o: dist.broadcast_object_list([o], 1),
        lambda o: dist.collect_results([o], world_size),
    ):
        if rank == 1:
            with pytest.raises(RuntimeError, match="I stay here"):
                collective(_Unpicklable())
        else:
            with pytest.raises(
                dist.CollectiveError, match=r"failed on rank 1.*I stay here"
            ) as caught:
                collective(0)
            assert 1 == caught.value.rank
    # What cannot be read is found by the receiver, and all learn of it.
    if rank == 0:
        with pytest.raises(RuntimeError, match="I arrive broken"):
            dist.collect_results([0], world_size)
    else:
        with pytest.raises(dist.CollectiveError, match=r"failed on rank 0.*I arrive broken"):
            dist.collect_results([_Unreadable()], world_size)
    # And everything still works.
    assert [*range(world_size)] == dist.all_gather_object(rank)


def _long_lists() -> None:
    # In several parts of rows; a failure in the middle is raised on all.
    rank, world_size = dist.get_dist_info()
    rows = [{"id": world_size * i + rank} for i in range(50)]
    size = world_size * 50 - 1
    collected = dist.collect_results(rows, size)
    assert (None if rank else [*range(size)]) == (collected and [row["id"] for row in collected])
    if rank == 1:
        with pytest.raises(RuntimeError, match="I stay here"):
            dist.collect_results([*rows[:20], _Unpicklable(), *rows[20:]], size)
    else:
        with pytest.raises(dist.CollectiveError, match=r"failed on rank 1.*I stay here"):
            dist.collect_results(rows, size)
    if rank == 0:
        with pytest.raises(RuntimeError, match="I arrive broken"):
            dist.collect_results(rows, size)
    else:
        with pytest.raises(dist.CollectiveError, match=r"failed on rank 0.*I arrive broken"):
            dist.collect_results([*rows[:20], _Unreadable(), *rows[20:]], size)
    assert [*range(world_size)] == dist.all_gather_object(rank)


def _large_objects() -> None:
    # Of another size on each rank.
    rank, world_size = dist.get_dist_info()
    payload = bytes([rank]) * (5000 + rank)
    expected = [bytes([r]) * (5000 + r) for r in range(world_size)]
    assert expected == dist.all_gather_object(payload)
    assert (expected if rank == 1 else None) == dist.gather_object(payload, dst=1)
    told = [payload]
    dist.broadcast_object_list(told, src=1)
    assert [expected[1]] == told


class _Recorder(TorchDispatchMode):
    """Notes the bytes of each tensor that a collective gets, and the most memory that was in use.

    All collectives of torch come through here, whatever function they were called by.
    """

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[int] = []
        self.groups: set[str] = set()
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
            for arg in args:
                with contextlib.suppress(TypeError, RuntimeError):
                    self.groups.add(torch.distributed.ProcessGroup.unbox(arg).group_name)
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
        # With what has ended since: it may have been there while Python took the most.
        self.peak = max(self.peak, traced + sum(size for _, size in self._storages.values()))
        self._storages = {k: v for k, v in self._storages.items() if not v[0].expired()}


def _cost(collective: Callable[[], Any]) -> tuple[int, int]:
    """Return the largest message of a collective, and the memory it takes beside its result."""
    tracemalloc.reset_peak()
    with _Recorder() as recorder:
        result = collective()
    kept, last = tracemalloc.get_traced_memory()
    del result
    return max(recorder.messages), max(recorder.peak, last) - kept


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


def _everything() -> dict[str, Any]:
    # To the end: threads of the back end, which free objects of Python, must not see it stop.
    tracemalloc.start()
    _failures()
    kept = objects._TOGETHER, objects._CHUNK, objects._PART
    objects._PART = 7
    _long_lists()
    # One rank after the other, in several messages each.
    objects._TOGETHER, objects._CHUNK = 100, 1000
    _large_objects()
    _failures()
    objects._TOGETHER, objects._CHUNK, objects._PART = kept
    return _bounded()


@pytest.mark.parametrize("world_size", [2, 4])
def test_objects_of_any_size_arrive_in_small_messages_and_take_little_memory(
    world_size: int,
) -> None:
    ranks = run_distributed(_everything, world_size)
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


class _Accelerator(torch.distributed.ProcessGroupGloo):
    """The back end of an accelerator that is none."""

    def __init__(self, store: Any, rank: int, size: int, timeout: datetime.timedelta) -> None:
        super().__init__(store, rank, size, timeout=timeout)


def _beside_an_accelerator() -> dict[str, list[str]]:
    """Return the groups through which each function goes."""
    torch.distributed.Backend.register_backend("fake", _Accelerator, devices=["cpu"])
    dist.init_dist("pytorch", backend="fake", timeout=60, object_timeout=7)
    default, own = dist.get_default_group(), dist.get_object_group()
    assert ("fake", "gloo") == (dist.get_backend(), dist.get_backend(own))
    # Collectives give up a little before the timeout of the run.
    cpu = torch.device("cpu")
    assert datetime.timedelta(seconds=50) == default._get_backend(cpu).options._timeout
    assert datetime.timedelta(seconds=7) == own._get_backend(cpu).options._timeout

    rank, one = dist.get_rank(), torch.ones(1)
    names = {default.group_name: "accelerator", own.group_name: "cpu"}
    found = {}
    for name, function in {
        "all_reduce": lambda: dist.all_reduce(one),
        "all_gather": lambda: dist.all_gather(one),
        "gather": lambda: dist.gather(one),
        "broadcast": lambda: dist.broadcast(one),
        "all_reduce_dict": lambda: dist.all_reduce_dict({"a": one}),
        "all_reduce_params": lambda: dist.all_reduce_params([one]),
        "sync_random_seed": dist.sync_random_seed,
        "barrier": dist.barrier,
        "broadcast_object_list": lambda: dist.broadcast_object_list([rank]),
        "all_gather_object": lambda: dist.all_gather_object(rank),
        "gather_object": lambda: dist.gather_object(rank),
        "collect_results": lambda: dist.collect_results([rank], 2),
        "collect_results_cpu": lambda: dist.collect_results_cpu([rank], 2),
        "collect_results_gpu": lambda: dist.collect_results_gpu([rank], 2),
    }.items():
        with _Recorder() as recorder:
            function()
        found[name] = sorted(names[group] for group in recorder.groups)

    # Objects take no memory of an accelerator that there is.
    utils.get_device = lambda: "cuda"
    torch.accelerator.current_device_index = lambda: 3
    assert torch.device("cuda", 3) == dist.get_comm_device(default)
    assert cpu == dist.get_comm_device(own)
    return found


def test_objects_have_a_group_of_the_cpu_with_its_own_timeout() -> None:
    first, second = run_distributed(_beside_an_accelerator, 2, init=False)
    assert first == second
    on_cpu = {
        "broadcast_object_list",
        "all_gather_object",
        "gather_object",
        "collect_results",
        "collect_results_cpu",
    }
    assert on_cpu < first.keys()
    assert {name: ["cpu" if name in on_cpu else "accelerator"] for name in first} == first
