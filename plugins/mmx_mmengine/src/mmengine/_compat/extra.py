"""Where a part of the old layout lives now, and names that mmx does not have."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

# Module below ``mmengine`` -> the module it stands for, where that is not ``mmx`` and the same.
MOVED = {
    "_strategy": "mmx.strategy",
    "_strategy.colossalai": "mmengine._compat.colossalai",
    "_strategy.utils": "mmengine._compat.strategy_utils",
    "testing._internal": "mmx.testing.distributed",
    "testing._internal.distributed": "mmx.testing.distributed",
}

_URLS = {
    "get_deprecated_model_names": "mmengine._compat.model_urls",
    "get_external_models": "mmengine._compat.model_urls",
    "get_mmcls_models": "mmengine._compat.model_urls",
    "get_torchvision_models": "mmengine._compat.model_urls",
}

# Module of mmx -> name that it lacks -> module that has it.
EXTRA: dict[str, dict[str, str]] = {
    "mmx.hooks": {"NPUProfilerHook": "mmengine._compat.npu"},
    "mmx.hooks.profiler_hook": {"NPUProfilerHook": "mmengine._compat.npu"},
    "mmx.runner": _URLS,
    "mmx.runner.checkpoint": _URLS,
    "mmx.strategy": {"ColossalAIStrategy": "mmengine._compat.colossalai"},
}


# Package -> modules in it that have the name of a function that the package shows. Importing such a
# module under a second name would put it where the function belongs.
HOMONYMS = {"mmx.utils.dl_utils": ("collect_env",)}


class _Extended(ModuleType):
    """A module with further names. A class of its own, so that they outlive a reload."""

    def __getattr__(self, name: str) -> object:
        place = EXTRA[self.__name__].get(name)
        if place is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(place), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *EXTRA[self.__name__]})


def extend(module: ModuleType) -> None:
    """Let a module of mmx find its further names; what it has itself goes first."""
    for name in HOMONYMS.get(module.__name__, ()):
        alias = f"mmengine.{module.__name__.removeprefix('mmx.')}.{name}"
        sys.modules[alias] = importlib.import_module(f"{module.__name__}.{name}")
    if module.__name__ in EXTRA and not isinstance(module, _Extended):
        module.__class__ = _Extended
