"""Running a function in several processes that talk to each other, for tests."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import importlib.util
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

# Imported once in the server that the ranks are forked from, not once per rank.
_PRELOAD = ["numpy", "torch", "torch.distributed", "mmx.dist.dist", "mmx.testing.distributed"]

# How long the other ranks may go on after the first has failed: often they fail too, by themselves.
_GRACE_S = 5.0


@dataclass(frozen=True)
class RankFailure:
    """How one rank failed.

    Attributes:
        rank: The rank.
        kind: Class name of the exception, or ``'died'``.
        message: Its text.
        traceback: Text of the whole traceback; empty if the process died.
        at: Time of the failure, in seconds since the epoch.
    """

    rank: int
    kind: str
    message: str
    traceback: str
    at: float


class DistributedTestError(RuntimeError):
    """Ranks failed; the first of them in time comes first.

    Attributes:
        rank: The rank that failed first.
        failures: All failures, by time.
    """

    def __init__(self, failures: list[RankFailure]) -> None:
        first, *others = failures
        text = f"rank {first.rank} failed first: {first.kind}: {first.message}"
        if first.traceback:
            text += f"\n\n{first.traceback.rstrip()}"
        for other in others:
            text += f"\n\nthen rank {other.rank}: {other.kind}: {other.message}"
        super().__init__(text)
        self.rank = first.rank
        self.failures = failures


def run_distributed(
    function: Callable[..., Any],
    world_size: int = 2,
    *args: Any,
    timeout_s: float = 60,
    backend: str = "gloo",
    init: bool = True,
    env: dict[str, str] | None = None,
    **kwargs: Any,
) -> list[Any]:
    """Run a function in ``world_size`` processes and return what each rank returned.

    The processes have torchrun's environment variables, and a process group unless ``init`` is
    false. They do not share anything with the caller: the function, its arguments and its results
    are pickled, so that the function must stand at the top of a module (of a test file, too).

    Args:
        function: Called as ``function(*args, **kwargs)`` in each process.
        world_size: Number of processes.
        *args: For the function.
        timeout_s: Seconds after which all processes are killed; also the process group's timeout.
        backend: Of the process group.
        init: Make the process group before the function is called.
        env: Further environment variables.
        **kwargs: For the function.

    Returns:
        The results in the order of ranks.

    Raises:
        DistributedTestError: A rank raised or died; the one that failed first is named with its
            traceback. The others are ended after some seconds.
        TimeoutError: Ranks are still running after ``timeout_s``; their stacks are in the text.
        TypeError: The function or its arguments cannot be pickled.

    Example:
        >>> def sum_of_ranks():
        ...     data = torch.tensor(float(get_rank()))
        ...     all_reduce(data)
        ...     return data.item()
        >>> run_distributed(sum_of_ranks, 2)  # doctest: +SKIP
        [1.0, 1.0]
    """
    if world_size < 1:
        raise ValueError(f"world_size must be positive, but got {world_size}")
    module = sys.modules[function.__module__]
    try:
        call = pickle.dumps((function, args, kwargs))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"{function!r} and its arguments must be picklable, so the function must stand at the top of its "
            f"module: {error}"
        ) from error
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        job = _Job(
            module=module.__name__,
            file=getattr(module, "__file__", None),
            call=call,
            world_size=world_size,
            timeout_s=timeout_s,
            backend=backend if init else None,
            # The server keeps the environment that it was started with.
            env={**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
            | (env or {}),
            folder=folder,
        )
        ranks: list[tuple[Any, Connection]] = []
        try:
            for rank in range(world_size):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_run_rank, args=(job, rank, sender), name=f"rank {rank}", daemon=False
                )
                process.start()
                sender.close()
                ranks.append((process, receiver))
            results = _gather(ranks, job)
            for process, _ in ranks:
                process.join(_GRACE_S)
            return results
        finally:
            for process, receiver in ranks:
                if process.is_alive():
                    process.kill()
                process.join()
                process.close()
                receiver.close()


@dataclass(frozen=True)
class _Job:
    module: str
    file: str | None
    call: bytes
    world_size: int
    timeout_s: float
    backend: str | None
    env: dict[str, str]
    folder: str

    def stack_file(self, rank: int) -> str:
        return os.path.join(self.folder, f"stack{rank}.txt")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _gather(ranks: list[tuple[Any, Connection]], job: _Job) -> list[Any]:
    deadline = time.monotonic() + job.timeout_s
    results: dict[int, Any] = {}
    failures: list[RankFailure] = []
    waiting = {receiver: rank for rank, (_, receiver) in enumerate(ranks)}
    while waiting:
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for receiver in ready:
            assert isinstance(receiver, Connection)
            rank = waiting.pop(receiver)
            try:
                ok, value = receiver.recv()
            except EOFError:
                ranks[rank][0].join()
                code = ranks[rank][0].exitcode
                ok, value = False, RankFailure(rank, "died", f"exit code {code}", "", time.time())
            if ok:
                results[rank] = pickle.loads(value)  # noqa: S301  # from our own child
            else:
                failures.append(value)
                deadline = min(deadline, time.monotonic() + _GRACE_S)
    if failures:
        raise DistributedTestError(sorted(failures, key=lambda failure: failure.at))
    if waiting:
        absent = sorted(waiting.values())
        stacks = "\n".join(_stack(ranks[rank][0], job, rank) for rank in absent)
        raise TimeoutError(
            f"after {job.timeout_s:g} s ranks {absent} of {job.world_size} are still running:\n{stacks}"
        )
    return [results[rank] for rank in range(job.world_size)]


def _stack(process: Any, job: _Job, rank: int) -> str:
    """Return where a hanging rank is."""
    with contextlib.suppress(OSError):
        os.kill(process.pid, signal.SIGUSR1)
        for _ in range(50):
            time.sleep(0.02)
            with open(job.stack_file(rank), encoding="utf-8") as file:
                text = file.read()
            if text:
                return f"rank {rank}:\n{text}"
    return f"rank {rank}: its stack is not known"


def _run_rank(job: _Job, rank: int, sender: Connection) -> None:
    os.environ.clear()
    os.environ.update(job.env)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(job.world_size),
        LOCAL_WORLD_SIZE=str(job.world_size),
    )
    with open(job.stack_file(rank), "w", encoding="utf-8") as stack:
        faulthandler.register(signal.SIGUSR1, file=stack, all_threads=True)
        try:
            value = _call(job, rank)
            sender.send((True, pickle.dumps(value)))
            _leave()
        except BaseException as error:  # noqa: BLE001  # handed to the caller, whatever it is
            failure = RankFailure(
                rank, type(error).__name__, str(error), traceback.format_exc(), time.time()
            )
            sender.send((False, failure))
            sender.close()
            sys.stdout.flush()
            sys.stderr.flush()
            # Threads of a broken process group must not keep the process.
            os._exit(1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    sender.close()


def _call(job: _Job, rank: int) -> Any:
    import torch
    from torch import distributed as dist

    torch.set_num_threads(1)
    _import(job.module, job.file)
    function, args, kwargs = pickle.loads(job.call)  # noqa: S301  # from our own parent
    if job.backend is None:
        return function(*args, **kwargs)
    import datetime

    dist.init_process_group(
        job.backend,
        init_method=f"file://{job.folder}/rendezvous",
        rank=rank,
        world_size=job.world_size,
        timeout=datetime.timedelta(seconds=job.timeout_s),
    )
    return function(*args, **kwargs)


def _leave() -> None:
    """End the process group when all are ready: some may still be connecting to each other."""
    from torch import distributed as dist

    if dist.is_initialized():
        # Others may have failed; the caller knows from them.
        with contextlib.suppress(Exception):
            dist.barrier()
        dist.destroy_process_group()


def _import(name: str, file: str | None) -> None:
    """Import the module of the function: test files are no members of a package."""
    if name in sys.modules:
        return
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        if file is None:
            raise
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


__all__ = ["DistributedTestError", "RankFailure", "run_distributed"]
