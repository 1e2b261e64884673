"""Checkpoints of one form opened and written in another, with memory that stays bounded.

Tensors are mapped from their files, not read; those that several ranks have written are put together
in a mapped scratch file. Writing takes one after the other.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mmx.checkpoint.errors import CheckpointError
from mmx.checkpoint.load import CheckpointLoader, _read_safetensors, load_from_local
from mmx.checkpoint.save import save_checkpoint
from mmx.checkpoint.sharded_index import is_sharded

FORMS = ("full", "sharded", "safetensors")
# Smaller tensors are not worth a file of their own.
_MAPPED_FROM = 1 << 20


def form_of(target: str | os.PathLike[str]) -> str:
    """Return the form that a name asks for: by its suffix, without one a folder of shards."""
    name = os.fspath(target)
    if name.endswith(".safetensors"):
        return "safetensors"
    return "full" if Path(name).suffix in (".pth", ".pt", ".ckpt", ".bin") else "sharded"


@contextlib.contextmanager
def opened(
    source: str | os.PathLike[str], scratch: str | os.PathLike[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a checkpoint of any form as a dict whose tensors are mapped from files.

    Args:
        source: A file, the folder of a sharded checkpoint, or an address.
        scratch: Directory for what has to be put together; by default that of temporary files.

    Raises:
        CheckpointError: It is damaged, or no checkpoint.
    """
    name = os.path.expanduser(os.fspath(source))
    with tempfile.TemporaryDirectory(prefix=".mmx-convert-", dir=scratch) as folder:
        if is_sharded(name):
            from mmx.checkpoint.sharded import read_sharded

            checkpoint: Any = read_sharded(name, "cpu", room=_Scratch(folder), verify=True)
        elif name.endswith(".safetensors") and os.path.isfile(name):
            checkpoint = _read_safetensors(name, "cpu")
        elif os.path.isfile(name):
            # All of it is read in any case, and damage would get fresh checksums.
            checkpoint = load_from_local(name, "cpu", verify=True)
        else:
            checkpoint = CheckpointLoader.load_checkpoint(name, "cpu", "silent", verify=True)
        if not isinstance(checkpoint, dict):
            raise CheckpointError(
                f"{name} holds a {type(checkpoint).__name__}, not a checkpoint", filename=name
            )
        yield checkpoint


def write_as(checkpoint: dict[str, Any], target: str | os.PathLike[str], form: str) -> None:
    """Write a checkpoint in one of ``FORMS``.

    Raises:
        ValueError: The form is unknown, or does not fit the name of the target.
    """
    name = os.path.expanduser(os.fspath(target))
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, but got {form!r}")
    if (form == "safetensors") != name.endswith(".safetensors"):
        raise ValueError(
            f"{name}: the name of a safetensors file ends in .safetensors, and only that; got "
            f"the form {form!r}"
        )
    if form != "sharded":
        save_checkpoint(checkpoint, name)
        return
    from mmx.checkpoint.sharded import write_folder

    write_folder(checkpoint, name)


class _Scratch:
    """Gives memory for tensors, each of some size in a mapped file of its own."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._count = 0

    def __call__(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        if shape.numel() * dtype.itemsize < _MAPPED_FROM:
            return torch.empty(shape, dtype=dtype)
        self._count += 1
        path = os.path.join(self._folder, str(self._count))
        return torch.from_file(path, shared=True, size=shape.numel(), dtype=dtype).view(shape)
