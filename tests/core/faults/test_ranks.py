"""Failures of one rank of several: all ranks learn of them, soon, and of the same cause."""

from __future__ import annotations

import atexit
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from mmx.dist import PeerError
from mmx.dist.failures import reserve_s
from mmx.evaluator import BaseMetric
from mmx.hooks import Hook
from mmx.model import BaseModel
from mmx.runner import Runner
from mmx.testing.distributed import run_distributed

TIMEOUT_S = 30
# Where nothing is shared: of collectives, and how long the rank that failed stays afterwards.
SHORT_TIMEOUT_S = 3
# From the failure until all ranks have raised. It takes the grace of a second in which all may fail
# by themselves, and some milliseconds; the rest is for a busy machine. Without word of the failure
# the others wait for the timeout, less the reserve: 20 s.
SOON_S = 5


class Net(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x, mode="tensor"):
        out = self.linear(x)
        return {"loss": out.mean()} if mode == "loss" else [{"y": y} for y in out]


class Data(torch.utils.data.Dataset):
    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int):
        if index >= 8:
            self.trouble("data")
        return {"x": torch.full((2,), float(index))}


class Trouble:
    """Fails, or hangs, on one rank, where it is told to."""

    def __init__(self, where: str, how: str, rank: int) -> None:
        self.where, self.how, self.rank = where, how, rank
        self.at: float | None = None

    def __call__(self, where: str) -> None:
        if where != self.where or torch.distributed.get_rank() != self.rank:
            return
        if self.how == "stall":
            time.sleep(60)
        self.at = time.monotonic()
        raise ZeroDivisionError(f"in {where}")


class Spoiler(Hook):
    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 1:
            self.trouble("hook")

    def before_save_checkpoint(self, runner, checkpoint):
        self.trouble("save")


class Metric(BaseMetric):
    default_prefix = "m"

    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self.trouble = trouble

    def process(self, data_batch, data_samples):
        self.trouble("metric")
        self.results += [1.0] * len(data_samples)

    def compute_metrics(self, results):
        return {"sum": sum(results)}


class End(NamedTuple):
    """How training ended on a rank. Times are of the clock that all processes share."""

    kind: str | None
    text: str = ""
    ranks: list[int] | None = None
    failed_at: float | None = None
    raised_at: float = 0.0
    took_s: float = 0.0
    # Whether the process group was open after the error, and at the end of the process.
    was_open: tuple[bool, bool] | None = None


def train(work_dir: str, where: str, how: str, rank: int = 1, shares: bool = True) -> End:
    """Return how training ended on this rank; the process stays, as a notebook's would."""
    trouble = Trouble(where, how, rank)
    if not shares:
        import mmx.runner.runner as module

        module.share_failure = lambda error: error
    loader = dict(
        dataset=Data(trouble),
        batch_size=2,
        collate_fn=dict(type="default_collate"),
        sampler=dict(type="DefaultSampler", shuffle=False),
    )
    runner = Runner(
        model=Net(),
        work_dir=work_dir,
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=Metric(trouble),
        val_cfg=dict(),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        custom_hooks=[Spoiler(trouble)],
        launcher="pytorch",
        env_cfg=dict(
            dist_cfg=dict(
                backend="gloo",
                timeout=SHORT_TIMEOUT_S if how == "stall" or not shares else TIMEOUT_S,
            )
        ),
        randomness=dict(seed=0),
        log_level="CRITICAL",
    )
    begin = time.monotonic()
    try:
        runner.train()
    except Exception as error:
        raised_at = time.monotonic()
        ranks = error.ranks if isinstance(error, PeerError) else None
        if not shares and runner.rank == rank:
            # The other must not learn of it from the end of this process.
            time.sleep(SHORT_TIMEOUT_S + 1)
        end = End(type(error).__name__, str(error), ranks, trouble.at, raised_at, raised_at - begin)
    else:
        end = End(None)
    if shares and how == "raise":
        was_open = torch.distributed.is_initialized()
        # Processes of tests end without it.
        atexit._run_exitfuncs()
        end = end._replace(was_open=(was_open, torch.distributed.is_initialized()))
    return end


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "rank", "world_size"),
    [("hook", 1, 4), ("data", 1, 2), ("metric", 0, 2), ("save", 0, 2)],
)
def test_a_failure_of_one_rank_is_raised_on_all_with_its_cause(
    where: str, rank: int, world_size: int, tmp_path: Path
) -> None:
    ends = run_distributed(train, world_size, str(tmp_path), where, "raise", rank, init=False)
    own = ends.pop(rank)
    assert ("ZeroDivisionError", f"in {where}") == (own.kind, own.text)
    assert own.failed_at is not None
    for other in ends:
        assert ("PeerError", [rank]) == (other.kind, other.ranks)
        assert other.text.startswith(
            f"rank {rank} failed: ZeroDivisionError: in {where}\nOn rank {rank}:\n"
        )
        assert "test_ranks.py" in other.text
        assert other.failed_at is None
    for each in (own, *ends):
        assert 0 <= each.raised_at - own.failed_at < SOON_S
        assert (True, False) == each.was_open


@pytest.mark.slow
@pytest.mark.parametrize("where", ["hook", "metric", "save"])
def test_without_the_sharing_a_rank_waits_and_learns_nothing(where: str, tmp_path: Path) -> None:
    """The negative control of the test above.

    Gradients are waited for until the timeout. Objects, as of a metric, are waited for much longer:
    there only the end of the other process ends it.
    """
    first, second = run_distributed(
        train, 2, str(tmp_path), where, "raise", shares=False, init=False
    )
    assert "ZeroDivisionError" == second.kind
    assert "RuntimeError" == first.kind
    assert "rank 1" not in first.text
    assert "ZeroDivisionError" not in first.text
    assert first.took_s >= SHORT_TIMEOUT_S - reserve_s(SHORT_TIMEOUT_S)


def stalled(work_dir: str) -> tuple:
    result = train(work_dir, "hook", "stall")
    import os

    if torch.distributed.get_rank() == 0:
        Path(work_dir, "rank0.txt").write_text(
            f"{result.kind} {result.ranks} {result.took_s}\n{result.text}"
        )
    os._exit(0)


@pytest.mark.slow
def test_a_stalled_rank_is_named_when_the_timeout_is_over(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="rank 0 failed first: died"):
        run_distributed(stalled, 2, str(tmp_path), init=False)
    head, text = (tmp_path / "rank0.txt").read_text().split("\n", 1)
    assert head.startswith("PeerError [1] ")
    assert float(head.split()[-1]) < 20
    assert text.startswith("rank 1 is lost: killed, stalled, or cut off from the others")
