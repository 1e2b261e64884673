"""``mmengine`` as another name of mmx.

``mmengine.runner.Runner is mmx.runner.Runner``: every module and class is the same object under
both names. Importing this package imports neither torch nor any module of mmx that needs it.
"""

import importlib
from typing import Any

from mmengine._compat import alias, conflict
from mmengine.version import __version__ as __version__
from mmengine.version import version_info as version_info
from mmx.version import __version__ as mmx_version

# The version of the engine behind the name.
__mmx_version__ = mmx_version

conflict.check()
alias.install()
# The scope. Last, since it may be what makes a broken installation known.
importlib.import_module("mmengine._compat.plugin")

# Modules whose public names are names of the package too.
_SOURCES = ("config", "fileio", "logging", "registry", "utils")


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_public())
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for source in _SOURCES:
        module = importlib.import_module(f"{__name__}.{source}")
        if name in module.__all__:
            value = getattr(module, name)
            globals()[name] = value
            return value
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _public() -> set[str]:
    names = {"__version__", "version_info", *_SOURCES}
    for source in _SOURCES:
        names.update(importlib.import_module(f"{__name__}.{source}").__all__)
    return names


def __dir__() -> list[str]:
    return sorted({*globals(), *_public()})
