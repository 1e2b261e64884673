"""A rendezvous that stops answering does not keep the launcher from its own processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest
from torch import distributed as torch_dist
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStateError,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
    rendezvous_handler_registry,
)

from mmx.dist import rendezvous
from mmx.dist.rendezvous import BoundedRendezvous, Patience
from mmx.dist.utils import MEETING_VARIABLE, _meeting

ANSWER_S = 0.1


class Inner:
    """torch's, of which the network can be taken away."""

    use_agent_store = True

    def __init__(self, rank: int = 0, store: torch_dist.Store | None = None) -> None:
        self.info = RendezvousInfo(
            torch_dist.HashStore() if store is None else store,
            rank,
            2,
            RendezvousStoreInfo(f"host{rank}", 4000 + rank),
        )
        self.up = threading.Event()
        self.up.set()
        self.error: Exception | None = None
        self.asked = 0

    def _answer(self, value):
        self.asked += 1
        if self.error is not None:
            raise self.error
        self.up.wait(30)
        return value

    def next_rendezvous(self):
        return self._answer(self.info)

    def num_nodes_waiting(self) -> int:
        return self._answer(2)

    def shutdown(self) -> bool:
        return self._answer(True)

    def get_run_id(self) -> str:
        return "job"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # It is set for the processes of the launcher.
    monkeypatch.setenv(MEETING_VARIABLE, "")


@pytest.fixture
def inner() -> Iterator[Inner]:
    one = Inner()
    yield one
    one.up.set()


def test_while_it_answers_its_answers_are_handed_on(inner: Inner) -> None:
    bounded = BoundedRendezvous(inner, ANSWER_S)
    assert inner.info.store is bounded.next_rendezvous().store
    assert 2 == bounded.num_nodes_waiting()
    assert inner.info.store is bounded.next_rendezvous().store
    assert bounded.use_agent_store
    assert bounded.shutdown()


def test_while_it_does_not_answer_nobody_waits_and_nobody_has_come(inner: Inner) -> None:
    bounded = BoundedRendezvous(inner, ANSWER_S)
    bounded.next_rendezvous()
    inner.up.clear()
    begin = time.monotonic()
    assert [0] * 50 == [bounded.num_nodes_waiting() for _ in range(50)]
    assert not bounded.shutdown()
    # Waited for once, not at each question.
    assert time.monotonic() - begin < 10 * ANSWER_S
    assert 2 == inner.asked
    with pytest.raises(RendezvousConnectionError, match=r"'job' does not answer within 0\.1 s"):
        bounded.next_rendezvous()


def test_when_it_answers_again_it_is_heard(inner: Inner) -> None:
    bounded = BoundedRendezvous(inner, ANSWER_S)
    inner.up.clear()
    assert 0 == bounded.num_nodes_waiting()
    inner.up.set()
    bounded._asking.join()
    assert 2 == bounded.num_nodes_waiting()


def test_a_connection_that_broke_is_not_asked_again(inner: Inner) -> None:
    bounded = BoundedRendezvous(inner, ANSWER_S)
    bounded.next_rendezvous()
    inner.error = RendezvousConnectionError("broken")
    assert [0, 0, 0] == [bounded.num_nodes_waiting() for _ in range(3)]
    assert 2 == inner.asked
    with pytest.raises(RendezvousConnectionError, match="does not answer") as caught:
        bounded.next_rendezvous()
    assert inner.error is caught.value.__cause__


def test_other_errors_are_raised(inner: Inner) -> None:
    bounded = BoundedRendezvous(inner, ANSWER_S)
    inner.error = RendezvousStateError("corrupt")
    with pytest.raises(RendezvousStateError, match="corrupt"):
        bounded.num_nodes_waiting()


def test_all_machines_of_a_meeting_know_the_same_of_it(
    monkeypatch: pytest.MonkeyPatch, inner: Inner
) -> None:
    """torch has each machine keep what it was told at its own first meeting."""
    first = BoundedRendezvous(inner)
    second = BoundedRendezvous(Inner(1, inner.info.store))
    names = []
    monkeypatch.setenv("MASTER_ADDR", "host0")
    monkeypatch.setenv("MASTER_PORT", "4000")
    for one in (first, second):
        info = one.next_rendezvous()
        assert ("host0", 4000) == (
            info.bootstrap_store_info.master_addr,
            info.bootstrap_store_info.master_port,
        )
        names.append(_meeting())
    assert names[0]
    assert names[0] == names[1]
    inner.info = Inner().info
    first.next_rendezvous()
    assert _meeting() not in (None, names[0])
    # Processes of another launcher, which was started by one of these.
    monkeypatch.setenv("MASTER_PORT", "4444")
    assert _meeting() is None


def test_machines_that_do_not_come_back_are_named(inner: Inner) -> None:
    here = BoundedRendezvous(inner, patience=(patience := Patience(7)), machine="near")
    there = BoundedRendezvous(Inner(1, inner.info.store), machine="far")
    inner.error = RendezvousTimeoutError()
    with pytest.raises(RendezvousTimeoutError, match=r"^too few machines have come within 600 s"):
        here.next_rendezvous()
    inner.error = None
    here.next_rendezvous()
    there.next_rendezvous()
    assert 7 == patience.join.total_seconds()
    inner.error = RendezvousTimeoutError()
    with pytest.raises(RendezvousTimeoutError, match=r"^not come back within 7 s: far$"):
        here.next_rendezvous()
    there.next_rendezvous()
    with pytest.raises(RendezvousTimeoutError, match=r"^the machines have not come together again"):
        here.next_rendezvous()


def test_a_store_that_breaks_off_is_a_lost_connection(inner: Inner) -> None:
    class Store:
        def __getattr__(self, name):
            return getattr(whole, name)

        def set(self, *args):
            if is_broken:
                raise torch_dist.DistNetworkError("reset")
            whole.set(*args)

    whole, is_broken = inner.info.store, False
    inner.info = RendezvousInfo(Store(), 0, 2, inner.info.bootstrap_store_info)
    bounded = BoundedRendezvous(inner)
    bounded.next_rendezvous()
    is_broken = True
    with pytest.raises(RendezvousConnectionError, match="does not answer") as caught:
        bounded.next_rendezvous()
    assert isinstance(caught.value.__cause__, torch_dist.DistNetworkError)
    with pytest.raises(RendezvousConnectionError, match="'job' has broken off"):
        BoundedRendezvous(inner).next_rendezvous()


def test_torchrun_finds_it_through_the_metadata_of_this_package() -> None:
    (found,) = entry_points(group="torchrun.handlers", name=rendezvous.BACKEND)
    assert "mmx.dist.rendezvous:handler" == found.value
    # torch registers what it finds when it is imported; that is not registered twice.
    assert found.load()() is rendezvous_handler_registry._registry[rendezvous.BACKEND]
    rendezvous.register()


def test_the_launcher_finds_it_by_its_name() -> None:
    rendezvous.register()
    rendezvous.register()
    parameters = RendezvousParameters(
        backend=rendezvous.BACKEND,
        endpoint="localhost:0",
        run_id="job",
        min_nodes=1,
        max_nodes=1,
        local_addr="127.0.0.1",
    )
    handler = rendezvous_handler_registry.create_handler(parameters)
    assert isinstance(handler, BoundedRendezvous)
    info = handler.next_rendezvous()
    assert (0, 1) == (info.rank, info.world_size)
    assert 0 == handler.num_nodes_waiting()
    assert handler.shutdown()
    assert handler.is_closed()
