"""Every function without initialised process groups, and arguments that are wrong anywhere."""

import datetime
import os
from collections import namedtuple
from typing import Any

import pytest
import torch

from mmx import dist
from mmx.dist import utils

Pair = namedtuple("Pair", "a b")


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
        *("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST", "SLURM_LOCALID"),
        *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ):
        # Set before it is deleted, so that what a test sets itself goes, too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_questions_have_the_answers_of_one_process() -> None:
    assert not dist.is_distributed()
    assert dist.get_dist_info() == (0, 1)
    assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
    assert (dist.get_local_rank(), dist.get_local_size()) == (0, 1)
    assert dist.is_main_process()
    assert dist.get_backend() is None
    assert dist.get_default_group() is None
    assert dist.get_local_group() is None
    assert torch.device("cpu") == dist.get_comm_device()
    dist.barrier()


def test_collectives_of_one_process_change_nothing() -> None:
    data = torch.arange(3.0)
    dist.all_reduce(data, "mean")
    dist.broadcast(data)
    dist.all_reduce_params([data])
    dist.all_reduce_params(p for p in [data])
    named = {"a": data}
    dist.all_reduce_dict(named)
    assert named == {"a": data}
    assert data.tolist() == [0.0, 1.0, 2.0]
    assert [data] == dist.all_gather(data)
    assert [data] == dist.gather(data)
    assert dist.all_gather_object("x") == ["x"]
    assert dist.gather_object("x") == ["x"]
    objects = ["x", 1]
    dist.broadcast_object_list(objects)
    assert objects == ["x", 1]


def test_results_are_cut_to_the_length_of_the_data_set() -> None:
    assert dist.collect_results([1, 2, 3], 2) == [1, 2]
    assert dist.collect_results([1, 2, 3], 2, device="gpu") == [1, 2]
    assert dist.collect_results_cpu([1, 2, 3], 2, tmpdir="unused") == [1, 2]
    assert dist.collect_results_gpu([1, 2, 3], 2) == [1, 2]


def test_the_device_of_results_is_checked() -> None:
    with pytest.raises(
        NotImplementedError, match=r"device must be one of cpu, gpu.* but got 'tpu'"
    ):
        dist.collect_results([1], 1, device="tpu")
    with pytest.raises(ValueError, match="tmpdir should be None when device is gpu"):
        dist.collect_results([1], 1, device="gpu", tmpdir="somewhere")


def test_the_random_seed_comes_from_numpy() -> None:
    import numpy as np

    state = np.random.get_state()
    try:
        np.random.seed(3)
        first = dist.sync_random_seed()
        np.random.seed(3)
        assert first == dist.sync_random_seed()
    finally:
        np.random.set_state(state)


def test_master_only_keeps_the_name_of_the_function() -> None:
    @dist.master_only
    def answer() -> int:
        """Return it."""
        return 42

    assert answer() == 42
    assert (answer.__name__, answer.__doc__) == ("answer", "Return it.")


@pytest.mark.parametrize("wrong", [("a",), "a", {"a": 1}])
def test_a_list_of_objects_is_a_list(wrong: Any) -> None:
    with pytest.raises(TypeError, match="data must be a list of objects, but got <class") as info:
        dist.broadcast_object_list(wrong)
    assert isinstance(info.value, AssertionError)  # as MMEngine fails


