"""What a training step costs on many ranks, worked out on one machine without any of them.

Weights, gradients and state of optimizers follow from shapes (:mod:`mmx.analysis.plan.memory`,
:mod:`mmx.analysis.plan.optimizer`), traffic from formulas (:mod:`mmx.analysis.plan.traffic`); what
autograd keeps, what is computed and what split layers send is counted in passes without memory
(:mod:`mmx.analysis.plan.passes`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from mmx.analysis.plan.build import Batch
from mmx.analysis.plan.layout import Layout
from mmx.analysis.plan.memory import Memory, memory_of
from mmx.analysis.plan.optimizer import OptimizerState, zero_traffic
from mmx.analysis.plan.passes import Passes
from mmx.analysis.plan.stepping import optimizer_state_of
from mmx.analysis.plan.traffic import (
    Links,
    Traffic,
    buffer_traffic,
    copies_traffic,
    ddp_traffic,
    fsdp_traffic,
    of_collectives,
    shard_groups,
    sync_bn_traffic,
)
from mmx.analysis.plan.trial import Trial, try_passes

# No more ranks than this are tried for memory.
_MOST_RANKS = 1 << 17


@dataclass
class Point:
    """A number of ranks, and what training on them would reach.

    Attributes:
        ranks: Number of processes.
        efficiency: Part of the time of a step that computes, if nothing hides.
        samples_per_s: On all ranks together.
        fits: Whether a device's memory is enough; None if that is not known.
    """

    ranks: int
    efficiency: float
    samples_per_s: float
    fits: bool | None = None


@dataclass
class Plan:
    """The plan of a run. A step is one of the optimizer, of all iterations that it accumulates.

    Attributes:
        strategy: ``'single'``, ``'ddp'`` or ``'fsdp'``.
        ranks: Number of processes.
        data_ranks: Processes, or sets of them that share layers, with different samples.
        tensor_ranks: Processes that share layers.
        batch_size: Samples of a rank in an iteration; None if unknown.
        accumulation: Iterations per step.
        parameters: Number of the model's parameters.
        memory: Of a rank's device; see :class:`Memory`.
        host: Of a rank's host, if weights wait there; None if not.
        memory_limit: Bytes of a device; None if not given.
        fits: Whether :attr:`memory` is within it; None if that is not known.
        least_ranks: Fewest ranks with which it is; None if none of those tried.
        traffic: What a rank sends in a step: ``data``, between ranks with different samples;
            ``copies``, between groups that each shard the weights; ``statistics``, of synchronised
            batch normalisation; ``tensor``, between those that share layers; ``optimizer``, to clip
            and to step.
        transfers: Bytes ``to_device`` and ``to_host`` in a step, if weights wait on the host.
        forward_flops: Operations of the forward passes of a step on one rank; None if unknown.
        flops: Those of forward and backward passes.
        recomputed_flops: Those of them that are done a second time to save memory.
        saved_activations: Bytes of activations that are not kept for it.
        compute_s: Seconds of computing in a step; None if the operations are not known.
        send_s: Seconds of sending in a step.
        transfer_s: Seconds of transfers in a step.
        step_s: Seconds of a step: (if sending hides behind computing where it can, if it does not).
        efficiency: Part of the time of a step that computes, if nothing hides.
        scaling: Growing numbers of ranks, and what they reach.
        stops_at: Fewest of these ranks with an efficiency below the wanted one; None if there are
            none.
        notes: What could not be found out, and what the reader should know.
    """

    strategy: str
    ranks: int
    data_ranks: int
    tensor_ranks: int
    batch_size: int | None
    accumulation: int
    parameters: int
    memory: Memory
    host: Memory | None
    traffic: dict[str, Traffic]
    transfers: dict[str, int] | None
    send_s: float
    transfer_s: float
    memory_limit: int | None = None
    fits: bool | None = None
    least_ranks: int | None = None
    forward_flops: int | None = None
    flops: int | None = None
    recomputed_flops: int | None = None
    saved_activations: int | None = None
    compute_s: float | None = None
    step_s: tuple[float, float] | None = None
    efficiency: float | None = None
    scaling: list[Point] = field(default_factory=list)
    stops_at: int | None = None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        result = asdict(self)
        result["memory"]["total"] = self.memory.total
        if self.host is not None:
            result["host"]["total"] = self.host.total
        return result


def make_plan(
    model: nn.Module,
    layout: Layout,
    *,
    optim_wrapper: Any = None,
    batch: Batch | None = None,
    batch_size: int | None = None,
    build_real: Callable[[], nn.Module] | None = None,
    links: Links | None = None,
    min_efficiency: float = 0.5,
    memory_limit: int | None = None,
) -> Plan:
    """Return the plan of a training run, see :class:`Plan`.

    Called within :func:`~mmx.analysis.plan.pretend.pretended_ranks`.

    Args:
        model: The model, on the meta device.
        layout: How it is spread over ranks.
        optim_wrapper: Config of the optimizer wrapper; None if there is none.
        batch: Runs a model on samples; None leaves activations and times unknown.
        batch_size: Samples of a rank in an iteration.
        build_real: Returns the model with its weights, to run where it does not run without
            memory; None does not try.
        links: Speeds.
        min_efficiency: Below this part of the time computing, scaling has stopped.
        memory_limit: Bytes of a device.
    """
    return _Planner(model, layout, links or Links()).plan(
        optim_wrapper, batch, batch_size or 1, build_real, min_efficiency, memory_limit
    )


class _Planner:
    def __init__(self, model: nn.Module, layout: Layout, links: Links) -> None:
        self.model = model
        self.layout = layout
        self.links = links
        self.split = copy.deepcopy(model)
        layout.split(self.split)
        chosen = layout.chosen or (lambda *_: False)
        self.groups = shard_groups(self.split, chosen) if layout.strategy == "fsdp" else None
        self.state = OptimizerState()
        self.trial = Trial(None, None, ())

    def plan(
        self,
        optim_wrapper: Any,
        batch: Batch | None,
        batch_size: int,
        build_real: Callable[[], nn.Module] | None,
        min_efficiency: float,
        memory_limit: int | None,
    ) -> Plan:
        layout = self.layout
        if optim_wrapper is not None:
            self.state = optimizer_state_of(self.model, layout, optim_wrapper)
        self.trial = try_passes(self.model, layout, batch, batch_size, build_real)
        ranks = layout.ranks
        memory, host = self._memory(ranks)
        traffic = self._traffic(ranks)
        transfers = self._transfers(ranks)
        plan = Plan(
            strategy=layout.strategy if ranks > 1 else "single",
            ranks=ranks,
            data_ranks=layout.data_ranks,
            tensor_ranks=layout.tensor_ranks,
            batch_size=batch_size if batch is not None else None,
            accumulation=layout.accumulation,
            parameters=sum(p.numel() for p in self.model.parameters()),
            memory=memory,
            host=host,
            traffic=traffic,
            transfers=transfers,
            send_s=sum(self._send_s(traffic, ranks)),
            transfer_s=self._transfer_s(transfers),
            notes=[
                *self.trial.notes,
                *self._without_gradients(),
                *([self.state.problem] if self.state.problem else []),
            ],
        )
        if memory_limit is not None:
            self._fit(plan, memory_limit)
        if self.trial.passes is None and layout.tensor_ranks > 1:
            plan.notes.append("what split layers send is unknown without activations")
        if self.trial.passes is not None:
            self._time(plan, self.trial.passes, min_efficiency)
        return plan

    def _without_gradients(self) -> list[str]:
        """Return a note on trained weights that no gradient reaches."""
        if self.trial.passes is None:
            return []
        reached = set(self.trial.passes.order)
        names = [
            n for n, p in self.model.named_parameters() if p.requires_grad and n not in reached
        ]
        if not names:
            return []
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return [
            f"no gradient reaches {shown} from what the model puts out; where that is so in "
            "training, DDP needs find_unused_parameters=True"
        ]

    # Memory -----------------------------------------------------------------------------------

    def _memory(self, ranks: int) -> tuple[Memory, Memory | None]:
        layout, data = self.layout, ranks // self.layout.tensor_ranks
        passes = self.trial.passes
        sharded = layout.shards(data)
        return memory_of(
            self.split,
            layout.shard_ranks(data) if sharded else data,
            state=self.state,
            groups=self.groups if sharded else None,
            sharding=layout.sharding,
            copied=sharded and layout.shard_ranks(data) < data,
            ddp=layout.ddp if layout.strategy == "ddp" else None,
            activations=None if passes is None else passes.kept,
        )

    def _fit(self, plan: Plan, limit: int) -> None:
        plan.memory_limit = limit
        plan.fits = plan.memory.total <= limit if self.trial.passes is not None else None
        if plan.memory.total > limit:
            plan.fits = False
        if not self.layout.any_ranks:
            plan.least_ranks = plan.ranks if plan.fits else None
            return
        unit = self.layout.unit

        def fits(sets: int) -> bool:
            return self._memory(sets * unit)[0].total <= limit

        high = 1
        while not fits(high):
            high *= 2
            if high * unit > _MOST_RANKS:
                return
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        plan.least_ranks = high * unit

    # Traffic ----------------------------------------------------------------------------------

    def _traffic(self, ranks: int) -> dict[str, Traffic]:
        layout, data = self.layout, ranks // self.layout.tensor_ranks
        found = {}
        if layout.strategy != "single" and data > 1:
            found.update(self._between_data_ranks(data))
            statistics = sync_bn_traffic(self.model, data, layout.sync_bn)
            if statistics.messages:
                found["statistics"] = statistics.times(layout.accumulation)
        if layout.tensor_ranks > 1 and self.trial.passes is not None:
            sent = of_collectives(self.trial.passes.collectives, layout.tensor_ranks)
            found["tensor"] = sent.times(layout.accumulation)
        steps = self.state.traffic
        if self.state.partitioned and ranks > 1:
            steps = zero_traffic(self.model, ranks, self.state.by_bucket)
        elif ranks != layout.ranks:
            steps = of_collectives(steps.collectives, ranks)
        if steps.messages:
            found["optimizer"] = steps
        return found

    def _between_data_ranks(self, data: int) -> dict[str, Traffic]:
        layout = self.layout
        if layout.strategy == "fsdp":
            assert self.groups is not None
            sharding = layout.sharding
            shards = layout.shard_ranks(data)
            within = fsdp_traffic(
                self.groups,
                shards,
                reshard_after_forward=sharding.reshard_after_forward,
                gathered_itemsize=sharding.gathered_itemsize,
                reduced_itemsize=sharding.reduced_itemsize,
                accumulation=layout.accumulation,
            )
            between = copies_traffic(
                self.groups,
                shards,
                data // shards,
                sharding.reduced_itemsize or sharding.gathered_itemsize,
            )
            parts = {"data": within, "copies": between}
            return {name: part for name, part in parts.items() if part.messages}
        order = self.trial.passes.order if self.trial.passes is not None else None
        sent = ddp_traffic(self.model, data, layout.ddp, order)
        return {"data": sent.and_also(buffer_traffic(self.model, data, layout.ddp))}

    def _transfers(self, ranks: int) -> dict[str, int] | None:
        """Return what crosses between host and device in a step, None if nothing does."""
        layout, data = self.layout, ranks // self.layout.tensor_ranks
        if not (layout.sharding.offload and layout.shards(data)):
            return None
        shards = layout.shard_ranks(data)
        held = memory_of(self.split, shards, groups=self.groups, sharding=layout.sharding)[1]
        assert held is not None
        gathers = 2 if layout.sharding.reshard_after_forward else 1
        return {
            "to_device": gathers * layout.accumulation * held.weights,
            "to_host": held.gradients,
        }

    def _send_s(self, traffic: Mapping[str, Traffic], ranks: int) -> tuple[float, float]:
        """Return seconds of sending (that can hide behind computing, that cannot)."""
        waiting = 0.0
        if "tensor" in traffic:
            waiting += traffic["tensor"].seconds(self.links, self.layout.tensor_ranks)
        for axis in ("statistics", "optimizer"):
            if axis in traffic:
                waiting += traffic[axis].seconds(self.links, ranks)
        hiding = 0.0
        if "data" in traffic:
            # Shards of a copy are on neighbouring ranks.
            copies = self.layout.shard_ranks(ranks // self.layout.tensor_ranks)
            near = copies * self.layout.tensor_ranks if self.layout.strategy == "fsdp" else ranks
            hiding += traffic["data"].seconds(self.links, near)
        if "copies" in traffic:
            hiding += traffic["copies"].seconds(self.links, ranks)
        return hiding, waiting

    def _transfer_s(self, transfers: Mapping[str, int] | None) -> float:
        return sum((transfers or {}).values()) / self.links.host_link

    # Time -------------------------------------------------------------------------------------

    def _time(self, plan: Plan, passes: Passes, min_efficiency: float) -> None:
        layout = self.layout
        plan.forward_flops = passes.forward_flops * layout.accumulation
        plan.flops = passes.flops * layout.accumulation
        other = self.trial.without_recompute
        if other is not None:
            plan.recomputed_flops = (passes.flops - other.flops) * layout.accumulation
            plan.saved_activations = other.kept - passes.kept
        if not plan.flops:
            plan.notes.append("times are unknown: no operation of the model is known to compute")
            return
        compute_s = plan.compute_s = plan.flops / self.links.flops
        hiding, waiting = self._send_s(plan.traffic, plan.ranks)
        plan.step_s = (
            max(compute_s + waiting, hiding, plan.transfer_s),
            compute_s + waiting + hiding + plan.transfer_s,
        )
        plan.efficiency = compute_s / plan.step_s[1]
        samples = (plan.batch_size or 1) * layout.accumulation
        for ranks in self._table():
            sending = sum(self._send_s(self._traffic(ranks), ranks))
            step = compute_s + sending + self._transfer_s(self._transfers(ranks))
            reached = ranks // layout.tensor_ranks * samples / step
            limit = plan.memory_limit
            fits = None if limit is None else self._memory(ranks)[0].total <= limit
            plan.scaling.append(Point(ranks, compute_s / step, reached, fits))
        low = [point.ranks for point in plan.scaling if point.efficiency < min_efficiency]
        plan.stops_at = low[0] if low else None
        if not layout.any_ranks:
            plan.notes.append(
                "tensor_parallel has no size, so that all ranks split layers together: how it "
                "scales is seen by planning other numbers of ranks"
            )

    def _table(self) -> list[int]:
        if not self.layout.any_ranks:
            return [self.layout.ranks]
        if self.layout.strategy == "single":
            return sorted({1, self.layout.ranks})
        numbers, n = {self.layout.ranks}, self.layout.unit
        while n <= max(4 * self.layout.ranks, 1024):
            numbers.add(n)
            n *= 2
        return sorted(numbers)
