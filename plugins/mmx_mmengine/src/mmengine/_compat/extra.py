"""Names of the old package that mmx does not have, given to its modules on first use."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType

# Module of mmx -> name -> module of this package that defines it.
EXTRA: dict[str, dict[str, str]] = {
    "mmx.hooks": {"NPUProfilerHook": "npu"},
    "mmx.hooks.profiler_hook": {"NPUProfilerHook": "npu"},
    "mmx.runner": {
        "get_deprecated_model_names": "model_urls",
        "get_external_models": "model_urls",
        "get_mmcls_models": "model_urls",
        "get_torchvision_models": "model_urls",
    },
    "mmx.runner.checkpoint": {
        "get_deprecated_model_names": "model_urls",
        "get_external_models": "model_urls",
        "get_mmcls_models": "model_urls",
        "get_torchvision_models": "model_urls",
    },
    "mmx.strategy": {"ColossalAIStrategy": "colossalai"},
}


def extend(module: ModuleType) -> None:
    """Let a module of mmx find its extra names; what it has itself stays as it is.

    A package finds its own sub-modules too: the old packages imported theirs at once, so that
    ``import mmengine.runner`` was enough for ``mmengine.runner.checkpoint``.
    """
    names = EXTRA.get(module.__name__, {})
    space = vars(module)
    is_package = "__path__" in space
    if not (names or is_package) or "__mmengine_extra__" in space:
        return
    own: Callable[[str], object] | None = space.get("__getattr__")

    def __getattr__(name: str) -> object:
        if name in names:
            source = importlib.import_module(f"mmengine._compat.{names[name]}")
            value = getattr(source, name)
            space[name] = value
            return value
        if own is not None:
            try:
                return own(name)
            except AttributeError:
                if not is_package:
                    raise
        full = f"{module.__name__}.{name}"
        if is_package and not name.startswith("__") and importlib.util.find_spec(full):
            return importlib.import_module(full)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    space["__getattr__"] = __getattr__
    space["__mmengine_extra__"] = tuple(names)
