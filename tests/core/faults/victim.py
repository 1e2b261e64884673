"""A training run made to be killed: everything random in it is on, and it always resumes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mmx.model import BaseModel
from mmx.runner import Runner

SIZE = 96


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
        return logits, y


class Noisy(torch.utils.data.Dataset):
    """Samples whose augmentation draws from all three generators."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(SIZE, 8, generator=generator)
        self.y = torch.randint(0, 4, (SIZE,), generator=generator)

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int):  # type: ignore[no-untyped-def]  # a test data set
        noise = torch.randn(8) * random.random() + float(np.random.rand())
        return self.x[index] + 0.1 * noise, self.y[index]


def build(
    work_dir: Path, *, by_epoch: bool, workers: int, amp: bool, forget: str | None = None
) -> Runner:
    """Return a runner that resumes from whatever is in ``work_dir``.

    ``forget`` names one part of the saved state to leave out, for negative controls.
    """
    train_cfg = (
        dict(by_epoch=True, max_epochs=4)
        if by_epoch
        else dict(by_epoch=False, max_iters=48, val_interval=1000)
    )
    optim = dict(
        optimizer=dict(type="AdamW", lr=1e-2), accumulative_counts=2, clip_grad=dict(max_norm=1.0)
    )
    if amp:
        optim.update(type="AmpOptimWrapper", dtype="bfloat16")
    hooks = [dict(type="EMAHook", momentum=0.05)]
    runner = Runner(
        model=Net(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Noisy(),
            batch_size=8,
            num_workers=workers,
            sampler=dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=True),
            collate_fn=dict(type="default_collate"),
        ),
        optim_wrapper=optim,
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10),
            dict(type="CosineAnnealingLR", by_epoch=False, begin=10, end=48, eta_min=1e-4),
        ],
        train_cfg=train_cfg,
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", interval=3, by_epoch=False, max_keep_ckpts=2),
            logger=dict(type="LoggerHook", interval=5),
        ),
        custom_hooks=hooks,
        randomness=dict(seed=7),
        resume=True,
        log_level="ERROR",
        experiment_name="victim",
    )
    if forget is not None:
        runner.register_hook(_forgetter(forget), priority="LOWEST")
    return runner


def _forgetter(key: str):  # type: ignore[no-untyped-def]  # a hook
    from mmx.hooks import Hook

    class Forget(Hook):
        def after_load_checkpoint(self, runner, checkpoint):  # type: ignore[no-untyped-def]  # a hook
            *path, last = (int(part) if part.isdigit() else part for part in key.split("."))
            target = checkpoint
            for part in path:
                target = target[part]
            if last in ("state", "_global_step"):
                target[last] = type(target[last])()  # empty, or zero: what a loader cannot notice
            else:
                del target[last]

    return Forget()


def final_state(runner: Runner) -> dict[str, torch.Tensor]:
    """Return every number that must be the same however often the run was killed."""
    state = {f"model.{k}": v.detach().clone() for k, v in runner.model.state_dict().items()}
    for hook in runner.hooks:
        if type(hook).__name__ == "EMAHook":
            state.update(
                {f"ema.{k}": v.detach().clone() for k, v in hook.ema_model.state_dict().items()}
            )
    for index, slot in runner.optim_wrapper.optimizer.state_dict()["state"].items():
        state.update(
            {f"optimizer.{index}.{k}": torch.as_tensor(v).clone() for k, v in slot.items()}
        )
    state["lr"] = torch.tensor(runner.optim_wrapper.get_lr()["lr"], dtype=torch.float64)
    state["random"] = torch.get_rng_state()
    return state
