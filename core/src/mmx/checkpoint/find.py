"""Which checkpoint of a run to resume from."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from mmx.checkpoint.durable import aside_of, atomic_writer
from mmx.checkpoint.errors import CheckpointError, CorruptCheckpointError
from mmx.checkpoint.load import verify_checkpoint
from mmx.checkpoint.verification import note_verified
from mmx.logging import print_log

LAST_CHECKPOINT = "last_checkpoint"


def write_last_checkpoint(directory: str | os.PathLike[str], filename: str) -> None:
    """Record, all or nothing, which checkpoint of ``directory`` is the latest.

    Raises:
        CheckpointError: It could not be written.
    """
    pointer = Path(directory) / LAST_CHECKPOINT
    try:
        with atomic_writer(pointer) as file:
            file.write(filename.encode())
    except OSError as error:
        raise CheckpointError(
            f"{pointer}, which names the latest checkpoint, could not be written: {error}. It names "
            "the one before.",
            filename=str(pointer),
        ) from error


def find_latest_checkpoint(path: str | os.PathLike[str]) -> str | None:
    """Return the newest checkpoint of a work directory that is whole, or None if it has none.

    The file ``last_checkpoint`` in it says which is the latest. If that one is damaged, the newest
    whole one is used instead, with a warning. A run whose directory was moved is found as well, and
    so is the checkpoint of a run that was killed before it could write ``last_checkpoint``.

    Args:
        path: Work directory of a run.

    Raises:
        CorruptCheckpointError: There are checkpoints, but each is damaged. Starting over in silence
            would overwrite them.
    """
    directory = Path(path)
    named = _read_pointer(directory)
    if named is not None and "://" in named:
        return named  # remote storage checks its own integrity
    candidates = _candidates(directory, named)
    if not candidates:
        if named is None:
            _warn(f"Did not find {LAST_CHECKPOINT} to be resumed in {directory}.")
        return named  # loading it says that it is not there, which is better than starting over
    failures = []
    for candidate in candidates:
        try:
            verify_checkpoint(candidate)
        except (CheckpointError, OSError) as error:
            _warn(f"Not resuming from {candidate}: {error}")
            failures.append(candidate)
            continue
        note_verified(candidate)
        if failures:
            _warn(f"Resuming from {candidate} instead.")
        return candidate
    raise CorruptCheckpointError(
        f"every checkpoint in {directory} is damaged ({', '.join(failures)}). "
        "Remove them, or choose another work directory, to start over.",
        filename=failures[0],
    )


def candidates_in(directory: str | os.PathLike[str]) -> list[str]:
    """Return the checkpoints in a run's directory, damaged or not, the latest first."""
    where = Path(directory)
    return _candidates(where, _read_pointer(where))


def _read_pointer(directory: Path) -> str | None:
    try:
        return (directory / LAST_CHECKPOINT).read_text().strip() or None
    except FileNotFoundError:
        return None


def _candidates(directory: Path, named: str | None) -> list[str]:
    """Files to try, best first: the one that the pointer names, then the others by age."""
    first: list[Path] = []
    if named is not None:
        # A moved directory: the file of that name beside the pointer counts.
        # A folder is taken as it is: that it lost its index shows when it is verified.
        beside = directory / Path(named).name
        places = (Path(named), aside_of(named), beside, aside_of(beside))
        first = [p for p in places if p.exists()][:1]
    # Only names that the engine itself gives: other .pth files may be anything.
    others = [p for p in directory.glob("*.pth") if re.match(r"(epoch|iter)_\d+\.pth$", p.name)]
    # One that was being replaced when a crash came.
    for aside in directory.glob(".*.pth.replaced"):
        name = aside.name.removeprefix(".").removesuffix(".replaced")
        if re.match(r"(epoch|iter)_\d+\.pth$", name) and not (directory / name).exists():
            others.append(aside)
    others.sort(key=lambda p: (p.stat().st_mtime_ns, _step(p.name)), reverse=True)
    return list(dict.fromkeys(str(p) for p in [*first, *others]))


def _warn(message: str) -> None:
    print_log(message, logger="current", level=logging.WARNING)


def _step(name: str) -> int:
    return int(re.findall(r"\d+", name)[-1])
