"""Several optimizers under their names, as GANs need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mmx.optim.optimizer.optimizer_wrapper import OptimWrapper


class OptimWrapperDict(OptimWrapper):
    """A dict of optimizer wrappers that a model's own ``train_step`` uses one by one.

    Args:
        **optim_wrapper_dict: :class:`OptimWrapper` by name.

    Raises:
        TypeError: A value is no :class:`OptimWrapper`.
    """

    def __init__(self, **optim_wrapper_dict: OptimWrapper) -> None:
        for key, value in optim_wrapper_dict.items():
            if not isinstance(value, OptimWrapper):
                raise TypeError(
                    "`OptimWrapperDict` only accept OptimWrapper instance, but got "
                    f"{key}: {type(value)}"
                )
        self.optim_wrappers = optim_wrapper_dict

    def update_params(
        self,
        loss: Tensor,
        step_kwargs: dict[str, Any] | None = None,
        zero_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Not defined for several optimizers.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "`update_params` should be called by each optimizer separately: optim_wrapper['name'].update_params(loss)"
        )

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Not defined for several optimizers.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("`backward` should be called by each optimizer separately")

    def step(self, **kwargs: Any) -> None:
        """Not defined for several optimizers.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("`step` should be called by each optimizer separately")

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients of all of them."""
        for wrapper in self.optim_wrappers.values():
            wrapper.zero_grad(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Not defined for several optimizers.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "`optim_context` should be called by each optimizer separately: "
            "with optim_wrapper['name'].optim_context(model)"
        )
        yield

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Do nothing: how often each optimizer updates is the model's affair."""

    @property
    def param_groups(self) -> dict[str, list[dict[str, Any]]]:  # type: ignore[override]  # by name
        """Parameter groups of each, by name."""
        return {key: wrapper.param_groups for key, wrapper in self.optim_wrappers.items()}

    def get_lr(self) -> dict[str, list[float]]:
        """Return learning rates as ``name.lr``; base ones as ``name.base_lr``."""
        return {
            f"{name}.{key}": value
            for name, wrapper in self.optim_wrappers.items()
            for key, value in wrapper.get_lr().items()
        }

    def get_momentum(self) -> dict[str, list[float]]:
        """Return momenta as ``name.momentum``."""
        return {
            f"{name}.{key}": value
            for name, wrapper in self.optim_wrappers.items()
            for key, value in wrapper.get_momentum().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each, by name."""
        return {key: wrapper.state_dict() for key, wrapper in self.optim_wrappers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the states that :meth:`state_dict` gave.

        Raises:
            KeyError: A name in it is none of ours.
        """
        for name, state in state_dict.items():
            if name not in self.optim_wrappers:
                raise KeyError(
                    f"Mismatched `state_dict`: {name!r} is none of the optimizers {', '.join(self.optim_wrappers)}"
                )
            self.optim_wrappers[name].load_state_dict(state)

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
        return self.optim_wrappers[key]

    def __contains__(self, key: str) -> bool:
        return key in self.optim_wrappers

    def __len__(self) -> int:
        return len(self.optim_wrappers)

    def __repr__(self) -> str:
        lines = "".join(
            f"name: {name}\n{wrapper!r}\n" for name, wrapper in self.optim_wrappers.items()
        )
        return f"OptimWrapperDict(\n{lines})"
