"""What a training step costs on many ranks, worked out on one machine without any of them.

The formulas and where they come from:

- ring all-reduce of ``G`` bytes over ``N`` ranks: each rank sends ``2 (N - 1) / N * G`` in
  ``2 (N - 1)`` messages (Patarasuk and Yuan, *Bandwidth optimal all-reduce algorithms for clusters
  of workstations*, JPDC 2009);
- all-gather and reduce-scatter are its halves: ``(N - 1) / N * G`` in ``N - 1`` messages;
- sharded weights, gradients and optimizer state take ``1 / N`` of their memory for 1.5 times the
  traffic of DDP, as weights are gathered for both passes (Rajbhandari et al., *ZeRO*, SC 2020,
  sections 5 and 7);
- a backward pass costs twice the forward pass (Kaplan et al., *Scaling laws for neural language
  models*, 2020, section 2.1; Korthikanti et al., *Reducing activation recomputation in large
  transformer models*, 2022, for the memory of activations, which is counted here, not estimated:
  what autograd keeps when the model runs on the meta device).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# Limits of DDP's buckets, in bytes: torch.distributed._DEFAULT_FIRST_BUCKET_BYTES, bucket_cap_mb.
_FIRST_BUCKET, _BUCKET = 1 << 20, 25 << 20


@dataclass(frozen=True)
class Links:
    """How fast ranks compute and send.

    Attributes:
        link: Bytes per second that a rank sends to another machine.
        local_link: Bytes per second that it sends within its machine.
        ranks_per_machine: Ranks that share a machine.
        latency_s: Seconds before a message's first byte arrives.
        flops: Floating-point operations per second that a rank really reaches.
    """

    link: float = 12.5e9
    local_link: float = 300e9
    ranks_per_machine: int = 8
    latency_s: float = 10e-6
    flops: float = 100e12

    def slowest(self, ranks: int) -> float:
        """Return the bandwidth of the slowest link of a ring over so many ranks."""
        if ranks <= self.ranks_per_machine:
            return self.local_link
        return min(self.link, self.local_link)


@dataclass
class Memory:
    """Bytes on the rank that holds most (rank 0).

    Attributes:
        weights: Parameters and buffers, or the rank's shards of them.
        gradients: Of the parameters.
        optimizer: State of the optimizer.
        buffers: What communication needs: DDP's buckets; the gathered weights and gradients of the
            largest sharded part.
        activations: What autograd keeps for the backward pass; None if unknown.
    """

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int | None

    @property
    def total(self) -> int:
        """Bytes of all that is known."""
        return sum(value or 0 for value in asdict(self).values())


@dataclass
class Traffic:
    """What one rank sends in one step.

    Attributes:
        collectives: Kind -> (calls, bytes of the whole tensors that they work on).
        sent: Bytes sent by a rank, equal to what crosses each link of the ring.
        messages: Messages sent by a rank.
    """

    collectives: dict[str, tuple[int, int]]
    sent: int
    messages: int


@dataclass
class Plan:
    """The plan of a run.

    Attributes:
        strategy: ``'single'``, ``'ddp'`` or ``'fsdp'``.
        ranks: Number of processes.
        parameters: Number of the model's parameters.
        memory: See :class:`Memory`.
        traffic: See :class:`Traffic`.
        compute_s: Seconds of computing in a step; None if the operations are not known.
        send_s: Seconds of sending in a step.
        step_s: Seconds of a step: (if sending hides behind computing, if it does not).
        efficiency: Part of the time of a step that computes, if nothing hides.
        scaling: ``(ranks, efficiency, samples per second)`` for growing numbers of ranks.
        stops_at: Fewest ranks with an efficiency below the wanted one; None if there are none.
        notes: What could not be found out, and why.
    """

    strategy: str
    ranks: int
    parameters: int
    memory: Memory
    traffic: Traffic
    compute_s: float | None
    send_s: float
    step_s: tuple[float, float] | None
    efficiency: float | None
    scaling: list[tuple[int, float, float]] = field(default_factory=list)
    stops_at: int | None = None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        result = asdict(self)
        result["memory"]["total"] = self.memory.total
        return result


def sharded_bytes(shape: Sequence[int], itemsize: int, ranks: int) -> int:
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
    """Return the parameters that are gathered together: each chosen module's, then what is left."""
    groups: list[list[nn.Parameter]] = []
    taken: set[int] = set()
    for name, module in reversed(list(model.named_modules())):
        if module is not model and not chosen(name, module):
            continue
        own = [p for p in module.parameters() if id(p) not in taken]
        taken.update(id(p) for p in own)
        if own:
            groups.append(own)
    return groups


