"""Data parallelism: each process holds the whole model and a share of the batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.parallel.distributed import DistributedDataParallel

from mmx.model.utils import detect_anomalous_params
from mmx.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class MMDistributedDataParallel(DistributedDataParallel):
    """:class:`torch.nn.parallel.DistributedDataParallel` with the steps of :class:`BaseModel`.

    Args:
        module: Model.
        detect_anomalous_params: Log the parameters that have no part in the loss, each iteration.
            Slow: for finding out why training hangs.
        **kwargs: As for torch's class.
    """

    def __init__(
        self, module: nn.Module, detect_anomalous_params: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(module=module, **kwargs)
        self.detect_anomalous_params = detect_anomalous_params

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Learn from one batch; see :meth:`mmx.model.BaseModel.train_step`."""
        # Gradients are synchronised only in those iterations that update weights.
        with optim_wrapper.optim_context(self):
            data = self.module.data_preprocessor(data, training=True)
            losses = self._run_forward(data, mode="loss")
        parsed_loss, log_vars = self.module.parse_losses(losses)
        optim_wrapper.update_params(parsed_loss)
        if self.detect_anomalous_params:
            detect_anomalous_params(parsed_loss, model=self)
        return log_vars

    def val_step(self, data: Any) -> Any:
        """Return predictions; the model itself runs, without synchronisation."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> Any:
        """Return predictions; the model itself runs, without synchronisation."""
        return self.module.test_step(data)

    def _run_forward(self, data: dict[str, Any] | tuple[Any, ...] | list[Any], mode: str) -> Any:
        if isinstance(data, dict):
            return self(**data, mode=mode)
        if isinstance(data, (list, tuple)):
            return self(*data, mode=mode)
        raise TypeError(
            f"Output of `data_preprocessor` should be list, tuple or dict, but got {type(data)}"
        )
