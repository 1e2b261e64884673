"""Configs that other packages ship, for downstream code that imports these names."""

from __future__ import annotations

from pathlib import Path

from mmx.config.errors import ConfigParsingError
from mmx.config.locate import resolve_config_path, split_package

__all__ = ["ConfigParsingError", "_get_cfg_path", "_get_package_and_cfg_path"]


def _get_package_and_cfg_path(cfg_path: str) -> tuple[str, str]:
    """Return ``('pkg', 'path')`` of ``pkg::path``.

    Raises:
        ValueError: The address has not this form.
    """
    package, path = split_package(cfg_path)
    if package is None:
        raise ValueError(
            "`_get_package_and_cfg_path` is used for get external package, please specify the package name and "
            "relative config path, just like `mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco`"
        )
    if "::" in package:
        raise ValueError("`::` should only be used to separate package and config name")
    return package, path


def _get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
    """Return the path of a base config and the package it is from, if any."""
    package, _ = split_package(cfg_path)
    if package is None:
        return str(Path(filename).parent / cfg_path), None
    return resolve_config_path(cfg_path), package
