"""A small run for `mmx launch`, the trouble that it can be told to make, and what it ended with."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

PARTS = '''
import atexit, os, signal, time, torch
from torch import nn
from mmx.dist import all_gather_object
from mmx.hooks import Hook
from mmx.model import BaseModel
from mmx.registry import DATASETS, HOOKS, MODELS


@atexit.register
def note_end():
    # Registered before there is a process group, and so the last to be called.
    with open(f"ended-{os.environ.get('RANK')}", "a") as file:
        file.write("open " if torch.distributed.is_initialized() else "closed ")


@MODELS.register_module()
class LaunchNet(BaseModel):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, x, y, mode):
        return {"loss": nn.functional.cross_entropy(self.body(x), y)}


@DATASETS.register_module()
class LaunchData(torch.utils.data.Dataset):
    def __len__(self):
        return 48

    def __getitem__(self, index):
        noise = torch.randn(4)
        return index / 48 + noise, index % 2


@HOOKS.register_module()
class Trouble(Hook):
    """At iteration 13, and for WAIT also at 19, what TROUBLE says; all but waiting only once."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        what, mark = os.environ.get("TROUBLE"), os.path.join(runner.work_dir, "trouble")
        if what and what.startswith("WAIT") and runner.iter in (13, 19):
            # Until the test has done its worst, with nobody in a collective.
            at = f"at-{runner.iter}"
            open(f"{at}-{runner.rank}", "w").close()
            while not os.path.exists(at):
                time.sleep(0.05)
            if what == "WAIT, objects":
                all_gather_object(runner.rank)
            return
        if not what or runner.iter != 13:
            return
        if what == "TERM all":
            if runner.rank == 0:
                os.kill(os.getppid(), signal.SIGTERM)
            return
        if runner.rank != 1 or os.path.exists(mark):
            return
        open(mark, "w").close()
        if what == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "TERM one":
            os.kill(os.getpid(), signal.SIGTERM)
        if what == "raise":
            raise ZeroDivisionError("in the hook")
'''

CONFIG = """
custom_imports = dict(imports=["launch_parts"], allow_failed_imports=False)
model = dict(type="LaunchNet")
train_dataloader = dict(
    dataset=dict(type="LaunchData"), batch_size=4, num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"))
train_cfg = dict(by_epoch=True, max_epochs=4)
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=0.01))
default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=3))
custom_hooks = [dict(type="Trouble")]
randomness = dict(seed=3, diff_rank_seed=True)
env_cfg = dict(dist_cfg=dict(backend="gloo", timeout={timeout}))
resume = True
"""


def folder_of(path: Path, timeout_s: float = 30) -> Path:
    """Make a folder with the run in it."""
    path.mkdir(exist_ok=True)
    (path / "launch_parts.py").write_text(PARTS)
    (path / "config.py").write_text(CONFIG.format(timeout=timeout_s))
    return path


def start(
    folder: Path, work: str, *options: str, where: Sequence[str] = (), **env: str
) -> subprocess.Popen:
    """Start the run with its results in the folder `work`."""
    return subprocess.Popen(
        [*where, sys.executable, "-m", "mmx", "--trust", "launch_parts", "launch", *options,
         "train", "config.py", "--work-dir", work],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def ended(launcher: subprocess.Popen, timeout_s: float = 120) -> tuple[int, str]:
    """Wait for the end of a launcher, and return its exit code and what it said."""
    _, said = launcher.communicate(timeout=timeout_s)
    return launcher.returncode, said


def ends_of_ranks(folder: Path) -> list[str]:
    """Return for each rank how its process group was at the ends of its processes, and forget it."""
    notes = []
    for rank in range(2):
        note = folder / f"ended-{rank}"
        notes.append(note.read_text().strip() if note.exists() else "")
        note.unlink(missing_ok=True)
    return notes


def ranks_of(launcher: subprocess.Popen) -> list[int]:
    """Return the processes that a launcher has started."""
    path = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def kill(launcher: subprocess.Popen) -> None:
    """End a launcher and its ranks, if they run, as if the machine had lost its power."""
    if launcher.poll() is None:
        ranks = ranks_of(launcher)
        launcher.kill()
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)
    launcher.wait()
    assert launcher.stderr is not None
    launcher.stderr.close()


def wait(until: Callable[[], bool], running: Sequence[subprocess.Popen], limit_s: float = 60):
    """Wait for something that launchers do, which must go on meanwhile."""
    deadline = time.monotonic() + limit_s
    while not until():
        codes = [launcher.poll() for launcher in running]
        if any(code is not None for code in codes) or time.monotonic() > deadline:
            said = [
                p.communicate()[1] for p, c in zip(running, codes, strict=True) if c is not None
            ]
            raise AssertionError(f"{codes}: {said}")
        time.sleep(0.05)


def result(folder: Path, work: str) -> dict[str, torch.Tensor]:
    """Return the weights, momenta and random states at the end of the run."""
    saved = torch.load(folder / work / "iter_24.pth", weights_only=True)
    states = saved["engine"]["random"]
    assert 2 == len(states)
    return {
        **saved["state_dict"],
        **{f"optimizer {k}": v["exp_avg"] for k, v in saved["optimizer"]["state"].items()},
        **{f"random {i}": state["torch"] for i, state in enumerate(states)},
    }


def assert_equal(expected: dict[str, torch.Tensor], actual: dict[str, torch.Tensor]) -> None:
    """Compare results to the bit."""
    assert expected.keys() == actual.keys()
    assert [] == [k for k, v in expected.items() if not torch.equal(v, actual[k])]
