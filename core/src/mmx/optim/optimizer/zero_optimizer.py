"""An optimizer whose state is spread over the ranks (Rajbhandari et al., 2020)."""

from __future__ import annotations

from typing import Any

from torch.distributed.optim import ZeroRedundancyOptimizer as _ZeroRedundancyOptimizer

from mmx.dist import is_main_process
from mmx.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class ZeroRedundancyOptimizer(_ZeroRedundancyOptimizer):
    """torch's optimizer that keeps a share of the state on each rank, built by name.

    Args:
        params: Parameters, or groups of them.
        optimizer_type: Name of an optimizer in the registry, for example ``'AdamW'``.
        **kwargs: Arguments of that optimizer and of
            :class:`torch.distributed.optim.ZeroRedundancyOptimizer`.

    Raises:
        ValueError: Nothing is registered under that name.
    """

    def __init__(self, params: Any, optimizer_type: str, **kwargs: Any) -> None:
        optimizer_class = OPTIMIZERS.get(optimizer_type)
        if optimizer_class is None:
            raise ValueError(
                "optimizer_type should name an optimizer such as 'AdamW', but got "
                f"{optimizer_type!r}"
            )
        super().__init__(params, optimizer_class, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Gather the state on rank 0 and return it there, an empty dict elsewhere.

        Every rank must call.
        """
        self.consolidate_state_dict()
        return super().state_dict() if is_main_process() else {}
