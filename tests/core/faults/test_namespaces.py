"""Two machines, as network namespaces of one computer: training across them, and a cut cable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from launching import assert_equal, ended, folder_of, kill, result, start, wait

sys.path.pop(0)

TIMEOUT_S = 18
ADDRESSES = ("10.77.0.1", "10.77.0.2")
DEVICES = ("mmx0", "mmx1")


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


def across(folder: Path, machines: list[list[str]], job: str, *options: str, **env: str) -> list:
    return [
        start(
            folder, "work", "--nproc", "1", "--nnodes", "2", "--node-rank", str(rank),
            "--local-addr", address, "--rdzv-endpoint", f"{ADDRESSES[0]}:29477", "--rdzv-id", job,
            *options,
            where=where,
            GLOO_SOCKET_IFNAME=device,
            **env,
        )
        for rank, (where, device, address) in enumerate(
            zip(machines, DEVICES, ADDRESSES, strict=True)
        )
    ]  # fmt: skip


# What a user starts with torchrun.
SCRIPT = """
import launch_parts
from mmx.config import Config
from mmx.runner import Runner

config = Config.fromfile("config.py")
del config["custom_imports"]
config.update(work_dir="work", launcher="pytorch")
Runner.from_cfg(config).train()
"""


def by_torchrun(
    folder: Path, machines: list[list[str]], job: str, rendezvous: str, **env: str
) -> list[subprocess.Popen]:
    """Start the same run on each machine with torchrun itself."""
    (folder / "script.py").write_text(SCRIPT)
    return [
        subprocess.Popen(
            [*where, sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1",
             "--nnodes", "2", "--local-addr", address, "--rdzv-backend", rendezvous,
             "--rdzv-endpoint", f"{ADDRESSES[0]}:29477", "--rdzv-id", job,
             # The name of this computer, by which torchrun would tell, is that of both machines.
             "--rdzv-conf", f"is_host={rank == 0}", "script.py"],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(folder),
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": device,
                **env,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (where, device, address) in enumerate(
            zip(machines, DEVICES, ADDRESSES, strict=True)
        )
    ]  # fmt: skip


def ends_of(launchers: list[subprocess.Popen], begin: float) -> list[tuple[float, int, str]]:
    """Return the seconds from `begin` to the end of each, with its exit code and what it said."""

    def one(launcher: subprocess.Popen) -> tuple[float, int, str]:
        code, said = ended(launcher)
        return time.monotonic() - begin, code, said

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, launchers))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("waits_for", "launcher"), [("gradients", "torchrun"), ("objects", "mmx launch")]
)
def test_a_machine_that_is_cut_off_is_named_within_the_timeout_and_a_restart_ends_with_the_same_bits(
    machines: list[list[str]], tmp_path: Path, waits_for: str, launcher: str
) -> None:
    """The same holds in a collective of objects, which a slow rank may take three hours for."""
    near, far = folder_of(tmp_path / "near"), folder_of(tmp_path / "far", TIMEOUT_S)
    running: list[subprocess.Popen] = []
    trouble = f"WAIT, {waits_for}"
    try:
        if launcher == "torchrun":
            cut = by_torchrun(far, machines, "first", "mmx-c10d", TROUBLE=trouble)
        else:
            cut = across(far, machines, "first", TROUBLE=trouble)
        running += cut
        wait(lambda: (far / "at-13-0").exists() and (far / "at-13-1").exists(), cut)
        subprocess.run([*machines[0], "ip", "link", "set", DEVICES[0], "down"], check=True)
        begin = time.monotonic()
        (far / "at-13").touch()
        first, second = ends_of(cut, begin)
        assert first[0] <= TIMEOUT_S, first
        assert second[0] <= TIMEOUT_S, second
        assert first[1] not in (0, None)
        assert "rank 1 is lost: killed, stalled, or cut off from the others" in first[2]
        # Its rendezvous is out of its reach, and its store as well.
        assert 1 == second[1]
        named = {"mmx launch": "rank 1 failed:", "torchrun": "rank      : 1 (local_rank: 0)"}
        assert named[launcher] in second[2]
        assert "is lost: killed, stalled, or cut off from this rank 1" in second[2]
        if launcher == "mmx launch":
            return

        subprocess.run([*machines[0], "ip", "link", "set", DEVICES[0], "up"], check=True)
        saved = far / "work/iter_12.pth"
        before = saved.stat().st_mtime_ns
        # On one machine all the way, and here from the last checkpoint with torch's rendezvous.
        whole = start(near, "work", "--nproc", "2")
        again = by_torchrun(far, machines, "again", "c10d")
        running += [whole, *again]
        for process in running[2:]:
            code, said = ended(process)
            assert 0 == code, said
    finally:
        for process in running:
            kill(process)
    # It went on from there: a run that starts over ends with the same weights as well.
    assert before == saved.stat().st_mtime_ns
    assert_equal(result(near, "work"), result(far, "work"))
