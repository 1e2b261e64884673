"""Random states and the position of a run: what makes a resumed run equal to one never stopped."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mmx.dist import (
    all_gather_object,
    data_share,
    get_model_parallel_size,
    get_rank,
    get_world_size,
)

RandomState = dict[str, Any]

# Version of the "engine" section of a checkpoint; see docs/runner.md.
ENGINE_VERSION = 1


def capture_random_state(accelerators: bool = True) -> RandomState:
    """Return the state of all random number generators of this process, as plain data.

    Args:
        accelerators: Also those of the accelerator's devices, if it has been used.

    Returns:
        ``python`` (version, words, next Gaussian), ``numpy`` (algorithm, words, position, has
        Gaussian, Gaussian), ``torch`` (uint8 tensor) and ``accelerator`` (list of uint8 tensors,
        one per device).
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: RandomState = {
        "python": [version, list(words), gauss],
        # A tensor, not a list of numbers: checkpoints hold tensors and plain data only, and
        # NumPy arrays are neither.
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "accelerator": _accelerator_states() if accelerators else [],
    }
    return state


def restore_random_state(state: RandomState) -> None:
    """Set all random number generators of this process to a captured state."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    module = _accelerator_module()
    if module is not None and state.get("accelerator"):
        _restore_accelerator(module, state["accelerator"])


def _restore_accelerator(module: Any, states: list[torch.Tensor]) -> None:
    if not hasattr(module, "device_count") or module.__name__.endswith("mps"):
        module.set_rng_state(states[0].cpu())
        return
    own = [state for state in states if state.numel()]
    if len(own) == 1:
        # That of the device of the process that saved it, whose number may be another.
        module.set_rng_state(own[0].cpu())
        return
    for index, device_state in enumerate(states[: module.device_count()]):
        if device_state.numel():
            module.set_rng_state(device_state.cpu(), index)


def _accelerator_module() -> Any:
    """Return ``torch.cuda`` or its like if that accelerator has been initialised, else None."""
    if not torch.accelerator.is_available():
        return None
    device = torch.accelerator.current_accelerator()
    module = getattr(torch, device.type, None) if device is not None else None
    if module is None or not hasattr(module, "get_rng_state"):
        return None
    # Asking an unused accelerator for its state would initialise it, in this process and before
    # a fork of data workers.
    initialised = getattr(module, "is_initialized", lambda: True)
    return module if initialised() else None


def _accelerator_states() -> list[torch.Tensor]:
    module = _accelerator_module()
    if module is None:
        return []
    if not hasattr(module, "device_count") or module.__name__.endswith("mps"):
        return [module.get_rng_state()]
    # Only this process's device: its neighbours belong to other ranks, and touching them would
    # create a context on each.
    current = torch.accelerator.current_device_index()
    empty = torch.empty(0, dtype=torch.uint8)
    return [
        module.get_rng_state(index) if index == current else empty
        for index in range(module.device_count())
    ]


@contextmanager
def training_stream_kept(state: Any) -> Iterator[None]:
    """Run a block (a validation) without it touching the random numbers that training draws.

    Args:
        state: The :class:`~mmx.runner.state.TrainState`; checkpoints saved inside the block find
            the training stream in its ``stream``.
    """
    outer = state.stream
    kept = state.stream = outer if outer is not None else capture_random_state()
    try:
        yield
    finally:
        state.stream = outer
        if outer is None:
            restore_random_state(kept)


def gather_per_rank(value: Any) -> list[Any]:
    """Return the values of all ranks, in rank order; every rank must call."""
    if get_world_size() == 1:
        return [value]
    return list(all_gather_object(value))


def own_share(values: list[Any] | None, model_parallel_size: int = 1) -> Any:
    """Return this rank's entry of a list that :func:`gather_per_rank` made.

    If ranks hold copies of the model in another way now, it is the entry of the first rank that had
    this rank's share of the data: those that hold one copy together must draw the same numbers.

    Args:
        values: The list; None if there is none.
        model_parallel_size: How many ranks held one copy together when it was gathered.

    Returns:
        The entry, None if there were more or fewer shares then.
    """
    values = values or []
    if (len(values), model_parallel_size) == (get_world_size(), get_model_parallel_size()):
        return values[get_rank()]
    share, shares = data_share(get_rank(), get_world_size())
    first = values[::model_parallel_size]
    return first[share] if len(first) == shares else None
