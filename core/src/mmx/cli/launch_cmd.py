"""``mmx launch``: run a command in several processes, as torchrun does."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

# Commands whose config has a launcher.
_RUNS = ("train", "val", "test")
# Lines of a rank's own output that are shown where it died without a word.
_TAIL = 20


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--nproc",
    "--nproc-per-node",
    default="auto",
    metavar="N",
    help="Processes on this machine; 'auto', 'gpu' or 'cpu' count its devices.",
)
@click.option(
    "--nnodes", default="1", metavar="N", help="Machines; 'MIN:MAX' lets them come and go."
)
@click.option(
    "--node-rank", type=int, metavar="R", help="Number of this machine; 0 hosts the rendezvous."
)
@click.option("--rdzv-endpoint", metavar="HOST:PORT", help="Where machines meet: that of number 0.")
@click.option(
    "--rdzv-id", default="mmx", metavar="ID", help="Name of the job; the same everywhere."
)
@click.option(
    "--max-restarts", type=click.IntRange(0), default=0, help="Start anew so often after a failure."
)
@click.option(
    "--rejoin-timeout",
    type=click.IntRange(1),
    default=120,
    metavar="SECONDS",
    help="How long machines wait, before a new start, for those that were with them.",
)
@click.option("--local-addr", metavar="ADDRESS", help="Of this machine, for the others.")
@click.option(
    "--stop-timeout",
    type=click.IntRange(1),
    default=300,
    metavar="SECONDS",
    help="How long processes may save after SIGTERM or Ctrl-C.",
)
@click.option(
    "--log-dir",
    metavar="DIR",
    help="Keep the output of the ranks that are not on the terminal here.",
)
@click.option("--all-ranks", is_flag=True, help="Show the output of all ranks, with their numbers.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    nproc: str,
    nnodes: str,
    node_rank: int | None,
    rdzv_endpoint: str | None,
    rdzv_id: str,
    max_restarts: int,
    rejoin_timeout: int,
    local_addr: str | None,
    stop_timeout: int,
    log_dir: str | None,
    all_ranks: bool,
    command: tuple[str, ...],
) -> int:
    """Run 'mmx COMMAND…' in several processes that train together.

    A thin face on torchrun: 'mmx launch --nproc 2 train CONFIG'. On several machines start the same
    command on each, with --nnodes, --node-rank and the --rdzv-endpoint of machine 0. The output of
    rank 0 is on the terminal; errors of any rank are shown when all have ended.
    """
    arguments = with_launcher(command)
    if nnodes != "1" and rdzv_endpoint is None:
        raise click.UsageError("--nnodes needs --rdzv-endpoint HOST:PORT, where the machines meet")
    if nnodes == "1" and rdzv_endpoint is None and node_rank:
        raise click.UsageError("--node-rank is of use with --nnodes and --rdzv-endpoint only")
    kept = log_dir is not None
    folder = log_dir if log_dir is not None else tempfile.mkdtemp(prefix="mmx-launch-")
    try:
        return _launch(
            arguments,
            nproc=nproc,
            nnodes=nnodes,
            node_rank=node_rank,
            rdzv_endpoint=rdzv_endpoint,
            rdzv_id=rdzv_id,
            max_restarts=max_restarts,
            rejoin_timeout=rejoin_timeout,
            local_addr=local_addr,
            stop_timeout=stop_timeout,
            folder=folder,
            all_ranks=all_ranks,
        )
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def with_launcher(command: tuple[str, ...]) -> list[str]:
    """Return the arguments of ``mmx`` for one rank: runs get ``launcher='pytorch'``.

    Raises:
        click.UsageError: The command asks for another launcher.
    """
    arguments = list(command)
    if arguments[:1] == ["mmx"]:
        del arguments[0]
    if not arguments or arguments[0] not in _RUNS:
        return arguments
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--launcher" and not value and index + 1 < len(arguments):
            value = arguments[index + 1]
        if name in ("--launcher", "launcher"):
            if value != "pytorch":
                raise click.UsageError(
                    f"mmx launch starts processes as torchrun does, launcher 'pytorch', but the command says {value!r}"
                )
            return arguments
    return [*arguments, "--cfg-options", "launcher=pytorch"]


def _launch(
    arguments: list[str],
    *,
    nproc: str,
    nnodes: str,
    node_rank: int | None,
    rdzv_endpoint: str | None,
    rdzv_id: str,
    max_restarts: int,
    rejoin_timeout: int,
    local_addr: str | None,
    stop_timeout: int,
    folder: str,
    all_ranks: bool,
) -> int:
    """Run torchrun's agent, and return the exit code of what failed first."""
    from torch.distributed.elastic.multiprocessing import (
        DefaultLogsSpecs,
        SignalException,
        Std,
    )
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, launch_agent
    from torch.distributed.run import determine_local_world_size, parse_min_max_nnodes

    from mmx.dist import rendezvous

    try:
        least, most = parse_min_max_nnodes(nnodes)
        processes = determine_local_world_size(nproc)
    except (ValueError, RuntimeError) as error:
        raise click.UsageError(str(error)) from error
    if processes > 1:
        # As torchrun: processes that each take all cores are in each other's way.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["MMX_LAUNCH"] = "1"
    # The first rank of a machine writes to the terminal itself, so that its progress bar works.
    quiet = Std.NONE if all_ranks else dict.fromkeys(range(1, processes), Std.ALL)
    logs = DefaultLogsSpecs(
        log_dir=folder,
        redirects=quiet or Std.NONE,
        tee=Std.ALL if all_ranks else Std.NONE,
    )
    single = rdzv_endpoint is None
    meeting: dict[str, Any] = {"rejoin_timeout": rejoin_timeout}
    if node_rank is not None and not single:
        meeting["is_host"] = str(node_rank == 0).lower()
    rendezvous.register()
    config = LaunchConfig(
        min_nodes=least,
        max_nodes=most,
        nproc_per_node=processes,
        logs_specs=logs,
        run_id=f"{rdzv_id}-{uuid.uuid4()}" if single else rdzv_id,
        rdzv_backend=rendezvous.BACKEND,
        rdzv_endpoint=rdzv_endpoint or "localhost:0",
        rdzv_configs=meeting,
        max_restarts=max_restarts,
        local_addr=local_addr or ("127.0.0.1" if single else None),
        shutdown_timeout=stop_timeout,
    )
    try:
        with _agent_says_what_matters():
            launch_agent(config, sys.executable, ["-u", "-m", "mmx", *arguments])
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        # Let the interpreter end soon, without collections that go through all of torch.
        gc.freeze()
        return _report(error, Path(folder))
    except RendezvousError as error:
        _report_failures_on_record(Path(folder))
        raise click.ClickException(
            f"this machine cannot meet the others at {rdzv_endpoint or 'localhost'}: {error}"
        ) from error
    return 0


