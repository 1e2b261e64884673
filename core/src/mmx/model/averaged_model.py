"""Averages of a model's weights over training."""

from __future__ import annotations

import logging
from abc import abstractmethod
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn

from mmx.logging import print_log
from mmx.registry import MODELS


class BaseAveragedModel(nn.Module):
    """Base class of averaged models.

    Holds a copy of a model, ``module``, whose parameters are an average of those of the model; the
    first update copies them. Saved are ``module.*`` and ``steps``, the number of updates seen.

    Args:
        model: The model.
        interval: Average every so many updates.
        device: Where the average is kept; None is where the model is.
        update_buffers: Average buffers, such as statistics of normalisation, like parameters; else
            they are copied from the model at each update.
    """

    def __init__(
        self,
        model: nn.Module,
        interval: int = 1,
        device: torch.device | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__()
        self.module = deepcopy(model).requires_grad_(False)
        self.interval = interval
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("steps", torch.tensor(0, dtype=torch.long, device=device))
        self.update_buffers = update_buffers
        self.avg_parameters = self._tensors_of(self.module)
        # The number of updates as a Python number: reading the buffer would wait for the device.
        self._count: int | None = None

    steps: Tensor

    def _tensors_of(self, model: nn.Module) -> dict[str, Tensor]:
        tensors: dict[str, Any] = model.state_dict() if self.update_buffers else {}
        return tensors or dict(model.named_parameters())

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Moving a module replaces its buffers: the table must hold the new ones.
        result = super()._apply(fn, recurse)
        self.avg_parameters = self._tensors_of(self.module)
        return result

    @abstractmethod
    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Update one averaged tensor in place from the model's.

        Args:
            averaged_param: The average.
            source_param: The model's value.
            steps: Number of updates before this one.
        """

    def avg_many(self, averaged: list[Tensor], sources: list[Tensor], steps: int) -> None:
        """Update floating-point tensors in place; subclasses do it for all of them at once."""
        for average, source in zip(averaged, sources, strict=True):
            self.avg_func(average, source, steps)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the averaged model."""
        return self.module(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._count = None

    def update_parameters(self, model: nn.Module) -> None:
        """Take a model's present values into the average.

        Args:
            model: The model, of the structure that this one was made from.
        """
        if self._count is None:
            self._count = int(self.steps.item())
        steps = self._count
        if steps == 0 or steps % self.interval == 0:
            source = self._tensors_of(model)
            averaged, sources = self._pairs(source)
            if steps == 0:
                for average, value in zip(*self._all_pairs(source), strict=True):
                    average.data.copy_(value.data)
            elif averaged:
                with torch.no_grad():
                    self.avg_many(averaged, sources, steps)
        if not self.update_buffers:
            for average, value in zip(self.module.buffers(), model.buffers(), strict=True):
                average.data.copy_(value.data)
        self._count = steps + 1
        self.steps += 1

    def _all_pairs(self, source: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        averages = [average for _, average in self.avg_parameters.items()]
        return averages, [source[name] for name in self.avg_parameters]

    def _pairs(self, source: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return averages and values of floating-point tensors, on one device; copy the others."""
        averaged, sources = [], []
        for name, average in self.avg_parameters.items():
            value = source[name]
            if average.is_floating_point():
                averaged.append(average.data)
                sources.append(value.data.to(average.device))
            elif self._count:
                average.data.copy_(value.data)
        return averaged, sources


@MODELS.register_module()
class StochasticWeightAverage(BaseAveragedModel):
    """The plain mean of the weights at each update (Izmailov et al., 2018, arXiv:1803.05407)."""

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """``average += (value - average) / (number of averaged values + 1)``."""
        averaged_param.add_(
            source_param - averaged_param, alpha=1 / float(steps // self.interval + 1)
        )

    def avg_many(self, averaged: list[Tensor], sources: list[Tensor], steps: int) -> None:
        """The same for all tensors at once."""
        differences = torch._foreach_sub(sources, averaged)
        torch._foreach_add_(averaged, differences, alpha=1 / float(steps // self.interval + 1))


@MODELS.register_module()
class ExponentialMovingAverage(BaseAveragedModel):
    """``average = (1 - momentum) * average + momentum * value``.

    Args:
        model: The model.
        momentum: Weight of the new value, above 0 and below 1; usually small.
        interval: Average every so many updates.
        device: Where the average is kept; None is where the model is.
        update_buffers: Average buffers like parameters, else copy them.

    Raises:
        ValueError: ``momentum`` is outside of 0 to 1.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        interval: int = 1,
        device: torch.device | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, interval, device, update_buffers)
        if not 0.0 < momentum < 1.0:
            raise ValueError(f"momentum must be in range (0.0, 1.0) but got {momentum}")
        if momentum > 0.5:
            print_log(
                "The value of momentum in EMA is usually a small number, which is different from the "
                f"conventional notion of momentum but got {momentum}. Please make sure the value is correct.",
                logger="current",
                level=logging.WARNING,
            )
        self.momentum = momentum

    def _momentum_at(self, steps: int) -> float:
        return self.momentum

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Move one average towards a value."""
        averaged_param.lerp_(source_param, self._momentum_at(steps))

    def avg_many(self, averaged: list[Tensor], sources: list[Tensor], steps: int) -> None:
        """The same for all tensors at once."""
        torch._foreach_lerp_(averaged, sources, self._momentum_at(steps))


@MODELS.register_module()
class MomentumAnnealingEMA(ExponentialMovingAverage):
    """An exponential average whose momentum falls from 1 towards its value.

    At update t it is ``max(momentum, gamma / (gamma + t))``.

    Args:
        model: The model.
        momentum: The least momentum, above 0 and below 1.
        gamma: How slowly it falls; a positive whole number.
        interval: Average every so many updates.
        device: Where the average is kept; None is where the model is.
        update_buffers: Average buffers like parameters, else copy them.

    Raises:
        ValueError: ``gamma`` is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        gamma: int = 100,
        interval: int = 1,
        device: torch.device | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, momentum, interval, device, update_buffers)
        if gamma <= 0:
            raise ValueError(f"gamma must be greater than 0, but got {gamma}")
        self.gamma = gamma

    def _momentum_at(self, steps: int) -> float:
        return max(self.momentum, self.gamma / (self.gamma + steps))
