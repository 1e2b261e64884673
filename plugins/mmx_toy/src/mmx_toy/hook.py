"""A number of one's own in every log line."""

from typing import Any

import torch

from mmx.hooks import Hook
from mmx_toy.registry import HOOKS


@HOOKS.register_module()
class WeightNormHook(Hook):
    """Log the Euclidean norm of all weights as ``weight_norm``: a look at how far they move."""

    def before_train_epoch(self, runner: Any) -> None:
        """Measure once an epoch; the logger shows the value until the next one."""
        with torch.no_grad():
            norms = torch._foreach_norm(list(runner.model.parameters()))
            norm = torch.stack(list(norms)).norm()
        runner.message_hub.update_scalar("train/weight_norm", norm)
