"""Which packages are installed, and where."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    packages_distributions,
)
from typing import Any


def is_installed(package: str) -> bool:
    """Tell whether a distribution or an importable package of this name is installed."""
    try:
        distribution(package)
    except PackageNotFoundError:
        try:
            return importlib.util.find_spec(package) is not None
        except (ModuleNotFoundError, ValueError):
            return False
    return True


def get_installed_path(package: str) -> str:
    """Return the folder of an installed package's source.

    Args:
        package: Distribution, such as ``mmcls``, or import package.

    Raises:
        ModuleNotFoundError: It is not installed.
        RuntimeError: It is a namespace of several folders.
    """
    try:
        found = distribution(package)
    except PackageNotFoundError as error:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ModuleNotFoundError(
                f"{package} is not installed: it is neither a distribution nor importable",
                name=package,
            ) from error
        if spec.origin is not None:
            return os.path.dirname(spec.origin)
        raise RuntimeError(
            f"{package} is a namespace package, which is invalid for `get_installed_path`"
        ) from error
    # A distribution may hold several packages; the one of its own name is meant.
    folder = str(found.locate_file(""))
    for name in (package, package.replace("-", "_")):
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    name = package2module(package)
    if os.path.exists(os.path.join(folder, name)):
        return os.path.join(folder, name)
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is installed, but {name} cannot be found", name=name)
    return os.path.dirname(spec.origin)


def package2module(package: str) -> str:
    """Return the import package of a distribution, for example ``cv2`` of ``opencv-python``.

    Raises:
        ValueError: It has none.
    """
    found: Distribution = distribution(package)
    top = found.read_text("top_level.txt")
    if top and top.split():
        # Compiled parts have a leading underscore.
        return min(top.split(), key=lambda name: name.startswith("_"))
    wanted = found.metadata["Name"]
    for module, owners in packages_distributions().items():
        if wanted in owners:
            return module
    # One that lists no files may still go by the name of its package.
    module = package.replace("-", "_")
    if module.isidentifier() and importlib.util.find_spec(module) is not None:
        return module
    raise ValueError(f"can not infer the module name of {package}")


def call_command(cmd: list[Any]) -> None:
    """Run a command and wait for it.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    subprocess.run(cmd, check=True)


def install_package(package: str) -> None:
    """Install a package with pip, if it is not installed."""
    if not is_installed(package):
        call_command([sys.executable, "-m", "pip", "install", package])