def memory_of(
    model: nn.Module,
    ranks: int,
    *,
    state_per_byte: float = 0.0,
    state_per_weight: int = 0,
    groups: list[list[nn.Parameter]] | None = None,
    gathered_itemsize: int | None = None,
    bucket_view: bool = False,
    activations: int | None = None,
) -> Memory:
    """Return what a rank holds.

    Args:
        model: The model, on any device.
        ranks: Number of processes.
        state_per_byte: Bytes of optimizer state per byte of trained weights.
        state_per_weight: Bytes of optimizer state per weight, whatever its size (a counter).
        groups: What is sharded together; None if nothing is.
        gathered_itemsize: Bytes per element of gathered weights; None is that of the weights.
        bucket_view: Gradients are views into DDP's buckets.
        activations: Bytes of activations.
    """
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]

    def part(values: Sequence[torch.Tensor]) -> int:
        n = ranks if groups is not None else 1
        return sum(sharded_bytes(v.shape, v.element_size(), n) for v in values)

    extra = 0
    if groups is not None and ranks > 1:
        extra = max(
            sum(p.numel() * (gathered_itemsize or p.element_size()) for p in g)
            + sum(p.numel() * (gathered_itemsize or p.element_size()) for p in g if p.requires_grad)
            for g in groups
        )
    elif ranks > 1 and not bucket_view:
        extra = part(trained)
    return Memory(
        weights=part(parameters) + sum(b.nbytes for b in model.buffers()),
        gradients=part(trained),
        optimizer=round(part(trained) * state_per_byte) + len(trained) * state_per_weight,
        buffers=extra,
        activations=activations,
    )


def ddp_buckets(model: nn.Module, bucket_cap: int = _BUCKET) -> list[int]:
    """Return the bytes of the buckets in which DDP reduces gradients, the last layers' first."""
    buckets: list[int] = []
    open_bytes, limit = 0, min(_FIRST_BUCKET, bucket_cap)
    for parameter in reversed([p for p in model.parameters() if p.requires_grad]):
        open_bytes += parameter.nbytes
        if open_bytes >= limit:
            buckets.append(open_bytes)
            open_bytes, limit = 0, bucket_cap
    return [*buckets, open_bytes] if open_bytes else buckets


def ddp_traffic(model: nn.Module, ranks: int, bucket_cap: int = _BUCKET) -> Traffic:
    """Return what DDP sends in a step: an all-reduce of each bucket of gradients."""
    buckets = ddp_buckets(model, bucket_cap) if ranks > 1 else []
    total = sum(buckets)
    return Traffic(
        collectives={"all_reduce": (len(buckets), total)} if buckets else {},
        sent=2 * (ranks - 1) * total // ranks,
        messages=2 * (ranks - 1) * len(buckets),
    )


def fsdp_traffic(
    groups: list[list[nn.Parameter]],
    ranks: int,
    *,
    reshard_after_forward: bool = True,
    gathered_itemsize: int | None = None,
    reduced_itemsize: int | None = None,
) -> Traffic:
    """Return what sharded training sends in a step.

    Weights are gathered for the forward pass and, if they were sharded again after it, for the
    backward pass; gradients are reduced and scattered once. Shards are padded to equal size.
    """
    if ranks == 1:
        return Traffic({}, 0, 0)

    def padded(group: list[nn.Parameter], itemsize: int | None) -> int:
        return sum(
            ranks * sharded_bytes(p.shape, itemsize or p.element_size(), ranks) for p in group
        )

    gathers = 2 if reshard_after_forward else 1
    trained = [[p for p in g if p.requires_grad] for g in groups]
    trained = [g for g in trained if g]
    gathered = gathers * sum(padded(g, gathered_itemsize) for g in groups)
    reduced = sum(padded(g, reduced_itemsize or gathered_itemsize) for g in trained)
    calls = gathers * len(groups)
    return Traffic(
        collectives={"all_gather": (calls, gathered), "reduce_scatter": (len(trained), reduced)},
        sent=(ranks - 1) * (gathered + reduced) // ranks,
        messages=(ranks - 1) * (calls + len(trained)),
    )


def optimizer_state(build: Callable[[list[nn.Parameter]], Any]) -> tuple[float, int]:
    """Return an optimizer's bytes of state (per byte of weights, per weight whatever its size).

    It is found by stepping it on two small weights, so that it holds for any optimizer whose state
    grows with the weights.

    Args:
        build: From a list of parameters to an optimizer.
    """
    sizes = []
    for side in (8, 16):
        weight = nn.Parameter(torch.zeros(side, side))
        optimizer = build([weight])
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        state = optimizer.state[weight]
        held = sum(v.nbytes for v in state.values() if isinstance(v, torch.Tensor))
        sizes.append((weight.nbytes, held))
    (small, less), (large, more) = sizes
    slope = (more - less) / (large - small)
    return slope, round(less - slope * small)


