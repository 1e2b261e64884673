"""A training run made to be killed: everything that has a state is on, and it always resumes."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mmx.checkpoint import find_latest_checkpoint
from mmx.evaluator import BaseMetric
from mmx.model import BaseModel
from mmx.runner import Runner
from mmx.runner.resume import capture_random_state

SIZE = 96
# How long ranks wait for one that does not come; those who test kills do not wait so long.
TIMEOUT_S = 30
# With it the best accuracy comes early, so that forgetting it shows.
INITIAL_SEED = 0
# Parts of a checkpoint that a run goes on without; of others it may not notice that they are empty.
DELETED = (
    "engine/random",
    "ema_state_dict",
    "engine/hooks/EarlyStoppingHook",
    "engine/hooks/LoggerHook",
)


class Net(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4)
        )

    def forward(self, x, y, mode):  # type: ignore[no-untyped-def]  # a test model
        logits = self.body(x)
        if mode == "loss":
            return {"loss": F.cross_entropy(logits, y)}
        best, label = logits.double().max(1)
        return [
            {"right": right, "best": value}
            for right, value in zip((label == y).tolist(), best.tolist(), strict=True)
        ]


class Noisy(torch.utils.data.Dataset):
    """Samples whose augmentation draws from all three generators."""

    def __init__(self, size: int = SIZE, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, 8, generator=generator)
        self.y = torch.randint(0, 4, (size,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int):  # type: ignore[no-untyped-def]  # a test data set
        noise = torch.randn(8) * random.random() + float(np.random.rand())
        return self.x[index] + 0.1 * noise, self.y[index]


class Right(BaseMetric):
    """Share of right answers, and what shows the last bit of whatever a validation depends on."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        return {
            "accuracy": sum(sample["right"] for sample in results) / len(results),
            "best_logit": sum(sample["best"] for sample in results) / len(results),
        }


def build(
    work_dir: Path,
    *,
    by_epoch: bool,
    workers: int = 0,
    dtype: str | None = None,
    async_save: bool = False,
    forget: str | None = None,
    cut: int | None = None,
    ranks: int = 1,
    log_level: str = "ERROR",
) -> Runner:
    """Return a runner that resumes from whatever is in ``work_dir``.

    ``forget`` names one part of the saved state to leave out, for negative controls; after ``cut``
    iterations the process kills itself. With several ``ranks`` this process is one of them.
    """
    train_cfg = (
        dict(by_epoch=True, max_epochs=4)
        if by_epoch
        else dict(by_epoch=False, max_iters=48, val_interval=10)
    )
    optim: dict[str, Any] = dict(
        optimizer=dict(type="AdamW", lr=1e-2), accumulative_counts=2, clip_grad=dict(max_norm=1.0)
    )
    if dtype is not None:
        optim.update(type="AmpOptimWrapper", dtype=dtype)
    if dtype == "float16":  # a scale that grows during the run is one more thing to save
        optim.update(loss_scale=dict(init_scale=8.0, growth_interval=4))
    group: dict[str, Any] = {}
    if ranks > 1:
        group.update(
            launcher="pytorch", env_cfg=dict(dist_cfg=dict(backend="gloo", timeout=TIMEOUT_S))
        )
    # The weights must not depend on what the tests before have drawn.
    torch.manual_seed(INITIAL_SEED)
    runner = Runner(
        model=Net(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Noisy(),
            # The same samples make a step, whoever reads them.
            batch_size=8 // ranks,
            num_workers=workers,
            persistent_workers=workers > 0 and by_epoch,
            sampler=dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=True),
            collate_fn=dict(type="default_collate"),
        ),
        val_dataloader=dict(
            dataset=Noisy(16, seed=2),
            batch_size=8,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        val_cfg=dict(),
        val_evaluator=Right(),
        optim_wrapper=optim,
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10),
            dict(type="CosineAnnealingLR", by_epoch=False, begin=10, end=48, eta_min=1e-4),
        ],
        train_cfg=train_cfg,
        default_hooks=dict(
            checkpoint=dict(
                type="CheckpointHook",
                interval=3,
                by_epoch=False,
                max_keep_ckpts=2,
                save_best="accuracy",
                async_save=async_save,
            ),
            logger=dict(type="LoggerHook", interval=5),
        ),
        custom_hooks=[
            dict(type="EMAHook", momentum=0.05),
            dict(type="EarlyStoppingHook", monitor="accuracy", patience=100, rule="greater"),
        ],
        # Else all ranks would draw the same numbers, and one state would do for all.
        randomness=dict(seed=7, diff_rank_seed=ranks > 1),
        resume=True,
        log_level=log_level,
        experiment_name="victim",
        **group,
    )
    if forget is not None:
        runner.register_hook(_forgetter(forget), priority="HIGHEST")
    if cut is not None:
        runner.register_hook(_cutter(cut), priority="LOWEST")
    return runner


