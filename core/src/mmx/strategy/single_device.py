"""One process, one device."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmx.device import get_device
from mmx.dist import is_distributed
from mmx.logging import print_log
from mmx.model import revert_sync_batchnorm
from mmx.optim import OptimWrapperDict
from mmx.registry import MODEL_WRAPPERS, STRATEGIES
from mmx.strategy.base import BaseStrategy


@STRATEGIES.register_module()
class SingleDeviceStrategy(BaseStrategy):
    """Run on one device of this process; nothing is wrapped.

    Layers that synchronise batch statistics become ordinary ones, since there is nobody to
    synchronise with.
    """

    def prepare(
        self,
        model: nn.Module | dict[str, Any],
        *,
        optim_wrapper: Any = None,
        param_scheduler: Any = None,
        compile: dict[str, Any] | bool = False,
        dispatch_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Build and place what a run needs. A second call returns what the first one made."""
        if self._prepared:
            return self._prepared_components()
        self.dispatch_kwargs.update(dispatch_kwargs or {})
        built = self._init_model_weights(self.build_model(model))
        self.model = self.wrap_model(self.convert_model(built))
        self.compile_model(self.model, compile)
        if optim_wrapper is not None:
            self.optim_wrapper = self.build_optim_wrapper(optim_wrapper, self.model)
            self._scale_lr()
            self.model = self.join(self.model, self.optim_wrapper)
            max_iters = self.dispatch_kwargs.get("max_iters")
            if max_iters is not None and hasattr(self.optim_wrapper, "initialize_count_status"):
                self.optim_wrapper.initialize_count_status(self.model, 0, max_iters)
        if param_scheduler is not None:
            if self.optim_wrapper is None:
                raise ValueError("param_scheduler needs optim_wrapper, which is None")
            self.param_schedulers = self.build_param_scheduler(param_scheduler, self.optim_wrapper)
        self._prepared = True
        return self._prepared_components()

    def convert_model(self, model: nn.Module) -> nn.Module:
        """Return the model with synchronised batch normalisation made ordinary."""
        if any(type(part).__name__ == "SyncBatchNorm" for part in model.modules()):
            print_log(
                "Distributed training is not used, all SyncBatchNorm (SyncBN) layers in the model "
                "will be automatically reverted to BatchNormXd layers if they are used.",
                logger="current",
            )
        return revert_sync_batchnorm(model)

    def wrap_model(
        self, model: nn.Module, model_wrapper_cfg: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Place the model on this process's device; wrap it only if a wrapper is asked for.

        Wrappers for several ranks are left out where there is one alone, so that a config for many
        devices serves for one as well.
        """
        model = model.to(get_device())
        if model_wrapper_cfg is None or (
            not is_distributed() and _is_for_ranks(_wrapper_of(model_wrapper_cfg))
        ):
            return model
        return wrap(model, model_wrapper_cfg)

    def join(self, model: nn.Module, optim_wrapper: Any) -> nn.Module:
        """Return the model; an optimizer of sharded weights clips by the norm of all of them."""
        if "torch.distributed.fsdp" in sys.modules:
            from mmx.strategy.clipping import clip_by_whole_norm

            several = isinstance(optim_wrapper, OptimWrapperDict)
            clip_by_whole_norm(model, [*optim_wrapper.values()] if several else [optim_wrapper])
        return super().join(model, optim_wrapper)


def wrap(model: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """Build a registered model wrapper around a model that is on this process's device.

    Args:
        model: The model.
        config: Arguments of the wrapper; ``type`` defaults to ``MMDistributedDataParallel``.
    """
    config = {"type": "MMDistributedDataParallel", **config}
    wrapper = _wrapper_of(config)
    arguments: dict[str, Any] = {"module": model}
    if isinstance(wrapper, type) and issubclass(wrapper, nn.parallel.DistributedDataParallel):
        arguments["device_ids"] = _own_device_ids()
    return MODEL_WRAPPERS.build(config, default_args=arguments)


def _wrapper_of(config: Mapping[str, Any]) -> Any:
    kind = config.get("type", "MMDistributedDataParallel")
    return MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind


def _is_for_ranks(wrapper: Any) -> bool:
    # By name: to import the sharded one takes long.
    names = {base.__name__ for base in getattr(wrapper, "__mro__", ())}
    return bool(names & {"DistributedDataParallel", "FullyShardedDataParallel"})


def _own_device_ids() -> list[int] | None:
    """Return the index of this process's device as a list, None on the CPU."""
    if get_device().split(":")[0] == "cpu":
        return None
    return [int(os.environ.get("LOCAL_RANK", torch.accelerator.current_device_index()))]
