"""Two machines, as network namespaces of one computer: training across them, and a cut cable."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TIMEOUT_S = 15
ADDRESSES = ("10.77.0.1", "10.77.0.2")
DEVICES = ("mmx0", "mmx1")
PARTS = """
import os, time, torch
from torch import nn
from mmx.hooks import Hook
from mmx.model import BaseModel
from mmx.registry import DATASETS, HOOKS, MODELS


@MODELS.register_module()
class FarNet(BaseModel):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, x, y, mode):
        return {"loss": nn.functional.cross_entropy(self.body(x), y)}


@DATASETS.register_module()
class FarData(torch.utils.data.Dataset):
    def __len__(self):
        return 48

    def __getitem__(self, index):
        return index / 48 + torch.randn(4), index % 2


@HOOKS.register_module()
class WaitForTheCut(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if os.environ.get("CUT") and runner.iter == 13:
            open(f"there{runner.rank}", "w").close()
            while not os.path.exists("cut"):
                time.sleep(0.05)
"""
CONFIG = f"""
custom_imports = dict(imports=["far_parts"], allow_failed_imports=False)
model = dict(type="FarNet")
train_dataloader = dict(
    dataset=dict(type="FarData"), batch_size=4, num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"))
train_cfg = dict(by_epoch=True, max_epochs=4)
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=0.01))
default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=3))
custom_hooks = [dict(type="WaitForTheCut")]
randomness = dict(seed=3, diff_rank_seed=True)
env_cfg = dict(dist_cfg=dict(backend="gloo", timeout={TIMEOUT_S}))
resume = True
"""


@pytest.fixture
def machines() -> Iterator[list[list[str]]]:
    """Per machine the words that run a command on it; the namespaces end with their processes."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("needs the commands unshare, nsenter and ip")
    holders: list[subprocess.Popen] = []

    def machine(*prefix: str) -> list[str]:
        holder = subprocess.Popen(
            [*prefix, "sh", "-c", "echo; exec sleep 600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        holders.append(holder)
        if not holder.stdout.readline():
            pytest.skip(f"network namespaces are not permitted here: {holder.stderr.read()}")
        return ["nsenter", "-t", str(holder.pid), "-U", "--preserve-credentials", "-n"]

    def configure(where: list[str], text: str) -> None:
        done = subprocess.run([*where, "sh", "-ec", text], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"network namespaces cannot be joined here: {done.stderr}")

    try:
        first = machine("unshare", "--user", "--map-root-user", "--net")
        second = machine(*first, "unshare", "--net")
        pair = [first, second]
        joined = f"ip link add mmx0 type veth peer name mmx1 netns {holders[1].pid}"
        configure(first, joined)
        for where, device, address in zip(pair, DEVICES, ADDRESSES, strict=True):
            configure(
                where,
                f"ip link set lo up; ip addr add {address}/24 dev {device}; ip link set {device} up",
            )
        yield pair
    finally:
        for holder in reversed(holders):
            holder.kill()
            holder.communicate()


def start(folder: Path, options: list[str], where: list[str], **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*where, sys.executable, "-m", "mmx", "--trust", "far_parts", "launch", *options,
         "train", "config.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def across(folder: Path, machines: list[list[str]], work: str, **env: str) -> list:
    return [
        start(
            folder,
            ["--nproc", "1", "--nnodes", "2", "--node-rank", str(rank), "--local-addr", address,
             "--rdzv-endpoint", f"{ADDRESSES[0]}:29477", "--rdzv-id", work],
            where,
            GLOO_SOCKET_IFNAME=device,
            **env,
        )
        for rank, (where, device, address) in enumerate(
            zip(machines, DEVICES, ADDRESSES, strict=True)
        )
    ]  # fmt: skip


def end(launcher: subprocess.Popen) -> None:
    """End a launcher and its ranks, if they run."""
    if launcher.poll() is None:
        ranks = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        launcher.kill()
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(rank), signal.SIGKILL)
    launcher.wait()
    launcher.stderr.close()


def state(folder: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(folder / "work_dirs" / "config" / "iter_24.pth", weights_only=True)
    return {
        **saved["state_dict"],
        **{f"optimizer {k}": v["exp_avg"] for k, v in saved["optimizer"]["state"].items()},
        **{f"random {i}": s["torch"] for i, s in enumerate(saved["engine"]["random"])},
    }


def folder_of(path: Path) -> Path:
    path.mkdir()
    (path / "far_parts.py").write_text(PARTS)
    (path / "config.py").write_text(CONFIG)
    return path


@pytest.mark.slow
def test_a_machine_that_is_cut_off_is_named_and_a_restart_ends_with_the_same_bits(
    machines: list[list[str]], tmp_path: Path
) -> None:
    near, far = folder_of(tmp_path / "near"), folder_of(tmp_path / "far")
    running: list[subprocess.Popen] = []
    try:
        running += [start(near, ["--nproc", "2"], [])]
        cut = across(far, machines, "first", CUT="1")
        running += cut
        deadline = time.monotonic() + 60
        while not ((far / "there0").exists() and (far / "there1").exists()):
            assert time.monotonic() < deadline, [p.poll() for p in cut]
            time.sleep(0.05)
        subprocess.run([*machines[0], "ip", "link", "set", DEVICES[0], "down"], check=True)
        begin = time.monotonic()
        (far / "cut").touch()
        _, first = cut[0].communicate(timeout=60)
        took = time.monotonic() - begin
        print("NEAR", took)
        assert cut[0].returncode not in (0, None)
        assert "rank 1 is lost: killed, stalled, or cut off from the others" in first
        assert took < 8 * TIMEOUT_S, took
        # Its rendezvous is out of its reach, and its store as well: it takes a little longer.
        _, second = cut[1].communicate(timeout=60)
        took = time.monotonic() - begin
        print("FAR", took)
        assert 1 == cut[1].returncode
        assert "rank 1 failed:" in second
        assert "is lost: killed, stalled, or cut off from this rank 1" in second
        assert took < 8 * TIMEOUT_S, took

        subprocess.run([*machines[0], "ip", "link", "set", DEVICES[0], "up"], check=True)
        again = across(far, machines, "again")
        running += again
        for process in again:
            _, error = process.communicate(timeout=60)
            assert 0 == process.returncode, error
        _, error = running[0].communicate(timeout=60)
        assert 0 == running[0].returncode, error
    finally:
        for process in running:
            end(process)
    whole, resumed = state(near), state(far)
    assert whole.keys() == resumed.keys()
    assert [] == [name for name, value in whole.items() if not torch.equal(value, resumed[name])]
