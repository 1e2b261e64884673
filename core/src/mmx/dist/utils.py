"""Process groups: who we are, how many we are, and starting to talk."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import re
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as torch_dist
from torch.distributed import ProcessGroup, constants

from mmx.device import get_device
from mmx.dist import connections, failures
from mmx.utils.errors import InvalidValueError

F = TypeVar("F", bound=Callable[..., Any])

# How long a collective of Python objects may take: an evaluation on one rank can be slow.
OBJECT_TIMEOUT = datetime.timedelta(hours=3)
# How long the ranks wait for each other at the start.
STARTUP_TIMEOUT_S = 600.0
DEFAULT_PORT = 29500
#: Tells processes the store and the name of the meeting that they were started after.
MEETING_VARIABLE = "MMX_MEETING"

# The same for this run.
_OBJECT_TIMEOUT = OBJECT_TIMEOUT
# How long collectives of the run may take; None if process groups were not made here.
_COLLECTIVE_TIMEOUT: datetime.timedelta | None = None
_LOCAL_PROCESS_GROUP: ProcessGroup | None = None
# (the default group it belongs to, the group); made on first use, by all ranks together.
_OBJECT_GROUP: tuple[ProcessGroup, ProcessGroup] | None = None


def is_distributed() -> bool:
    """Tell whether process groups are initialised."""
    return torch_dist.is_available() and torch_dist.is_initialized()


def get_local_group() -> ProcessGroup | None:
    """Return the group of the processes on this machine; None without distribution.

    Raises:
        RuntimeError: :func:`init_local_group` has not been called.
    """
    if not is_distributed():
        return None
    if _LOCAL_PROCESS_GROUP is None:
        raise RuntimeError(
            "Local process group is not created, please use `init_local_group` to setup local process group."
        )
    return _LOCAL_PROCESS_GROUP


def get_default_group() -> ProcessGroup | None:
    """Return the group of all processes; None without distribution."""
    return torch_dist.distributed_c10d._get_default_group() if is_distributed() else None


def get_object_group() -> ProcessGroup | None:
    """Return a CPU group of all processes with a long timeout, for Python objects.

    Objects that travel through it take no accelerator memory, and a slow rank is waited for
    longer than in collectives of gradients. All ranks must make the first call together.
    """
    global _OBJECT_GROUP
    default = get_default_group()
    if default is None:
        return None
    if _OBJECT_GROUP is None or _OBJECT_GROUP[0] is not default:
        _OBJECT_GROUP = (default, torch_dist.new_group(backend="gloo", timeout=_OBJECT_TIMEOUT))
    return _OBJECT_GROUP[1]


def keep_timeout(groups: Iterable[ProcessGroup]) -> None:
    """Let the collectives of groups take as long as those of the run: torch has its own default."""
    if _COLLECTIVE_TIMEOUT is not None:
        for group in groups:
            torch_dist.distributed_c10d._set_pg_timeout(_COLLECTIVE_TIMEOUT, group)


def infer_launcher() -> str:
    """Return how this process was started, from its environment.

    ``'pytorch'`` (torchrun), ``'slurm'``, ``'mpi'`` or ``'none'``.
    """
    if "WORLD_SIZE" in os.environ:
        return "pytorch"
    if "SLURM_NTASKS" in os.environ:
        return "slurm"
    if "OMPI_COMM_WORLD_LOCAL_RANK" in os.environ:
        return "mpi"
    return "none"


class MissingEnvironmentError(KeyError, ValueError):
    """A launcher's environment variables are not set.

    Attributes:
        names: The variables.
    """

    def __init__(self, launcher: str, names: list[str], hint: str) -> None:
        self.names = names
        self.message = (
            f"launcher={launcher!r} needs the environment variables {', '.join(names)}, "
            f"which are not set: {hint}"
        )
        super().__init__(self.message)

    def __str__(self) -> str:
        # KeyError would print the repr.
        return self.message


class AbsentRanksError(TimeoutError):
    """Not all processes of a run have started in time.

    Attributes:
        ranks: Those that are absent.
    """

    def __init__(self, ranks: list[int], message: str) -> None:
        super().__init__(message)
        self.ranks = ranks


def init_dist(
    launcher: str, backend: str = "nccl", init_backend: str = "torch", **kwargs: Any
) -> None:
    """Initialise the process groups: the one of all processes, and the CPU group of objects.

    Every rank must call. All ranks are waited for; those that do not come are named.

    Args:
        launcher: How the processes were started: ``'pytorch'`` (torchrun), ``'slurm'`` or ``'mpi'``.
        backend: torch's communication back end. ``'nccl'`` is replaced by ``'gloo'`` where no
            accelerator is available.
        init_backend: ``'torch'``, or ``'deepspeed'`` where that package is installed.
        **kwargs: For ``torch.distributed.init_process_group``; ``timeout`` may be seconds.
            ``startup_timeout``: seconds to wait for all ranks, by default 600.
            ``object_timeout``: seconds that collectives of Python objects may take, by default
            three hours, since an evaluation on one rank can be slow. For slurm and mpi
            also ``port``, which goes before the variable ``MASTER_PORT``. Collectives give up a
            little before ``timeout``, by :func:`mmx.dist.failures.reserve_s`, so that the run has
            ended by then.

    Raises:
        ValueError: The launcher is unknown.
        TypeError: The timeout is no number.
        MissingEnvironmentError: The launcher has not set its environment.
        AbsentRanksError: Ranks have not come in time.
    """
    for name in ("timeout", "object_timeout"):
        timeout = kwargs.get(name)
        if timeout is not None and not isinstance(timeout, datetime.timedelta):
            try:
                kwargs[name] = datetime.timedelta(seconds=timeout)
            except TypeError as error:
                raise TypeError(
                    f"Timeout for distributed training must be provided as {name} in seconds, but we've received the "
                    f"type {type(timeout)}. Please specify the timeout like this: dist_cfg=dict(backend='nccl', "
                    f"{name}=1800)"
                ) from error
    prepare: dict[str, Callable[[int | None], int]] = {
        "pytorch": _prepare_pytorch,
        "mpi": _prepare_mpi,
        "slurm": _prepare_slurm,
    }
    if launcher not in prepare:
        raise ValueError(
            f"Invalid launcher type: {launcher}; it must be one of {', '.join(prepare)}"
        )
    if init_backend not in ("torch", "deepspeed"):
        raise ValueError(
            f'supported "init_backend" is "torch" or "deepspeed", but got {init_backend}'
        )
    if backend == "nccl" and not torch.cuda.is_available():
        backend = "gloo"
    local_rank = prepare[launcher](kwargs.pop("port", None))
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(local_rank % torch.accelerator.device_count())
    _start(backend, init_backend, **kwargs)


def _start(
    backend: str,
    init_backend: str,
    startup_timeout: float = STARTUP_TIMEOUT_S,
    object_timeout: datetime.timedelta | None = None,
    **kwargs: Any,
) -> None:
    global _COLLECTIVE_TIMEOUT, _OBJECT_TIMEOUT
    _COLLECTIVE_TIMEOUT = None
    _OBJECT_TIMEOUT = OBJECT_TIMEOUT if object_timeout is None else object_timeout
    if init_backend == "deepspeed":
        try:
            import deepspeed
        except ImportError as error:
            raise ImportError("init_backend='deepspeed' needs it: pip install deepspeed") from error
        deepspeed.init_distributed(dist_backend=backend, **kwargs)
    elif kwargs.keys() & {"init_method", "store", "rank", "world_size"}:
        # The caller has a rendezvous of their own.
        torch_dist.init_process_group(backend=backend, **kwargs)
    else:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = _meet(rank, world_size, startup_timeout)
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        timeout = (kwargs.pop("timeout", None) or _default_timeout(backend)).total_seconds()
        _COLLECTIVE_TIMEOUT = datetime.timedelta(seconds=timeout - failures.reserve_s(timeout))
        kwargs["timeout"] = _COLLECTIVE_TIMEOUT
        with failures.watching(store, hosts_store=rank == 0 and not agent, timeout_s=timeout):
            torch_dist.init_process_group(
                backend=backend, store=store, rank=rank, world_size=world_size, **kwargs
            )
            get_object_group()
        return
    # Here all ranks are together; later a rank might be alone when it needs the group.
    get_object_group()


def _default_timeout(backend: str) -> datetime.timedelta:
    """Return how long torch lets collectives of a back end take."""
    if backend == "nccl" and constants.default_pg_nccl_timeout is not None:
        return constants.default_pg_nccl_timeout
    return constants.default_pg_timeout


def _meet(rank: int, world_size: int, timeout_s: float) -> Any:
    """Wait until all ranks have come to the store, and return it.

    torch waits as well, but only tells how many are absent, not which.
    """
    # All of it, with what is raised in the end, within the timeout.
    wait_s = timeout_s - failures.reserve_s(timeout_s)
    deadline = time.monotonic() + wait_s
    # Its stubs do not name the stores.
    c10d: Any = torch_dist
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's agent has a store of its own, which outlives restarts.
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts = rank == 0 and not agent
    timeout = datetime.timedelta(seconds=wait_s)
    try:
        store = c10d.TCPStore(
            host,
            port,
            world_size,
            is_master=hosts,
            timeout=timeout,
            wait_for_workers=False,
            multi_tenant=True,
        )
    except torch_dist.DistNetworkError as error:
        if hosts:
            raise
        raise AbsentRanksError(
            [0],
            f"rank {rank} of {world_size} cannot reach rank 0 at {host}:{port} (MASTER_ADDR, MASTER_PORT) within "
            f"{timeout_s:g} s: {error}",
        ) from error
    if agent:
        meeting = _meeting() or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = c10d.PrefixStore(f"/worker/attempt_{meeting}", store)
    store = c10d.PrefixStore("mmx", store)

    def wait() -> bool:
        return _wait_for_all(store, rank, world_size, deadline, timeout_s, hosts)

    # A store that is out of reach does not answer. The rest is for naming who is absent.
    if not connections.answers_within(deadline - time.monotonic() + 2, wait, "mmx start"):
        raise AbsentRanksError(
            [0],
            f"rank {rank} of {world_size} has lost the store of rank 0 at {host}:{port} (MASTER_ADDR, MASTER_PORT), "
            f"while it waited {timeout_s:g} s for all ranks",
        )
    return store


def _wait_for_all(
    store: Any, rank: int, world_size: int, deadline: float, timeout_s: float, hosts: bool
) -> bool:
    """Return when all ranks have come to the store, or tell who has not by the deadline."""
    # A number to ask for again and again, and names to tell who is absent.
    store.set(f"here/{rank}", "")
    here = store.add("number", 1)
    pause_s = 0.01
    while here < world_size:
        gone = store.check(["absent"])
        if gone or time.monotonic() > deadline:
            absent = [r for r in range(world_size) if not store.check([f"here/{r}"])]
            store.set("absent", "")
            if hosts:
                # The store ends with this process: let the others see who is absent.
                time.sleep(4 * _LONGEST_PAUSE_S)
            raise AbsentRanksError(
                absent,
                f"rank {rank} of {world_size} has waited {timeout_s:g} s, but {_name_ranks(absent)} not started: look "
                "at their output and machines, or give more time with dist_cfg=dict(startup_timeout=…)",
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        here = store.add("number", 0)
    return True


def _meeting() -> str | None:
    """Return the name of the meeting of machines after which this process was started.

    All processes of a run have the same, and another one after each restart. None if the machines
    have met in another way than that of :mod:`mmx.dist.rendezvous`.
    """
    where, _, name = os.environ.get(MEETING_VARIABLE, "").rpartition("/")
    # It may have come from a launcher that started the launcher of this process.
    here = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    return name if where == here else None


# Between two questions to the store, while ranks wait for each other.
_LONGEST_PAUSE_S = 0.25


def _name_ranks(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]} has"
    shown = ", ".join(map(str, ranks[:20])) + (", …" if len(ranks) > 20 else "")
    return f"ranks {shown} have"


def _need(launcher: str, names: Iterable[str], hint: str) -> None:
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise MissingEnvironmentError(launcher, missing, hint)


def _prepare_pytorch(port: int | None) -> int:
    """Check torchrun's environment and return the local rank."""
    _need(
        "pytorch",
        ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        "start with 'torchrun --nproc-per-node N …', or choose launcher='none'",
    )
    if port is not None and str(port) != os.environ["MASTER_PORT"]:
        warnings.warn(
            f"port={port} is not used: torchrun has chosen {os.environ['MASTER_PORT']} (MASTER_PORT). Choose with its "
            "own --master-port or --rdzv-endpoint.",
            stacklevel=3,
        )
    return int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))


