"""Models from configs without the memory of their weights, and batches for them to run on."""

from __future__ import annotations

import copy
import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._pytree import tree_map

from mmx.analysis.plan.traffic import dtype_of
from mmx.strategy.building import model_from

# From a number of samples to what runs a model on so many.
Batch = Callable[[int], Callable[[Any], Any]]


class CannotPlanError(ValueError):
    """A plan cannot be made; the message says why, and what can be done."""


@contextmanager
def weights_without_memory() -> Iterator[None]:
    """Let weights that modules take in a block lose their memory; all else computes as ever.

    So models can be built whose building computes: the meta device would give no numbers.
    """
    made: dict[int, tuple[weakref.ref[Any], nn.Parameter]] = {}

    def forget(module: nn.Module, name: str, parameter: nn.Parameter) -> Any:
        if parameter is None or parameter.is_meta or nn.parameter.is_lazy(parameter):
            return None
        known = made.get(id(parameter))
        if known is None or known[0]() is not parameter:
            bare = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
            made[id(parameter)] = known = (weakref.ref(parameter), bare)
        return known[1]

    handle = register_module_parameter_registration_hook(forget)
    try:
        yield
    finally:
        handle.remove()


def build_model(config: Any) -> nn.Module:
    """Return a model whose weights have no memory, in training mode.

    Buffers have theirs. A model that needs numbers from its weights while it is built is built
    with memory, which it then loses.

    Raises:
        CannotPlanError: It cannot be built here, or has weights without a shape.
    """
    try:
        with weights_without_memory():
            model = model_from(copy.deepcopy(config))
    except Exception as first:  # noqa: BLE001  # code of the model
        try:
            model = model_from(copy.deepcopy(config))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise CannotPlanError(
                f"its model cannot be built: {text}. Without memory for its weights it ended in "
                f"{type(first).__name__}: {first}"
                if str(first) != str(error)
                else f"its model cannot be built: {text}"
            ) from error
    lazy = [n for n, p in model.named_parameters() if nn.parameter.is_lazy(p)]
    if lazy:
        raise CannotPlanError(
            f"{', '.join(lazy)} of its model have no shape before the first batch (lazy layers); "
            "give the layers their sizes"
        )
    return model.train()


def on_meta(model: nn.Module) -> nn.Module:
    """Return a model with all tensors on the meta device."""
    return model.to("meta")


def batch_of_shapes(shapes: Sequence[str]) -> Batch:
    """Return a batch of tensors.

    Args:
        shapes: For each input of the model the shape of one sample and, behind a colon, its dtype:
            ``3,224,224``, ``512:int64``.

    Raises:
        CannotPlanError: A shape is written in another way.
    """
    parsed = []
    for text in shapes:
        sizes, _, kind = text.partition(":")
        try:
            shape = [int(size) for size in sizes.replace("x", ",").split(",") if size.strip()]
            dtype = dtype_of(kind.strip() or "float32")
        except ValueError:
            shape = [-1]
        if any(size < 1 for size in shape):
            raise CannotPlanError(f"--input-shape is like 3,224,224 or 512:int64, but got {text!r}")
        parsed.append((shape, dtype))

    def batch(size: int) -> Callable[[Any], Any]:
        def call(model: Any) -> Any:
            return model(*(torch.zeros(size, *shape, dtype=dtype) for shape, dtype in parsed))

        return call

    return batch


def batch_of_data(loader: Mapping[str, Any], preprocessor: nn.Module | None) -> Batch:
    """Return a batch of the data that a config trains on, run as in training.

    Args:
        loader: ``train_dataloader``.
        preprocessor: The model's own, with memory.
    """
    from mmx.dataset.loader import build_dataloader

    config = {**copy.deepcopy(dict(loader)), "num_workers": 0}
    for key in ("persistent_workers", "prefetch_factor", "pin_memory"):
        config.pop(key, None)
    built = build_dataloader(config, seed=0)
    dataset: Any = built.dataset

    @functools.cache
    def collated(size: int) -> Any:
        data = built.collate_fn(samples(size))
        return data if preprocessor is None else preprocessor(data, True)

    def samples(size: int) -> list[Any]:
        if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
            return [dataset[index % len(dataset)] for index in range(size)]
        endless: Iterable[Any] = dataset
        return list(itertools.islice(endless, size))

    def batch(size: int) -> Callable[[Any], Any]:
        data = collated(size)

        def call(model: Any) -> Any:
            given = tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, data)
            if hasattr(model, "_run_forward"):
                return model._run_forward(given, mode="loss")
            if isinstance(given, Mapping):
                return model(**given)
            return model(*given) if isinstance(given, list | tuple) else model(given)

        return call

    return batch
