"""Mixed precision by NVIDIA's apex, for configs that name it; torch's own is :class:`AmpOptimWrapper`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mmx.optim.optimizer.optimizer_wrapper import OptimWrapper
from mmx.registry import OPTIM_WRAPPERS
from mmx.utils.errors import MissingPackageError


@OPTIM_WRAPPERS.register_module()
class ApexOptimWrapper(OptimWrapper):
    """Train with ``apex.amp``.

    Args:
        opt_level: ``'O0'`` to ``'O3'``.
        loss_scale: ``'dynamic'``, a number, or None for the level's default.
        enabled: Whether to do anything.
        **kwargs: As for :class:`OptimWrapper`, and for ``apex.amp.initialize``.

    Raises:
        ImportError: apex is not installed.
    """

    def __init__(
        self,
        opt_level: str = "O1",
        loss_scale: float | str | None = "dynamic",
        enabled: bool = True,
        **kwargs: Any,
    ) -> None:
        try:
            from apex import amp  # type: ignore[import-not-found,unused-ignore]  # optional
        except ImportError as error:
            raise MissingPackageError(
                "Apex is not installed. Please check https://github.com/NVIDIA/apex#linux; "
                "torch's own mixed precision is AmpOptimWrapper"
            ) from error
        own = {
            k: kwargs.pop(k)
            for k in ("optimizer", "accumulative_counts", "clip_grad")
            if k in kwargs
        }
        super().__init__(**own)
        self._amp = amp
        self.opt_level, self.loss_scale, self.enabled, self.options = (
            opt_level,
            loss_scale,
            enabled,
            kwargs,
        )
        self._initialised = False

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Go backward from the scaled loss."""
        with self._amp.scale_loss(loss, self.optimizer) as scaled:
            scaled.backward(**kwargs)
        self._inner_count += 1

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Hand model and optimizer over to apex, once."""
        with super().optim_context(model):
            if not self._initialised:
                self._amp.initialize(
                    model,
                    self.optimizer,
                    enabled=self.enabled,
                    opt_level=self.opt_level,
                    loss_scale=self.loss_scale,
                    **self.options,
                )
                self._initialised = True
            yield

    def extra_state_dict(self) -> dict[str, Any]:
        """Return what is saved beside the optimizer's state: under ``apex_amp`` that of apex."""
        return {**super().extra_state_dict(), "apex_amp": self._amp.state_dict()}

    def load_extra_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`extra_state_dict` returned; what is missing stays as it is."""
        super().load_extra_state_dict(state_dict)
        if "apex_amp" in state_dict:
            self._amp.load_state_dict(state_dict["apex_amp"])
