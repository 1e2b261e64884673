"""Learning rates that fall from the last layer of a model to the first."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from torch import nn

from mmx.optim.optimizer.default_constructor import DefaultOptimWrapperConstructor
from mmx.optim.optimizer.optimizer_wrapper import OptimWrapper
from mmx.registry import OPTIM_WRAPPER_CONSTRUCTORS

_NUMBERED = re.compile(r"(.*?)(\d+)")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Gives each layer ``layer_decay_rate`` times the learning rate of the next.

    For fine-tuning, as in `BEiT <https://arxiv.org/abs/2106.08254>`_ (appendix): with N layers the
    parameters of layer i have ``lr * layer_decay_rate ** (N - 1 - i)``. Layer 0 is what comes
    before the blocks, such as embeddings; layer N - 1 what comes after, such as the head.

    Which layer a parameter belongs to the model may say itself, in
    ``get_layer_depth(name) -> (layer, number of layers)``. Else the blocks are the stack of the
    model that holds most of its parameters: the children of a ``ModuleList`` or ``Sequential``,
    or siblings that are numbered by name (``layer1``, ``layer2``, ...).

    Args:
        optim_wrapper_cfg: See :class:`DefaultOptimWrapperConstructor`.
        paramwise_cfg: All keys of :class:`DefaultOptimWrapperConstructor`, and
            ``layer_decay_rate``, a number in (0, 1].

    Raises:
        ValueError: ``layer_decay_rate`` is missing or out of range, the optimizer's ``lr`` is not
            set, or the model has no stack.
    """

    keys = DefaultOptimWrapperConstructor.keys | {"layer_decay_rate"}

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        rate = self.paramwise_cfg.get("layer_decay_rate")
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ValueError(
                f"{type(self).__name__} needs paramwise_cfg=dict(layer_decay_rate=...), a number "
                f"in (0, 1], but got {rate!r}"
            )
        if self.base_lr is None:
            raise ValueError(f"{type(self).__name__} multiplies the optimizer's lr: set it")
        self.layer_decay_rate = rate
        self._depths: dict[str, tuple[int, int]] = {}

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer of the model and wrap it.

        Args:
            model: The model, or a wrapper that holds it as ``module``.
        """
        self._depths = layer_depths(getattr(model, "module", model))
        return super().__call__(model)

    def _adjusted(self, full_name: str, settings: dict[str, Any]) -> dict[str, Any]:
        layer, number = self._depths[full_name]
        scale = self.layer_decay_rate ** (number - 1 - layer)
        lr: Any = settings.get("lr", self.base_lr)
        return {**settings, "lr": lr * scale}


def layer_depths(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return for each parameter its layer, 0-based, and the number of layers.

    Raises:
        ValueError: The model neither says it nor has a stack of blocks.
    """
    # A parameter that is shared has several names.
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if hasattr(model, "get_layer_depth"):
        return {name: model.get_layer_depth(name) for name in names}  # type: ignore[operator]  # the model's own method
    blocks = _largest_stack(model)
    number = len(blocks) + 2
    depths: dict[str, tuple[int, int]] = {}
    before = True
    for name in names:
        block = next((i for i, path in enumerate(blocks) if name.startswith(f"{path}.")), None)
        if block is not None:
            before = False
            depths[name] = (block + 1, number)
        else:
            depths[name] = (0 if before else number - 1, number)
    return depths


def _largest_stack(model: nn.Module) -> list[str]:
    """Return the paths of the blocks, in order."""
    stacks: dict[tuple[str, str], list[tuple[int, str, int]]] = defaultdict(list)
    for path, module in model.named_modules():
        for name, child in module.named_children():
            match = _NUMBERED.fullmatch(name)
            size = sum(param.numel() for param in child.parameters())
            if match and size:
                full = f"{path}.{name}" if path else name
                stacks[path, match[1]].append((int(match[2]), full, size))
    candidates = [sorted(stack) for stack in stacks.values() if len(stack) > 1]
    if not candidates:
        raise ValueError(
            f"{type(model).__name__} has no stack of blocks to tell layers by; let the model "
            "define `get_layer_depth(name)`, which returns the layer of a parameter (0-based) and "
            "the number of layers"
        )
    # The outermost of equals: `max` takes the first, and modules are named from outside in.
    largest = max(candidates, key=lambda stack: sum(size for *_, size in stack))
    return [path for _, path, _ in largest]
