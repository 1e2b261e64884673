"""One copy of the model on each rank, gradients averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mmx.device import get_device
from mmx.model import convert_sync_batchnorm, is_model_wrapper
from mmx.registry import STRATEGIES
from mmx.strategy.single_device import SingleDeviceStrategy, wrap


@STRATEGIES.register_module()
class DDPStrategy(SingleDeviceStrategy):
    """Distributed data parallel training.

    Args:
        model_wrapper: Arguments of the wrapper; ``type`` defaults to
            ``MMDistributedDataParallel``.
        sync_bn: ``'torch'`` or ``'mmcv'`` to synchronise batch statistics over ranks.
        **kwargs: As for :class:`~mmx.strategy.BaseStrategy`.
    """

    def __init__(
        self,
        *,
        model_wrapper: dict[str, Any] | None = None,
        sync_bn: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_wrapper = model_wrapper
        self.sync_bn = sync_bn

    def convert_model(self, model: nn.Module) -> nn.Module:
        """Return the model with batch normalisation synchronised, if ``sync_bn`` asks for it."""
        if self.sync_bn is None:
            return model
        try:
            return convert_sync_batchnorm(model, self.sync_bn)
        except ValueError as error:
            error.add_note('`sync_bn` should be "torch" or "mmcv"')
            raise

    def wrap_model(
        self, model: nn.Module, model_wrapper_cfg: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Place the model on this rank's device and wrap it."""
        if is_model_wrapper(model):
            return model
        model = model.to(get_device())
        given = model_wrapper_cfg if model_wrapper_cfg is not None else self.model_wrapper
        config: dict[str, Any] = {"type": "MMDistributedDataParallel", **(given or {})}
        if config["type"] == "MMDistributedDataParallel":
            config.setdefault("broadcast_buffers", False)
            config.setdefault("find_unused_parameters", False)
        return wrap(model, config)
