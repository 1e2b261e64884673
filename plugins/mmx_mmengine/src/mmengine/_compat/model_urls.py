"""Addresses of weights that the old engine knew by name."""

from __future__ import annotations

import json
import logging
import os
from importlib import resources
from typing import Any

from mmengine._compat.helpers import _get_mmengine_home
from mmx.logging import print_log


def _table(kind: str) -> dict[str, str]:
    text = resources.files(__package__).joinpath("model_urls.json").read_text(encoding="utf-8")
    table: dict[str, str] = json.loads(text)[kind]
    return table


def get_deprecated_model_names() -> dict[str, str]:
    """Return names of weights that have another name now: old -> new."""
    return _table("renamed")


def get_external_models() -> dict[str, str]:
    """Return the addresses behind ``open-mmlab://``: name -> URL or file name.

    ``open_mmlab.json`` in the folder of `_get_mmengine_home` (``$MMENGINE_HOME``) adds to them.
    """
    models = _table("open_mmlab")
    own = os.path.join(_get_mmengine_home(), "open_mmlab.json")
    if os.path.isfile(own):
        with open(own, encoding="utf-8") as file:
            models.update(json.load(file))
    return models


def get_mmcls_models() -> dict[str, str]:
    """Return the addresses behind ``mmcls://``: name -> URL."""
    return _table("mmcls")


def get_torchvision_models() -> dict[str, str]:
    """Return the addresses of torchvision's weights: ``"resnet50"``, ``"resnet50.imagenet1k_v2"``.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        from torchvision.models import get_model_weights, list_models
    except ImportError as error:
        raise ImportError(
            "get_torchvision_models needs torchvision: pip install torchvision, in the version "
            "made for your torch"
        ) from error
    models: dict[str, str] = {}
    for name in list_models():
        for weights in get_model_weights(name):
            # The first is what the name alone meant.
            models.setdefault(name, weights.url)
            models[f"{name}.{weights.name.lower()}"] = weights.url
            models[f"{name}.{weights.name}"] = weights.url
    return models


def load_from_openmmlab(filename: str, map_location: Any = None) -> Any:
    """Load ``open-mmlab://NAME`` or ``openmmlab://NAME``.

    Raises:
        KeyError: No such name.
        FileNotFoundError: The name stands for a file in `_get_mmengine_home` that is not there.
    """
    from mmx.checkpoint.load import load_from_http, load_from_local

    prefix, _, name = filename.partition("://")
    models = get_external_models()
    new_name = get_deprecated_model_names().get(name)
    if new_name is not None:
        print_log(
            f"{prefix}://{name} is deprecated in favor of {prefix}://{new_name}",
            logger="current",
            level=logging.WARNING,
        )
        name = new_name
    address = _address(models, name, filename)
    if address.startswith(("http://", "https://")):
        return load_from_http(address, map_location=map_location)
    return load_from_local(os.path.join(_get_mmengine_home(), address), map_location)


def load_from_mmcls(filename: str, map_location: Any = None) -> Any:
    """Load ``mmcls://NAME``: the part of a classifier that other models begin with.

    Raises:
        KeyError: No such name.
    """
    from mmengine._compat.torch_helpers import _process_mmcls_checkpoint
    from mmx.checkpoint.load import load_from_http

    address = _address(get_mmcls_models(), filename.partition("://")[2], filename)
    return _process_mmcls_checkpoint(load_from_http(address, map_location=map_location))


def _address(models: dict[str, str], name: str, filename: str) -> str:
    try:
        return models[name]
    except KeyError:
        from difflib import get_close_matches

        near = get_close_matches(name, models, n=3)
        hint = f"; close names: {', '.join(near)}" if near else ""
        raise KeyError(f"{filename}: no weights are known by the name {name!r}{hint}") from None
