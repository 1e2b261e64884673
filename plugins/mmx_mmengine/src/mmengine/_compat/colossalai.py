"""The strategy for ColossalAI, which mmx does not drive."""

from __future__ import annotations

from typing import Any

from mmx.registry import STRATEGIES
from mmx.strategy.base import BaseStrategy

_REFUSAL = (
    "mmx does not drive ColossalAI. For sharded parameters and optimizer states use "
    "strategy=dict(type='FSDPStrategy') or strategy=dict(type='DeepSpeedStrategy')"
)


@STRATEGIES.register_module()
class ColossalAIStrategy(BaseStrategy):
    """Refuses with the replacements; the class exists so that old imports and checks work.

    Args:
        config: The configuration file of ColossalAI.
        mixed_precision: The precision, such as ``"fp16"``.
        plugin: The plugin of ColossalAI.
        model_wrapper: The config of a model wrapper.
        kwargs: Arguments of `BaseStrategy`.

    Raises:
        NotImplementedError: Always.
    """

    def __init__(
        self,
        *,
        config: Any = None,
        mixed_precision: Any = None,
        plugin: Any = "gemini",
        model_wrapper: Any = None,
        **kwargs: Any,
    ) -> None:
        raise NotImplementedError(_REFUSAL)

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse."""
        raise NotImplementedError(_REFUSAL)