def _prepare_mpi(port: int | None) -> int:
    """Translate mpirun's environment and return the local rank."""
    environ = os.environ
    _need(
        "mpi",
        ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        "start with Open MPI's 'mpirun -n N …'",
    )
    _need("mpi", ("MASTER_ADDR",), "set it to the host of rank 0: 'mpirun -x MASTER_ADDR=…'")
    _choose_port(port)
    environ["RANK"] = environ["OMPI_COMM_WORLD_RANK"]
    environ["WORLD_SIZE"] = environ["OMPI_COMM_WORLD_SIZE"]
    environ["LOCAL_RANK"] = environ["OMPI_COMM_WORLD_LOCAL_RANK"]
    return int(environ["LOCAL_RANK"])


def _prepare_slurm(port: int | None) -> int:
    """Translate srun's environment and return the local rank."""
    environ = os.environ
    _need(
        "slurm",
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"),
        "start with 'srun --ntasks=N …'",
    )
    rank = int(environ["SLURM_PROCID"])
    num_devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 1
    # Of old versions that do not set it.
    local_rank = int(environ.get("SLURM_LOCALID", rank % num_devices))
    if "MASTER_ADDR" not in environ:
        environ["MASTER_ADDR"] = _first_host(environ["SLURM_NODELIST"])
    _choose_port(port)
    environ["WORLD_SIZE"] = environ["SLURM_NTASKS"]
    environ["LOCAL_RANK"] = str(local_rank)
    environ["RANK"] = str(rank)
    return local_rank


