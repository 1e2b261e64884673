"""Where configs are: paths, and files that installed packages ship."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def split_package(address: str) -> tuple[str | None, str]:
    """Return ``('pkg', 'path')`` of ``pkg::path``, ``(None, path)`` of a plain path."""
    package, separator, path = address.rpartition("::")
    return (package, path) if separator else (None, address)


def package_config_folders(package: str) -> list[Path]:
    """Return the folders in which an installed package may keep configs, without importing it.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{package!r} is not installed, so none of its configs can be used: "
            f"pip install {package.replace('_', '-')}",
            name=package,
        )
    folders = []
    for location in spec.submodule_search_locations:
        # `.mim` is where packages of the OpenMMLab family put their configs in a wheel.
        folders += [Path(location) / ".mim" / "configs", Path(location) / "configs"]
        # An editable install of such a package: the folder beside it.
        folders.append(Path(location).parent / "configs")
    return folders


def resolve_config_path(address: str | os.PathLike[str]) -> str:
    """Return the path of a config file.

    Args:
        address: Path, or ``package::path`` relative to the configs that an installed package ships;
            the ending ``.py`` may be left out there.

    Raises:
        ModuleNotFoundError: The package is not installed.
        FileNotFoundError: It has no such config; the message lists near names.
    """
    package, relative = split_package(os.fspath(address))
    if package is None:
        return relative
    if os.path.isabs(relative) or ".." in Path(relative).parts:
        raise FileNotFoundError(
            f"{address}: the part behind '::' is a path inside the package's configs"
        )
    names = [relative] if Path(relative).suffix else [relative + ".py", relative]
    folders = [folder for folder in package_config_folders(package) if folder.is_dir()]
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return str(folder / name)
    known = sorted(
        str(p.relative_to(folder))
        for folder in folders
        for p in folder.rglob("*")
        if p.suffix in (".py", ".yaml", ".yml", ".json", ".toml") and p.name != "__init__.py"
    )
    from difflib import get_close_matches

    near = get_close_matches(names[0], known, n=3, cutoff=0.4) or known[:5]
    raise FileNotFoundError(
        f"{package} ships no config {relative!r}; "
        + (
            f"did you mean {', '.join(f'{package}::{n}' for n in near)}?"
            if near
            else "it ships none"
        )
    )
