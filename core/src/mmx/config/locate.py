"""Where configs are: paths, and files that installed packages ship."""

from __future__ import annotations

import difflib
import importlib.util
import os
from pathlib import Path

from mmx.config.errors import ConfigFileNotFoundError, ConfigParsingError

SUFFIXES = (".py", ".json", ".yaml", ".yml", ".toml")


def split_package(address: str) -> tuple[str | None, str]:
    """Return ``("pkg", "path")`` of ``pkg::path``, ``(None, path)`` of a plain path."""
    package, separator, path = address.rpartition("::")
    return (package, path) if separator else (None, address)


def package_folders(package: str) -> list[Path]:
    """Return the folders of an installed package, without importing it.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    # A dotted name would import what is above it.
    top, _, rest = package.partition(".")
    try:
        spec = importlib.util.find_spec(top) if top.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{package!r} is not installed, so none of its configs can be used: "
            f"pip install {top.replace('_', '-')}",
            name=package,
        )
    return [
        Path(folder, *rest.split(".") if rest else ()) for folder in spec.submodule_search_locations
    ]


def package_config_folders(package: str) -> list[Path]:
    """Return the folders in which an installed package may keep configs, without importing it.

    These are ``configs`` in the package, and ``.mim/configs``, where packages of the OpenMMLab
    family put them; for one of those that is installed from its checkout, ``configs`` beside it.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    found = []
    for folder in package_folders(package):
        found += [folder / ".mim" / "configs", folder / "configs"]
        # `site-packages/configs` would belong to anyone.
        if folder.parent.name not in ("site-packages", "dist-packages"):
            found.append(folder.parent / "configs")
    return [folder for folder in found if folder.is_dir()]


def resolve_config_path(address: str | os.PathLike[str]) -> str:
    """Return the path of a config file.

    Args:
        address: A path, or ``package::path`` relative to the configs that an installed package
            ships; there the ending ``.py`` may be left out. The package is not imported.

    Raises:
        ModuleNotFoundError: The package is not installed.
        ConfigFileNotFoundError: It has no such config, or the part behind ``::`` leads out of the
            package's configs; the message lists near names.
        ConfigParsingError: It is no address.
    """
    package, relative = split_package(os.fspath(address))
    if package is None:
        return relative
    if not package or not relative or "::" in package:
        raise ConfigParsingError(
            f"{os.fspath(address)!r} is no address of a package's config, such as "
            "'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'"
        )
    if os.path.isabs(relative) or ".." in Path(relative).parts:
        raise ConfigFileNotFoundError(
            f"{os.fspath(address)!r}: what is behind '::' is a path inside the package's configs"
        )
    names = [relative] if Path(relative).suffix in SUFFIXES else [f"{relative}.py", relative]
    folders = package_config_folders(package)
    for folder in folders:
        for name in names:
            path = folder / name
            if path.is_file():
                return str(path)
    known = list_configs(package)
    close = difflib.get_close_matches(names[0], known, n=3, cutoff=0.4) or known[:5]
    hint = (
        f"did you mean {', '.join(f'{package}::{name}' for name in close)}?"
        if close
        else "it ships none"
    )
    raise ConfigFileNotFoundError(f"{package} ships no config {relative!r}; {hint}")


def list_configs(package: str) -> list[str]:
    """Return the configs that an installed package ships, as they are addressed behind ``::``."""
    return sorted(
        {
            path.relative_to(folder).as_posix()
            for folder in package_config_folders(package)
            for path in folder.rglob("*")
            if path.suffix in SUFFIXES and path.name != "__init__.py"
        }
    )


def module_file(module: str) -> Path | None:
    """Return the file of a config that is addressed as a module, without importing anything.

    Args:
        module: Such as ``"mmdet.configs._base_.models.faster_rcnn"``.
    """
    top, _, rest = module.partition(".")
    try:
        folders = package_folders(top)
    except ModuleNotFoundError:
        # A folder of configs on `sys.path` that is no package is searched like one.
        return None
    parts = rest.split(".") if rest else []
    candidates = []
    for folder in folders:
        candidates += [folder.joinpath(*parts), folder.joinpath(".mim", *parts)]
        if parts[:1] == ["configs"]:
            candidates.append(folder.parent.joinpath(*parts))
    for candidate in candidates:
        file = candidate.with_name(f"{candidate.name}.py")
        if file.is_file():
            return file
        if (candidate / "__init__.py").is_file():
            return candidate / "__init__.py"
    return None
