"""Several optimizer wrappers by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import torch
from torch import nn

from mmx.optim.optimizer.optimizer_wrapper import OptimWrapper
from mmx.utils.errors import InvalidKeyError, InvalidTypeError


def _separately(method: str) -> NoReturn:
    raise NotImplementedError(
        f"`{method}` should be called by each optimizer separately, for example "
        f"optim_wrapper['name'].{method}(...)"
    )


class OptimWrapperDict(OptimWrapper):
    """Holds the optimizer wrappers of a model with several optimizers, such as a GAN.

    It is read like a dict and gives states, learning rates and momentum of all. Which loss belongs
    to which optimizer only the model knows: its ``train_step`` calls ``backward``, ``step`` and
    ``update_params`` of the single wrappers.

    Args:
        **optim_wrapper_dict: Name -> optimizer wrapper.

    Raises:
        TypeError: A value is no :class:`OptimWrapper`.
    """

    def __init__(self, **optim_wrapper_dict: OptimWrapper) -> None:
        for name, wrapper in optim_wrapper_dict.items():
            if not isinstance(wrapper, OptimWrapper):
                raise InvalidTypeError(
                    "`OptimWrapperDict` only accept OptimWrapper instance, but got "
                    f"{name}: {type(wrapper)}"
                )
        self.optim_wrappers = optim_wrapper_dict

    def update_params(
        self,
        loss: torch.Tensor,
        step_kwargs: dict[str, Any] | None = None,
        zero_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Raise NotImplementedError: call it on the single wrappers."""
        _separately("update_params")

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Raise NotImplementedError: call it on the single wrappers."""
        _separately("backward")

    def step(self, **kwargs: Any) -> None:
        """Raise NotImplementedError: call it on the single wrappers."""
        _separately("step")

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients of all optimizers."""
        for wrapper in self.optim_wrappers.values():
            wrapper.zero_grad(**kwargs)

    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Raise NotImplementedError: call it on the single wrappers."""
        _separately("optim_context")

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Do nothing: which part of the model belongs to which wrapper is not known here.

        A model that accumulates gradients calls it on the single wrappers.
        """

    def should_update(self) -> bool:
        """Raise NotImplementedError: call it on the single wrappers."""
        _separately("should_update")

    def should_sync(self) -> bool:
        """Raise NotImplementedError: call it on the single wrappers."""
        _separately("should_sync")

    def scale_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """Raise NotImplementedError: call it on the single wrappers."""
        _separately("scale_loss")

    @property
    def inner_count(self) -> int:
        """Each wrapper has its own.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError("`inner_count` should be read from each optimizer wrapper separately")

    @property
    def defaults(self) -> dict[str, Any]:
        """Each wrapper has its own.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError("`defaults` should be read from each optimizer wrapper separately")

    @property
    def param_groups(self) -> dict[str, list[dict[str, Any]]]:  # type: ignore[override]  # documented
        """Name -> parameter groups."""
        return {name: wrapper.param_groups for name, wrapper in self.optim_wrappers.items()}

    def get_lr(self) -> dict[str, list[float]]:
        """Return the learning rates of all, ``'<name>.lr'`` -> list."""
        return {
            f"{name}.{key}": value
            for name, wrapper in self.optim_wrappers.items()
            for key, value in wrapper.get_lr().items()
        }

    def get_momentum(self) -> dict[str, list[float]]:
        """Return the momentum of all, ``'<name>.momentum'`` -> list."""
        return {
            f"{name}.{key}": value
            for name, wrapper in self.optim_wrappers.items()
            for key, value in wrapper.get_momentum().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return name -> state."""
        return {name: wrapper.state_dict() for name, wrapper in self.optim_wrappers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned.

        Raises:
            KeyError: It names a wrapper that is not here.
        """
        for name in state_dict:
            if name not in self.optim_wrappers:
                raise InvalidKeyError(
                    f"Mismatched `state_dict`! cannot found {name} in OptimWrapperDict, which "
                    f"has {list(self.optim_wrappers)}"
                )
        for name, state in state_dict.items():
            self.optim_wrappers[name].load_state_dict(state)

    def extra_state_dict(self) -> dict[str, Any]:
        """Return name -> what the wrapper saves beside its optimizer's state."""
        return {name: wrapper.extra_state_dict() for name, wrapper in self.optim_wrappers.items()}

    def load_extra_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`extra_state_dict` returned."""
        for name, state in state_dict.items():
            self[name].load_extra_state_dict(state)

    def items(self) -> Iterator[tuple[str, OptimWrapper]]:
        """Iterate over names and wrappers."""
        yield from self.optim_wrappers.items()

    def values(self) -> Iterator[OptimWrapper]:
        """Iterate over wrappers."""
        yield from self.optim_wrappers.values()

    def keys(self) -> Iterator[str]:
        """Iterate over names."""
        yield from self.optim_wrappers.keys()

    def __getitem__(self, key: str) -> OptimWrapper:
        if key not in self.optim_wrappers:
            raise InvalidKeyError(
                f"Cannot find {key} in OptimWrapperDict, please check your optimizer constructor; "
                f"there are {list(self.optim_wrappers)}"
            )
        return self.optim_wrappers[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.optim_wrappers)

    def __contains__(self, key: object) -> bool:
        return key in self.optim_wrappers

    def __len__(self) -> int:
        return len(self.optim_wrappers)

    def __repr__(self) -> str:
        return "".join(
            f"name: {name}\n{wrapper!r}" for name, wrapper in self.optim_wrappers.items()
        )
