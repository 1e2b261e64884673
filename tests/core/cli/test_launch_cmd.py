"""``mmx launch``: ranks that are started, watched, stopped and started anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from mmx.cli.launch_cmd import with_launcher
from mmx.cli.main import cli

PARTS = '''
import os, signal, torch
from torch import nn
from mmx.hooks import Hook
from mmx.model import BaseModel
from mmx.registry import DATASETS, HOOKS, MODELS


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
    """At iteration 13, once, what TROUBLE says."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        what, mark = os.environ.get("TROUBLE"), os.path.join(runner.work_dir, "trouble")
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
env_cfg = dict(dist_cfg=dict(backend="gloo", timeout=30))
resume = True
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    (folder / "launch_parts.py").write_text(PARTS)
    (folder / "config.py").write_text(CONFIG)
    return folder


def launch(
    folder: Path, work: str, *options: str, trouble: str = ""
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mmx",
            "--trust",
            "launch_parts",
            "launch",
            "--nproc",
            "2",
            *options,
            "train",
            "config.py",
            "--work-dir",
            work,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "TROUBLE": trouble, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def end(folder: Path, work: str) -> dict[str, torch.Tensor]:
    saved = torch.load(folder / work / "iter_24.pth", weights_only=True)
    states = saved["engine"]["random"]
    assert 2 == len(states)
    return {
        **saved["state_dict"],
        **{f"optimizer {k}": v["exp_avg"] for k, v in saved["optimizer"]["state"].items()},
        **{f"random {i}": state["torch"] for i, state in enumerate(states)},
    }


def assert_equal(expected: dict, actual: dict) -> None:
    assert expected.keys() == actual.keys()
    assert [] == [k for k, v in expected.items() if not torch.equal(v, actual[k])]


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, torch.Tensor]:
    done = launch(folder, "whole")
    assert 0 == done.returncode, done.stderr
    # torch has nothing to warn of, at the end neither.
    assert "Warning" not in done.stderr
    return end(folder, "whole")


@pytest.mark.slow
def test_a_killed_rank_is_started_anew_and_ends_with_the_same_bits(folder, whole) -> None:
    done = launch(folder, "killed", "--max-restarts", "1", trouble="KILL")
    assert 0 == done.returncode, done.stderr
    assert "mmx launch: " in done.stderr
    assert "will restart worker group" in done.stderr
    assert_equal(whole, end(folder, "killed"))


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["TERM one", "TERM all"])
def test_a_terminated_run_saves_exits_143_and_resumes_exactly(folder, whole, trouble) -> None:
    work = trouble.replace(" ", "-")
    done = launch(folder, work, trouble=trouble)
    assert 143 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / work / "iter_24.pth").exists()
    done = launch(folder, work)
    assert 0 == done.returncode, done.stderr
    assert_equal(whole, end(folder, work))


@pytest.mark.slow
def test_the_first_error_is_shown_once_and_the_others_follow(folder) -> None:
    done = launch(folder, "failed", "--log-dir", "logs", trouble="raise")
    assert 1 == done.returncode
    assert 1 == done.stderr.count("ZeroDivisionError: in the hook\nat epoch")
    assert "\nrank 1 failed:\nTraceback" in done.stderr
    assert done.stderr.rstrip().endswith(
        "then rank 0 stopped: PeerError: rank 1 failed: ZeroDivisionError: in the hook"
    )
    assert list((folder / "logs").glob("*/attempt_0/1/stderr.log"))


def test_runs_get_the_launcher() -> None:
    extra = ["--cfg-options", "launcher=pytorch"]
    assert ["train", "c.py", *extra] == with_launcher(("train", "c.py"))
    assert ["test", "c.py", "x.pth", *extra] == with_launcher(("mmx", "test", "c.py", "x.pth"))
    given = ["train", "c.py", "--launcher", "pytorch"]
    assert given == with_launcher(tuple(given))
    assert ["plugins", "list"] == with_launcher(("plugins", "list"))
    with pytest.raises(click.UsageError, match="but the command says 'slurm'"):
        with_launcher(("train", "c.py", "--launcher=slurm"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nnodes", "2"], "--nnodes needs --rdzv-endpoint HOST:PORT"),
        (["--node-rank", "1"], "--node-rank is of use with --nnodes and --rdzv-endpoint only"),
        (["--nproc", "many"], "many"),
    ],
)
def test_options_that_do_not_fit_are_errors(options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["launch", *options, "train", "c.py"])
    assert 2 == result.exit_code
    assert message in result.output
