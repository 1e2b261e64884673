"""Test-time augmentation without a change of the training config."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from mmx.hooks.hook import Hook
from mmx.registry import HOOKS, MODELS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class PrepareTTAHook(Hook):
    """Wrap the runner's model in a model for test-time augmentation before testing.

    Args:
        tta_cfg: Config of the wrapping model, without ``module``.
    """

    def __init__(self, tta_cfg: dict[str, Any]) -> None:
        self.tta_cfg = tta_cfg

    def before_test(self, runner: RunnerLike) -> None:
        """Wrap the model."""
        cfg = copy.deepcopy(self.tta_cfg)
        runner.model = MODELS.build({**cfg, "module": runner.model})
