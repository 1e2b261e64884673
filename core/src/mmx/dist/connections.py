"""The connections of this process to other ranks: which they are, whether they live, their end.

The system answers for a process that is alive, but busy, and does not for a machine that is cut off
or without power. That tells those apart long before a collective is given up, and also between
collectives, or in those that may take hours.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

#: File descriptors of connections, with their inodes: a descriptor may come to mean another file.
Sockets = Mapping[int, int]

# Of `struct tcp_info` (linux/tcp.h): probes without an answer, segments without one, and the time
# since the last answer in milliseconds.
_PROBES, _UNACKED, _LAST_ACK_MS = (3, "B"), (24, "I"), (56, "I")


def open_sockets() -> dict[int, int]:
    """Return this process's open sockets; none where the system cannot tell."""
    found: dict[int, int] = {}
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for name in names:
        with contextlib.suppress(OSError):
            status = os.stat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found[int(name)] = status.st_ino
    return found


@contextlib.contextmanager
def opened(found: dict[int, int], store_port: int | None = None) -> Iterator[None]:
    """Add the sockets that the block opens to ``found``, but for connections of the store.

    Ranks tell each other through the store why their other connections have ended. It may be in
    this process, and then takes in other ranks at any time.

    Args:
        found: Where to add them.
        store_port: Port of the store that the ranks meet at.
    """
    before = open_sockets()
    ends = [_ends(fd) for fd in before] if store_port is not None else []
    addresses = {end for both in ends for end in both if end[1] == store_port}
    # It listens here, at any address of this machine.
    is_here = any(len(both) == 1 and both[0][1] == store_port for both in ends)
    yield
    for fd, inode in open_sockets().items():
        if before.get(fd) == inode:
            continue
        both = _ends(fd)
        if addresses.isdisjoint(both) and not (is_here and both and both[0][1] == store_port):
            found[fd] = inode


def _ends(fd: int) -> list[tuple[str, int]]:
    """Return the addresses and ports of a connection: ours, and that of the other side."""
    ends: list[tuple[str, int]] = []
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:
        for end in (connection.getsockname, connection.getpeername):
            address = end()
            # Of sockets of the network. An address of IPv4 may come in the form of IPv6.
            if isinstance(address, tuple):
                ends.append((str(address[0]).removeprefix("::ffff:"), int(address[1])))
    return ends


def cut(sockets: Sockets) -> None:
    """Cut connections, so that collectives that use them end, on both sides.

    gloo has no abort, and a process group only closes its connections with its last reference,
    which a wrapped model or a traceback may hold.
    """
    for connection in _connections(sockets):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def keep_alive(sockets: Sockets, every_s: int) -> None:
    """Let the system ask the other side for an answer each time nothing was heard for so long."""
    if not sys.platform.startswith("linux"):
        return
    for connection in _connections(sockets):
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, every_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every_s)
            # Whether a connection has ended is for us to say.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 127)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def longest_silence_s(sockets: Sockets) -> float:
    """Return for how long the quietest machine that was asked has not answered; 0 if all have."""
    if not sys.platform.startswith("linux"):
        return 0.0
    longest_ms = 0
    for connection in _connections(sockets):
        with contextlib.suppress(OSError, struct.error):
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            (probes,), (unacked,), (last_ack_ms,) = (
                struct.unpack_from(kind, info, at) for at, kind in (_PROBES, _UNACKED, _LAST_ACK_MS)
            )
            if probes or unacked:
                longest_ms = max(longest_ms, last_ack_ms)
    return longest_ms / 1000


def answers_within(seconds: float, question: Callable[[], T], name: str) -> list[T]:
    """Return the one answer to a question, or nothing if there is none in time.

    A store that is out of reach does not answer for many minutes, and cannot be told to stop.

    Args:
        seconds: How long to wait.
        question: What to call, in a thread that goes on if it is late.
        name: Of the thread.

    Raises:
        BaseException: What ``question`` raised in time.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(question())
        except BaseException as error:  # noqa: BLE001  # raised below, in the thread that asked
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True, name=name)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return answers[:1]


def _connections(sockets: Sockets) -> Iterator[socket.socket]:
    """Return those of the sockets that are still open and have another side."""
    for fd, inode in sockets.items():
        with contextlib.suppress(OSError):
            if os.fstat(fd).st_ino != inode:
                continue
            with socket.socket(fileno=os.dup(fd)) as connection:
                # Fails for those that listen. gloo ends the process if such a socket breaks.
                connection.getpeername()
                yield connection
