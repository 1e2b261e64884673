"""What a rank holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from mmx.analysis.plan.optimizer import OptimizerState
from mmx.analysis.plan.traffic import DDPOptions, local_of, shard_bytes


@dataclass
class Memory:
    """Bytes on the rank that holds most (rank 0).

    Attributes:
        weights: Parameters and buffers, or the rank's parts of them.
        gradients: Of the parameters.
        optimizer: State of the optimizer.
        buffers: What communication needs: DDP's buckets; gathered weights and gradients of sharded
            parts.
        activations: What autograd keeps for the backward pass; None if unknown.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    buffers: int = 0
    activations: int | None = 0

    @property
    def total(self) -> int:
        """Bytes of all that is known."""
        return sum(value or 0 for value in asdict(self).values())


@dataclass(frozen=True)
class ShardOptions:
    """How weights are sharded.

    Attributes:
        reshard_after_forward: They are gathered for each pass anew.
        gathered_itemsize: Bytes per element of gathered weights; None is that of the weights.
        reduced_itemsize: Bytes per element of reduced gradients; None is that of gathered weights.
        offload: Shards, gradients and optimizer state wait in the memory of the host.
        keep_gradients: Gradients are added up whole, before they are reduced.
    """

    reshard_after_forward: bool = True
    gathered_itemsize: int | None = None
    reduced_itemsize: int | None = None
    offload: bool = False
    keep_gradients: bool = False


def memory_of(
    model: nn.Module,
    ranks: int,
    *,
    state: OptimizerState | None = None,
    groups: list[list[nn.Parameter]] | None = None,
    sharding: ShardOptions | None = None,
    copied: bool = False,
    ddp: DDPOptions | None = None,
    activations: int | None = None,
) -> tuple[Memory, Memory | None]:
    """Return what a rank holds (on its device, on the host if weights wait there).

    Args:
        model: The model, on any device.
        ranks: Number of processes over which weights are sharded, if they are.
        state: Of the optimizer.
        groups: What is gathered together; None if nothing is sharded.
        sharding: How.
        copied: There are several copies of what is sharded.
        ddp: How gradients are averaged; None if they are not.
        activations: Bytes of activations.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    n = ranks if groups is not None else 1

    def part(values: Sequence[torch.Tensor]) -> int:
        return sum(shard_bytes(local_of(v).shape, v.element_size(), n) for v in values)

    elements = {name: shard_bytes(local_of(p).shape, 1, n) for name, p in model.named_parameters()}
    weights, gradients = part(list(model.parameters())), part(list(trained.values()))
    optimizer = 0 if state is None else state.bytes_of(elements, ranks)
    fixed = sum(local_of(b).nbytes for b in model.buffers())
    if groups is not None:
        sharding = sharding or ShardOptions()
        extra = 0
        if ranks > 1 or sharding.offload or sharding.gathered_itemsize is not None:
            extra = _gathered(groups, sharding)
        elif copied:
            # What is averaged at once.
            extra = max(sum(local_of(p).nbytes for p in g if p.requires_grad) for g in groups)
        if sharding.offload:
            return (
                Memory(fixed, 0, 0, extra, activations),
                Memory(weights, gradients, optimizer),
            )
    else:
        extra = _buckets(model, gradients, ddp) if ddp is not None and ranks > 1 else 0
    return Memory(weights + fixed, gradients, optimizer, extra, activations), None


def _gathered(groups: list[list[nn.Parameter]], options: ShardOptions) -> int:
    """Return the bytes of weights and gradients that are whole at once, at most.

    That is in the backward pass: the weights of one part, those of the next that are gathered
    meanwhile, gradients, and what is sent of them for this part and the one before. What is left
    over of the model is whole all the time.
    """

    def size(group: list[nn.Parameter], itemsize: int | None, trained: bool = True) -> int:
        return sum(
            local_of(p).numel() * (itemsize or p.element_size())
            for p in group
            if p.requires_grad or not trained
        )

    gathered = options.gathered_itemsize
    reduced = options.reduced_itemsize or gathered
    *parts, rest = groups
    weights = max((size(g, gathered, trained=False) for g in parts), default=0)
    gradients = max((size(g, gathered) for g in parts), default=0)
    sent = max((size(g, reduced) for g in parts), default=0)
    rest_weights = size(rest, gathered, trained=False)
    if options.reshard_after_forward:
        whole = rest_weights + weights + max(weights, sent)
    else:
        whole = sum(size(g, gathered, trained=False) for g in groups) + sent
    if options.keep_gradients:
        # Sums are kept in the type that they are reduced in.
        whole += sum(size(g, reduced) for g in groups)
        whole += gradients if reduced != gathered else 0
    else:
        whole += size(rest, gathered) + gradients
    last = size(rest, gathered) + size(rest, reduced)
    return max(whole + sent, last)


def _buckets(model: nn.Module, gradients: int, options: DDPOptions) -> int:
    extra = 0 if options.bucket_view else gradients
    elements = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if options.compression in ("fp16", "bf16"):
        extra += 2 * elements
    elif options.compression is not None and options.error_feedback:
        extra += gradients
    return extra
