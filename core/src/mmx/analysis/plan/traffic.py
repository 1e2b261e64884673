"""What ranks send to each other in a step, and how long it takes.

The formulas and where they come from:

- ring all-reduce of ``G`` bytes over ``N`` ranks: each rank sends ``2 (N - 1) / N * G`` in
  ``2 (N - 1)`` messages (Patarasuk and Yuan, *Bandwidth optimal all-reduce algorithms for clusters
  of workstations*, JPDC 2009);
- all-gather and reduce-scatter are its halves: ``(N - 1) / N * G`` in ``N - 1`` messages;
- sharded weights, gradients and optimizer state take ``1 / N`` of their memory for 1.5 times the
  traffic of DDP, as weights are gathered for both passes (Rajbhandari et al., *ZeRO*, SC 2020,
  sections 5 and 7);
- PowerSGD sends two thin factors of rank ``r`` for each matrix of gradients (Vogels et al.,
  *PowerSGD*, NeurIPS 2019, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from mmx.analysis.plan.pretend import Collectives

# Limits of DDP's buckets, in bytes: torch.distributed._DEFAULT_FIRST_BUCKET_BYTES, bucket_cap_mb.
FIRST_BUCKET, BUCKET = 1 << 20, 25 << 20


@dataclass(frozen=True)
class Links:
    """How fast ranks compute and send.

    Attributes:
        link: Bytes per second that a rank sends to another machine.
        local_link: Bytes per second that it sends within its machine.
        ranks_per_machine: Ranks that share a machine.
        latency_s: Seconds before a message's first byte arrives.
        flops: Floating-point operations per second that a rank really reaches.
        host_link: Bytes per second between the memory of a device and its host, each way.
    """

    link: float = 12.5e9
    local_link: float = 300e9
    ranks_per_machine: int = 8
    latency_s: float = 10e-6
    flops: float = 100e12
    host_link: float = 25e9

    def slowest(self, ranks: int) -> float:
        """Return the bandwidth of the slowest link of a ring over so many neighbouring ranks."""
        if ranks <= self.ranks_per_machine:
            return self.local_link
        return min(self.link, self.local_link)


@dataclass
class Traffic:
    """What one rank sends in one step of the optimizer.

    Attributes:
        collectives: Kind -> (calls, bytes of the whole tensors that they work on).
        sent: Bytes sent by a rank, equal to what crosses each link of the ring.
        messages: Messages sent by a rank.
    """

    collectives: Collectives
    sent: int
    messages: int

    def times(self, count: int) -> Traffic:
        """Return the traffic of doing this so many times."""
        return Traffic(
            {
                kind: (calls * count, size * count)
                for kind, (calls, size) in self.collectives.items()
            },
            self.sent * count,
            self.messages * count,
        )

    def and_also(self, other: Traffic) -> Traffic:
        """Return the traffic of this and another."""
        kinds = [*self.collectives, *(k for k in other.collectives if k not in self.collectives)]
        none = (0, 0)
        added: Collectives = {}
        for kind in kinds:
            (calls, size), (more, larger) = (t.collectives.get(kind, none) for t in (self, other))
            added[kind] = (calls + more, size + larger)
        return Traffic(added, self.sent + other.sent, self.messages + other.messages)

    def seconds(self, links: Links, ranks: int) -> float:
        """Return how long it takes over a ring of so many neighbouring ranks."""
        return self.sent / links.slowest(ranks) + self.messages * links.latency_s


def of_collectives(collectives: Collectives, ranks: int) -> Traffic:
    """Return the traffic of collectives over a ring of ``ranks``."""
    if ranks == 1:
        return Traffic({}, 0, 0)
    sent = messages = 0
    for kind, (calls, size) in collectives.items():
        # A broadcast passes everything on once, in parts; an exchange keeps its own part.
        rounds = 2 if kind == "all_reduce" else 1
        sent += rounds * (ranks - 1) * size // ranks
        messages += rounds * (ranks - 1) * calls
    return Traffic({k: v for k, v in collectives.items() if v[0]}, sent, messages)


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this rank holds, itself if it is not split."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_bytes(shape: Sequence[int], itemsize: int, ranks: int) -> int:
    """Return the bytes of rank 0's part of a tensor that ``fully_shard`` cuts along its first axis.

    Ranks get ``ceil(rows / ranks)`` rows as long as there are any.
    """
    if not shape:
        return itemsize
    rows = math.ceil(shape[0] / ranks)
    return rows * math.prod(shape[1:]) * itemsize


def shard_groups(
    model: nn.Module, chosen: Callable[[str, nn.Module], bool]
) -> list[list[nn.Parameter]]:
    """Return the parameters that are gathered together: each chosen module's, then what is left.

    What is left, which may be nothing, is gathered throughout both passes.
    """
    groups: list[list[nn.Parameter]] = []
    taken: set[int] = set()
    for name, module in reversed(list(model.named_modules())):
        if module is not model and not chosen(name, module):
            continue
        own = [p for p in module.parameters() if id(p) not in taken]
        taken.update(id(p) for p in own)
        if own or module is model:
            groups.append(own)
    return groups


def bucketed(parameters: Iterable[nn.Parameter], cap: int = BUCKET) -> list[list[nn.Parameter]]:
    """Return the buckets that DDP puts gradients into.

    A bucket holds one dtype, and closes when it is full.

    Args:
        parameters: In the order in which they are put into buckets.
        cap: Bytes of a bucket; the first holds no more than 1 MiB.
    """
    closed: list[list[nn.Parameter]] = []
    limits: dict[torch.dtype, int] = {}
    filling: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        bucket = filling.setdefault(parameter.dtype, [])
        bucket.append(parameter)
        if sum(p.nbytes for p in bucket) >= limits.get(parameter.dtype, min(FIRST_BUCKET, cap)):
            closed.append(filling.pop(parameter.dtype))
            limits[parameter.dtype] = cap
    return closed + list(filling.values())


@dataclass(frozen=True)
class DDPOptions:
    """What of DDP's options changes its traffic or memory.

    Attributes:
        bucket_cap: Bytes of a bucket.
        bucket_view: Gradients are views into the buckets.
        compression: ``'fp16'``, ``'bf16'``, ``'powerSGD'`` or None.
        rank: Of PowerSGD's factors.
        min_compression_rate: Matrices that would shrink less than this are sent as they are.
        error_feedback: PowerSGD keeps what it left out, to add it in the next step.
        find_unused: Ranks tell each other which parameters they used.
        sync_buffers: Buffers are made equal in each forward pass.
        by_child: Each child of the model is wrapped on its own.
    """

    bucket_cap: int = BUCKET
    bucket_view: bool = False
    compression: str | None = None
    rank: int = 1
    min_compression_rate: float = 2
    error_feedback: bool = True
    find_unused: bool = False
    sync_buffers: bool = False
    by_child: bool = False

    def units(self, model: nn.Module) -> list[nn.Module]:
        """Return the modules that are wrapped."""
        if not self.by_child:
            return [model]
        return [c for c in model.children() if any(p.requires_grad for p in c.parameters())]

    def buckets(
        self, model: nn.Module, order: Sequence[str] | None = None
    ) -> list[list[nn.Parameter]]:
        """Return the buckets of all wrapped modules.

        Args:
            model: The model.
            order: Names of parameters in the order of their gradients in the backward pass, in
                which buckets are made anew after the first; by default from the last to the first.
                They stay in the order of the model where unused ones are looked for.
        """
        named = dict(model.named_parameters())
        ready = [*reversed(named.values())]
        if order is not None:
            first = set(order)
            ready = [named[n] for n in order] + [
                named[n] for n in reversed(named) if n not in first
            ]
        if self.find_unused:
            ready = list(named.values())
        found = []
        for unit in self.units(model):
            own = {id(p) for p in unit.parameters()}
            found += bucketed([p for p in ready if id(p) in own], self.bucket_cap)
        return found


def ddp_traffic(
    model: nn.Module,
    ranks: int,
    options: DDPOptions | None = None,
    order: Sequence[str] | None = None,
) -> Traffic:
    """Return what DDP sends in a step: an all-reduce of each bucket of gradients.

    Args:
        model: The model.
        ranks: Number of processes.
        options: Of DDP.
        order: Of gradients, see :meth:`DDPOptions.buckets`.
    """
    options = options or DDPOptions()
    calls = total = 0
    for bucket in options.buckets(model, order):
        for size in _reduced(bucket, options):
            calls, total = calls + 1, total + size
    if options.find_unused:
        for unit in options.units(model):
            # An int32 for each parameter tells how many ranks used it.
            calls, total = calls + 1, total + 4 * sum(p.requires_grad for p in unit.parameters())
    return of_collectives({"all_reduce": (calls, total)}, ranks)


def buffer_traffic(model: nn.Module, ranks: int, options: DDPOptions) -> Traffic:
    """Return what DDP sends in a step to make buffers equal: a broadcast from rank 0.

    While gradients accumulate it does not. Buffers travel in buckets of 250 MiB, each of one dtype.
    """
    found: Collectives = {}
    if options.sync_buffers:
        for unit in options.units(model):
            sizes: dict[torch.dtype, int] = {}
            for buffer in unit.buffers():
                sizes[buffer.dtype] = sizes.get(buffer.dtype, 0) + buffer.nbytes
            for size in sizes.values():
                calls, total = found.get("broadcast", (0, 0))
                found["broadcast"] = (calls + math.ceil(size / (250 << 20)), total + size)
    return of_collectives(found, ranks)


def _reduced(bucket: list[nn.Parameter], options: DDPOptions) -> list[int]:
    """Return the bytes of each all-reduce that a bucket takes."""
    if options.compression in ("fp16", "bf16"):
        return [2 * sum(p.numel() for p in bucket)]
    itemsize = bucket[0].element_size()
    if options.compression == "powerSGD":
        plain, left, right = 0, 0, 0
        for parameter in bucket:
            rows = parameter.shape[0] if parameter.dim() else 1
            columns = parameter.numel() // max(rows, 1)
            rank = min(rows, columns, options.rank)
            small = (rows + columns) * options.rank * options.min_compression_rate
            if parameter.dim() > 1 and small < rows * columns:
                left, right = left + rows * rank, right + columns * rank
            else:
                plain += parameter.numel()
        return [size * itemsize for size in (plain, left, right)]
    return [sum(p.nbytes for p in bucket)]


def fsdp_traffic(
    groups: list[list[nn.Parameter]],
    ranks: int,
    *,
    reshard_after_forward: bool = True,
    gathered_itemsize: int | None = None,
    reduced_itemsize: int | None = None,
    accumulation: int = 1,
) -> Traffic:
    """Return what sharded training sends in a step.

    Weights are gathered for the forward pass and, if they were sharded again after it, for the
    backward pass, in each iteration; gradients are reduced and scattered in the last. Shards are
    padded to equal size.
    """

    def padded(group: list[nn.Parameter], itemsize: int | None) -> int:
        return sum(
            ranks * shard_bytes(local_of(p).shape, itemsize or p.element_size(), ranks)
            for p in group
        )

    groups = [group for group in groups if group]
    gathers = (2 if reshard_after_forward else 1) * accumulation
    trained = [[p for p in g if p.requires_grad] for g in groups]
    trained = [g for g in trained if g]
    gathered = gathers * sum(padded(g, gathered_itemsize) for g in groups)
    reduced = sum(padded(g, reduced_itemsize or gathered_itemsize) for g in trained)
    return of_collectives(
        {
            "all_gather": (gathers * len(groups), gathered),
            "reduce_scatter": (len(trained), reduced),
        },
        ranks,
    )


def copies_traffic(
    groups: list[list[nn.Parameter]], shards: int, copies: int, itemsize: int | None
) -> Traffic:
    """Return what groups of ranks that each shard the weights send each other in a step.

    The gradients of each shard are averaged over the copies, once they are reduced within each.

    Args:
        groups: What is reduced together.
        shards: Ranks of a group.
        copies: Number of groups.
        itemsize: Bytes per element of reduced gradients; None is that of the weights.
    """
    sizes = [
        sum(
            shard_bytes(local_of(p).shape, itemsize or p.element_size(), shards)
            for p in group
            if p.requires_grad
        )
        for group in groups
    ]
    sizes = [size for size in sizes if size]
    return of_collectives({"all_reduce": (len(sizes), sum(sizes))}, copies)


def sync_bn_traffic(model: nn.Module, ranks: int, convert: bool) -> Traffic:
    """Return what synchronised batch normalisation sends in an iteration.

    A layer of ``C`` channels gathers mean, variance and count (``2 C + 1`` numbers of each rank) in
    the forward pass, and adds up ``2 C`` numbers in the backward pass.

    Args:
        model: The model.
        ranks: Number of processes.
        convert: Ordinary layers are made synchronised, too.
    """
    kinds: tuple[type, ...] = (nn.SyncBatchNorm,)
    if convert:
        kinds = (*kinds, nn.modules.batchnorm._BatchNorm)
    layers: list[Any] = [m for m in model.modules() if isinstance(m, kinds)]
    sizes = [
        (m.num_features, (m.weight if m.weight is not None else torch.empty(0)).element_size())
        for m in layers
    ]
    return of_collectives(
        {
            "all_gather": (len(sizes), sum(ranks * (2 * c + 1) * size for c, size in sizes)),
            "all_reduce": (len(sizes), sum(2 * c * size for c, size in sizes)),
        }
        if sizes
        else {},
        ranks,
    )


def itemsize_of(value: Any) -> int | None:
    """Return the bytes per element of a dtype or its name; None stays None."""
    dtype = dtype_of(value)
    return None if dtype is None else dtype.itemsize


def dtype_of(value: Any) -> torch.dtype | None:
    """Return a dtype from itself or its name; None stays None.

    Raises:
        ValueError: There is no such dtype.
    """
    if value is None or isinstance(value, torch.dtype):
        return value
    found = getattr(torch, str(value).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{value!r} is no torch dtype; give 'bfloat16', 'float16' or 'float32'")
    return found
