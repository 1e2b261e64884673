"""The plan of a config."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mmx.analysis.plan.build import (
    Batch,
    CannotPlanError,
    batch_of_data,
    batch_of_shapes,
    build_model,
    on_meta,
)
from mmx.analysis.plan.layout import layout_of
from mmx.analysis.plan.planning import Plan, make_plan
from mmx.analysis.plan.pretend import pretended_ranks
from mmx.analysis.plan.traffic import Links
from mmx.model import BaseModel
from mmx.registry import HOOKS, DefaultScope
from mmx.strategy.building import model_from


def plan_config(
    config: Mapping[str, Any],
    ranks: int,
    *,
    input_shapes: Sequence[str] = (),
    data: bool = False,
    batch_size: int | None = None,
    links: Links | None = None,
    min_efficiency: float = 0.5,
    memory_limit: int | None = None,
) -> Plan:
    """Return the plan of a config.

    Args:
        config: As for a runner.
        ranks: Number of processes.
        input_shapes: Shapes of a sample of the model's inputs, see
            :func:`~mmx.analysis.plan.build.batch_of_shapes`; the model's outputs are taken for its
            loss.
        data: Take samples of ``train_dataloader``, and the model's loss.
        batch_size: Samples of a rank in an iteration; by default the loader's.
        links: Speeds.
        min_efficiency: Below this part of the time computing, scaling has stopped.
        memory_limit: Bytes of a device.

    Raises:
        CannotPlanError: It cannot be planned; the message says why.
        ValueError: The config is wrong, as training would say.
        RuntimeError: There is a process group already.
    """
    if ranks < 1:
        raise CannotPlanError(f"ranks must be positive, but got {ranks}")
    described = config.get("model")
    if described is None:
        raise CannotPlanError("it has no model")
    if isinstance(described, Mapping) and config.get("data_preprocessor") is not None:
        described = {"data_preprocessor": config["data_preprocessor"], **described}
    scope = config.get("default_scope") or "mmx"
    with DefaultScope.overwrite_default_scope(scope):
        model = build_model(described)
        preprocessor = copy.deepcopy(getattr(model, "data_preprocessor", None))
        batch, size, notes = _batch(config, input_shapes, data, batch_size, preprocessor)
        notes += _notes(config, model)
        model = on_meta(model)
        with pretended_ranks(ranks):
            layout, more = layout_of(config, ranks, model)
            plan = make_plan(
                model,
                layout,
                optim_wrapper=config.get("optim_wrapper"),
                batch=batch,
                batch_size=size,
                build_real=lambda: model_from(copy.deepcopy(described)),
                links=links,
                min_efficiency=min_efficiency,
                memory_limit=memory_limit,
            )
    if batch is None:
        plan.notes = [n for n in plan.notes if not n.endswith("without a batch")]
    plan.notes = [*more, *notes, *plan.notes]
    return plan


def _batch(
    config: Mapping[str, Any],
    input_shapes: Sequence[str],
    data: bool,
    batch_size: int | None,
    preprocessor: nn.Module | None,
) -> tuple[Batch | None, int, list[str]]:
    loader = config.get("train_dataloader")
    if isinstance(loader, Sequence) and not isinstance(loader, str):
        loader = loader[0] if loader else None
    size, notes = batch_size, []
    if size is None and isinstance(loader, Mapping):
        size = loader.get("batch_size") or (loader.get("batch_sampler") or {}).get("batch_size")
    if size is None and (input_shapes or data):
        notes.append("train_dataloader tells no batch size, so that it is 1; say --batch-size")
    size = int(size or 1)
    if input_shapes and data:
        raise CannotPlanError("give --input-shape or --data, not both")
    if input_shapes:
        return batch_of_shapes(input_shapes), size, notes
    if not data:
        notes.append(
            "activations and times are unknown without a batch: say --input-shape 3,224,224 "
            "(the shape of a sample), or --data to take samples of train_dataloader"
        )
        return None, size, notes
    if not isinstance(loader, Mapping):
        raise CannotPlanError("--data takes samples of train_dataloader, which it has not")
    try:
        batch = batch_of_data(loader, preprocessor)
        batch(size)
    except Exception as error:  # code of the data set
        raise CannotPlanError(
            f"no batch of train_dataloader can be made here: {type(error).__name__}: {error}; "
            "say --input-shape instead of --data"
        ) from error
    return batch, size, notes


def _notes(config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Return what of a config the plan leaves out."""
    notes = []
    for hook in config.get("custom_hooks") or ():
        kind = hook.get("type") if isinstance(hook, Mapping) else type(hook)
        cls: Any = HOOKS.get(kind) if isinstance(kind, str) else kind
        if "EMAHook" in {base.__name__ for base in getattr(cls, "__mro__", ())}:
            held = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
            notes.append(f"the averaged weights of EMAHook take {held:,} B more")
    own = getattr(type(model), "train_step", BaseModel.train_step)
    if own is not BaseModel.train_step:
        notes.append(
            f"{type(model).__name__} has a train_step of its own; its forward pass is planned, once "
            "an iteration"
        )
    optim = config.get("optim_wrapper")
    if optim is None:
        notes.append("it has no optim_wrapper, so that there is no state of an optimizer")
    kind = optim.get("type") if isinstance(optim, Mapping) else None
    if str(getattr(kind, "__name__", kind)).endswith("ApexOptimWrapper"):
        notes.append("ApexOptimWrapper's mixed precision is not taken into account")
    if config.get("compile"):
        notes.append("what compiling saves is not taken into account")
    return notes
