"""A failure on one rank, told to all: nobody waits in vain, and everybody names the same cause.

A rank that fails leaves a note in the process group's store and cuts its connections to the other
ranks. Their collectives end at once, and they find in the store who failed, and why. A rank that
left no note was killed, hangs, or is cut off, and is named as lost.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import distributed as torch_dist

from mmx.dist import connections

# A failure that meets all ranks at once (a metric, a save) reaches each within this time. Then
# nobody needs to be cut off, and the process group goes on.
GRACE_S = 1.0
# The timeout of a run bounds how long it goes on without a rank that is lost, its ending included.
# So collectives end this long before, or a third of the timeout, if that is less.
RESERVE_S = 10.0
# How long a rank that failed waits for the notes of others, and for others to have read its own.
NOTES_S = 3.0
# The same for one whose peers have gone, as part of the reserve. The rest is for ending.
_NOTES_PART, _LEAST_NOTES_S = NOTES_S / RESERVE_S, 1.0
_LONGEST_PAUSE_S = 0.05
# A machine is lost when it has not answered for half of the timeout, or so long if that is longer.
_LEAST_SILENCE_S = 4.0
# Between two looks at the connections, at most.
_SELDOM_S = 30.0

# Words in the errors of torch's back ends when a peer has gone or does not answer.
_TRANSPORT = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Timed out waiting",
    "Operation timed out",
    "timed out",
    "gloo/transport",
    "NCCL",
)


class PeerError(RuntimeError):
    """Other ranks failed or are lost, and this one cannot go on without them.

    Attributes:
        ranks: Those ranks; the one that failed first comes first.
        cause: Class and text of its error; None if the ranks are lost without a word.
    """

    def __init__(self, ranks: list[int], message: str, cause: str | None = None) -> None:
        super().__init__(message)
        self.ranks = ranks
        self.cause = cause


@dataclass
class _Watch:
    """What this process needs to tell and to hear of failures."""

    # A connection of its own: another thread may be waiting on the group's.
    store: Any
    # The connections to other ranks.
    sockets: connections.Sockets
    # The store ends with this process.
    hosts_store: bool
    # How long to wait for the notes of others when our peers have gone.
    notes_s: float = NOTES_S
    # Failures that met all ranks, after which the group went on.
    past: int = 0
    # The error that was shared last, and what came of it: it may pass several places.
    last: tuple[BaseException, BaseException] | None = None
    lookout: _Lookout | None = None


_WATCH: _Watch | None = None


def reserve_s(timeout_s: float) -> float:
    """Return how many seconds before a run's timeout its collectives give up.

    What is left is for finding out who is lost, and for ending.
    """
    return min(RESERVE_S, timeout_s / 3)


@contextlib.contextmanager
def watching(store: Any, *, hosts_store: bool, timeout_s: float) -> Iterator[None]:
    """Watch over the process groups that the block makes.

    Args:
        store: The store through which the ranks meet.
        hosts_store: It ends with this process.
        timeout_s: Within which this process should have ended when a rank is lost. A machine that
            does not answer for half of it is.
    """
    global _WATCH
    own = store.clone()
    made: dict[int, int] = {}
    with connections.opened(made, _port_of(store)):
        yield
    notes_s = max(_LEAST_NOTES_S, _NOTES_PART * reserve_s(timeout_s))
    if _WATCH is not None and _WATCH.lookout is not None:
        _WATCH.lookout.stop()
    _WATCH = _Watch(own, made, hosts_store, notes_s)
    if made:
        _WATCH.lookout = _Lookout(_WATCH, max(_LEAST_SILENCE_S, timeout_s / 2))
        _WATCH.lookout.start()
    _show_at_exit()


@contextlib.contextmanager
def watching_more() -> Iterator[None]:
    """Watch over the process groups that the block makes as well, if others are watched over."""
    made: dict[int, int] = {}
    watch = _WATCH
    with connections.opened(made, None if watch is None else _port_of(watch.store)):
        yield
    # Those of a rank that has failed are cut for good.
    if watch is not None and watch.sockets:
        watch.sockets = {**watch.sockets, **made}
        if watch.lookout is not None:
            watch.lookout.keep_alive()


def _port_of(store: Any) -> int | None:
    """Return the port of a store; None if it has none, as one in a file."""
    # torch's stubs do not name the stores.
    c10d: Any = torch_dist
    while isinstance(store, c10d.PrefixStore):
        store = store.underlying_store
    return int(store.port) if isinstance(store, c10d.TCPStore) else None


def share_failure(error: BaseException) -> BaseException:
    """Tell the other ranks that this one has failed, and return what to raise.

    Each rank calls it with its own error, at once. It returns after seconds at most, whatever the
    others do. The group can be used further only if all ranks failed.

    Args:
        error: What happened here.

    Returns:
        ``error`` itself if its cause is here; :class:`PeerError` from it where it only says that
        another rank has gone.
    """
    watch = _WATCH
    if watch is None or not torch_dist.is_initialized() or torch_dist.get_world_size() == 1:
        return error
    if isinstance(error, PeerError):
        return error
    if watch.last is not None and error in watch.last:
        return watch.last[1]
    found: list[BaseException] = []
    past = watch.past
    follows = is_transport_error(error)
    if not follows:
        # Now: when the others have ended, torchrun may end this process before it can.
        record_for_launcher(error)

    def talk() -> None:
        try:
            found.append(_talk(watch, error))
        except (torch_dist.DistError, RuntimeError) as silent:
            found.append(_without_store(watch, error, silent))

    # The store may be out of reach, and then does not answer for long.
    thread = threading.Thread(target=talk, daemon=True, name="mmx failures")
    thread.start()
    longest_s = (1.25 + watch.hosts_store) * watch.notes_s if follows else 2 * NOTES_S + GRACE_S
    thread.join(longest_s)
    if not found:
        found.append(_without_store(watch, error, TimeoutError("no answer")))
    result = found[0]
    if watch.past == past:
        _cut(watch)
    if result is not error:
        result.__cause__ = error
    watch.last = (error, result)
    return result


def _talk(watch: _Watch, error: BaseException) -> BaseException:
    rank, size = torch_dist.get_rank(), torch_dist.get_world_size()
    prefix = f"failure{watch.past}"
    ours = not is_transport_error(error)
    note = {
        "ours": ours,
        "error": f"{type(error).__name__}: {error}"[:4000],
        "trace": "".join(traceback.format_exception(error))[-8000:],
        "at": time.time(),
    }
    watch.store.set(f"{prefix}/{rank}", json.dumps(note))
    if not isinstance(error, Exception):
        # The user, or the system, wants this process to end now.
        return error
    if ours:
        notes = _wait_for_notes(watch, prefix, range(size), GRACE_S)
        if len(notes) == size and all(n["ours"] for n in notes.values()):
            watch.past += 1
            return error
        _cut(watch)
        _wait_for_notes(watch, prefix, range(size), NOTES_S)
        _leave_store(watch, prefix, size, NOTES_S)
        return error
    _cut(watch)
    notes = _wait_for_notes(watch, prefix, range(size), watch.notes_s, until_cause=True)
    _leave_store(watch, prefix, size, watch.notes_s)
    return _explained(watch, notes, size, error)


def _explained(
    watch: _Watch, notes: dict[int, dict[str, Any]], size: int, error: BaseException
) -> BaseException:
    """Return the error of a rank whose peers have gone, from what they have left."""
    failed = sorted((r for r, n in notes.items() if n["ours"]), key=lambda r: notes[r]["at"])
    if failed:
        first = failed[0]
        trace = notes[first]["trace"]
        return PeerError(
            failed,
            f"rank {first} failed: {notes[first]['error']}\nOn rank {first}:\n{_indented(trace)}",
            notes[first]["error"],
        )
    lost = [r for r in range(size) if r not in notes]
    if not lost:
        error.add_note(
            "all ranks are alive, and none has failed: they wait in different collectives, or the "
            "network between them is broken"
        )
        return error
    left = [r for r in lost if _has(watch, f"left/{r}")]
    if left:
        return PeerError(
            left, f"{_name(left)} ended, while this rank was waiting for more of it: {error}"
        )
    return PeerError(
        lost,
        f"{_name(lost)} lost: killed, stalled, or cut off from the others, without a word. Look at its "
        f"output and machine. Here: {error}",
    )


def _without_store(watch: _Watch, error: BaseException, silent: BaseException) -> BaseException:
    """Return the error of a rank that cannot ask: the process that holds the store has gone."""
    if not is_transport_error(error):
        return error
    host = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    ranks, who = [0], f"rank 0 ({host})"
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # It is that of the launcher on the machine of rank 0.
        ranks = _ranks_of_first_machine()
        who = f"the machine of {_ranks(ranks)} ({host})"
    return PeerError(
        ranks,
        f"{who} is lost: killed, stalled, or cut off from this rank {torch_dist.get_rank()}, and its "
        f"store does not answer ({silent}). Here: {error}",
    )


def _ranks_of_first_machine() -> list[int]:
    """Return the ranks on the machine of rank 0, as far as torchrun's variables tell."""
    local, machines = (
        int(os.environ.get(n, "1")) for n in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")
    )
    alike = local * machines == torch_dist.get_world_size()
    elsewhere = os.environ.get("GROUP_RANK", "0") != "0"
    return list(range(local)) if alike and elsewhere else [0]


