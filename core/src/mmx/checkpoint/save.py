"""Writing checkpoint files: whole or not at all, in the foreground or beside the training loop."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from mmx.checkpoint.durable import atomic_writer, making_way
from mmx.checkpoint.errors import CheckpointError
from mmx.checkpoint.plain import to_plain
from mmx.checkpoint.sharded_index import is_sharded

_log = logging.getLogger("mmx")


def _is_remote(filename: str) -> bool:
    return "://" in filename


def save_checkpoint(
    checkpoint: dict[str, Any],
    filename: str | os.PathLike[str],
    file_client_args: dict[str, Any] | None = None,
    backend_args: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint, all or nothing.

    A local file is written beside its target, fsynced and renamed, so that a crash or a full disk
    leaves an earlier file of the same name as it was. Its records carry CRC-32 checksums, which
    :func:`mmx.checkpoint.verify_checkpoint` checks. A name that ends in ``.safetensors`` gets the
    weights (``state_dict``) alone, in that format.

    Args:
        checkpoint: Tensors and plain data.
        filename: Local path or address of a file back end (``s3://…``).
        file_client_args: Old name of ``backend_args``.
        backend_args: Arguments of the file back end.

    Raises:
        TypeError: The checkpoint holds other objects than tensors and plain data.
        CheckpointError: It could not be written; the cause says why.
    """
    if file_client_args is not None and backend_args is not None:
        raise ValueError('"file_client_args" and "backend_args" cannot be set at the same time.')
    write_plain(to_plain(checkpoint), os.fspath(filename), backend_args or file_client_args)


def write_plain(
    checkpoint: dict[str, Any], filename: str, backend_args: dict[str, Any] | None = None
) -> None:
    """Write what :func:`mmx.checkpoint.plain.to_plain` returned. See :func:`save_checkpoint`."""
    if filename.startswith("pavi://"):
        raise ValueError(
            f"{filename}: the pavi model cloud no longer exists; save to a path or an s3:// address"
        )
    if _is_remote(filename):
        from mmx.fileio import get_file_backend

        buffer = io.BytesIO()
        _serialise(checkpoint, filename, buffer)
        backend = get_file_backend(filename, backend_args=_fresh_backend_args(backend_args))
        try:
            backend.put(buffer.getvalue(), filename)
        except Exception as error:  # each storage has errors of its own
            raise CheckpointError(
                f"the checkpoint {filename} could not be written: {error}", filename=filename
            ) from error
        return
    path = Path(filename).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file cannot be renamed over the folder of a sharded checkpoint.
        way = making_way(path) if is_sharded(path) else contextlib.nullcontext()
        with way, atomic_writer(path) as file:
            _serialise(checkpoint, filename, file)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write as RuntimeError, with the OSError in its context.
        raise CheckpointError(
            f"the checkpoint {path} could not be written: {root_cause(error)}. Earlier checkpoints are as they were.",
            filename=str(path),
        ) from error


def _fresh_backend_args(backend_args: dict[str, Any] | None) -> dict[str, Any] | None:
    return dict(backend_args) if backend_args else None


def root_cause(error: BaseException) -> BaseException:
    """Return the error of the system behind one of torch's, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error


def _serialise(checkpoint: dict[str, Any], filename: str, file: Any) -> None:
    if not filename.endswith(".safetensors"):
        torch.save(checkpoint, file)
        return
    from mmx.checkpoint.tensor_file import write_tensors

    state_dict = checkpoint.get("state_dict", checkpoint)
    meta = checkpoint.get("meta", {})
    for name, value in state_dict.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"{filename}: {name} is no tensor; the safetensors format holds tensors only"
            )
    text = {str(k): str(v) for k, v in meta.items() if isinstance(v, (str, int, float))}
    write_tensors(state_dict, file, {"format": "pt", **text})


class AsyncCheckpointSaver:
    """Writes checkpoints in a thread while training goes on; at most one is under way.

    :meth:`save` copies the tensors into memory that is kept from one save to the next, and returns;
    only this copy holds the loop up. A save that starts while another is being written waits for it.
    An error of the writing thread is raised by the next call of any method. What is under way when
    the interpreter exits is finished first.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mmx-checkpoint")
        self._pending: Future[None] | None = None
        # One buffer for each place in the checkpoint, reused as long as shape and type stay.
        self._buffers: dict[str, torch.Tensor] = {}

    def save(
        self,
        checkpoint: dict[str, Any],
        filename: str | os.PathLike[str],
        backend_args: dict[str, Any] | None = None,
        *,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Copy ``checkpoint`` and write it in the background.

        Args:
            checkpoint: Tensors and plain data; free to change once this method returns.
            filename: As for :func:`save_checkpoint`.
            backend_args: Arguments of the file back end.
            then: Called in the writing thread after the file is durable, for example to delete
                older ones. Not called if writing failed.

        Raises:
            CheckpointError: An earlier save failed.
        """
        self.wait()
        staged = self._stage(to_plain(checkpoint))
        name = os.fspath(filename)

        def write() -> None:
            write_plain(staged, name, backend_args)
            if then is not None:
                then()

        self.submit(write)

    def submit(self, write: Callable[[], None]) -> None:
        """Call a function that writes in the thread, once nothing else is being written.

        Raises:
            CheckpointError: An earlier save failed.
        """
        self.wait()
        self._pending = self._thread.submit(write)

    def check(self) -> None:
        """Raise the error of a finished save, if it had one; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written, and raise the error of that save, if it had one."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Finish what is under way, end the thread and free the buffers."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._buffers.clear()

    def _stage(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        staging = _Staging(self._buffers)
        staged: dict[str, Any] = staging.stage(checkpoint, "")
        staging.copy()
        self._buffers = staging.used  # buffers of tensors that are gone are freed
        return staged


class _Staging:
    """Puts buffers in the place of a checkpoint's tensors, and copies these into them.

    Not a function within the one above: that would hold itself, and with that the tensors, until
    garbage is collected.
    """

    def __init__(self, buffers: dict[str, torch.Tensor]) -> None:
        self.buffers = buffers
        self.used: dict[str, torch.Tensor] = {}
        self.sources: list[torch.Tensor] = []
        self.targets: list[torch.Tensor] = []
        self.copies: dict[tuple[Any, ...], torch.Tensor] = {}  # tied weights stay tied in the file

    def stage(self, value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            return self._buffer(value.detach(), path)
        if isinstance(value, dict):
            result: Any = type(value)((k, self.stage(v, f"{path}/{k}")) for k, v in value.items())
            if hasattr(value, "_metadata"):
                result._metadata = value._metadata
            return result
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)(self.stage(v, f"{path}/{i}") for i, v in enumerate(value))
        return value

    def _buffer(self, source: torch.Tensor, path: str) -> torch.Tensor:
        identity = (
            source.data_ptr(),
            source.dtype,
            source.shape,
            source.stride(),
            str(source.device),
        )
        if source.numel() and identity in self.copies:
            return self.copies[identity]
        buffer = self.buffers.get(path)
        if buffer is None or buffer.shape != source.shape or buffer.dtype != source.dtype:
            pinned = source.device.type == "cuda"
            buffer = torch.empty_like(source, device="cpu", pin_memory=pinned)
        self.used[path] = self.copies[identity] = buffer
        self.sources.append(source)
        self.targets.append(buffer)
        return buffer

    def copy(self) -> None:
        for target, source in zip(self.targets, self.sources, strict=True):
            target.copy_(source, non_blocking=True)
        if any(s.device.type != "cpu" for s in self.sources):
            torch.accelerator.synchronize()
