"""Configs that other packages ship, under the names by which downstream code looks for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmx.config.errors import ConfigFileNotFoundError, ConfigParsingError
from mmx.config.locate import split_package
from mmx.utils.errors import InvalidValueError

__all__ = [
    "MODULE2PACKAGE",
    "PKG2PROJECT",
    "ConfigParsingError",
    "_get_cfg_metainfo",
    "_get_external_cfg_base_path",
    "_get_external_cfg_path",
    "_get_package_and_cfg_path",
]

# Import name -> distribution, of the OpenMMLab family; any other package is its own distribution.
MODULE2PACKAGE = {
    "mmcls": "mmcls",
    "mmdet": "mmdet",
    "mmdet3d": "mmdet3d",
    "mmseg": "mmsegmentation",
    "mmaction": "mmaction2",
    "mmtrack": "mmtrack",
    "mmpose": "mmpose",
    "mmedit": "mmedit",
    "mmocr": "mmocr",
    "mmgen": "mmgen",
    "mmfewshot": "mmfewshot",
    "mmrazor": "mmrazor",
    "mmflow": "mmflow",
    "mmhuman3d": "mmhuman3d",
    "mmrotate": "mmrotate",
    "mmselfsup": "mmselfsup",
    "mmyolo": "mmyolo",
    "mmpretrain": "mmpretrain",
    "mmagic": "mmagic",
}
PKG2PROJECT = MODULE2PACKAGE


def _get_package_and_cfg_path(cfg_path: str) -> tuple[str, str]:
    """Return ``("pkg", "path")`` of ``pkg::path``.

    Raises:
        ValueError: The address has not this form.
    """
    package, path = split_package(cfg_path)
    if package is None or not package or not path:
        raise InvalidValueError(
            "`_get_package_and_cfg_path` is used for get external package, please specify the "
            "package name and relative config path, just like "
            f"`mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py`, but got {cfg_path!r}"
        )
    if "::" in package:
        raise InvalidValueError(
            "`_get_package_and_cfg_path` takes one '::', between the package and the path of its "
            f"config, but got {cfg_path!r}"
        )
    return package, path


def _metafiles(package_path: str) -> list[dict[str, Any]]:
    """Return the models that the metafiles of a package describe."""
    import yaml

    index = Path(package_path, ".mim", "model-index.yml")
    if not index.is_file():
        raise ConfigFileNotFoundError(
            f"{package_path} has no .mim/model-index.yml, which lists the models it publishes"
        )
    models: list[dict[str, Any]] = []
    for name in (yaml.safe_load(index.read_text("utf-8")) or {}).get("Import", ()):
        file = Path(package_path, ".mim", name)
        if file.is_file():
            content = yaml.safe_load(file.read_text("utf-8"))
            entries = content.get("Models") if isinstance(content, dict) else content
            models += [entry for entry in entries or () if isinstance(entry, dict)]
    return models


def _get_cfg_metainfo(package_path: str, cfg_path: str) -> dict[str, Any]:
    """Return what a package's metafile says of the model of a config, such as its weights.

    Args:
        package_path: The package's folder.
        cfg_path: The config, relative to the package's configs.

    Raises:
        FileNotFoundError: The package publishes no list of models.
        ValueError: The list has no such config.
    """
    for model in _metafiles(package_path):
        config = model.get("Config")
        if isinstance(config, str) and Path(config).as_posix().removeprefix("configs/") == (
            Path(cfg_path).as_posix()
        ):
            return model
    raise InvalidValueError(f"{cfg_path} is in no metafile of {package_path}")


def _get_external_cfg_path(package_path: str, cfg_file: str) -> str:
    """Return the path of a config that a package's metafile lists.

    Raises:
        ValueError: It lists no such config.
        FileNotFoundError: The file is not there.
    """
    model = _get_cfg_metainfo(package_path, cfg_file)
    return _existing(os.path.join(package_path, ".mim", str(model["Config"])))


def _get_external_cfg_base_path(package_path: str, cfg_name: str) -> str:
    """Return the path of a config under a package's ``.mim/configs``.

    Raises:
        FileNotFoundError: The file is not there.
    """
    return _existing(os.path.join(package_path, ".mim", "configs", cfg_name))


def _existing(path: str) -> str:
    if not os.path.isfile(path):
        raise ConfigFileNotFoundError(f'file "{path}" does not exist')
    return path
