"""What every optimizer wrapper can do, of whatever precision and with however many optimizers."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

import torch
from torch.optim import Optimizer

# Version of the fields that wrappers add to the optimizer's own state.
STATE_VERSION = 1


class BaseOptimWrapper(metaclass=ABCMeta):
    """Holds an optimizer and looks like it to schedulers, hooks and checkpoints.

    With several parameter groups one more group without parameters, ``base_param_settings``, is
    scheduled along with them: the optimizer's default settings, whose learning rate is what logs
    call ``base_lr``.

    Args:
        optimizer: The optimizer that updates the parameters.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.base_param_settings: dict[str, Any] | None = None
        if len(getattr(optimizer, "param_groups", ())) > 1:
            self.base_param_settings = {"params": torch.tensor([0.0]), **optimizer.defaults}

    def __getstate__(self) -> dict[str, Any]:
        # The step that schedulers count belongs to this very object; a copy has its own.
        state = vars(self).copy()
        if hasattr(state.get("step"), "_with_counter"):
            del state["step"]
        return state

    @abstractmethod
    def update_params(self, *args: Any, **kwargs: Any) -> None:
        """Compute gradients, and update parameters and clear gradients if it is time."""

    @abstractmethod
    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Compute gradients."""

    @abstractmethod
    def zero_grad(self, **kwargs: Any) -> None:
        """Clear gradients."""

    @abstractmethod
    def step(self, **kwargs: Any) -> None:
        """Update parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state and what the wrapper adds to it."""
        state: dict[str, Any] = self.optimizer.state_dict()
        state.update(self.extra_state_dict())
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned, or an optimizer's plain state.

        Args:
            state_dict: The state; it is not changed.
        """
        extra = dict(state_dict)
        own: dict[str, Any] = {
            name: extra.pop(name) for name in ("state", "param_groups") if name in extra
        }
        self.optimizer.load_state_dict(own)
        self.load_extra_state_dict(extra)

    def extra_state_dict(self) -> dict[str, Any]:
        """Return what the wrapper saves beside the optimizer's own state.

        For those who save the optimizer's state by other means, as sharded training does.
        """
        if self.base_param_settings is None:
            return {}
        return {"base_param_settings": dict(self.base_param_settings)}

    def load_extra_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`extra_state_dict` returned; what is missing stays as it is."""
        settings = state_dict.get("base_param_settings")
        if settings is not None:
            self.base_param_settings = dict(settings)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups, and after them ``base_param_settings`` if there are several."""
        if self.base_param_settings is None:
            return self.optimizer.param_groups
        return [*self.optimizer.param_groups, self.base_param_settings]

    @property
    def defaults(self) -> dict[str, Any]:
        """The optimizer's default settings."""
        return self.optimizer.defaults

    def get_lr(self) -> dict[str, list[float]]:
        """Return the learning rates of the groups under ``lr``, and that of the base settings."""
        result = {}
        if self.base_param_settings is not None:
            result["base_lr"] = [self.base_param_settings["lr"]]
        result["lr"] = [group["lr"] for group in self.optimizer.param_groups]
        return result

    def get_momentum(self) -> dict[str, list[float]]:
        """Return the momentum of the groups under ``momentum``: the first beta for Adam's kind."""
        momentum = []
        for group in self.optimizer.param_groups:
            if "momentum" in group:
                momentum.append(group["momentum"])
            elif "betas" in group:
                momentum.append(group["betas"][0])
            else:
                momentum.append(0)
        return {"momentum": momentum}