def _choose_port(port: int | None) -> None:
    if port is not None:
        os.environ["MASTER_PORT"] = str(port)
    else:
        os.environ.setdefault("MASTER_PORT", str(DEFAULT_PORT))


def _first_host(nodes: str) -> str:
    """Return the first host of slurm's list of nodes, such as ``node[01-03,7],other``.

    Raises:
        ValueError: The list is empty.
    """
    with contextlib.suppress(OSError, subprocess.CalledProcessError, IndexError):
        return subprocess.run(
            ["scontrol", "show", "hostname", nodes], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    # Containers often lack slurm's commands.
    first = re.match(r"(?:[^,\[\]]|\[[^\]]*\])+", nodes.strip())
    if first is None:
        raise InvalidValueError(
            f"SLURM_NODELIST is {nodes!r}, which names no host: start with 'srun --ntasks=N …', or set MASTER_ADDR to "
            "the host of rank 0"
        )
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0])


def init_local_group(node_rank: int, num_gpus_per_node: int) -> None:
    """Make the group of the processes of one machine. Every rank must call this.

    Args:
        node_rank: Number of this machine, 0-based.
        num_gpus_per_node: Processes on each machine.

    Raises:
        ValueError: The processes cannot be split so, or the machine has no such number.
        RuntimeError: The process groups are not initialised.
    """
    global _LOCAL_PROCESS_GROUP
    if not is_distributed():
        raise RuntimeError(
            "init_local_group needs initialised process groups: call init_dist before"
        )
    world_size = torch_dist.get_world_size()
    if num_gpus_per_node < 1 or world_size % num_gpus_per_node:
        raise ValueError(
            f"{world_size} processes cannot be split into machines of {num_gpus_per_node}"
        )
    if not 0 <= node_rank < world_size // num_gpus_per_node:
        raise ValueError(
            f"node_rank must be from 0 to {world_size // num_gpus_per_node - 1}, but got {node_rank}"
        )
    # Every process takes part in making every group, also those of other machines.
    for node in range(world_size // num_gpus_per_node):
        first = node * num_gpus_per_node
        with failures.watching_more():
            group = torch_dist.new_group(
                list(range(first, first + num_gpus_per_node)), _COLLECTIVE_TIMEOUT
            )
        if node == node_rank:
            _LOCAL_PROCESS_GROUP = group


def get_backend(group: ProcessGroup | None = None) -> str | None:
    """Return the back end of a group; None without distribution."""
    if not is_distributed():
        return None
    return torch_dist.get_backend(group if group is not None else get_default_group())


def get_world_size(group: ProcessGroup | None = None) -> int:
    """Return the number of processes in a group (all, by default); 1 without distribution."""
    if not is_distributed():
        return 1
    return torch_dist.get_world_size(group)


def get_rank(group: ProcessGroup | None = None) -> int:
    """Return our number in a group (of all, by default); 0 without distribution."""
    if not is_distributed():
        return 0
    return torch_dist.get_rank(group)


def get_local_size() -> int:
    """Return the number of processes on this machine; 1 without distribution.

    From the local group, or from the launcher's environment where there is none.
    """
    return _local("LOCAL_WORLD_SIZE", get_world_size) if is_distributed() else 1


def get_local_rank() -> int:
    """Return our number among the processes of this machine; 0 without distribution.

    From the local group, or from the launcher's environment where there is none.
    """
    return _local("LOCAL_RANK", get_rank) if is_distributed() else 0


def _local(variable: str, ask: Callable[[ProcessGroup | None], int]) -> int:
    if _LOCAL_PROCESS_GROUP is None and variable in os.environ:
        return int(os.environ[variable])
    return ask(get_local_group())


def get_dist_info(group: ProcessGroup | None = None) -> tuple[int, int]:
    """Return ``(rank, world size)``."""
    return get_rank(group), get_world_size(group)


# Default group -> ranks that share one copy of the model, so that they need the same samples.
_model_parallel_sizes: dict[Any, int] = {}


def set_model_parallel_size(size: int) -> None:
    """Tell that each ``size`` neighbouring ranks hold one copy of the model together.

    Samplers then deal them the same samples, and results are collected from one of them.

    Raises:
        ValueError: The number of processes is no multiple of ``size``.
    """
    if size < 1 or get_world_size() % size:
        raise InvalidValueError(
            f"{get_world_size()} processes cannot be parted into groups of {size}"
        )
    _model_parallel_sizes.clear()
    if is_distributed():
        _model_parallel_sizes[get_default_group()] = size


def get_model_parallel_size() -> int:
    """Return how many neighbouring ranks hold one copy of the model together."""
    return _model_parallel_sizes.get(get_default_group(), 1) if _model_parallel_sizes else 1


def data_share(rank: int, world_size: int) -> tuple[int, int]:
    """Return ``(number, count)`` of a rank's share of the data.

    That is ``(rank, world size)``, but ranks that hold one copy of the model together have one
    share.
    """
    size = get_model_parallel_size()
    return rank // size, world_size // size


# (the default group, size of a copy of the model, the group); made on first use, by all together.
_DATA_GROUP: tuple[ProcessGroup, int, ProcessGroup] | None = None


def get_data_group() -> ProcessGroup | None:
    """Return the group of the ranks that hold the same part of the model as this one.

    Each of them has another share of the data, and together they have all of it once: sums over
    samples are taken over this group. It is the default group unless layers are split over ranks.
    Every rank must make the first call, which makes the groups; None without distribution.
    """
    global _DATA_GROUP
    default, size = get_default_group(), get_model_parallel_size()
    if default is None or size == 1:
        return default
    if _DATA_GROUP is None or _DATA_GROUP[0] is not default or _DATA_GROUP[1] != size:
        with failures.watching_more():
            own, _ = torch_dist.new_subgroups_by_enumeration(
                [list(range(first, get_world_size(), size)) for first in range(size)],
                _COLLECTIVE_TIMEOUT,
            )
        assert own is not None
        _DATA_GROUP = (default, size, own)
    return _DATA_GROUP[2]


def is_main_process(group: ProcessGroup | None = None) -> bool:
    """Tell whether we are process 0."""
    return get_rank(group) == 0


def master_only(func: F) -> F:
    """Decorate a function that only process 0 runs; on the others it returns None."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs) if is_main_process() else None

    return wrapper  # type: ignore[return-value]  # the same signature


def barrier(group: ProcessGroup | None = None) -> None:
    """Wait until all processes of a group are here."""
    if is_distributed():
        torch_dist.barrier(group if group is not None else get_default_group())


def get_data_device(data: Tensor | Mapping[Any, Any] | Iterable[Any]) -> torch.device:
    """Return the device of all tensors in nested data.

    Raises:
        ValueError: The tensors are on several devices, or there are none.
        TypeError: ``data`` holds something else.
    """
    if isinstance(data, Tensor):
        return data.device
    if isinstance(data, Mapping):
        values = list(data.values())
    elif isinstance(data, Iterable) and not isinstance(data, str):
        values = list(data)
    else:
        raise TypeError(f"data should be a Tensor, sequence of tensor or dict, but got {data}")
    if not values:
        raise ValueError("data should not be empty: there is no device to tell")
    devices = {get_data_device(value) for value in values}
    if len(devices) > 1:
        raise ValueError(
            f"device type in data should be the same, but got {' and '.join(sorted(map(str, devices)))}"
        )
    return devices.pop()


def get_comm_device(group: ProcessGroup | None = None) -> torch.device:
    """Return the device on which a group's collectives take tensors."""
    backend = get_backend(group) or ""
    if "nccl" in backend and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if backend in ("", "gloo", "mpi"):
        return torch.device("cpu")
    device = get_device()
    return (
        torch.device(device)
        if device == "cpu"
        else torch.device(device, torch.accelerator.current_device_index())
    )


def cast_data_device(data: Any, device: torch.device, out: Any = None) -> Any:
    """Return nested data with its tensors on a device.

    Args:
        data: Tensor, or dict or sequence of such.
        device: Device.
        out: Nested tensors of the same structure, which the values are copied into in place.

    Raises:
        ValueError: A container is empty, or ``out`` has another length or other keys.
        TypeError: ``data`` holds something else, or ``out`` is of another type.
    """
    if out is not None:
        both_tensors = isinstance(data, Tensor) and isinstance(out, Tensor)
        if type(data) is not type(out) and not both_tensors:
            raise TypeError(
                f"out should be the same type with data, but got data is {type(data)} "
                f"and out is {type(out)}"
            )
        if not isinstance(data, Tensor) and len(data) != len(out):
            raise ValueError(
                f"length of data and out should be same, but got {len(data)} and {len(out)}"
            )
        if isinstance(data, Mapping) and data.keys() != out.keys():
            raise ValueError(
                f"keys of data and out should be same, but got {list(data)} and {list(out)}"
            )
    if isinstance(data, Tensor):
        moved = data if get_data_device(data) == device else data.to(device)
        return moved if out is None else out.copy_(moved)
    if isinstance(data, (Mapping, list, tuple)) and not data:
        raise ValueError("data should not be empty")
    if isinstance(data, Mapping):
        items = {
            key: cast_data_device(value, device, None if out is None else out[key])
            for key, value in data.items()
        }
        return type(data)(items)  # type: ignore[call-arg]  # mappings are made from mappings
    if isinstance(data, Iterable) and not isinstance(data, str):
        outs = [None] * len(list(data)) if out is None else out
        parts = [cast_data_device(value, device, o) for value, o in zip(data, outs, strict=True)]
        if hasattr(data, "_fields"):
            return type(data)(*parts)
        return type(data)(parts)  # type: ignore[call-arg]  # sequences are made from lists
    raise TypeError(f"data should be a Tensor, list of tensor or dict, but got {data}")
