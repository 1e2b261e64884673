"""Buffers are equal on all ranks when they are used or saved."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from mmx.dist import get_rank
from mmx.hooks import SyncBuffersHook
from mmx.registry import HOOKS
from mmx.testing import run_distributed


def _runner() -> Any:
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(get_rank())  # type: ignore[union-attr]  # it has statistics
    norm.num_batches_tracked.fill_(4)  # type: ignore[union-attr]  # it has statistics
    return SimpleNamespace(model=norm)


def _train_and_validate() -> list[float]:
    hook = HOOKS.build(dict(type="SyncBuffersHook"))
    runner = _runner()
    means = []
    hook.after_train_epoch(runner)
    means.append(runner.model.running_mean[0].item())
    # Done just now: validation does not do it again.
    runner.model.running_mean.fill_(get_rank())
    hook.before_val_epoch(runner)
    means.append(runner.model.running_mean[0].item())
    # A validation of its own does.
    hook.before_val_epoch(runner)
    means.append(runner.model.running_mean[0].item())
    assert 4 == runner.model.num_batches_tracked.item()
    assert torch.int64 == runner.model.num_batches_tracked.dtype
    return means


def test_buffers_are_averaged_over_ranks() -> None:
    assert [[0.5, 0.0, 0.5], [0.5, 1.0, 0.5]] == run_distributed(_train_and_validate, 2)


def test_one_process_keeps_its_buffers() -> None:
    hook, runner = SyncBuffersHook(), _runner()
    runner.model.running_mean.fill_(3)
    hook.after_train_epoch(runner)
    hook.before_val_epoch(runner)
    assert 3 == runner.model.running_mean[0].item()
    assert ["after_train_epoch", "before_val_epoch"] == sorted(hook.get_triggered_stages())


def test_a_hook_can_be_told_whether_there_are_ranks() -> None:
    hook, runner = SyncBuffersHook(), _runner()
    assert hook.distributed is False
    hook.distributed = True
    hook.after_train_epoch(runner)
    assert hook.called_in_train
