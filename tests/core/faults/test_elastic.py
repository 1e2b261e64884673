"""Machines of which one fails, and comes back or not: two launchers that meet at a rendezvous."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from launching import assert_equal, ended, folder_of, kill, ranks_of, result, start, wait

sys.path.pop(0)

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs several addresses of this computer"
)


def machine(folder: Path, number: int, port: int, *options: str) -> subprocess.Popen:
    return start(
        folder, "work", "--nproc", "1", "--nnodes", "2", "--node-rank", str(number),
        "--local-addr", f"127.0.0.{number + 1}", "--rdzv-endpoint", f"127.0.0.1:{port}",
        *options,
        TROUBLE="WAIT",
    )  # fmt: skip


@pytest.fixture
def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
def test_a_rank_and_then_a_whole_machine_fail_and_come_back_to_the_same_bits(
    tmp_path: Path, port: int
) -> None:
    folder = folder_of(tmp_path)
    running = [machine(folder, number, port, "--max-restarts", "2") for number in range(2)]
    far = running[1]
    try:
        wait(lambda: all((folder / f"at-13-{rank}").exists() for rank in range(2)), running)
        # Its launcher counts a restart; that of the other may only notice that this one waits.
        os.kill(ranks_of(far)[0], signal.SIGKILL)
        (folder / "at-13").touch()
        wait(lambda: all((folder / f"at-19-{rank}").exists() for rank in range(2)), running)
        kill(far)
        (folder / "at-19").touch()
        # It has not seen the restart before, nor where the processes met.
        running[1] = far = machine(folder, 1, port, "--max-restarts", "2")
        for launcher in running:
            code, said = ended(launcher)
            assert 0 == code, said
        whole = start(folder, "whole", "--nproc", "2")
        running.append(whole)
        code, said = ended(whole)
        assert 0 == code, said
    finally:
        for launcher in running:
            kill(launcher)
    assert_equal(result(folder, "whole"), result(folder, "work"))


@pytest.mark.slow
def test_a_machine_that_does_not_come_back_is_named_when_the_wait_is_over(
    tmp_path: Path, port: int
) -> None:
    folder = folder_of(tmp_path)
    restarts = ("--max-restarts", "1", "--rejoin-timeout", "2")
    near, far = running = [machine(folder, number, port, *restarts) for number in range(2)]
    try:
        wait(lambda: all((folder / f"at-13-{rank}").exists() for rank in range(2)), running)
        kill(far)
        (folder / "at-13").touch()
        code, said = ended(near, 60)
    finally:
        for launcher in running:
            kill(launcher)
    assert 1 == code
    assert "mmx.dist.failures.PeerError: rank 1 is lost" in said
    assert said.rstrip().endswith(
        f"Error: this machine cannot meet the others at 127.0.0.1:{port}: not come back within "
        "2 s: 127.0.0.2"
    )
