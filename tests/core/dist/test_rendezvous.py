"""A rendezvous that stops answering does not keep the launcher from its own processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousParameters,
    RendezvousStateError,
    rendezvous_handler_registry,
)

from mmx.dist import rendezvous
from mmx.dist.rendezvous import BoundedRendezvous

ANSWER_S = 0.1


class Inner:
    """torch's, of which the network can be taken away."""

    use_agent_store = True

    def __init__(self) -> None:
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
        return self._answer("met")

    def num_nodes_waiting(self) -> int:
        return self._answer(2)

    def shutdown(self) -> bool:
        return self._answer(True)

    def get_run_id(self) -> str:
        return "job"


@pytest.fixture
def inner() -> Iterator[Inner]:
    one = Inner()
    yield one
    one.up.set()


def test_while_it_answers_its_answers_are_handed_on(inner: Inner) -> None:
    bounded = BoundedRendezvous(inner, ANSWER_S)
    assert "met" == bounded.next_rendezvous()
    assert 2 == bounded.num_nodes_waiting()
    assert "met" == bounded.next_rendezvous()
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
