"""Weights and random numbers that several ranks have copies of, and that must be equal on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as torch_dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate

# Collectives that may be under way at once: each keeps its tensor and, on some devices, a buffer.
_IN_FLIGHT = 64


def take_from_first_rank(model: nn.Module) -> None:
    """Give all ranks the weights and buffers of rank 0, as distributed data parallel training does.

    Every rank must call, with a model whose tensors are whole.
    """
    _broadcast((tensor.detach(), None) for tensor in _tensors(model))


def make_copies_equal(model: nn.Module, mesh: DeviceMesh) -> None:
    """Give tensors that several ranks of a mesh have copies of, in whole or in part, equal values.

    They are those of the first rank along each axis over which a tensor is not split. Every rank
    must call.

    Args:
        model: A model that was split over ``mesh`` or parts of it.
        mesh: All ranks; its axes have names.
    """
    names = mesh.mesh_dim_names or ()
    for name in names:
        _broadcast(
            (_local(tensor), mesh.get_group(name))
            for tensor in _tensors(model)
            if mesh.size(names.index(name)) > 1 and not _is_split(tensor, name)
        )


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def _is_split(tensor: torch.Tensor, axis: str) -> bool:
    if not isinstance(tensor, DTensor):
        return False
    names = tensor.device_mesh.mesh_dim_names or ()
    return axis in names and not isinstance(tensor.placements[names.index(axis)], Replicate)


def _broadcast(tensors: Iterator[tuple[torch.Tensor, Any]]) -> None:
    """Broadcast each tensor from the first rank of its group (None: of all ranks), in place."""
    pending: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
    for tensor, group in tensors:
        dense = tensor.contiguous()
        work = torch_dist.broadcast(dense, group=group, group_src=0, async_op=True)
        pending.append((work, tensor, dense))
        if len(pending) == _IN_FLIGHT:
            _finish(pending)
    _finish(pending)


def _finish(pending: list[tuple[Any, torch.Tensor, torch.Tensor]]) -> None:
    for work, tensor, dense in pending:
        if work is not None:
            work.wait()
        if dense is not tensor:
            tensor.copy_(dense)
    pending.clear()


@contextmanager
def own_random_numbers(mesh: DeviceMesh) -> Iterator[None]:
    """Let each rank draw numbers of its own, so that the parts of a split weight are not alike.

    Accelerators draw those of a part at its place in the whole; the CPU begins each part anew. The
    random state goes on as if one number had been drawn.
    """
    if mesh.device_type != "cpu":
        yield
        return
    seed = int(torch.randint(2**62, ()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + torch_dist.get_rank())
        yield


@contextmanager
def numbers_of_own_part(mesh: DeviceMesh) -> Iterator[None]:
    """Let each rank of a mesh draw other numbers than the others, which draw the same elsewhere.

    They follow from the random state that all have: a run that is resumed, and a part that is
    computed again, draw them again, and it is the same on all ranks afterwards, whatever each drew.
    """
    drawn = torch.randint(2**62, ())
    if type(drawn) is not torch.Tensor:  # a plan, which computes without memory
        yield
        return
    seed = int(drawn) + mesh.get_local_rank()
    kind = mesh.device_type
    if kind == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    module: Any = torch.get_device_module(kind)
    with torch.random.fork_rng(devices=[module.current_device()], device_type=kind):
        torch.default_generator.manual_seed(seed)
        module.manual_seed(seed)
        yield


def keep_random_states(mesh: DeviceMesh) -> None:
    """Let random operations on split tensors begin with each rank's state.

    By itself torch gives, when it meets the first of them, the state of rank 0 to all ranks, also
    to those that train on other samples and drew other numbers for them.
    """
    from torch.distributed.tensor import _random

    if mesh.device_type != "cpu" and _random._rng_tracker is None:
        _random._rng_tracker = _random.OffsetBasedRNGTracker(mesh, run_state_sync=False)
