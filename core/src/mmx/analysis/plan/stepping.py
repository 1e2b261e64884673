"""Optimizers of a config, stepped on weights that are spread as in training."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from mmx.analysis.plan.layout import Layout
from mmx.analysis.plan.optimizer import OptimizerState, build_optimizers, step_optimizers
from mmx.analysis.plan.traffic import local_of

# What an optimizer keeps of each element is found with so many shards at most; state that does not
# grow with a shard and takes more bytes than this is found with all.
_MOST_SHARDS, _SMALL = 64, 64


def optimizer_state_of(model: nn.Module, layout: Layout, config: Any) -> OptimizerState:
    """Return the state of a config's optimizers, by stepping them on weights spread as in training.

    What fails in training fails here; it is told then, and the state of the parts of weights taken.

    Args:
        model: The model, on the meta device.
        layout: How it is spread.
        config: ``optim_wrapper``.
    """
    found = _stepped(model, layout, config, _MOST_SHARDS)
    if layout.data_ranks > _MOST_SHARDS and any(one.fixed > _SMALL for one in found.held.values()):
        found = _stepped(model, layout, config, None)
    return found


def _stepped(model: nn.Module, layout: Layout, config: Any, most: int | None) -> OptimizerState:
    spread = copy.deepcopy(model)
    layout.split_and_shard(spread, most)
    ranks = layout.ranks
    problem = None
    wrappers, partitioned, by_bucket = build_optimizers(config, spread, layout.join)
    try:
        held, traffic = step_optimizers(wrappers, spread, ranks)
    except Exception as error:  # noqa: BLE001  # optimizers may fail in any way
        names = ", ".join(sorted({type(w.optimizer).__name__ for w in wrappers}))
        first = str(error).strip().partition("\n")[0]
        text = f"{type(error).__name__}: {first}"
        local = _local_copy(spread)
        wrappers, *_ = build_optimizers(config, local)
        try:
            held, traffic = step_optimizers(wrappers, local, 1)
        except Exception:  # noqa: BLE001  # as above
            return OptimizerState(
                problem=f"the state of {names} is unknown (taken as 0): its step ends in {text}"
            )
        problem = (
            f"{names} does not step on weights that are split over ranks, so that training would "
            f"end in {text}. Its state is that of a rank's parts on their own"
        )
    return OptimizerState(held, partitioned, by_bucket, traffic, problem)


def _local_copy(model: nn.Module) -> nn.Module:
    """Put a rank's parts of weights in the place of the weights; return the model."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            bare = nn.Parameter(local_of(parameter.detach()), parameter.requires_grad)
            module._parameters[name] = bare
    return model
