"""What every optimizer wrapper can do."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


class BaseOptimWrapper(metaclass=ABCMeta):
    """Base class of optimizer wrappers.

    Args:
        optimizer: The wrapped optimizer.

    Attributes:
        base_param_settings: Settings that the constructor was given, as one more parameter group,
            so that logs show the learning rate before multipliers. None: the first group's.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.base_param_settings: dict[str, Any] | None = None

    @abstractmethod
    def update_params(self, *args: Any, **kwargs: Any) -> None:
        """Go backward and update the parameters."""

    @abstractmethod
    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Go backward."""

    @abstractmethod
    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients."""

    @abstractmethod
    def step(self, **kwargs: Any) -> None:
        """Update the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer, with that of ``base_param_settings``."""
        state: dict[str, Any] = self.optimizer.state_dict()
        if self.base_param_settings is not None:
            state["base_param_settings"] = self.base_param_settings
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state that :meth:`state_dict` gave. The dict is not changed."""
        state_dict = dict(state_dict)
        settings = state_dict.pop("base_param_settings", None)
        if settings is not None:
            self.base_param_settings = settings
        self.optimizer.load_state_dict(state_dict)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups and, last, ``base_param_settings`` if there are any."""
        if self.base_param_settings is not None:
            return [*self.optimizer.param_groups, self.base_param_settings]
        return self.optimizer.param_groups

    @property
    def defaults(self) -> dict[str, Any]:
        """The optimizer's default settings."""
        return self.optimizer.defaults

    def get_lr(self) -> dict[str, list[float]]:
        """Return ``{'lr': [of each group]}``; with base settings also ``'base_lr'``."""
        result: dict[str, list[float]] = {}
        if self.base_param_settings is not None:
            result["base_lr"] = [self.base_param_settings["lr"]]
        result["lr"] = [group["lr"] for group in self.optimizer.param_groups]
        return result

    def get_momentum(self) -> dict[str, list[float]]:
        """Return ``{'momentum': [of each group]}``: the momentum or first beta, 0 without either."""
        return {"momentum": [_momentum(group) for group in self.optimizer.param_groups]}

    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return a context that does nothing around the forward pass."""
        return nullcontext()


def _momentum(group: dict[str, Any]) -> float:
    if "momentum" in group:
        return group["momentum"]
    if "betas" in group:
        return group["betas"][0]
    return 0
