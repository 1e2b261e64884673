"""A meeting place of machines whose loss does not keep the launcher on one of them waiting.

torchrun's agent asks the rendezvous several times a second whether more machines have come, and
looks after its processes only in between. On a machine that is cut off it hears nothing for a
minute, and that its processes have failed meanwhile is not noticed, nor reported.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
)
from torch.distributed.elastic.rendezvous import (
    rendezvous_handler_registry as _registry,
)

#: The name by which the launcher of torch finds it.
BACKEND = "mmx-c10d"
# How long an answer is waited for. One within a network takes a millisecond.
ANSWER_S = 5.0


class BoundedRendezvous(RendezvousHandler):
    """torch's rendezvous, asked in a thread that nobody needs to wait for.

    While it does not answer no other machines are taken to have come, and the processes here are
    looked after. They cannot be started anew then.

    Args:
        inner: torch's.
        answer_s: Seconds to wait for an answer.
    """

    def __init__(self, inner: RendezvousHandler, answer_s: float = ANSWER_S) -> None:
        self._inner = inner
        self._answer_s = answer_s
        self._joined = False
        # The connection broke, and asking again would only say so again.
        self._lost: RendezvousConnectionError | None = None
        self._asking: threading.Thread | None = None

    def get_backend(self) -> str:
        """Return the name that it is registered by."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """Whether processes may use the store of the launcher."""
        return self._inner.use_agent_store

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for the other machines.

        Raises:
            RendezvousConnectionError: It was joined before, and does not answer any more.
        """
        if self._joined and self._ask(self._inner.num_nodes_waiting) is None:
            raise RendezvousConnectionError(
                f"the rendezvous {self.get_run_id()!r} does not answer within {self._answer_s:g} s"
            ) from self._lost
        info = self._inner.next_rendezvous()
        self._joined = True
        return info

    def is_closed(self) -> bool:
        """Tell whether no machine can join any more."""
        return self._inner.is_closed()

    def set_closed(self) -> None:
        """Let no machine join any more."""
        self._inner.set_closed()

    def num_nodes_waiting(self) -> int:
        """Return how many machines have come since; none, while nobody answers."""
        return self._ask(self._inner.num_nodes_waiting) or 0

    def get_run_id(self) -> str:
        """Return the name of the job."""
        return self._inner.get_run_id()

    def shutdown(self) -> bool:
        """Close it; return whether that was heard."""
        return bool(self._ask(self._inner.shutdown))

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Return the answer, None if there is none in time."""
        if self._lost is not None or (self._asking is not None and self._asking.is_alive()):
            return None
        answers: list[Any] = []
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                answers.append(question())
            except Exception as error:  # noqa: BLE001  # raised below, in the thread that asked
                errors.append(error)

        # Not waited for when the process ends.
        self._asking = threading.Thread(target=ask, daemon=True, name="mmx rendezvous")
        self._asking.start()
        self._asking.join(self._answer_s)
        if errors:
            if not isinstance(errors[0], RendezvousConnectionError):
                raise errors[0]
            self._lost = errors[0]
        return answers[0] if answers else None


def register() -> None:
    """Make it known to the launcher of torch, where this package's metadata have not done so."""
    _registry.register(BACKEND, _create)


def handler() -> Callable[[RendezvousParameters], RendezvousHandler]:
    """Return what makes one: the entry point for ``torchrun --rdzv-backend mmx-c10d``."""
    return _create


def _create(params: RendezvousParameters) -> RendezvousHandler:
    inner = RendezvousParameters(
        backend="c10d",
        endpoint=params.endpoint,
        run_id=params.run_id,
        min_nodes=params.min_nodes,
        max_nodes=params.max_nodes,
        local_addr=params.local_addr,
        **params.config,
    )
    return BoundedRendezvous(_registry.create_handler(inner))
