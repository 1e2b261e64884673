"""Small helpers of the old package that need no torch."""

from __future__ import annotations

import getpass
import inspect
import logging
import logging.handlers
import os
import shutil
import socket
import threading
from typing import Any

from mmx.logging.logger import process_rank

# Variables and folder of `_get_mmengine_home`.
ENV_MMENGINE_HOME = "MMENGINE_HOME"
ENV_XDG_CACHE_HOME = "XDG_CACHE_HOME"
DEFAULT_CACHE_DIR = "~/.cache"

_lock = threading.RLock()


def _get_mmengine_home() -> str:
    """Return the folder for a user's own tables; it is made if need be.

    ``$MMENGINE_HOME``, else ``$XDG_CACHE_HOME/mmengine``, else ``~/.cache/mmengine``.
    """
    cache = os.getenv(ENV_XDG_CACHE_HOME, DEFAULT_CACHE_DIR)
    folder = os.path.expanduser(os.getenv(ENV_MMENGINE_HOME, os.path.join(cache, "mmengine")))
    os.makedirs(folder, exist_ok=True)
    return folder


def _accquire_lock() -> None:
    """Take the lock that old managers of named instances share."""
    _lock.acquire()


def _release_lock() -> None:
    """Give that lock back."""
    _lock.release()


def _get_rank() -> int:
    """Return the rank of this process, 0 where there is no process group."""
    return process_rank()


def _get_world_size() -> int:
    """Return the number of processes, 1 where there is no process group."""
    from mmx.dist import get_world_size

    return get_world_size()


def _get_device_id() -> int:
    """Return the number of this process's accelerator, 0 where there is none."""
    import torch

    if not torch.accelerator.is_available():
        return 0
    return int(os.getenv("LOCAL_RANK", torch.accelerator.current_device_index()))


def _get_host_info() -> str:
    """Return ``user@host``, or "" if it cannot be told."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):
        return ""


def _get_logging_file_handlers() -> dict[str, type[logging.Handler]]:
    """Return the handlers of `logging.handlers` that write files, by name."""
    return {
        name: value
        for name, value in vars(logging.handlers).items()
        if inspect.isclass(value)
        and issubclass(value, logging.FileHandler)
        and value.__module__ == "logging.handlers"
    }


def _check_executable(cmd: str) -> bool:
    """Whether a program is on the PATH."""
    return shutil.which(cmd) is not None


def _lazy2string(cfg_dict: Any, dict_type: type | None = None) -> Any:
    """Return a config with its lazy objects as the dotted names that they stand for.

    Args:
        cfg_dict: Dicts, lists and tuples, nested.
        dict_type: The type of the dicts in the result. Default: that of each dict.
    """
    from mmx.config.lazy import LazyAttr, LazyObject

    if isinstance(cfg_dict, dict):
        make: Any = dict_type or type(cfg_dict)
        return make({key: _lazy2string(value, dict_type) for key, value in dict.items(cfg_dict)})
    if isinstance(cfg_dict, (list, tuple)):
        return type(cfg_dict)(_lazy2string(value, dict_type) for value in cfg_dict)
    if isinstance(cfg_dict, (LazyAttr, LazyObject)):
        return str(cfg_dict.dotted_path)
    return cfg_dict


def _any(judge_result: Any) -> bool:
    """Whether any value of nested lists and dicts is true."""
    if isinstance(judge_result, dict):
        return any(_any(value) for value in judge_result.values())
    if isinstance(judge_result, (list, tuple)):
        return any(_any(value) for value in judge_result)
    return bool(judge_result)


def _tasks_with_index(tasks: Any) -> Any:
    """Yield each task with its number in front."""
    for index, task in enumerate(tasks):
        yield (index, *task) if isinstance(task, tuple) else (index, task)
