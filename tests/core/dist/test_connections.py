"""Connections to machines that answer, that do not, and those that are cut."""

from __future__ import annotations

import datetime
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mmx import dist
from mmx.dist import connections, failures, utils
from mmx.testing.distributed import run_distributed

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket, dict[int, int]]]:
    """Both sides of a connection, and all that was opened for it."""
    found: dict[int, int] = {}
    with socket.socket() as listener:
        with connections.opened(found):
            one = socket.create_connection(listener_address(listener))
            other, _ = listener.accept()
        found[listener.fileno()] = os.fstat(listener.fileno()).st_ino
        with one, other:
            yield one, other, found


def listener_address(listener: socket.socket) -> tuple[str, int]:
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener.getsockname()


@on_linux
def test_connections_that_a_block_opens_are_found_and_cut(pair) -> None:
    one, other, found = pair
    assert {one.fileno(), other.fileno()} < found.keys()
    other.settimeout(10)
    connections.cut({one.fileno(): found[one.fileno()]})
    assert b"" == other.recv(1)
    # The object stays usable until its owner closes it, and what only listens is left alone.
    connections.cut(found)
    one.getsockname()


@on_linux
def test_connections_of_the_store_are_left_alone() -> None:
    """Else one rank that cuts its connections takes the store from others, which come when they do."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert failures._port_of(torch.distributed.PrefixStore("a", store)) == store.port
    found: dict[int, int] = {}
    everything: dict[int, int] = {}
    with (
        connections.opened(everything),
        connections.opened(found, store.port),
        socket.socket() as listener,
    ):
        other = store.clone()
        # The other side has been taken in as well.
        other.set("key", "value")
        one = socket.create_connection(listener_address(listener))
    with one:
        assert [one.fileno()] == list(found)
        assert 3 == len(everything)
        connections.cut(found)
        assert b"value" == other.get("key") == store.get("key")
        connections.cut(everything)
        with pytest.raises(torch.distributed.DistError):
            other.get("key")


@on_linux
def test_a_descriptor_that_means_something_else_by_now_is_left_alone(pair) -> None:
    one, other, found = pair
    connections.cut({one.fileno(): found[one.fileno()] + 1, 10_000: 1})
    one.sendall(b"x")
    assert b"x" == other.recv(1)


@on_linux
def test_who_answers_is_not_silent_also_when_nothing_reads(pair) -> None:
    one, _, found = pair
    connections.keep_alive(found, 7)
    assert 1 == one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert 7 == one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    assert 7 == one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
    # More than the buffers of the system take: the other side answers that it is full.
    one.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            one.send(bytes(1 << 20))
    assert connections.longest_silence_s(found) < 1


def test_an_answer_that_is_late_is_not_waited_for() -> None:
    go_on = threading.Event()
    assert [] == connections.answers_within(0.05, lambda: go_on.wait(30), "late")
    go_on.set()
    assert [3] == connections.answers_within(30, lambda: 3, "soon")
    with pytest.raises(ZeroDivisionError):
        connections.answers_within(30, lambda: 1 // 0, "fails")


@pytest.mark.parametrize(("timeout_s", "expected"), [(1800, 10), (30, 10), (15, 5), (3, 1)])
def test_collectives_leave_time_for_the_ending(timeout_s: float, expected: float) -> None:
    assert expected == failures.reserve_s(timeout_s)


def _timeout(timeout: float | None) -> float:
    dist.init_dist("pytorch", backend="gloo", **({} if timeout is None else {"timeout": timeout}))
    backend: Any = dist.get_default_group()._get_backend(torch.device("cpu"))
    return backend.options._timeout.total_seconds()


@pytest.mark.parametrize(("timeout", "expected"), [(None, 1790), (60, 50)])
def test_collectives_give_up_before_the_timeout(timeout: float | None, expected: float) -> None:
    assert [expected] == run_distributed(_timeout, 1, timeout, init=False)


def _more_groups() -> tuple[list[float], bool]:
    dist.init_dist("pytorch", backend="gloo", timeout=60)
    before = dict(failures._WATCH.sockets)
    dist.init_local_group(0, 2)
    other = torch.distributed.new_group([0, 1])
    utils.keep_timeout([other])
    backends = [g._get_backend(torch.device("cpu")) for g in (dist.get_local_group(), other)]
    # The connections of the local group are watched as well.
    return [b.options._timeout.total_seconds() for b in backends], (
        before.items() < failures._WATCH.sockets.items()
    )


@on_linux
def test_groups_that_are_made_later_have_the_timeout_and_are_watched() -> None:
    assert [([50, 50], True)] * 2 == run_distributed(_more_groups, 2, init=False)


def test_the_timeout_of_a_back_end_is_torchs() -> None:
    assert datetime.timedelta(minutes=30) == utils._default_timeout("gloo")
    assert utils.constants.default_pg_nccl_timeout in (None, utils._default_timeout("nccl"))


def _silent_machine() -> None:
    """Wait for an object of a rank whose machine does not answer, as far as rank 0 can tell."""
    rank = int(os.environ["RANK"])
    if rank == 0:
        connections.longest_silence_s = lambda sockets: 100.0
        failures._LEAST_SILENCE_S = 1.5
    dist.init_dist("pytorch", backend="gloo", timeout=3)
    if rank == 1:
        # Alive, but of no use: it neither fails nor ends while rank 0 waits.
        time.sleep(8)
        os._exit(0)
    begin = time.monotonic()
    try:
        dist.all_gather_object(rank)
    except RuntimeError as error:
        shared = failures.share_failure(error)
        assert isinstance(shared, dist.PeerError), shared
        took = time.monotonic() - begin
        with open(os.environ["MMX_TEST_REPORT"], "w") as file:
            file.write(f"{shared.ranks} {took}")


@on_linux
def test_a_silent_machine_ends_a_collective_of_objects(tmp_path, monkeypatch) -> None:
    report = tmp_path / "report"
    monkeypatch.setenv("MMX_TEST_REPORT", str(report))
    with pytest.raises(Exception, match="rank 1 failed first: died"):
        run_distributed(_silent_machine, 2, init=False)
    ranks, took = report.read_text().rsplit(" ", 1)
    assert "[1]" == ranks
    assert float(took) < 7


def _store_falls_silent() -> str | None:
    """Rank 1 waits for rank 0, which is there, but whose store does not answer any more."""
    rank = int(os.environ["RANK"])
    if rank == 1:
        utils._wait_for_all = lambda *args: time.sleep(60)
    with pytest.raises(dist.AbsentRanksError) as caught:
        dist.init_dist("pytorch", startup_timeout=1.5)
    assert [1 - rank] == caught.value.ranks
    return str(caught.value)


def test_a_store_that_falls_silent_at_the_start_is_not_waited_for() -> None:
    texts = run_distributed(_store_falls_silent, 2, init=False)
    assert "rank 1 of 2 has lost the store of rank 0 at 127.0.0.1:" in texts[1]
    assert "while it waited 1.5 s for all ranks" in texts[1]
    assert "rank 0 of 2 has waited 1.5 s, but rank 1 has not started" in texts[0]
