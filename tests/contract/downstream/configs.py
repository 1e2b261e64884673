"""Fingerprints of every config file that the released packages ship.

Run with the reference engine to record, and imported by the tests to compare.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

PACKAGES = {"mmpretrain": "mmpretrain", "mmdet": "mmdet", "mmsegmentation": "mmseg"}


def config_root(package: str) -> Path:
    """The folder of the config files inside the installed ``package`` (nothing is imported)."""
    for distribution, name in PACKAGES.items():
        if name == package:
            return Path(
                str(
                    importlib.metadata.distribution(distribution).locate_file(
                        f"{name}/.mim/configs"
                    )
                )
            )
    raise ValueError(f"'{package}' is none of {sorted(PACKAGES.values())}")


def config_files(package: str) -> list[str]:
    """Every config file of ``package``, relative to its root, sorted."""
    root = config_root(package)
    found = [
        path
        for path in root.rglob("*")
        if path.suffix in (".py", ".json", ".yaml", ".yml") and path.name != "metafile.yml"
    ]
    return sorted(path.relative_to(root).as_posix() for path in found)


def canonical(value: Any) -> Any:
    """``value`` as text that is equal for two engines exactly where the settings are equal."""
    if isinstance(value, dict):
        return {"dict": [[canonical(key), canonical(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [canonical(item) for item in value]}
    if isinstance(value, set | frozenset):
        return {"set": sorted(repr(item) for item in value)}
    if callable(value) and hasattr(value, "__qualname__"):
        return {"object": f"{value.__module__}.{value.__qualname__}"}
    return {type(value).__name__: repr(value)}


def digest(value: Any) -> str:
    """A short fingerprint of ``value``, the order of keys included."""
    return hashlib.sha256(json.dumps(canonical(value)).encode()).hexdigest()[:16]


def fingerprint(package: str, name: str) -> dict[str, str]:
    """Fingerprint of one config file, or the error that reading it raises."""
    from mmengine.config import Config

    try:
        config = Config.fromfile(config_root(package) / name)
        return {"settings": digest(config.to_dict())}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def reload_error(package: str, name: str, folder: Path) -> str | None:
    """What is lost between a config and the same config dumped to a file and read again."""
    from mmengine.config import Config

    config = Config.fromfile(config_root(package) / name)
    target = folder / f"{package}_{name.replace('/', '_')}"
    if target.suffix != ".py":
        target = target.with_suffix(".py")
    config.dump(str(target))
    again = Config.fromfile(str(target))
    target.unlink()
    if digest(config.to_dict()) == digest(again.to_dict()):
        return None
    return "the reloaded settings differ"


def read_and_reload(job: tuple[str, str, str]) -> tuple[dict[str, str], str | None]:
    """Fingerprint of a config file, and what a dump and reload in a folder lose."""
    package, name, folder = job
    found = fingerprint(package, name)
    return found, None if "error" in found else reload_error(package, name, Path(folder))


def _one(job: tuple[str, str]) -> dict[str, str]:
    return fingerprint(*job)


def prepare() -> None:
    """What each process does first: pure-Python configs import the packages."""
    import shims

    shims.quiet()
    shims.declare_torchvision_operators()
    shims.pretend_compiled_operators()


def fingerprints(package: str, processes: int = 2) -> dict[str, dict[str, str]]:
    """Fingerprints of all config files of ``package``."""
    names = config_files(package)
    with multiprocessing.get_context("spawn").Pool(processes, prepare) as pool:
        return dict(
            zip(names, pool.map(_one, [(package, name) for name in names], 16), strict=True)
        )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    table = {package: fingerprints(package) for package in PACKAGES.values()}
    target.write_text(json.dumps(table, indent=0, sort_keys=True) + "\n")
