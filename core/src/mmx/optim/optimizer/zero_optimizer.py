"""An optimizer whose state is spread over processes (Rajbhandari et al., 2020, arXiv:1910.02054)."""

from __future__ import annotations

from typing import Any

from torch.distributed.optim import ZeroRedundancyOptimizer as _ZeroRedundancyOptimizer

from mmx.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class ZeroRedundancyOptimizer(_ZeroRedundancyOptimizer):
    """:class:`torch.distributed.optim.ZeroRedundancyOptimizer` by config.

    Args:
        params: Parameters, or groups of them.
        optimizer_type: Name of an optimizer in ``OPTIMIZERS``.
        **kwargs: For torch's class and for the optimizer.
    """

    def __init__(self, params: Any, optimizer_type: str, **kwargs: Any) -> None:
        super().__init__(params, optimizer_class=_class(optimizer_type), **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Gather the state on process 0 and return it; every rank must call this."""
        self.consolidate_state_dict()
        from mmx.dist import is_main_process

        return super().state_dict() if is_main_process() else {}


def _class(name: str) -> Any:
    kind: Any = OPTIMIZERS.get(name)
    if kind is None:
        raise KeyError(f"{name!r} is no registered optimizer")
    return kind
