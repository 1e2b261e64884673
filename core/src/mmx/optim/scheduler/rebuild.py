"""Following a changed schedule from the middle of training on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import SGD

from mmx.optim.scheduler.param_scheduler import _ParamScheduler


def rebuild_schedulers(
    schedulers: Sequence[_ParamScheduler], epoch_length: int | None = None
) -> None:
    """Set schedules to where they would be now, had they had their present settings all along.

    After a run is resumed with other lengths or milestones its schedulers go on with the saved
    ones. This takes those that they were built with (see
    :meth:`_ParamScheduler.restore_settings`), and replays all steps from the first value of each
    group.

    Args:
        schedulers: All schedulers of one optimizer, in the order in which they step.
        epoch_length: Number of iterations in an epoch; needed if some step by epoch and some by
            iteration.

    Raises:
        ValueError: A scheduler goes by metrics, which cannot be replayed, or ``epoch_length`` is
            missing.
    """
    for scheduler in schedulers:
        if getattr(scheduler, "need_val_args", False):
            raise ValueError(
                f"{type(scheduler).__name__} goes by the metrics of past validations and cannot "
                "be replayed; drop it, or go on with the saved settings"
            )
    kinds = {scheduler.by_epoch for scheduler in schedulers}
    if len(kinds) > 1 and not epoch_length:
        raise ValueError(
            "some schedulers step by epoch and some by iteration: give epoch_length, the number "
            "of iterations in an epoch"
        )
    for scheduler in schedulers:
        scheduler.restore_settings()
    by_name: dict[str, list[_ParamScheduler]] = {}
    for scheduler in schedulers:
        by_name.setdefault(scheduler.param_name, []).append(scheduler)
    for name, several in by_name.items():
        _rebuild(name, several, epoch_length or 1)


def _rebuild(name: str, schedulers: list[_ParamScheduler], epoch_length: int) -> None:
    groups = schedulers[0].optimizer.param_groups
    # Groups that begin alike go on alike: one of each kind is replayed.
    marks = [f"{mark}_{name}" for mark in ("initial", "max", "min")]
    kinds = [tuple(group.get(mark) for mark in marks) for group in groups]
    distinct = list(dict.fromkeys(kinds))
    stage = _stage(name, marks, distinct)
    actors = [_restarted(scheduler, stage) for scheduler in schedulers]
    iterations = max((s._global_step for s in schedulers if not s.by_epoch), default=0)
    epochs = max((s._global_step for s in schedulers if s.by_epoch), default=0)
    length = max(iterations, epochs * epoch_length)
    for number in range(1, length + 1):
        for actor, scheduler in zip(actors, schedulers, strict=True):
            due = not scheduler.by_epoch or number % epoch_length == 0
            if due and actor._global_step < scheduler._global_step:
                actor.step()
    values = {kind: group[name] for kind, group in zip(distinct, stage.param_groups, strict=True)}
    schedulers[0]._assign([values[kind] for kind in kinds])
    for actor, scheduler in zip(actors, schedulers, strict=True):
        scheduler.last_step = actor.last_step
        scheduler._known_values = None
        betas = getattr(scheduler, "use_betas", False)
        for group in groups if betas else ():
            group["betas"] = (group[name], *group["betas"][1:])


def _stage(name: str, marks: list[str], kinds: list[tuple[Any, ...]]) -> SGD:
    """Return an optimizer whose groups are at their first values."""
    groups: list[dict[str, Any]] = []
    for kind in kinds:
        group: dict[str, Any] = {
            mark: value for mark, value in zip(marks, kind, strict=True) if value is not None
        }
        group |= {"params": [torch.zeros(1)], name: kind[0], "betas": (0.0, 0.0)}
        groups.append(group)
    return SGD(groups, lr=0.0)


def _restarted(scheduler: _ParamScheduler, stage: SGD) -> _ParamScheduler:
    """Return a copy of the scheduler at its beginning, that schedules ``stage``."""
    actor = copy.copy(scheduler)
    actor.optimizer = stage
    actor.verbose = False
    actor.last_step = actor._global_step = -1
    actor.base_values = [group[f"initial_{scheduler.param_name}"] for group in stage.param_groups]
    # Only a scheduler of a real optimizer is asked for the order of steps.
    actor._check_order = lambda: None  # type: ignore[method-assign]
    actor.step()
    return actor
