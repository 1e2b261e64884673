"""Which samples a resumed run reads: each once, in the same order, whoever reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmx.checkpoint import find_latest_checkpoint
from mmx.hooks import Hook
from mmx.model import BaseModel
from mmx.runner import Runner

SIZE, BATCH, STOP = 24, 4, 8  # six iterations a pass: it stops in the second one


class Net(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x, mode):  # type: ignore[no-untyped-def]  # a test model
        return {"loss": self.linear(x.float()[:, None]).square().mean() / SIZE**2}


class Counting(torch.utils.data.Dataset):
    """Counts its reads in memory that workers share."""

    def __init__(self) -> None:
        self.reads = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict[str, int]:
        self.reads += 1
        return {"x": index}


class Log(Hook):
    priority = "LOWEST"

    def __init__(self, stop: int | None) -> None:
        self.stop, self.samples = stop, []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any, outputs: Any) -> None:
        self.samples += data_batch["x"].tolist()
        if runner.iter + 1 == self.stop:
            raise KeyboardInterrupt


def train(
    work_dir: Path, workers: int, stop: int | None = None, data: Any = None
) -> tuple[list[int], Runner]:
    log = Log(stop)
    loader = dict(
        dataset=Counting(),
        batch_size=BATCH,
        num_workers=workers,
        sampler=dict(type="DefaultSampler", shuffle=True),
        collate_fn=dict(type="default_collate"),
    )
    runner = Runner(
        Net(),
        str(work_dir),
        train_dataloader=data or loader,
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False)),
        custom_hooks=[log],
        randomness=dict(seed=2),
        resume=True,
        log_level="ERROR",
    )
    if stop is None:
        runner.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    return log.samples, runner


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_the_order_survives_a_change_of_workers_and_nothing_is_read_while_skipping(
    before: int, after: int, tmp_path: Path
) -> None:
    expected, _ = train(tmp_path / "whole", 0)
    first, _ = train(tmp_path / "w", before, stop=STOP)
    # The last iteration's checkpoint is not saved yet when a hook of lower priority stops the run.
    rest, runner = train(tmp_path / "w", after)
    done = len(expected) - len(rest)
    assert done in (STOP * BATCH, (STOP - 1) * BATCH)
    assert expected == first[:done] + rest
    assert len(rest) == int(runner.train_dataloader.dataset.reads)


def test_without_the_position_samples_are_seen_twice(tmp_path: Path) -> None:
    """The negative control."""
    expected, _ = train(tmp_path / "whole", 0)
    first, _ = train(tmp_path / "w", 0, stop=STOP)
    file = max((tmp_path / "w").glob("iter_*.pth"), key=lambda path: path.stat().st_mtime_ns)
    saved = torch.load(file, weights_only=True)
    saved["engine"]["loop"].update(batches=0, samples=0)
    torch.save(saved, file)
    rest, _ = train(tmp_path / "w", 0)
    assert len(first) + len(rest) > len(expected) + BATCH


class Stateful:
    """A loader of one's own that knows where it is, as those of torchdata do."""

    def __init__(self) -> None:
        self.at = self.loaded = self.given = 0

    def __len__(self) -> int:
        return SIZE // BATCH

    def __iter__(self) -> Any:
        while self.at < len(self):
            self.at += 1
            self.given += 1
            start = (self.at - 1) * BATCH
            yield {"x": torch.arange(start, start + BATCH)}
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at, self.loaded = state["at"], self.loaded + 1


@pytest.mark.parametrize("forgets", [False, True])
def test_a_loader_with_a_state_is_put_back_through_it(forgets: bool, tmp_path: Path) -> None:
    """With its negative control: without the state it has to give again what is skipped."""
    expected, _ = train(tmp_path / "whole", 0, data=Stateful())
    first, _ = train(tmp_path / "w", 0, stop=STOP, data=Stateful())
    if forgets:
        file = find_latest_checkpoint(tmp_path / "w")
        saved = torch.load(file, weights_only=True)
        del saved["engine"]["dataloader"]
        torch.save(saved, file)
    loader = Stateful()
    rest, _ = train(tmp_path / "w", 0, data=loader)
    assert expected == first[: len(expected) - len(rest)] + rest
    assert len(rest) < len(expected)
    assert loader.loaded == (0 if forgets else 1)
    assert (loader.given * BATCH == len(rest)) is not forgets
