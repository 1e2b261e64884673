"""The process that a run lives in: other processes, seeds, time stamp, versions."""

from __future__ import annotations

import functools
import os
import random
import time
from typing import Any

import numpy as np
import torch

from mmx.dist import (
    broadcast_object_list,
    data_share,
    get_dist_info,
    get_world_size,
    init_dist,
    is_distributed,
    sync_random_seed,
)
from mmx.logging import print_log
from mmx.utils.dl_utils import collect_env, set_multi_processing

LAUNCHERS = ("none", "pytorch", "mpi", "slurm")


def set_random_seed(
    seed: int | None = None, deterministic: bool = False, diff_rank_seed: bool = False
) -> int:
    """Seed Python, NumPy and torch (all devices), and return the seed.

    Args:
        seed: From 0 to 2**32 - 1; None draws one, the same on every rank (every rank must call
            then).
        deterministic: Use deterministic algorithms only: cuDNN's, and
            ``torch.use_deterministic_algorithms(True)``.
        diff_rank_seed: Add the rank to the seed, so that ranks draw different numbers; ranks that
            hold one copy of the model together count as one. The number returned does not contain
            the rank.

    Raises:
        TypeError: ``seed`` is no integer.
        ValueError: ``seed`` is out of range.
    """
    if seed is None:
        seed = sync_random_seed()
    elif isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed should be an int or None, but got {seed!r}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"Seed must be between 0 and 2**32 - 1, but got {seed}")
    own = (int(seed) + data_share(*get_dist_info())[0]) % 2**32 if diff_rank_seed else int(seed)
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)
    if deterministic:
        if torch.backends.cudnn.benchmark:
            print_log(
                "torch.backends.cudnn.benchmark is going to be set as `False` to cause cuDNN to "
                "deterministically select an algorithm",
                logger="current",
            )
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        # cuBLAS chooses its workspace at start-up and is only deterministic with a fixed one.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return int(seed)


def check_launcher(launcher: str) -> None:
    """Raise a ValueError unless the name is one of the launchers that are known."""
    if launcher not in LAUNCHERS:
        raise ValueError(
            f"Invalid launcher type: {launcher!r}; expected one of {', '.join(LAUNCHERS)}"
        )


def setup_process(
    launcher: str = "none",
    *,
    cudnn_benchmark: bool = False,
    mp_cfg: dict[str, Any] | None = None,
    dist_cfg: dict[str, Any] | None = None,
    resource_limit: int = 4096,
) -> None:
    """Prepare this process for a run; with a launcher, join the process group.

    Args:
        launcher: ``'none'`` for one process, or who started the processes: ``'pytorch'``,
            ``'mpi'`` or ``'slurm'``.
        cudnn_benchmark: Let cuDNN try algorithms and keep the fastest.
        mp_cfg: Start method and thread counts of data workers, as for
            :func:`~mmx.utils.dl_utils.set_multi_processing`.
        dist_cfg: Arguments of :func:`~mmx.dist.init_dist`, above all ``backend``.
        resource_limit: Least number of files that this process may have open.
    """
    check_launcher(launcher)
    if cudnn_benchmark:
        torch.backends.cudnn.benchmark = True
    set_multi_processing(**(mp_cfg or {"mp_start_method": "fork"}), distributed=launcher != "none")
    if launcher != "none" and not is_distributed():
        init_dist(launcher, **(dist_cfg or {}))
    elif launcher == "none" and _one_of_several() and not is_distributed():
        print_log(
            "this process was started by torchrun, but launcher is 'none': each process will train "
            "a model of its own. Pass launcher='pytorch' to train one together.",
            logger="current",
            level=30,
        )
    _raise_open_file_limit(resource_limit)


def _one_of_several() -> bool:
    """Tell whether the environment is that of one of several processes of torchrun or its like."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    size = os.environ.get("WORLD_SIZE", "")
    return "RANK" in os.environ and size.isdigit() and int(size) > 1


def _raise_open_file_limit(wanted: int) -> None:
    """Allow many open files: data workers hand tensors over through file descriptors."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(max(wanted, soft), hard) if hard != resource.RLIM_INFINITY else max(wanted, soft)
    if limit > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def shared_timestamp() -> str:
    """Return the time, ``YYYYMMDD_hhmmss``, that rank 0 sees; every rank must call."""
    stamp = [time.strftime("%Y%m%d_%H%M%S")]
    if get_world_size() > 1:
        broadcast_object_list(stamp)
    return stamp[0]


@functools.cache
def _machine() -> dict[str, Any]:
    return dict(collect_env())


def describe_environment(
    seed: int | None, launcher: str, runtime: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Describe machine and run for the log.

    Args:
        seed: The run's seed.
        launcher: Its launcher.
        runtime: Its ``env_cfg``.

    Returns:
        The machine's facts, the run's facts, and both as text.
    """
    # The machine does not change while the process lives; looking at it starts compilers.
    machine = {**_machine(), "numpy_random_seed": int(np.random.get_state()[1][0])}  # type: ignore[index]
    distributed = launcher != "none"
    run = {
        **runtime,
        "seed": seed,
        "Distributed launcher": launcher,
        "Distributed training": distributed,
        "GPU number": get_world_size() if distributed else 1,
    }
    line = "-" * 60
    text = (
        f"\n{line}\nSystem environment:\n    "
        + "\n    ".join(f"{key}: {value}" for key, value in machine.items())
        + "\n\nRuntime environment:\n    "
        + "\n    ".join(f"{key}: {value}" for key, value in run.items())
        + f"\n{line}\n"
    )
    return machine, run, text
