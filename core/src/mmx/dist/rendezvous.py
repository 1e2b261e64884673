"""A meeting place of machines whose loss does not keep the launcher on one of them waiting.

torchrun's agent asks the rendezvous several times a second whether more machines have come, and
looks after its processes only in between. On a machine that is cut off it hears nothing for a
minute, and that its processes have failed meanwhile is not noticed, nor reported.

Machines that meet anew, as one of them has failed, agree on more than in torch's rendezvous. There
each counts its own restarts, and its processes look for those of the others under that number: they
never meet if one machine only noticed that another one waits, or has just been started. A machine
that comes later is not told either where the processes meet. And all are waited for as long as at
the start.
"""

from __future__ import annotations

import datetime
import os
import socket
import threading
import uuid
from collections.abc import Callable
from typing import Any

from torch import distributed as torch_dist
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous import (
    rendezvous_handler_registry as _registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    RendezvousTimeout,
)

from mmx.dist.utils import MEETING_VARIABLE

#: The name by which the launcher of torch finds it.
BACKEND = "mmx-c10d"
# How long an answer is waited for. One within a network takes a millisecond.
ANSWER_S = 5.0
#: How long the machines of a run wait for those that were with them before.
REJOIN_S = 120


class Patience(RendezvousTimeout):
    """How long machines are waited for: at the start, and after a failure."""

    def __init__(self, rejoin_s: float = REJOIN_S, **timeouts: datetime.timedelta | None) -> None:
        super().__init__(**timeouts)
        self._rejoin = datetime.timedelta(seconds=rejoin_s)
        #: The machines have met before.
        self.met = False

    @property
    def join(self) -> datetime.timedelta:
        """How long the next meeting may take."""
        return self._rejoin if self.met else super().join


class BoundedRendezvous(RendezvousHandler):
    """torch's rendezvous, asked in a thread that nobody needs to wait for.

    While it does not answer no other machines are taken to have come, and the processes here are
    looked after. They cannot be started anew then.

    Args:
        inner: torch's.
        answer_s: Seconds to wait for an answer.
        patience: That of ``inner``.
        machine: Name of this machine, for the others.
    """

    def __init__(
        self,
        inner: RendezvousHandler,
        answer_s: float = ANSWER_S,
        patience: Patience | None = None,
        machine: str | None = None,
    ) -> None:
        self._inner = inner
        self._answer_s = answer_s
        self._patience = patience or Patience()
        self._machine = machine or socket.gethostname()
        # The last meeting.
        self._met: RendezvousInfo | None = None
        # The connection broke, and asking again would only say so again.
        self._lost: BaseException | None = None
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
            RendezvousTimeoutError: The machines that were there before have not come back in time.
        """
        before = self._met
        if before is not None and self._ask(lambda: self._come_back(before)) is None:
            raise RendezvousConnectionError(
                f"the rendezvous {self.get_run_id()!r} does not answer within {self._answer_s:g} s"
            ) from self._lost
        try:
            info = self._agreed(self._inner.next_rendezvous())
        except RendezvousTimeoutError as error:
            raise RendezvousTimeoutError(self._absent(before)) from error
        self._met = info
        self._patience.met = True
        return info

    def _agreed(self, info: RendezvousInfo) -> RendezvousInfo:
        """Return what the first of the machines knows of this meeting, and tell the processes."""
        store, first = info.store, info.bootstrap_store_info
        assert first is not None
        try:
            store.set(f"mmx/machine/{info.rank}", self._machine)
            if info.rank == 0:
                # torch only tells once.
                store.set(RendezvousStoreInfo.MASTER_ADDR_KEY, first.master_addr)
                store.set(RendezvousStoreInfo.MASTER_PORT_KEY, str(first.master_port))
                store.set("mmx/meeting", uuid.uuid4().hex)
            name = store.get("mmx/meeting").decode()
            first = RendezvousStoreInfo(
                store.get(RendezvousStoreInfo.MASTER_ADDR_KEY).decode(),
                int(store.get(RendezvousStoreInfo.MASTER_PORT_KEY)),
            )
        except (torch_dist.DistError, RuntimeError) as error:
            raise RendezvousConnectionError(
                f"the rendezvous {self.get_run_id()!r} has broken off"
            ) from error
        os.environ[MEETING_VARIABLE] = f"{first.master_addr}:{first.master_port}/{name}"
        return RendezvousInfo(store, info.rank, info.world_size, first)

    def _come_back(self, before: RendezvousInfo) -> bool:
        """Say that this machine waits for those that it was together with."""
        key = f"mmx/back/{before.rank}"
        before.store.set(key, "")
        # Only questions are answered.
        return bool(before.store.check([key]))

    def _absent(self, before: RendezvousInfo | None) -> str:
        """Return whom a meeting has waited for in vain."""
        waited = f"within {self._patience.join.total_seconds():g} s"
        if before is None:
            return f"too few machines have come {waited}"
        store, ranks = before.store, range(before.world_size)

        def absent() -> list[str]:
            gone = [rank for rank in ranks if not store.check([f"mmx/back/{rank}"])]
            return [store.get(f"mmx/machine/{rank}").decode() for rank in gone]

        names = self._ask(absent)
        if not names:
            return f"the machines have not come together again {waited}"
        return f"not come back {waited}: {', '.join(names)}"

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
            if not isinstance(errors[0], (RendezvousConnectionError, torch_dist.DistError)):
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
    names = ("join", "last_call", "close", "heartbeat")
    seconds = {name: inner.get_as_int(f"{name}_timeout") for name in names}
    patience = Patience(
        inner.get_as_int("rejoin_timeout", REJOIN_S) or REJOIN_S,
        **{n: None if s is None else datetime.timedelta(seconds=s) for n, s in seconds.items()},
    )
    backend, store = create_backend(inner)
    handler = DynamicRendezvousHandler.from_backend(
        inner.run_id,
        store,
        backend,
        inner.min_nodes,
        inner.max_nodes,
        inner.local_addr,
        patience,
        keep_alive_interval=inner.get_as_int("keep_alive_interval", 5) or 5,
        keep_alive_max_attempt=inner.get_as_int("keep_alive_max_attempt", 3) or 3,
    )
    return BoundedRendezvous(handler, patience=patience, machine=params.local_addr)
