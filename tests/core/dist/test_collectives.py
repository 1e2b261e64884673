"""Collectives on 2 and 4 processes."""

import functools
import inspect
import operator
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmx import dist
from mmx.dist import utils
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
    # Of whole numbers it is whole: towards zero, and exact where float32 is not.
    counts = torch.tensor([rank, 3, -rank, 2**40 + 1])
    dist.all_reduce(counts, "mean")
    assert [total // world_size, 3, -(total // world_size), 2**40 + 1] == counts.tolist()
    assert torch.int64 == counts.dtype
    turned = torch.tensor([1j * rank])
    dist.all_reduce(turned, "MEAN")
    assert 1j * total / world_size == turned.item()
    ranks = range(world_size)
    for op, every in (("band", operator.and_), ("bor", operator.or_), ("bxor", operator.xor)):
        bits = torch.tensor([rank, 6 + rank])
        dist.all_reduce(bits, op)
        expected = [functools.reduce(every, ranks), functools.reduce(every, (6 + r for r in ranks))]
        assert expected == bits.tolist(), op

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
    with pytest.raises(RuntimeError, match="please use `init_local_group`"):
        dist.get_local_group()
    with pytest.raises(
        ValueError, match=f"{world_size} processes cannot be split into machines of 3"
    ):
        dist.init_local_group(0, 3)
    # Two machines; of one process each, if there are but two.
    size = world_size // 2
    with pytest.raises(ValueError, match="node_rank must be from 0 to 1, but got 2"):
        dist.init_local_group(2, size)
    # Without the group, what the launcher says.
    assert (rank, world_size) == (dist.get_local_rank(), dist.get_local_size())
    node, local_rank = divmod(rank, size)
    dist.init_local_group(node, size)
    assert (local_rank, size) == (dist.get_local_rank(), dist.get_local_size())
    local = dist.get_local_group()
    assert (local_rank, size) == dist.get_dist_info(local)
    assert (local_rank == 0) == dist.is_main_process(local)
    members = list(range(node * size, node * size + size))
    data = torch.tensor(rank)
    dist.all_reduce(data, group=local)
    assert sum(members) == data.item()
    named = {"a": torch.tensor(rank)}
    dist.all_reduce_dict(named, group=local)
    assert sum(members) == named["a"].item()
    data = torch.tensor(rank)
    dist.all_reduce_params([data], group=local)
    assert sum(members) == data.item()
    assert members == [int(t) for t in dist.all_gather(torch.tensor(rank), local)]
    assert members == dist.all_gather_object(rank, local)
    # Sources and destinations are ranks among all processes.
    last = members[-1]
    told = [rank]
    dist.broadcast_object_list(told, last, local)
    assert [last] == told
    data = torch.tensor(rank)
    dist.broadcast(data, last, local)
    assert last == data.item()
    expected = members if rank == last else None
    assert expected == dist.gather_object(rank, last, local)
    assert (expected or []) == [int(t) for t in dist.gather(torch.tensor(rank), last, local)]
    # From the first of the group, which need not be number 0 of all.
    np.random.seed(100 + rank)
    seed = dist.sync_random_seed(local)
    np.random.seed(100 + members[0])
    assert np.random.randint(2**31) == seed
    dist.barrier(local)

    # Who is no member has no number.
    first = torch.distributed.new_group([0])
    assert ((0, 1) if rank == 0 else (-1, -1)) == dist.get_dist_info(first)
    assert (rank == 0) == dist.is_main_process(first)


def _object_group() -> None:
    group = dist.get_object_group()
    assert group is not None
    assert group is not dist.get_default_group()
    assert group is dist.get_object_group()
    assert "gloo" == dist.get_backend(group) == dist.get_backend()
    assert torch.device("cpu") == dist.get_comm_device(group)


def _questions() -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    assert dist.is_distributed()
    assert (rank, world_size) == dist.get_dist_info() == (dist.get_rank(), dist.get_world_size())
    assert (rank == 0) == dist.is_main_process()
    assert torch.distributed.group.WORLD is dist.get_default_group()
    assert "gloo" == dist.get_backend()
    assert torch.device("cpu") == dist.get_comm_device()
    only_once = dist.master_only(lambda text, end="": text + end)
    assert ("done." if rank == 0 else None) == only_once("done", end=".")


def _nested_data() -> None:
    rank = dist.get_rank()
    data = {"a": [torch.tensor([rank]), (torch.ones(2),)], "b": torch.zeros(1)}
    assert torch.device("cpu") == dist.get_data_device(data)
    moved = dist.cast_data_device(data, torch.device("meta"))
    assert torch.device("meta") == dist.get_data_device(moved)
    with pytest.raises(ValueError, match="device type in data should be the same"):
        dist.get_data_device([data, moved])
    out = {"a": [torch.zeros(1), (torch.zeros(2),)], "b": torch.ones(1)}
    dist.cast_data_device(data, torch.device("cpu"), out=out)
    assert ([rank], [1, 1], [0]) == tuple(
        t.tolist() for t in (out["a"][0], out["a"][1][0], out["b"])
    )
    with pytest.raises(ValueError, match="keys of data and out should be same"):
        dist.cast_data_device(data, torch.device("cpu"), out={"a": [], "c": torch.ones(1)})


def _barrier() -> None:
    # The last comes late; it costs little to be sure that the others have waited.
    if dist.get_rank() == dist.get_world_size() - 1:
        time.sleep(0.05)
    came = time.monotonic()
    dist.barrier()
    went = time.monotonic()
    assert max(dist.all_gather_object(came)) <= went


def _shared_model() -> None:
    rank, world_size = dist.get_dist_info()
    with pytest.raises(ValueError, match=f"{world_size} processes cannot be parted into groups of"):
        dist.set_model_parallel_size(world_size + 1)
    assert dist.get_default_group() is dist.get_data_group()
    dist.set_model_parallel_size(2)
    try:
        assert 2 == dist.get_model_parallel_size()
        assert (rank // 2, world_size // 2) == dist.data_share(rank, world_size)
        data = torch.tensor(rank)
        dist.all_reduce(data, group=dist.get_data_group())
        assert sum(range(rank % 2, world_size, 2)) == data.item()
        # Both ranks of a copy have the same results.
        collected = dist.collect_results([rank // 2], world_size // 2)
        assert (None if rank else [*range(world_size // 2)]) == collected
    finally:
        dist.set_model_parallel_size(1)
    assert (rank, world_size) == dist.data_share(rank, world_size)


def _wrong_arguments() -> None:
    one = torch.ones(1)
    for wrong in ([one], {"a": one}, 1.0, None):
        for function in (dist.all_reduce, dist.all_gather, dist.gather, dist.broadcast):
            with pytest.raises(TypeError, match="data should be a Tensor, but got <class"):
                function(wrong)
    with pytest.raises(TypeError, match="data must be a list of objects, but got <class 'dict'>"):
        dist.broadcast_object_list({})
    with pytest.raises(TypeError, match="data must be a dict of tensors, but got <class 'list'>"):
        dist.all_reduce_dict([one])
    for function in (dist.all_reduce, dist.all_reduce_dict, dist.all_reduce_params):
        with pytest.raises(ValueError, match=r"reduce op should be one of sum.* but got median"):
            function({"a": one} if function is dist.all_reduce_dict else one, op="median")
    with pytest.raises(NotImplementedError, match=r"device must be one of cpu, gpu.*'tpu'"):
        dist.collect_results([1], 1, device="tpu")
    with pytest.raises(ValueError, match="tmpdir should be None when device is gpu"):
        dist.collect_results([1], 1, device="gpu", tmpdir="somewhere")
    # Nobody waits for anybody: all are still in step.
    assert [*range(dist.get_world_size())] == dist.all_gather_object(dist.get_rank())


def _shared_failures() -> None:
    # One that meets all ranks leaves them together.
    error = ZeroDivisionError(f"on rank {dist.get_rank()}")
    assert error is dist.share_failure(error)
    assert [*range(dist.get_world_size())] == dist.all_gather_object(dist.get_rank())


def _every_primitive() -> list[str]:
    """Call all public functions, and return the names of those that were."""
    called = set()

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.add(name)
            return function(*args, **kwargs)

        return call

    for name in _public_functions():
        setattr(dist, name, counted(name, getattr(dist, name)))
    assert "pytorch" == dist.infer_launcher()
    assert not dist.is_distributed()
    dist.init_dist("pytorch", timeout=60)
    for check in (
        *(_questions, _tensors, _dicts_and_parameters, _objects, _nested_data, _object_group),
        *(_groups, _barrier, _shared_model, _wrong_arguments, _shared_failures),
    ):
        check()
    for device in ("cpu", "gpu"):
        _collect(device)
    dist.collect_results_cpu([1], 1, "unused")
    dist.collect_results_gpu([1], 1)
    return sorted(called)


def _public_functions() -> list[str]:
    return sorted(name for name in dist.__all__ if inspect.isfunction(getattr(dist, name)))


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_primitive(world_size: int) -> None:
    # At the time of writing 37; those of MMEngine's documentation are checked by their signatures.
    functions = _public_functions()
    assert len(functions) >= 37
    assert [functions] * world_size == run_distributed(_every_primitive, world_size, init=False)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_results_are_collected_in_the_order_of_the_data_set_without_files(
    device: str, world_size: int, tmp_path: Path
) -> None:
    run_distributed(_results, world_size, device, str(tmp_path))


@dist.master_only
def _main_process() -> str | None:
    return "done"


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
