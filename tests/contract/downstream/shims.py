"""What lets the released packages be imported on a machine without compiled operators.

Import this module before any of them. It is the same for the recording and for the tests: it says
nothing about the engine.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
import warnings
from typing import Any

_kept: list[Any] = []  # torch drops a schema together with its Library object


def declare_torchvision_operators() -> None:
    """Declare the operators that torchvision's Python files refer to at import time.

    Its compiled part is built for accelerators and does not load beside a CPU torch.
    """
    import torch

    if _kept:
        return
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


class _MissingOperators(types.ModuleType):
    """Stands for ``mmcv._ext``: every operator is there by name, and says that it is not when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError(f"mmcv's compiled operator '{name}' is not installed")

        operator.__name__ = name
        return operator


def pretend_compiled_operators() -> None:
    """Let ``mmcv.ops`` be imported, so that models which merely mention an operator can be built."""
    if "mmcv._ext" not in sys.modules:
        module = _MissingOperators("mmcv._ext")
        module.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
        sys.modules["mmcv._ext"] = module


def quiet() -> None:
    """Silence what the released packages warn about; they are as they are."""
    warnings.filterwarnings("ignore")