def _forgetter(key: str):  # type: ignore[no-untyped-def]  # a hook
    from mmx.hooks import Hook

    class Forget(Hook):
        def after_load_checkpoint(self, runner, checkpoint):  # type: ignore[no-untyped-def]  # a hook
            *path, last = (int(part) if part.isdigit() else part for part in key.split("/"))
            target = checkpoint
            for part in path:
                target = target[part]
            value = target[last]
            if path[:2] == ["engine", "random"]:
                # What this process would go on with: its own seed's.
                own: Any = capture_random_state()
                target[last] = own if isinstance(last, int) else own[last]
            elif isinstance(value, torch.Tensor):
                value.zero_()
            elif key in DELETED:
                del target[last]
            elif key == "optimizer/accumulation/gradients":
                target[last] = None
            else:
                target[last] = type(value)()  # empty, or zero: what a loader cannot notice

    return Forget()


def _cutter(iters: int):  # type: ignore[no-untyped-def]  # a hook
    from mmx.hooks import Hook

    class Cut(Hook):
        def after_train_iter(self, runner, *args, **kwargs):  # type: ignore[no-untyped-def]  # a hook
            if runner.iter + 1 == iters:
                os.kill(os.getpid(), signal.SIGKILL)

    return Cut()


def warm_up() -> None:
    """Import what a run imports, for processes that are forked from this one."""
    import torch._dynamo

    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.zeros(1)
    torch.optim.AdamW([parameter]).step()


def final_state(runner: Runner) -> dict[str, Any]:
    """Return everything that must be the same however often the run was killed.

    That is all that its last checkpoint holds, but for names of files and measured times.
    """
    file = find_latest_checkpoint(runner.work_dir)
    assert file is not None
    state: dict[str, Any] = {"random after the run": torch.get_rng_state()}
    _flatten(torch.load(file, weights_only=True), "", state)
    return state


def log_records(work_dir: Path) -> dict[str, Any]:
    """Return what was logged of iterations, smoothed over windows, but for measured times."""
    found: dict[str, Any] = {}
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for record in map(json.loads, file.read_text().splitlines()):
            if "iter" in record:  # those of validations are in the message hub
                _flatten(record, f"log of iteration {record['iter']}", found)
    return found


def _flatten(value: Any, path: str, into: dict[str, Any]) -> None:
    if path.endswith(("time", "ckpt", "experiment_name", "/eta")):
        return
    if isinstance(value, dict):
        for key, item in value.items():
            _flatten(item, f"{path}/{key}", into)
    elif isinstance(value, (list, tuple)) and len(value) < 100:
        for index, item in enumerate(value):
            _flatten(item, f"{path}/{index}", into)
    else:
        into[path] = value


def differing(expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """Return the names of what is not equal, to the last bit."""
    return [
        key
        for key in sorted(expected.keys() | actual.keys())
        if key not in expected or key not in actual or not _same(expected[key], actual[key])
    ]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)