@contextlib.contextmanager
def _agent_says_what_matters() -> Iterator[None]:
    """Let only restarts of torchrun's messages through: failures are reported by ourselves."""
    agent = logging.getLogger("torch.distributed.elastic.agent.server.api")
    others = [
        logging.getLogger(name)
        for name in ("torch.distributed.elastic", *logging.root.manager.loggerDict)
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher"))
    ]
    levels = [(one, one.level) for one in {agent, *others}]

    def only_restarts(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "will restart" in text:
            click.echo(f"mmx launch: {text}", err=True)
        return False

    for one, _ in levels:
        one.setLevel(logging.CRITICAL)
    agent.setLevel(logging.INFO)
    agent.addFilter(only_restarts)
    try:
        yield
    finally:
        agent.removeFilter(only_restarts)
        for one, level in levels:
            one.setLevel(level)


def _report(error: Any, folder: Path) -> int:
    """Show what failed, the first cause first, and return its exit code."""
    failures = sorted(
        error.failures.items(),
        key=lambda item: (_was_stopped(item[1]), _follows(item[1]), _at(item[1])),
    )
    rank, first = failures[0]
    if _was_stopped(first):
        # All, as asked for, after the run has been saved.
        return _exit_code(first)
    for index, (rank, failure) in enumerate(failures):
        if _was_stopped(failure):
            continue  # ended by the agent, after the others
        how = "failed" if index == 0 else "then failed"
        trace = _trace(failure)
        if trace and (index == 0 or not _follows(failure)):
            click.echo(f"\nrank {rank} {how}:\n{trace.rstrip()}", err=True)
        elif trace:
            click.echo(f"then rank {rank} stopped: {_text(failure).splitlines()[0]}", err=True)
        else:
            click.echo(f"\nrank {rank} {how}: {_ending(failure)}", err=True)
            _show_tail(folder, failure)
    return _exit_code(first)


def _report_failures_on_record(folder: Path) -> None:
    """Show what the ranks of this machine noted last: they were to be started anew, and cannot be."""
    attempts: dict[Path, list[dict[str, Any]]] = {}
    for file in folder.glob("*/attempt_*/*/error.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            message = json.loads(file.read_text(encoding="utf-8"))["message"]
            extra = message["extraInfo"]
            attempts.setdefault(file.parent.parent, []).append(
                {
                    "follows": bool(extra["follows"]),
                    "rank": extra["rank"],
                    "trace": extra["py_callstack"],
                }
            )
    if not attempts:
        return
    last = max(attempts, key=lambda path: int(path.name.rpartition("_")[2]))
    for note in sorted(attempts[last], key=lambda note: (note["follows"], note["rank"])):
        click.echo(f"\nrank {note['rank']} failed:\n{note['trace'].rstrip()}", err=True)


def _text(failure: Any) -> str:
    message = failure.error_file_data.get("message")
    return str(message["message"] if isinstance(message, dict) else message)


def _extra(failure: Any) -> dict[str, Any]:
    message = failure.error_file_data.get("message")
    extra = message.get("extraInfo") if isinstance(message, dict) else None
    return extra if isinstance(extra, dict) else {}


def _follows(failure: Any) -> bool:
    """Tell whether a rank only failed because another one had."""
    return bool(_extra(failure).get("follows"))


def _was_stopped(failure: Any) -> bool:
    """Tell whether a rank only ended because it was told to."""
    stops = (signal.SIGTERM, signal.SIGINT)
    codes = {-stop for stop in stops} | {128 + stop for stop in stops}
    return failure.exitcode in codes and not _trace(failure)


def _at(failure: Any) -> int:
    return int(failure.timestamp)


def _trace(failure: Any) -> str:
    return str(_extra(failure).get("py_callstack", ""))


def _ending(failure: Any) -> str:
    if failure.exitcode < 0:
        return f"killed by {signal.Signals(-failure.exitcode).name} (process {failure.pid})"
    return f"exit code {failure.exitcode} (process {failure.pid})"


def _exit_code(failure: Any) -> int:
    code = int(failure.exitcode)
    if code == -signal.SIGTERM and _trace(failure):
        # It had failed already when the agent, which had seen another rank end, ended it.
        return 1
    return 128 - code if code < 0 else code


def _show_tail(folder: Path, failure: Any) -> None:
    """Show the last lines of a rank whose output has gone to a file."""
    logs = sorted(folder.glob(f"*/attempt_*/{failure.local_rank}/stderr.log"))
    if not logs:
        return
    lines = logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
    for line in lines:
        click.echo(f"  {line}", err=True)
