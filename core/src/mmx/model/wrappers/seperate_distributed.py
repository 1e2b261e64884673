"""Data parallelism for models whose parts have optimizers of their own, such as GANs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel.distributed import DistributedDataParallel

from mmx.device import get_device
from mmx.model.wrappers.distributed import MMDistributedDataParallel
from mmx.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class MMSeparateDistributedDataParallel(DistributedDataParallel):
    """A model each of whose children is wrapped on its own.

    Each child's gradients are synchronised when it goes backward, whichever of the others take
    part. Children without parameters that need gradients are not wrapped.

    Args:
        module: Model with its own ``train_step``, ``val_step`` and ``test_step``.
        broadcast_buffers: As for torch's class.
        find_unused_parameters: As for torch's class.
        **kwargs: As for torch's class.
    """

    def __init__(
        self,
        module: nn.Module,
        broadcast_buffers: bool = False,
        find_unused_parameters: bool = False,
        **kwargs: Any,
    ) -> None:
        # torch's __init__ would register hooks for the whole model.
        super(DistributedDataParallel, self).__init__()
        self.module = module
        device = get_device()
        for name, sub_module in module._modules.items():
            if sub_module is None:
                continue
            if device != "cpu":
                sub_module = sub_module.to(
                    torch.device(device, torch.accelerator.current_device_index())
                )
            if any(param.requires_grad for param in sub_module.parameters()):
                sub_module = MMDistributedDataParallel(
                    module=sub_module,
                    broadcast_buffers=broadcast_buffers,
                    find_unused_parameters=find_unused_parameters,
                    **kwargs,
                )
            module._modules[name] = sub_module

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Learn from one batch, as the model itself says."""
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: Any) -> Any:
        """Return predictions of the model."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> Any:
        """Return predictions of the model."""
        return self.module.test_step(data)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Do not synchronise gradients in a block, as for accumulation."""
        with ExitStack() as stack:
            for sub_module in self.module._modules.values():
                if isinstance(sub_module, DistributedDataParallel):
                    stack.enter_context(sub_module.no_sync())
            yield

    def train(self, mode: bool = True) -> MMSeparateDistributedDataParallel:
        """Set the mode of the model."""
        self.training = mode
        self.module.train(mode)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)
