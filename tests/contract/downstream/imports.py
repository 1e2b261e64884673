"""Which modules of the released packages can be imported."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pkgutil
import sys

import shims

PACKAGES = ("mmpretrain", "mmdet", "mmseg", "mmcv")


def importable() -> dict[str, list[str]]:
    """Names of the modules that import, without and with stand-ins for compiled operators."""
    shims.quiet()
    shims.declare_torchvision_operators()
    out = {}
    for key in ("plain", "operators"):
        if key == "operators":
            shims.pretend_compiled_operators()
        found = []
        for package in PACKAGES:
            for name in _modules(package):
                with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
                    importlib.import_module(name)
                    found.append(name)
        out[key] = found
    return out


def _modules(package: str) -> list[str]:
    import importlib.util

    spec = importlib.util.find_spec(package)
    assert spec is not None
    paths = list(spec.submodule_search_locations or [])
    return [package, *_below(paths, package + ".")]


def _below(paths: list[str], prefix: str) -> list[str]:
    names = []
    for info in pkgutil.iter_modules(paths, prefix):
        names.append(info.name)
        if info.ispkg:
            tail = info.name[len(prefix) :]
            names += _below([f"{path}/{tail}" for path in paths], info.name + ".")
    return sorted(names)


if __name__ == "__main__":
    json.dump(importable(), sys.stdout)
