"""State of optimizers, found by stepping them on weights that have shapes and no memory."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmx.analysis.plan.build import CannotPlanError
from mmx.analysis.plan.pretend import Recorder
from mmx.analysis.plan.traffic import Traffic, local_of, of_collectives
from mmx.strategy.building import optim_wrapper_from

# Arguments of wrappers that say nothing about state, and may need a device that is not here.
_OF_WRAPPERS = ("loss_scale", "dtype", "use_fsdp", "opt_level", "enabled")
_OF_ZERO = ("optimizer_type", "parameters_as_bucket_view", "overlap_with_ddp", "process_group")


@dataclass(frozen=True)
class Held:
    """State of one weight.

    Attributes:
        per_element: Bytes for each element of the part that a rank holds.
        fixed: Bytes whatever the size of that part: counters, factors of another shape.
    """

    per_element: int = 0
    fixed: int = 0


@dataclass
class OptimizerState:
    """State of a model's optimizers.

    Attributes:
        held: Name of the weight -> its state.
        partitioned: Each weight's state is on one rank only (``ZeroRedundancyOptimizer``).
        by_bucket: With it, ranks send each other their weights in one piece.
        traffic: What a rank sends to clip gradients and to step.
        problem: Why it is not known, or what fails in training; None if all is well.
    """

    held: dict[str, Held] = field(default_factory=dict)
    partitioned: bool = False
    by_bucket: bool = False
    traffic: Traffic = field(default_factory=lambda: Traffic({}, 0, 0))
    problem: str | None = None

    def bytes_of(self, parts: Mapping[str, int], ranks: int = 1) -> int:
        """Return the bytes on the rank that holds most.

        Args:
            parts: Name of each weight -> elements that a rank holds.
            ranks: Processes among which a partitioned state is divided.
        """
        sizes = {name: one.per_element * parts[name] + one.fixed for name, one in self.held.items()}
        if not self.partitioned:
            return sum(sizes.values())
        return max(sum(sizes.get(n, 0) for n in share) for share in partition(parts, ranks))


def partition(parts: Mapping[str, int], ranks: int) -> list[list[str]]:
    """Return which weights' state each rank keeps: the largest first, each to who has least."""
    shares: list[list[str]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for name in sorted(parts, key=lambda n: -parts[n]):
        load, least = loads[0]
        shares[least].append(name)
        heapq.heapreplace(loads, (load + parts[name], least))
    return shares


class _KnownNumbers(TorchDispatchMode):
    """Gives numbers to those who ask weights without memory for their values.

    Optimizers scale steps by them; shapes of state do not depend on them.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return 0.5 if dtype.is_floating_point else dtype is torch.bool or 1
        return func(*args, **(kwargs or {}))


def build_optimizers(
    config: Any, model: nn.Module, join: Callable[[nn.Module, Any], Any] | None = None
) -> tuple[list[Any], bool, bool]:
    """Return (optimizer wrappers, state is partitioned, by bucket) of ``optim_wrapper``.

    Wrappers of mixed precision are built as ordinary ones, ``ZeroRedundancyOptimizer`` as the
    optimizer that it divides.

    Args:
        config: ``optim_wrapper``.
        model: The model.
        join: Lets them step as the strategy wants it.
    """
    if not isinstance(config, Mapping) or not {"optimizer", "constructor"} & set(config):
        raise CannotPlanError(
            "its optim_wrapper holds finished optimizers, which step on weights of their own; "
            "describe them: optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1))"
        )
    config = copy.deepcopy(dict(config))
    partitioned = by_bucket = False
    if "optimizer" in config:
        # One that several are built for may have a type of its own.
        config["type"] = "OptimWrapper"
        for key in _OF_WRAPPERS:
            config.pop(key, None)
    optimizer = config.get("optimizer")
    if isinstance(optimizer, Mapping) and _name(optimizer) == "ZeroRedundancyOptimizer":
        partitioned = True
        by_bucket = bool(optimizer.get("parameters_as_bucket_view"))
        inner = {k: v for k, v in optimizer.items() if k not in _OF_ZERO}
        config["optimizer"] = {**inner, "type": optimizer.get("optimizer_type")}
    built: Any = optim_wrapper_from(config, model)
    if join is not None:
        join(model, built)
    wrappers = list(built.values()) if hasattr(built, "values") else [built]
    return wrappers, partitioned, by_bucket


def _name(config: Mapping[str, Any]) -> str:
    kind = config.get("type")
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")


def step_optimizers(
    wrappers: Sequence[Any], model: nn.Module, ranks: int
) -> tuple[dict[str, Held], Traffic]:
    """Clip, step, and return (name of weight -> state, what was sent).

    Args:
        wrappers: Optimizer wrappers.
        model: Theirs, on the meta device; its weights may be split over ranks.
        ranks: Processes over which collectives go.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    recorder = Recorder()
    with _KnownNumbers(), recorder:
        for wrapper in wrappers:
            if wrapper.clip_grad_kwargs:
                wrapper.clip_func(
                    [
                        p
                        for g in wrapper.optimizer.param_groups
                        for p in g["params"]
                        if p.requires_grad
                    ],
                    **wrapper.clip_grad_kwargs,
                )
            wrapper.optimizer.step()
    held = {}
    for name, parameter in model.named_parameters():
        for wrapper in wrappers:
            entries = wrapper.optimizer.state.get(parameter)
            if entries:
                held[name] = _held(parameter, entries.values())
        parameter.grad = None
    return held, of_collectives(recorder.collectives, ranks)


def _held(parameter: nn.Parameter, entries: Iterable[Any]) -> Held:
    per_element = fixed = 0
    local = local_of(parameter.data).shape
    for value in entries:
        for tensor in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(tensor, torch.Tensor):
                continue
            if tensor.shape == parameter.shape and local_of(tensor).shape == local:
                per_element += tensor.element_size()
            else:
                fixed += local_of(tensor).nbytes
    return Held(per_element, fixed)


def zero_traffic(model: nn.Module, ranks: int, by_bucket: bool) -> Traffic:
    """Return what ``ZeroRedundancyOptimizer`` sends: each rank broadcasts the weights it stepped.

    Args:
        model: The model.
        ranks: Number of processes.
        by_bucket: A rank's trained weights travel in one piece, by dtype; else all weights do, one
            by one.
    """
    named = dict(model.named_parameters())
    if not by_bucket:
        sent = {"broadcast": (len(named), sum(p.nbytes for p in named.values()))}
        return of_collectives(sent, ranks)
    trained = {n: p for n, p in named.items() if p.requires_grad}
    shares = partition({n: p.numel() for n, p in named.items()}, ranks)
    calls = sum(len({trained[n].dtype for n in share if n in trained}) for share in shares)
    return of_collectives({"broadcast": (calls, sum(p.nbytes for p in trained.values()))}, ranks)
