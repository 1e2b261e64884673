"""A forward and a backward pass without memory: what autograd keeps, what is computed and sent.

Kept activations are counted, not estimated (Korthikanti et al., *Reducing activation recomputation
in large transformer models*, 2022, has the formulas for transformers): each storage once that
autograd or a checkpoint saves, weights left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves, tree_map

from mmx.analysis.plan.pretend import Collectives, Recorder
from mmx.analysis.plan.traffic import local_of
from mmx.strategy.activation_checkpointing import turn_on_activation_checkpointing


@dataclass
class Passes:
    """What one iteration takes.

    Attributes:
        kept: Bytes that autograd keeps for the backward pass.
        flops: Floating-point operations of both passes, with those that are done again.
        forward_flops: Those of the forward pass.
        collectives: Of both passes; see :class:`~mmx.analysis.plan.pretend.Recorder`.
        order: Names of the weights in the order in which their gradients become known.
    """

    kept: int
    flops: int
    forward_flops: int
    collectives: Collectives = field(default_factory=dict)
    order: tuple[str, ...] = ()


@dataclass(frozen=True)
class Precision:
    """In which types a pass computes.

    Attributes:
        autocast: Type of mixed precision; None for none.
        weights: Type that weights are cast to; None is their own.
        outputs: Type of the outputs of sharded parts; None is whatever comes.
        cast_inputs: Inputs of sharded parts are cast to the type of the weights.
        sharded: Which modules (name, module) are sharded one by one.
    """

    autocast: torch.dtype | None = None
    weights: torch.dtype | None = None
    outputs: torch.dtype | None = None
    cast_inputs: bool = True
    sharded: Callable[[str, nn.Module], bool] | None = None


def without_memory(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Put tensors that pretend to be on the CPU in the place of a model's own; return the model."""
    made: dict[int, Any] = {}

    def pretended(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in made:
            return made[id(tensor)]
        local = local_of(tensor.detach())
        with mode:
            new: torch.Tensor = torch.empty_strided(
                local.shape, local.stride(), dtype=local.dtype, device="cpu"
            )
        if isinstance(tensor, DTensor):
            new = DTensor.from_local(
                new,
                tensor.device_mesh,
                tensor.placements,
                run_check=False,
                shape=tensor.shape,
                stride=tensor.stride(),
            )
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        made[id(tensor)] = new
        return new

    for module in model.modules():
        tables: list[dict[str, Any]] = [module._parameters, module._buffers]
        for held in tables:
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = pretended(tensor)
    return model


def run_passes(
    model: nn.Module,
    call: Callable[[nn.Module], Any],
    *,
    recompute: Sequence[str] = (),
    precision: Precision | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> Passes:
    """Run a copy of a model forward and backward, without memory, and return what it takes.

    Args:
        model: The model, on the meta device; it stays as it is.
        call: Runs a model on a batch and returns its outputs or losses. Tensors that it makes have
            no memory.
        recompute: Names of modules whose activations are computed again.
        precision: Types to compute in.
        prepare: Changes the copy before it runs, as splitting its layers over ranks does.
    """
    model = copy.deepcopy(model)
    prepare_types(model, recompute, precision)
    if prepare is not None:
        prepare(model)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    without_memory(model, mode)
    split = any(isinstance(p, DTensor) for p in model.parameters())
    # Layouts of split tensors are worked out, with operations of their own, when first met.
    with mode:
        if split:
            measured(model, call, recompute, precision)
        return measured(model, call, recompute, precision)


def prepare_types(model: nn.Module, recompute: Sequence[str], precision: Precision | None) -> None:
    """Let a model, in place, compute in given types, and activations of parts again."""
    if recompute:
        turn_on_activation_checkpointing(model, list(recompute))
    _cast(model, precision or Precision())


def measured(
    model: nn.Module,
    call: Callable[[nn.Module], Any],
    recompute: Sequence[str] = (),
    precision: Precision | None = None,
) -> Passes:
    """Run a model forward and backward, as it is, and return what it takes."""
    kept = _Kept(model)
    recorder = Recorder()
    autocast = precision.autocast if precision is not None else None
    with ExitStack() as stack:
        stack.enter_context(kept.inputs_of(recompute))
        if autocast is not None:
            stack.enter_context(torch.autocast("cpu", autocast))
        with recorder, torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
            outputs = call(model)
        forward = recorder.flops
        kept_bytes = kept.total
        loss = _sum_of(outputs)
    order = _backward(model, loss, recorder)
    for parameter in model.parameters():
        parameter.grad = None
    return Passes(kept_bytes, recorder.flops, forward, recorder.collectives, order)


def _backward(model: nn.Module, loss: torch.Tensor | None, recorder: Recorder) -> tuple[str, ...]:
    """Go backward, and return the names of weights in the order of their gradients."""
    if loss is None:
        return ()
    order: list[str] = []

    def note(name: str) -> Callable[[torch.Tensor], None]:
        return lambda parameter: order.append(name)

    handles = [
        p.register_post_accumulate_grad_hook(note(name))
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    with recorder:
        loss.backward()
    for handle in handles:
        handle.remove()
    return tuple(dict.fromkeys(order))


class _Kept:
    """The storages that a pass keeps, those of weights left out."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._own = {
            local_of(t.detach()).untyped_storage()._cdata
            for t in [*model.parameters(), *model.buffers()]
        }
        # Held, so that the number of a storage is not given to another meanwhile.
        self._found: dict[int, Any] = {}

    @property
    def total(self) -> int:
        return sum(storage.nbytes() for storage in self._found.values())

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = local_of(tensor.detach()).untyped_storage()
        if storage._cdata not in self._own:
            self._found.setdefault(storage._cdata, storage)
        return tensor

    @contextmanager
    def inputs_of(self, names: Sequence[str]) -> Iterator[None]:
        """Keep what goes into modules that compute their activations again."""

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            for value in tree_leaves((args, kwargs)):
                if isinstance(value, torch.Tensor):
                    self.keep(value)

        found = dict(self._model.named_modules())
        handles = [found[n].register_forward_pre_hook(hook, with_kwargs=True) for n in names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _sum_of(outputs: Any) -> torch.Tensor | None:
    """Return a number that depends on all outputs, None if none of them has gradients."""
    values = [outputs] if isinstance(outputs, torch.Tensor) else tree_leaves(outputs)
    sums = [
        v.to_local().float().sum() if isinstance(v, DTensor) else v.float().sum()
        for v in values
        if isinstance(v, torch.Tensor) and v.requires_grad
    ]
    return sum(sums[1:], sums[0]) if sums else None


def _cast(model: nn.Module, precision: Precision) -> None:
    """Let a model compute as ``fully_shard`` makes it: weights, inputs and outputs of parts cast."""
    dtype = precision.weights
    if dtype is None and precision.outputs is None:
        return

    def to(value: Any, dtype: torch.dtype) -> Any:
        def one(leaf: Any) -> Any:
            is_float = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
            return leaf.to(dtype) if is_float else leaf

        return tree_map(one, value)

    def before(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> Any:
        assert dtype is not None
        return to(args, dtype), to(dict(kwargs), dtype)

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        assert precision.outputs is not None
        return to(output, precision.outputs)

    chosen = precision.sharded or (lambda *_: False)
    for name, module in model.named_modules():
        if module is not model and not chosen(name, module):
            continue
        if dtype is not None and precision.cast_inputs:
            module.register_forward_pre_hook(before, with_kwargs=True)
        if precision.outputs is not None:
            module.register_forward_hook(after)
    if dtype is None:
        return
    cast: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                new = cast.get(id(parameter))
                if new is None:
                    new = nn.Parameter(
                        parameter.detach().to(dtype), requires_grad=parameter.requires_grad
                    )
                    cast[id(parameter)] = new
                module._parameters[name] = new
