"""Configs and models that installed packages publish."""

from __future__ import annotations

from typing import Any

from torch import nn

from mmx.checkpoint import load_checkpoint
from mmx.config import Config, resolve_config_path
from mmx.config.model_index import weights_of_config
from mmx.config.utils import _get_package_and_cfg_path
from mmx.registry import MODELS


def get_config(cfg_path: str, pretrained: bool = False) -> Config:
    """Return the config that an installed package ships.

    Args:
        cfg_path: ``package::path``, relative to the package's configs; ``.py`` may be left out.
        pretrained: Look up the address of the trained weights too, as ``model_path``.

    Raises:
        ValueError: ``cfg_path`` has another form, or the package's index lists no weights for it.
        ModuleNotFoundError: The package is not installed.
        FileNotFoundError: It ships no such config; the message lists near names.
    """
    package, _ = _get_package_and_cfg_path(cfg_path)
    path = resolve_config_path(cfg_path)
    cfg = Config.fromfile(path)
    if pretrained:
        cfg.model_path = weights_of_config(package, path)
    return cfg


def get_model(cfg_path: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Return the model of a config that an installed package ships.

    Args:
        cfg_path: As in :func:`get_config`.
        pretrained: Load the published weights.
        **kwargs: Arguments of the model that the config does not set.

    Raises:
        ValueError: As in :func:`get_config`, or the config has no model.
    """
    package, _ = _get_package_and_cfg_path(cfg_path)
    cfg = get_config(cfg_path, pretrained)
    if "model" not in cfg:
        raise ValueError(f"{cfg_path} has no `model`: it is no config of a model")
    with MODELS.switch_scope_and_registry(cfg.get("default_scope") or package) as registry:
        model: nn.Module = registry.build(cfg["model"], default_args=kwargs or None)
    if pretrained:
        load_checkpoint(model, cfg["model_path"], map_location="cpu")
        # The weights are there: a later init_weights must not overwrite them.
        if hasattr(model, "_is_init"):
            model._is_init = True  # type: ignore[assignment]  # a flag of BaseModule
    return model
