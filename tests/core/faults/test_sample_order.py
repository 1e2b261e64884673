"""The order of samples when a run goes on with another number of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.hooks import Hook
from mmx.model import BaseModel
from mmx.runner import Runner
from mmx.testing.distributed import run_distributed

GLOBAL_BATCH, SAMPLES, STOPS = 4, 40, (7, 14, 25)


class Net(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x, mode="tensor"):
        return {"loss": self.linear(x).mean()}


class Counted(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.reads: list[int] = []

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int):
        self.reads.append(int(index))
        return {"x": torch.tensor([float(index)])}


class Log(Hook):
    def __init__(self) -> None:
        self.batches: dict[int, list[int]] = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.batches[runner.iter] = [int(x) for x in data_batch["x"].flatten()]


class Enough(Exception):
    """The run has come as far as it should."""


class StopAt(Hook):
    priority = "LOWEST"

    def __init__(self, at: int) -> None:
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at:
            raise Enough


def train(work_dir: str, ranks: int, stop: int) -> tuple[dict[int, list[int]], list[int]]:
    """Train until an iteration; return what this rank trained on by iteration, and its reads."""
    data, log = Counted(), Log()
    runner = Runner(
        model=Net(),
        work_dir=work_dir,
        train_dataloader=dict(
            dataset=data,
            batch_size=GLOBAL_BATCH // ranks,
            num_workers=0,
            collate_fn=dict(type="default_collate"),
            sampler=dict(type="DefaultSampler", shuffle=True),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1)),
        custom_hooks=[log, StopAt(stop)],
        launcher="pytorch" if ranks > 1 else "none",
        env_cfg=dict(dist_cfg=dict(backend="gloo", timeout=20)),
        randomness=dict(seed=5),
        resume=True,
        log_level="CRITICAL",
    )
    with pytest.raises(Enough):
        runner.train()
    return log.batches, data.reads


def together(parts: list[tuple[dict[int, list[int]], list[int]]]) -> dict[int, list[int]]:
    first = parts[0][0]
    return {i: sorted(s for batches, _ in parts for s in batches[i]) for i in first}


@pytest.mark.slow
def test_samples_keep_their_order_over_2_1_and_2_ranks_and_none_is_read_while_skipping(
    tmp_path: Path,
) -> None:
    whole, _ = train(str(tmp_path / "whole"), 1, STOPS[-1])
    expected = {i: sorted(batch) for i, batch in whole.items()}
    assert list(range(STOPS[-1])) == list(expected)

    work = str(tmp_path / "work")
    actual: dict[int, list[int]] = {}
    for ranks, stop in zip((2, 1, 2), STOPS, strict=True):
        if ranks == 1:
            parts = [train(work, ranks, stop)]
        else:
            parts = run_distributed(train, ranks, work, ranks, stop, init=False)
        assert list(range(len(actual), stop)) == list(parts[0][0])
        for batches, reads in parts:
            assert [s for batch in batches.values() for s in batch] == reads
        actual.update(together(parts))
    assert expected == actual
