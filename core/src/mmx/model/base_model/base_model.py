"""The base class of algorithms: what happens to a batch in training, validation and testing."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from mmx.model.base_model.data_preprocessor import BaseDataPreprocessor, _vendor_device
from mmx.model.base_module import BaseModule, InitCfg
from mmx.registry import MODELS
from mmx.utils.errors import InvalidTypeError


class BaseModel(BaseModule):
    """Base class of models that the runner trains.

    :meth:`forward` takes a batch and a mode, and returns a dict of losses (``'loss'``), predictions
    (``'predict'``), or whatever the network gives (``'tensor'``).

    Args:
        data_preprocessor: Module, or its config, that moves and normalises batches; None is
            :class:`BaseDataPreprocessor`, which only moves them to the model's device, without
            waiting for it where that is safe.
        init_cfg: How to initialise; see :class:`BaseModule`.

    Raises:
        TypeError: ``data_preprocessor`` is of another type.
    """

    def __init__(
        self, data_preprocessor: dict[str, Any] | nn.Module | None = None, init_cfg: InitCfg = None
    ) -> None:
        super().__init__(init_cfg)
        if data_preprocessor is None:
            data_preprocessor = {"type": BaseDataPreprocessor, "non_blocking": None}
        if isinstance(data_preprocessor, nn.Module):
            self.data_preprocessor = data_preprocessor
        elif isinstance(data_preprocessor, dict):
            self.data_preprocessor = MODELS.build(data_preprocessor)
        else:
            raise InvalidTypeError(
                "data_preprocessor should be a `dict` or `nn.Module` instance, but got "
                f"{type(data_preprocessor)}"
            )

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Learn from one batch.

        Args:
            data: Batch as the loader gives it.
            optim_wrapper: :class:`mmx.optim.OptimWrapper`.

        Returns:
            Values to log: ``loss`` and what it is the sum of, detached, on the device.
        """
        context = optim_wrapper.optim_context(self)
        # Read where modules lie: attributes of a module are found there last.
        preprocess = self._modules.get("data_preprocessor") or self.data_preprocessor
        if context.__class__ is not nullcontext:
            with context:
                losses = self._run_forward(preprocess(data, True), mode="loss")
        elif self._forwards_as_is(preprocess, data):
            losses = self(**data, mode="loss")
        else:
            losses = self._run_forward(preprocess(data, True), mode="loss")
        parsed_losses, log_vars = self.parse_losses(losses)
        optim_wrapper.update_params(parsed_losses)
        return log_vars

    def val_step(self, data: Any) -> Any:
        """Return the predictions for one batch of the validation set."""
        return self._predict(data)

    def test_step(self, data: Any) -> Any:
        """Return the predictions for one batch of the test set."""
        return self._predict(data)

    def _predict(self, data: Any) -> Any:
        preprocess = self._modules.get("data_preprocessor") or self.data_preprocessor
        if self._forwards_as_is(preprocess, data):
            return self(**data, mode="predict")
        return self._run_forward(preprocess(data, False), mode="predict")

    def _forwards_as_is(self, preprocess: Any, data: Any) -> bool:
        """Tell whether nothing happens to a batch but that :meth:`forward` gets its entries.

        To go through all that lies in between would cost more than all else of the engine's step.
        """
        return (
            preprocess.__class__ is BaseDataPreprocessor
            and preprocess.leaves_as_is(data)
            and type(self)._run_forward is BaseModel._run_forward
            and "_run_forward" not in self.__dict__
        )

    def parse_losses(
        self, losses: dict[str, Tensor | list[Tensor]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up losses.

        Each value is averaged; a list of tensors is the sum of their averages. All whose name
        contains ``loss`` are added up; the others are only logged.

        Args:
            losses: Tensors, or lists of tensors, by name.

        Returns:
            The sum, to go backward from, and values to log: first ``loss``, the sum, then each by
            its name; one of the name ``loss`` itself is logged as it is, as MMEngine does. They are
            detached and stay on the device. Without any loss the sum is the number 0.

        Raises:
            TypeError: A value is neither a tensor nor a list of tensors.
        """
        if len(losses) == 1:
            # By far the most frequent case, without any node that backward would have to visit.
            value = losses.get("loss")
            if isinstance(value, Tensor) and value.dim() == 0:
                return value, {"loss": value.detach()}
        parsed: dict[str, Any] = {}
        terms: list[Any] = []
        for name, value in losses.items():
            mean: Any
            if isinstance(value, Tensor):
                mean = _mean(value)
            elif isinstance(value, list) and all(isinstance(v, Tensor) for v in value):
                mean = _sum([_mean(v) for v in value])
            else:
                raise InvalidTypeError(f"{name} is not a tensor or list of tensors")
            parsed[name] = mean
            if "loss" in name:
                terms.append(mean)
        loss: Any = _sum(terms)
        log_vars: dict[str, Any] = {"loss": loss, **parsed}
        for name, value in log_vars.items():
            if isinstance(value, Tensor):
                log_vars[name] = value.detach()
        return loss, log_vars

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the model; its preprocessor then moves batches to the same device."""
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None:
            self._set_device(torch.device(device))
        return super().to(*args, **kwargs)

    def cuda(self, device: int | str | torch.device | None = None) -> Self:
        """Move the model to a CUDA device."""
        index = torch.cuda.current_device() if device is None else device
        place = torch.device("cuda", index) if isinstance(index, int) else torch.device(index)
        self._set_device(place)
        return super().cuda(place)

    def npu(self, device: int | str | torch.device | None = None) -> Self:
        """Move to Ascend's device."""
        return self.to(_vendor_device("npu", device))

    def mlu(self, device: int | str | torch.device | None = None) -> Self:
        """Move to Cambricon's device."""
        return self.to(_vendor_device("mlu", device))

    def musa(self, device: int | str | torch.device | None = None) -> Self:
        """Move to Moore Threads' device."""
        return self.to(_vendor_device("musa", device))

    def cpu(self, *args: Any, **kwargs: Any) -> Self:
        """Move the model to the CPU."""
        self._set_device(torch.device("cpu"))
        return super().cpu()

    def _set_device(self, device: torch.device) -> None:
        for module in self.modules():
            if isinstance(module, BaseDataPreprocessor):
                module._device = device

    @abstractmethod
    def forward(
        self, inputs: Tensor, data_samples: list[Any] | None = None, mode: str = "tensor"
    ) -> dict[str, Tensor] | list[Any] | tuple[Tensor, ...] | Tensor:
        """Run the network.

        Args:
            inputs: Batch of inputs, preprocessed.
            data_samples: Their annotations.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.
        """

    def _run_forward(self, data: dict[str, Any] | tuple[Any, ...] | list[Any], mode: str) -> Any:
        """Call :meth:`forward` with a batch as keyword or positional arguments.

        Raises:
            TypeError: The batch is neither a dict, a list nor a tuple.
        """
        if isinstance(data, dict):
            return self(**data, mode=mode)
        if isinstance(data, (list, tuple)):
            return self(*data, mode=mode)
        raise InvalidTypeError(
            f"Output of `data_preprocessor` should be list, tuple or dict, but got {type(data)}"
        )


def _mean(value: Tensor) -> Tensor:
    # The mean of a scalar is itself, and would be one more node of the graph.
    return value if value.dim() == 0 else value.mean()


def _sum(values: list[Any]) -> Any:
    """Add up without the ``0 +`` of :func:`sum`, which would be one more node of the graph."""
    if not values:
        return 0
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
