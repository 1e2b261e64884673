"""Learning rates that shrink from the last layer to the first (Clark et al., 2020, arXiv:2003.10555)."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mmx.optim.optimizer.default_constructor import DefaultOptimWrapperConstructor
from mmx.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Multiply the learning rate of layer i of L by ``decay_rate ** (L - i)``.

    Which layer a parameter belongs to is asked of the model, ``model.get_layer_depth(name)``, which
    returns ``(layer, number of layers)``; without it the number in a name like ``blocks.3.…``,
    ``layers.3.…`` or ``layer3.…`` counts, what comes before the first such block (embeddings,
    stem) is layer 0, and what comes after the last is the top.

    ``paramwise_cfg`` takes ``layer_decay_rate`` (default 1) beside the keys of
    :class:`DefaultOptimWrapperConstructor`. Parameters with one dimension get no weight decay
    unless ``flat_decay_mult`` says otherwise.
    """

    def _validate_cfg(self) -> None:
        self.paramwise_cfg = dict(self.paramwise_cfg)
        self.decay_rate: float = self.paramwise_cfg.pop("layer_decay_rate", 1.0)
        if not 0 < self.decay_rate <= 1:
            raise ValueError(
                f"layer_decay_rate must be above 0 and at most 1, got {self.decay_rate}"
            )
        super()._validate_cfg()

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = "",
        is_dcn_module: bool | int | float | None = None,
    ) -> None:
        """Add the parameters of a model, with the learning rates of their layers."""
        if self.base_lr is None:
            raise ValueError("layer decay needs the optimizer's lr in the config")
        super().add_params(params, module, prefix, is_dcn_module)
        names = {id(param): name for name, param in module.named_parameters()}
        depths = layer_depths(module, list(names.values()))
        for group in params:
            layer, total = depths[names[id(group["params"][0])]]
            scale = self.decay_rate ** (total - layer - 1)
            group["lr"] = group.get("lr", self.base_lr) * scale
            group["lr_scale"] = scale


def layer_depths(model: nn.Module, names: list[str]) -> dict[str, tuple[int, int]]:
    """Return ``(layer, number of layers)`` of each parameter, 0-based."""
    ask = getattr(model, "get_layer_depth", None)
    if ask is not None:
        return {name: ask(name) for name in names}
    found = [
        re.search(r"(?:^|\.)(?:blocks|layers|layer|stages|h)\.?(\d+)(?:\.|$)", name)
        for name in names
    ]
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        return dict.fromkeys(names, (0, 1))
    first = next(i for i, match in enumerate(found) if match)
    total = max(numbers) - min(numbers) + 3
    depths = {}
    for index, (name, match) in enumerate(zip(names, found, strict=True)):
        if match:
            layer = int(match[1]) - min(numbers) + 1
        else:
            layer = 0 if index < first else total - 1
        depths[name] = (layer, total)
    return depths