def _has(watch: _Watch, key: str) -> bool:
    return bool(watch.store.check([key]))


def _wait_for_notes(
    watch: _Watch, prefix: str, ranks: range, timeout_s: float, until_cause: bool = False
) -> dict[int, dict[str, Any]]:
    """Return the notes of all ranks, or those that have come in time.

    Args:
        watch: Where to look.
        prefix: Of the notes' keys.
        ranks: Whose notes.
        timeout_s: How long to wait.
        until_cause: Also end when a rank has told that the cause is its own.
    """
    deadline, pause_s = time.monotonic() + timeout_s, 0.002
    notes: dict[int, dict[str, Any]] = {}
    while True:
        for rank in ranks:
            if rank not in notes and _has(watch, f"{prefix}/{rank}"):
                notes[rank] = json.loads(watch.store.get(f"{prefix}/{rank}"))
        if len(notes) == len(ranks) or time.monotonic() > deadline:
            return notes
        if until_cause and any(note["ours"] for note in notes.values()):
            return notes
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _leave_store(watch: _Watch, prefix: str, size: int, timeout_s: float) -> None:
    """Say that we have read all notes; the process that holds them waits for the others to."""
    done = watch.store.add(f"{prefix}/done", 1)
    if not watch.hosts_store:
        return
    deadline = time.monotonic() + timeout_s
    while done < size and time.monotonic() < deadline:
        time.sleep(_LONGEST_PAUSE_S)
        done = watch.store.add(f"{prefix}/done", 0)


