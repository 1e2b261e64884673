"""Saving beside the loop on two ranks: what one rank could not write, all learn within seconds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import nn

from mmx.checkpoint import find_latest_checkpoint, verify_checkpoint
from mmx.dist import PeerError
from mmx.dist.failures import reserve_s
from mmx.hooks import Hook
from mmx.model import BaseModel
from mmx.registry import MODEL_WRAPPERS
from mmx.runner import Runner
from mmx.testing.distributed import run_distributed

STEP_S = 0.02
ITERS = 200
FAILS_AT = 6
# Of collectives: a rank that ends earlier has been told.
TIMEOUT_S = 30
SHORT_TIMEOUT_S = 5


class Net(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x, mode="tensor"):
        time.sleep(STEP_S)
        return {"loss": self.linear(x).mean()}


@MODEL_WRAPPERS.register_module(force=True)
class NothingTravels(nn.Module):
    """A wrapper without collectives: each rank trains for itself."""

    def __init__(self, module: nn.Module, device_ids=None, **kwargs) -> None:
        super().__init__()
        self.module = module

    def train_step(self, *args, **kwargs):
        return self.module.train_step(*args, **kwargs)


class Clock(Hook):
    """Notes when the disk failed."""

    def __init__(self) -> None:
        self.failed_at = time.monotonic()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == FAILS_AT:
            self.failed_at = time.monotonic()


def break_writing(sharded: bool) -> None:
    """Let writing fail for this process from the second checkpoint on."""
    from mmx.checkpoint import save
    from mmx.checkpoint import sharded as shards

    module, name = (shards, "_write_tensors") if sharded else (save, "_serialise")
    real, count = getattr(module, name), 0

    def broken(*args):
        nonlocal count
        count += 1
        if count > 1:
            raise OSError(28, "No space left on device")
        return real(*args)

    setattr(module, name, broken)


def train(work_dir: str, faulty: int, sharded: bool, travels: bool, shares: bool = True) -> tuple:
    if int(os.environ["RANK"]) == faulty:
        break_writing(sharded)
    if not shares:
        import mmx.runner.runner as module

        module.share_failure = lambda error: error
    clock = Clock()
    runner = Runner(
        model=Net(),
        work_dir=work_dir,
        train_dataloader=dict(
            dataset=[{"x": torch.full((2,), float(i))} for i in range(2 * ITERS)],
            batch_size=1,
            collate_fn=dict(type="default_collate"),
            sampler=dict(type="DefaultSampler", shuffle=False),
        ),
        train_cfg=dict(by_epoch=False, max_iters=ITERS, val_interval=10 * ITERS),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        strategy=dict(type="DDPStrategy", state_dict_cfg="sharded") if sharded else None,
        default_hooks=dict(
            checkpoint=dict(
                type="CheckpointHook",
                by_epoch=False,
                interval=FAILS_AT // 2,
                async_save=True,
            ),
            # Log lines are averaged over ranks.
            **(dict() if travels else dict(logger=None)),
        ),
        custom_hooks=[clock],
        cfg=None if travels else dict(model_wrapper_cfg=dict(type="NothingTravels")),
        launcher="pytorch",
        env_cfg=dict(
            dist_cfg=dict(backend="gloo", timeout=TIMEOUT_S if shares else SHORT_TIMEOUT_S)
        ),
        randomness=dict(seed=0),
        log_level="CRITICAL",
    )
    # Two saves, the second of which fails; no third tells of it.
    hook = next(h for h in runner.hooks if type(h).__name__ == "CheckpointHook")
    due = hook.every_n_train_iters
    hook.every_n_train_iters = lambda r, *rest: r.iter < FAILS_AT and due(r, *rest)
    hook.save_last = False
    try:
        runner.train()
    except Exception as error:
        took = time.monotonic() - clock.failed_at
        ranks = error.ranks if isinstance(error, PeerError) else None
        if not shares and runner.rank == faulty:
            # The others must not learn of it from the end of this process.
            time.sleep(SHORT_TIMEOUT_S + 1)
        return type(error).__name__, str(error), ranks, runner.iter, took
    return None, "", None, runner.iter, 0.0


def assert_one_whole_is_left(work_dir: Path) -> None:
    latest = find_latest_checkpoint(work_dir)
    assert str(work_dir / f"iter_{FAILS_AT // 2}.pth") == latest
    verify_checkpoint(latest)
    assert [] == [p.name for p in work_dir.iterdir() if p.name.endswith(".tmp")]


def test_a_file_that_rank_0_could_not_write_ends_all_ranks(tmp_path: Path) -> None:
    """Also those that train without collectives."""
    first, second = run_distributed(train, 2, str(tmp_path), 0, False, False, init=False)
    assert "CheckpointError" == first[0]
    assert "No space left on device" in first[1]
    assert ("PeerError", [0]) == (second[0], second[2])
    assert second[1].startswith("rank 0 failed: CheckpointError: the checkpoint ")
    assert "No space left on device" in second[1]
    for result in (first, second):
        assert result[3] < ITERS
        assert result[4] < TIMEOUT_S / 2, result
    assert_one_whole_is_left(tmp_path)


def test_a_shard_that_rank_1_could_not_write_is_an_error_on_all(tmp_path: Path) -> None:
    for result in run_distributed(train, 2, str(tmp_path), 1, True, True, init=False):
        assert "CheckpointError" == result[0]
        assert "could not be written: rank 1: " in result[1]
        assert "No space left on device" in result[1]
        assert result[3] < ITERS
        assert result[4] < TIMEOUT_S / 2, result
    assert_one_whole_is_left(tmp_path)


def test_without_the_sharing_a_rank_waits_for_the_timeout(tmp_path: Path) -> None:
    """The negative control."""
    first, second = run_distributed(train, 2, str(tmp_path), 0, False, False, False, init=False)
    assert "CheckpointError" == first[0]
    assert "RuntimeError" == second[0]
    assert "rank 0" not in second[1]
    assert second[4] >= SHORT_TIMEOUT_S - reserve_s(SHORT_TIMEOUT_S) - 1