def test_a_dict_of_tensors_is_a_dict() -> None:
    with pytest.raises(TypeError, match="data must be a dict of tensors, but got <class 'list'>"):
        dist.all_reduce_dict([torch.ones(1)])  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("variables", "launcher"),
    [
        (["WORLD_SIZE"], "pytorch"),
        (["SLURM_NTASKS"], "slurm"),
        (["OMPI_COMM_WORLD_LOCAL_RANK"], "mpi"),
        ([], "none"),
        (["MASTER_ADDR", "MASTER_PORT", "SLURM_NODELIST"], "none"),
        # torchrun in a job of slurm, mpirun in one.
        (["WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_LOCAL_RANK"], "pytorch"),
        (["SLURM_NTASKS", "OMPI_COMM_WORLD_LOCAL_RANK"], "slurm"),
    ],
)
def test_the_launcher_is_inferred_from_the_environment(
    variables: list[str],
    launcher: str,
    bare_environment: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in variables:
        monkeypatch.setenv(variable, "1")
    assert launcher == dist.infer_launcher()


def test_an_unknown_launcher_is_refused() -> None:
    with pytest.raises(
        ValueError, match="Invalid launcher type: ssh; it must be one of pytorch, mpi, slurm"
    ):
        dist.init_dist("ssh")


@pytest.mark.parametrize("name", ["timeout", "object_timeout"])
def test_a_timeout_is_a_number_of_seconds(name: str) -> None:
    with pytest.raises(TypeError, match=rf" {name} in seconds.*<class 'str'>.* {name}=1800\)"):
        dist.init_dist("pytorch", **{name: "long"})


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(
        ValueError, match='"init_backend" is "torch" or "deepspeed", but got horovod'
    ):
        dist.init_dist("pytorch", init_backend="horovod")


@pytest.mark.parametrize(
    ("launcher", "names", "hint"),
    [
        ("pytorch", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"], "torchrun"),
        (
            "mpi",
            ["OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
            "mpirun",
        ),
        ("slurm", ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"], "srun"),
    ],
)
def test_a_launcher_without_its_environment_says_what_is_missing(
    launcher: str, names: list[str], hint: str, bare_environment: None
) -> None:
    with pytest.raises(dist.MissingEnvironmentError, match=hint) as caught:
        dist.init_dist(launcher)
    assert names == caught.value.names
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, ValueError)


def test_mpi_needs_the_address_of_rank_0(
    bare_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "RANK", "SIZE"):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", "0")
    with pytest.raises(KeyError, match="MASTER_ADDR"):
        dist.init_dist("mpi")


def test_slurm_and_mpi_translate_their_environment(
    bare_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node0")
    monkeypatch.setenv("SLURM_PROCID", "5")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_NODELIST", "node[0-1]")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert utils._prepare_slurm(1234) == 1
    assert tuple(
        os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    ) == ("5", "8", "1", "1234")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.delenv("MASTER_PORT")
    assert utils._prepare_mpi(None) == 2
    assert tuple(
        os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    ) == ("3", "4", "2", "29500")


@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
@pytest.mark.parametrize(
    ("port", "variable", "expected"),
    [(None, None, "29500"), (None, "1234", "1234"), (4321, None, "4321"), (4321, "1234", "4321")],
)
def test_the_port_is_the_argument_or_the_variable_or_torchs(
    launcher: str,
    port: int | None,
    variable: str | None,
    expected: str,
    bare_environment: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node0")
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"):
        monkeypatch.setenv(name, "1")
    for name in ("LOCAL_RANK", "RANK", "SIZE"):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", "1")
    if variable:
        monkeypatch.setenv("MASTER_PORT", variable)
    getattr(utils, f"_prepare_{launcher}")(port)
    assert (expected, "node0") == (os.environ["MASTER_PORT"], os.environ["MASTER_ADDR"])


def test_the_port_of_torchrun_is_its_own(
    bare_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "3")
    assert 3 == utils._prepare_pytorch(None) == utils._prepare_pytorch(3)
    with pytest.warns(UserWarning, match="port=4 is not used: torchrun has chosen 3"):
        utils._prepare_pytorch(4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert 1 == utils._prepare_pytorch(None)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("node7", "node7"),
        ("a-1", "a-1"),
        ("a-1,a-2", "a-1"),
        ("node[01-03,7]", "node01"),
        ("node[7,01-03],other", "node7"),
        ("rack[2-3]-node[05-08]", "rack2-node05"),
        ("gpu-[1-4].cluster", "gpu-1.cluster"),
        ("a,b[1-2]", "a"),
        ("10.0.0.[4-7]", "10.0.0.4"),
        (" node1,node2 ", "node1"),
    ],
)
@pytest.mark.parametrize("command", ["absent", "fails", "is silent"])
def test_the_first_host_is_read_where_slurms_commands_are_absent(
    nodes: str,
    expected: str,
    command: str,
    bare_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    if command != "absent":
        scontrol = tmp_path / "scontrol"
        scontrol.write_text(f"#!/bin/sh\nexit {int(command == 'fails')}\n")
        scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, value in (("PROCID", "1"), ("NTASKS", "8"), ("NODELIST", nodes)):
        monkeypatch.setenv(f"SLURM_{name}", value)
    # Old versions do not tell which of the processes of a machine this is.
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setenv("SLURM_PROCID", "6")
    assert 2 == utils._prepare_slurm(None)
    assert expected == os.environ["MASTER_ADDR"]
    assert "2" == os.environ["LOCAL_RANK"]


def test_an_empty_list_of_nodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="SLURM_NODELIST is ' ', which names no host"):
        utils._first_host(" ")


def test_slurm_asks_for_the_first_host(
    bare_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\n[ "$1 $2 $3" = "show hostname node[7-8]" ] && echo node7 && echo node8\n'
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_NODELIST", "node[7-8]")
    utils._prepare_slurm(None)
    assert os.environ["MASTER_ADDR"] == "node7"


def test_local_groups_need_initialised_groups() -> None:
    with pytest.raises(RuntimeError, match="call init_dist before"):
        dist.init_local_group(0, 1)


def test_the_device_of_nested_data() -> None:
    data = {"a": [torch.ones(1), (torch.ones(1),)], "b": Pair(torch.ones(1), torch.ones(1))}
    assert torch.device("cpu") == dist.get_data_device(data)
    assert torch.device("meta") == dist.get_data_device([torch.ones(1, device="meta")])


@pytest.mark.parametrize("empty", [[], {}, ()])
def test_empty_data_has_no_device(empty: Any) -> None:
    with pytest.raises(ValueError, match="data should not be empty"):
        dist.get_data_device(empty)
    with pytest.raises(ValueError, match="data should not be empty"):
        dist.cast_data_device(empty, torch.device("cpu"))


@pytest.mark.parametrize("wrong", ["text", 5, None, [1], {"a": "b"}])
def test_data_without_tensors_has_no_device(wrong: Any) -> None:
    with pytest.raises(TypeError, match="data should be a Tensor, sequence of tensor or dict"):
        dist.get_data_device(wrong)
    with pytest.raises(TypeError, match="data should be a Tensor, list of tensor or dict"):
        dist.cast_data_device(wrong, torch.device("cpu"))


def test_data_on_several_devices_is_refused() -> None:
    with pytest.raises(
        ValueError, match="device type in data should be the same, but got cpu and meta"
    ):
        dist.get_data_device([torch.ones(1), torch.ones(1, device="meta")])


def test_nested_data_moves_to_a_device_and_keeps_its_types() -> None:
    data = {"a": [torch.ones(2)], "b": Pair(torch.ones(1), (torch.ones(3),))}
    moved = dist.cast_data_device(data, torch.device("meta"))
    assert torch.device("meta") == dist.get_data_device(moved)
    assert (list, Pair, tuple) == (type(moved["a"]), type(moved["b"]), type(moved["b"].b))


def test_values_are_copied_into_out() -> None:
    out = {"a": torch.zeros(2, dtype=torch.float64), "b": [torch.zeros(1)]}
    target = out["a"]
    dist.cast_data_device({"a": torch.ones(2), "b": [torch.ones(1)]}, torch.device("cpu"), out=out)
    assert target.tolist() == [1.0, 1.0]  # type: ignore[union-attr]  # the same tensor
    assert out["b"][0].tolist() == [1.0]


@pytest.mark.parametrize(
    ("data", "out", "error", "text"),
    [
        ([1], {}, TypeError, "out should be the same type with data"),
        ([1], [1, 2], ValueError, "length of data and out should be same, but got 1 and 2"),
        ({"a": 1}, {"b": 1}, ValueError, "keys of data and out should be same"),
    ],
)
def test_out_has_the_structure_of_the_data(data: Any, out: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        dist.cast_data_device(data, torch.device("cpu"), out=out)


def test_object_collectives_are_waited_for_longer_than_others() -> None:
    assert datetime.timedelta(hours=1) < utils.OBJECT_TIMEOUT