def is_transport_error(error: BaseException) -> bool:
    """Tell whether an error only says that another rank has gone or does not answer."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch_dist.DistError):
            return True
        if type(seen) is RuntimeError and any(words in str(seen) for words in _TRANSPORT):
            return True
        seen = seen.__cause__
    return False


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.rstrip().splitlines()).rstrip("\n")


def _name(ranks: list[int]) -> str:
    return f"{_ranks(ranks)} {'is' if len(ranks) == 1 else 'are'}"


def _ranks(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:20]))}{', …' if len(ranks) > 20 else ''}"


def _cut(watch: _Watch) -> None:
    """Cut the connections to the other ranks, so that their collectives with us end."""
    sockets, watch.sockets = watch.sockets, {}
    connections.cut(sockets)


class _Lookout(threading.Thread):
    """Cuts all connections when a machine has not answered for long, whatever goes on meanwhile.

    Args:
        watch: Whose connections.
        limit_s: For how long.
    """

    def __init__(self, watch: _Watch, limit_s: float) -> None:
        super().__init__(daemon=True, name="mmx lookout")
        self._watch = watch
        self._limit_s = limit_s
        # Some questions without an answer fit into the limit.
        every_s = max(1.0, min(_SELDOM_S, limit_s / 5))
        self._every_s = every_s
        self._stopped = threading.Event()
        self.keep_alive()

    def keep_alive(self) -> None:
        """Let the system ask the other machines for answers."""
        connections.keep_alive(self._watch.sockets, int(self._every_s))

    def run(self) -> None:
        """Look at the connections now and then, until there are none."""
        before = False
        while not self._stopped.wait(self._every_s / (2 if before else 1)):
            sockets = self._watch.sockets
            if not sockets:
                return
            is_silent = connections.longest_silence_s(sockets) > self._limit_s - self._every_s
            # An answer may just be on its way: to a receiver that is full, questions become rare.
            if is_silent and before:
                _cut(self._watch)
                return
            before = is_silent

    def stop(self) -> None:
        """Return when it has ended."""
        self._stopped.set()
        self.join()


# The end of the process ---------------------------------------------------------------------

_SHOWN = False


def _show_at_exit() -> None:
    """Share the error that ends this process, and close the groups when it ends; set up once."""
    global _SHOWN
    if _SHOWN:
        return
    _SHOWN = True
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        shared = share_failure(error) if not isinstance(error, KeyboardInterrupt) else error
        record_for_launcher(shared)
        # `mmx launch` shows the errors of all ranks when all have ended.
        if not os.environ.get("MMX_LAUNCH"):
            before(type(shared), shared, shared.__traceback__)

    sys.excepthook = hook
    atexit.register(_leave)


def record_for_launcher(error: BaseException) -> None:
    """Write an error to where torchrun looks for it, so that it can name the first one."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    follows = isinstance(error, PeerError)
    # torchrun takes the earliest for the cause. Its clock has whole seconds.
    at = int(time.time()) + (60 if follows else 0)
    extra = {
        "py_callstack": "".join(traceback.format_exception(error)),
        "timestamp": str(at),
        "follows": follows,
        "rank": int(os.environ.get("RANK", "0")),
    }
    text = {"message": {"message": f"{type(error).__name__}: {error}", "extraInfo": extra}}
    with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
        json.dump(text, file)


def _leave() -> None:
    """Close the process groups: torch warns where that is left to the end of the process."""
    watch = _WATCH
    if watch is not None and watch.lookout is not None:
        watch.lookout.stop()
    if watch is None or not torch_dist.is_initialized():
        return
    if not watch.sockets:
        # Others are lost, and this process is to end in time: the last collections of the
        # interpreter, which go through all objects, would take half of what is left to do.
        gc.freeze()
    if torch_dist.get_world_size() > 1 and watch.sockets:

        def tell() -> None:
            with contextlib.suppress(torch_dist.DistError, RuntimeError):
                watch.store.set(f"left/{torch_dist.get_rank()}", "")

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        thread.join(GRACE_S)
    with contextlib.suppress(RuntimeError):
        torch_dist.destroy_process_group()