def run_on_meta(model: nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Return (bytes that autograd keeps, floating-point operations of the forward pass).

    Args:
        model: The model, on the meta device, called with the inputs.
        inputs: Tensors on the meta device.
    """
    kept: dict[int, int] = {}
    alive: list[Any] = []
    weights = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in kept:
            kept[storage._cdata] = storage.nbytes()
            alive.append(storage)  # its number is not given to another meanwhile
        return tensor

    counter = FlopCounterMode(display=False)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), counter:
        model(*inputs)
    return sum(kept.values()), counter.get_total_flops()


def make_plan(
    model: nn.Module,
    ranks: int,
    *,
    strategy: str = "ddp",
    state: tuple[float, int] = (0.0, 0),
    chosen: Callable[[str, nn.Module], bool] | None = None,
    reshard_after_forward: bool = True,
    gathered_itemsize: int | None = None,
    reduced_itemsize: int | None = None,
    bucket_cap: int = _BUCKET,
    bucket_view: bool = False,
    inputs: Sequence[torch.Tensor] | None = None,
    links: Links | None = None,
    min_efficiency: float = 0.5,
) -> Plan:
    """Return the plan of a training run, see :class:`Plan`.

    Args:
        model: The model, on the meta device.
        ranks: Number of processes.
        strategy: ``'ddp'`` or ``'fsdp'``.
        state: What :func:`optimizer_state` returned.
        chosen: Which modules (name, module) are sharded one by one.
        reshard_after_forward: Weights are gathered twice in a step.
        gathered_itemsize: Bytes per element of gathered weights.
        reduced_itemsize: Bytes per element of reduced gradients.
        bucket_cap: Bytes of DDP's buckets.
        bucket_view: Gradients are views into DDP's buckets.
        inputs: A batch of one rank, on the meta device; None leaves activations and time unknown.
        links: Speeds.
        min_efficiency: Below this part of the time computing, scaling has stopped.

    Raises:
        ValueError: ``ranks`` is not positive, or the strategy is unknown.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be positive, but got {ranks}")
    if strategy not in ("ddp", "fsdp"):
        raise ValueError(f"strategy must be 'ddp' or 'fsdp', but got {strategy!r}")
    links = links or Links()
    notes: list[str] = []
    activations = flops = None
    if inputs is None:
        notes.append("activations and times are unknown without the shape of an input")
    else:
        try:
            activations, flops = run_on_meta(model, inputs)
        except Exception as error:  # noqa: BLE001  # a model may fail in any way there
            notes.append(
                "activations and times are unknown: the model does not run on the meta device: "
                f"{type(error).__name__}: {error}"
            )
    groups = shard_groups(model, chosen or (lambda *_: False)) if strategy == "fsdp" else None

    def traffic(n: int) -> Traffic:
        if groups is None:
            return ddp_traffic(model, n, bucket_cap)
        return fsdp_traffic(
            groups,
            n,
            reshard_after_forward=reshard_after_forward,
            gathered_itemsize=gathered_itemsize,
            reduced_itemsize=reduced_itemsize,
        )

    def sending(sent: Traffic, n: int) -> float:
        assert links is not None
        return sent.sent / links.slowest(n) + sent.messages * links.latency_s

    own = traffic(ranks)
    send_s = sending(own, ranks)
    plan = Plan(
        strategy=strategy if ranks > 1 else "single",
        ranks=ranks,
        parameters=sum(p.numel() for p in model.parameters()),
        memory=memory_of(
            model,
            ranks,
            state_per_byte=state[0],
            state_per_weight=state[1],
            groups=groups,
            gathered_itemsize=gathered_itemsize,
            bucket_view=bucket_view,
            activations=activations,
        ),
        traffic=own,
        compute_s=None,
        send_s=send_s,
        step_s=None,
        efficiency=None,
        notes=notes,
    )
    if not flops:
        return plan
    assert inputs is not None
    compute_s = plan.compute_s = 3 * flops / links.flops
    plan.step_s = (max(compute_s, send_s), compute_s + send_s)
    plan.efficiency = compute_s / (compute_s + send_s)
    batch = len(inputs[0])
    n = 1
    while n <= max(4 * ranks, 1024):
        step = compute_s + sending(traffic(n), n)
        plan.scaling.append((n, compute_s / step, n * batch / step))
        n *= 2
    low = [n for n, efficiency, _ in plan.scaling if efficiency < min_efficiency]
    plan.stops_at = low[0] if low else None
    return plan


def gathered_itemsizes(precision: Mapping[str, Any] | None) -> tuple[int | None, int | None]:
    """Return the bytes per element of (gathered weights, reduced gradients) of a precision policy."""

    def size(key: str) -> int | None:
        value = (precision or {}).get(key)
        if value is None:
            return None
        kind = (
            value if isinstance(value, torch.dtype) else getattr(torch, str(value).split(".")[-1])
        )
        return int(kind.itemsize)

    return size("param_dtype"), size("reduce_dtype")
