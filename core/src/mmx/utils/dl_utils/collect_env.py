"""What machine and software a run used."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any


def collect_env() -> OrderedDict[str, Any]:
    """Return the environment as names and text, in the order in which it is logged.

    Keys: ``sys.platform``, ``Python``, ``CUDA available``, ``MUSA available``, ``numpy_random_seed``
    and, where there are any, the GPUs with their driver; then ``GCC``, ``PyTorch``, ``PyTorch
    compiling details``, ``TorchVision``, ``OpenCV`` where they are installed, and ``MMX``.
    """
    import numpy as np
    import torch

    from mmx._engine_name import other_versions
    from mmx.version import __version__

    env: OrderedDict[str, Any] = OrderedDict()
    env["sys.platform"] = sys.platform
    env["Python"] = sys.version.replace("\n", "")
    env["CUDA available"] = torch.cuda.is_available()
    env["MUSA available"] = False
    env["numpy_random_seed"] = np.random.get_state()[1][0]  # type: ignore[index]  # the legacy state is a tuple
    if torch.cuda.is_available():
        devices = defaultdict(list)
        for index in range(torch.cuda.device_count()):
            devices[torch.cuda.get_device_name(index)].append(str(index))
        for name, indices in devices.items():
            env["GPU " + ",".join(indices)] = name
        from torch.utils.cpp_extension import CUDA_HOME

        env["CUDA_HOME"] = CUDA_HOME
        if CUDA_HOME is not None and os.path.isdir(CUDA_HOME):
            env["NVCC"] = _first_line([os.path.join(CUDA_HOME, "bin/nvcc"), "-V"], line=-1)
    elif torch.accelerator.is_available():
        env["Accelerator"] = str(torch.accelerator.current_accelerator())
    env["GCC"] = _first_line(["gcc", "--version"])
    env["PyTorch"] = torch.__version__
    env["PyTorch compiling details"] = torch.__config__.show()
    for key, distributions in (("TorchVision", ("torchvision",)), ("OpenCV", _OPENCV)):
        version = _version(distributions)
        if version is not None:
            env[key] = version
    env.update(other_versions())
    env["MMX"] = __version__
    return env


def _first_line(command: list[str], line: int = 0) -> str:
    if platform.system() == "Windows":
        return "n/a"
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "n/a"
    return output.strip().splitlines()[line] if output.strip() else "n/a"


_OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def _version(distributions: Sequence[str]) -> str | None:
    """Return the version of the first that is installed, without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
