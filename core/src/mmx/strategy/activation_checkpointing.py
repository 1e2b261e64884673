"""Trading computation for memory: activations are computed again in the backward pass."""

from __future__ import annotations

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint


def turn_on_activation_checkpointing(model: nn.Module, modules: list[str] | str) -> None:
    """Let the named sub-modules recompute their activations in the backward pass.

    The modules are changed in place and stay what they are: names, types and keys of the state
    dict do not change. Random numbers (dropout) repeat in the second computation.

    Args:
        model: The model.
        modules: Names of sub-modules as ``model.named_modules()`` has them.

    Raises:
        ValueError: A name is no sub-module of the model.
    """
    wanted = [modules] if isinstance(modules, str) else list(modules)
    if not wanted:
        return
    found = dict(model.named_modules())
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise ValueError(
            f"model {type(model).__name__} has no module named {', '.join(map(repr, unknown))}; "
            f"its modules are {', '.join(name for name in found if name)}"
        )
    for name in wanted:
        module = found[name]
        if getattr(module.forward, "_recomputes", False):
            continue
        forward = functools.partial(checkpoint, module.forward, use_reentrant=False)
        recomputing = functools.wraps(module.forward)(forward)
        recomputing._recomputes = True  # type: ignore[attr-defined]
        module.forward = recomputing
