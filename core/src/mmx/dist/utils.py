"""Process groups: who we are, how many we are, and starting to talk."""

from __future__ import annotations

import datetime
import functools
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as torch_dist
from torch.distributed import ProcessGroup

from mmx.device import get_device

F = TypeVar("F", bound=Callable[..., Any])

# How long a collective of Python objects may take: an evaluation on one rank can be slow.
OBJECT_TIMEOUT = datetime.timedelta(hours=3)

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
            "Local process group is not created, please use `init_local_group` to set it up."
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
        _OBJECT_GROUP = (default, torch_dist.new_group(backend="gloo", timeout=OBJECT_TIMEOUT))
    return _OBJECT_GROUP[1]


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


def init_dist(
    launcher: str, backend: str = "nccl", init_backend: str = "torch", **kwargs: Any
) -> None:
    """Initialise the process groups.

    Args:
        launcher: ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        backend: torch's communication back end. ``'nccl'`` is replaced by ``'gloo'`` where no
            accelerator is available.
        init_backend: Only ``'torch'``; ``'deepspeed'`` where that package is installed.
        **kwargs: For ``torch.distributed.init_process_group``; ``timeout`` may be seconds.

    Raises:
        ValueError: The launcher or the timeout is none.
    """
    timeout = kwargs.get("timeout")
    if timeout is not None and not isinstance(timeout, datetime.timedelta):
        try:
            kwargs["timeout"] = datetime.timedelta(seconds=timeout)
        except TypeError as error:
            raise TypeError(
                f"the timeout of distributed training is a number of seconds, got {type(timeout).__name__}: "
                "for example dist_cfg=dict(backend='nccl', timeout=1800)"
            ) from error
    starters: dict[str, Callable[..., None]] = {
        "pytorch": _init_dist_pytorch,
        "mpi": _init_dist_mpi,
        "slurm": _init_dist_slurm,
    }
    if launcher not in starters:
        raise ValueError(
            f"Invalid launcher type: {launcher}; it must be one of {', '.join(starters)}"
        )
    if backend == "nccl" and not torch.accelerator.is_available():
        backend = "gloo"
    starters[launcher](backend, init_backend=init_backend, **kwargs)


def _start(backend: str, init_backend: str, **kwargs: Any) -> None:
    if init_backend == "torch":
        torch_dist.init_process_group(backend=backend, **kwargs)
    elif init_backend == "deepspeed":
        try:
            import deepspeed
        except ImportError as error:
            raise ImportError("init_backend='deepspeed' needs it: pip install deepspeed") from error
        deepspeed.init_distributed(dist_backend=backend, **kwargs)
    else:
        raise ValueError(
            f'supported "init_backend" is "torch" or "deepspeed", but got {init_backend}'
        )


def _set_device(local_rank: int) -> None:
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(local_rank % torch.accelerator.device_count())


def _init_dist_pytorch(backend: str, init_backend: str = "torch", **kwargs: Any) -> None:
    missing = [n for n in ("RANK", "WORLD_SIZE") if n not in os.environ]
    if missing:
        raise ValueError(
            f"launcher='pytorch' needs the environment of torchrun, but {' and '.join(missing)} is not set: start with "
            "'torchrun --nproc-per-node N …', or choose launcher='none'"
        )
    _set_device(int(os.environ.get("LOCAL_RANK", os.environ["RANK"])))
    _start(backend, init_backend, **kwargs)


def _init_dist_mpi(backend: str, init_backend: str = "torch", **kwargs: Any) -> None:
    if "OMPI_COMM_WORLD_LOCAL_RANK" not in os.environ:
        raise ValueError(
            "launcher='mpi' needs the environment of mpirun (OMPI_COMM_WORLD_LOCAL_RANK)"
        )
    _set_device(int(os.environ["OMPI_COMM_WORLD_LOCAL_RANK"]))
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in os.environ:
        raise KeyError("The environment variable MASTER_ADDR is not set")
    os.environ["WORLD_SIZE"] = os.environ["OMPI_COMM_WORLD_SIZE"]
    os.environ["RANK"] = os.environ["OMPI_COMM_WORLD_RANK"]
    _start(backend, init_backend, **kwargs)


def _init_dist_slurm(
    backend: str, port: int | None = None, init_backend: str = "torch", **kwargs: Any
) -> None:
    environ = os.environ
    rank = int(environ["SLURM_PROCID"])
    nodes = environ["SLURM_NODELIST"]
    num_gpus = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    local_rank = int(environ.get("SLURM_LOCALID", rank % max(1, num_gpus)))
    _set_device(local_rank)
    if "MASTER_ADDR" not in environ:
        environ["MASTER_ADDR"] = subprocess.run(
            ["scontrol", "show", "hostname", nodes], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    if port is not None:
        environ["MASTER_PORT"] = str(port)
    else:
        environ.setdefault("MASTER_PORT", "29500")
    environ["WORLD_SIZE"] = environ["SLURM_NTASKS"]
    environ["LOCAL_RANK"] = str(local_rank)
    environ["RANK"] = str(rank)
    _start(backend, init_backend, **kwargs)


def init_local_group(node_rank: int, num_gpus_per_node: int) -> None:
    """Make the group of the processes of one machine. Every rank must call this.

    Args:
        node_rank: Number of the machine, 0-based.
        num_gpus_per_node: Processes on each machine.
    """
    global _LOCAL_PROCESS_GROUP
    first = node_rank * num_gpus_per_node
    _LOCAL_PROCESS_GROUP = torch_dist.new_group(list(range(first, first + num_gpus_per_node)))


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
    """Return the number of processes on this machine; 1 without distribution."""
    return get_world_size(get_local_group()) if is_distributed() else 1


def get_local_rank() -> int:
    """Return our number among the processes of this machine; 0 without distribution."""
    return get_rank(get_local_group()) if is_distributed() else 0


def get_dist_info(group: ProcessGroup | None = None) -> tuple[int, int]:
    """Return ``(rank, world size)``."""
    return get_rank(group), get_world_size(group)


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
        ValueError: ``out`` has another structure.
        TypeError: ``data`` holds something else.
    """
    if out is not None:
        if type(data) is not type(out):
            raise ValueError(
                f"out should be the same type with data, but got data is {type(data)} "
                f"and out is {type(out)}"
            )
        if not isinstance(data, Tensor) and len(data) != len(out):
            raise ValueError("length of data and out should be same")
    if isinstance(data, Tensor):
        moved = data if get_data_device(data) == device else data.to(device)
        return moved if out is None else out.copy_(moved)
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
