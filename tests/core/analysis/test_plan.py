"""Plans of runs on many ranks, against what ranks really hold and send."""

from __future__ import annotations

import copy
import functools
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from mmx.analysis.plan import CannotPlanError, Layout, Links, make_plan, plan_config
from mmx.analysis.plan.layout import layout_of
from mmx.analysis.plan.passes import Precision, measured, prepare_types
from mmx.analysis.plan.pretend import Recorder, pretended_ranks
from mmx.analysis.plan.stepping import optimizer_state_of
from mmx.analysis.plan.traffic import (
    DDPOptions,
    bucketed,
    ddp_traffic,
    fsdp_traffic,
    local_of,
    shard_groups,
)
from mmx.model import BaseModel
from mmx.optim import OptimWrapper, OptimWrapperDict
from mmx.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, STRATEGIES
from mmx.testing.distributed import run_distributed


@MODELS.register_module(force=True)
class PlannedNet(BaseModel):
    """Blocks of odd sizes, with a frozen weight, batch statistics and an output layer."""

    def __init__(self, batch_norm=True, dtype=None):
        super().__init__()
        wide = 36
        torch.manual_seed(0)
        self.inner = nn.ModuleDict({"first": nn.Linear(10, 12)})
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(12, wide), nn.ReLU(), nn.Linear(wide, 12), nn.LayerNorm(12))
            for _ in range(2)
        )
        self.norm = nn.BatchNorm1d(12) if batch_norm else nn.LayerNorm(12)
        self.out = nn.Linear(12, 7, bias=False)
        self.blocks[0][3].bias.requires_grad_(False)
        if dtype is not None:
            self.to(getattr(torch, dtype))

    def forward(self, x, mode="tensor"):
        x = self.inner["first"](x.to(self.out.weight.dtype))
        for block in self.blocks:
            x = x + block(x)
        x = self.out(self.norm(x))
        return x if mode == "tensor" else {"loss": x.float().mean()}


@MODELS.register_module(force=True)
class PlannedParts(BaseModel):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(10, 20)
        self.two = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 10))
        self.fixed = nn.Linear(10, 1).requires_grad_(False)

    def forward(self, x, mode="tensor"):
        x = self.fixed(self.two(self.one(x)))
        return x if mode == "tensor" else {"loss": x.mean()}


ADAM = dict(optimizer=dict(type="Adam", lr=0.1, foreach=False))
CLIPPED = dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9), clip_grad=dict(max_norm=1.0))
SPLIT = {"blocks.*.0": "colwise", "blocks.*.2": "rowwise"}


def ddp(optim_wrapper=None, **wrapper):
    wrapper.setdefault("bucket_cap_mb", 0.002)
    return dict(
        optim_wrapper=optim_wrapper or ADAM,
        strategy=dict(type="DDPStrategy", model_wrapper=wrapper),
    )


def fsdp(optim_wrapper=None, strategy=(), **wrapper):
    # Batch statistics stay in float32, where half precision would not go with them.
    return dict(
        model=dict(type="PlannedNet", batch_norm="mixed_precision" not in wrapper),
        optim_wrapper=optim_wrapper or ADAM,
        strategy={"type": "FSDPStrategy", "model_wrapper": wrapper, **dict(strategy)},
    )


def split(size, plan=None, optim_wrapper=None, **wrapper):
    chosen = dict(tensor_parallel=dict(size=size, plan=plan or SPLIT))
    return fsdp(optim_wrapper, dict(type="TensorParallelStrategy", **chosen), **wrapper)


HALF = dict(param_dtype="bfloat16", reduce_dtype="float32")
POWER = dict(type="powerSGD", start_powerSGD_iter=2, matrix_approximation_rank=2)
ZERO = dict(type="ZeroRedundancyOptimizer", optimizer_type="Adam", lr=0.1)

PLAIN = dict(model=dict(type="PlannedNet"))
HALF_NET = dict(type="PlannedNet", batch_norm=False, dtype="bfloat16")
CONFIGS = {
    "single": dict(optim_wrapper=ADAM, strategy=dict(type="SingleDeviceStrategy")),
    "ddp": ddp(),
    "ddp by default": dict(optim_wrapper=CLIPPED),
    "ddp, half the bytes": ddp(gradient_compression="fp16"),
    "ddp, thin factors": ddp(gradient_compression=POWER, bucket_cap_mb=25),
    "ddp, unused": ddp(find_unused_parameters=True),
    "ddp, buffers": ddp(broadcast_buffers=True),
    "ddp, accumulated": ddp({**CLIPPED, "accumulative_counts": 3}, broadcast_buffers=True),
    "ddp, factored": ddp(dict(optimizer=dict(type="Adafactor"))),
    "ddp, divided state": ddp(dict(optimizer=ZERO)),
    "ddp, divided, in one": ddp(dict(optimizer={**ZERO, "parameters_as_bucket_view": True})),
    "ddp, by child": dict(
        model=dict(type="PlannedParts"),
        optim_wrapper=ADAM,
        model_wrapper_cfg=dict(type="MMSeparateDistributedDataParallel"),
    ),
    "ddp, mixed": ddp(dict(ADAM, type="AmpOptimWrapper", dtype="bfloat16")),
    "fsdp": fsdp(),
    "fsdp, clipped": fsdp(CLIPPED),
    "fsdp, kept": fsdp(reshard_after_forward=False),
    "fsdp, half": fsdp(mixed_precision=HALF),
    "fsdp, all half": fsdp(mixed_precision=dict(param_dtype="bfloat16")),
    "fsdp, accumulated": fsdp(dict(ADAM, accumulative_counts=2), mixed_precision=HALF),
    "fsdp, chosen": fsdp(shard=["Linear"]),
    "fsdp, on the host": fsdp(cpu_offload=True),
    "fsdp, again": fsdp(strategy=dict(activation_checkpointing=["blocks.0"])),
    "ddp, half weights": dict(ddp(), model=HALF_NET),
    "fsdp, half weights": dict(fsdp(), model=HALF_NET),
    "fsdp, copies": fsdp(strategy=dict(replicate=2)),
    "fsdp, copies, half": fsdp(CLIPPED, dict(replicate=2), mixed_precision=HALF),
    "fsdp, all copies": fsdp(strategy=dict(replicate=-1)),
    "split": split(2),
    "split, copies": dict(
        split(2),
        strategy=dict(type="FSDPStrategy", tensor_parallel=dict(size=2, plan=SPLIT), replicate=-1),
    ),
    "split, half": split(2, mixed_precision=HALF),
    "split, clipped": split(2, optim_wrapper=CLIPPED),
    "split, accumulated": split(2, optim_wrapper=dict(ADAM, accumulative_counts=2)),
    "split over all": split(None),
    "split, samples too": dict(
        split(
            2,
            {
                "one": "colwise",
                "two.0": dict(type="rowwise", output_layouts="shard(0)"),
                "two.1": dict(type="colwise", input_layouts="shard(0)", output_layouts="replicate"),
            },
        ),
        model=dict(type="PlannedParts"),
    ),
}


OF_ONE = ["single", "ddp", "ddp, factored", "ddp, accumulated", "ddp, mixed", "fsdp"]
OF_FOUR = [
    "single",
    "ddp",
    "ddp, accumulated",
    "ddp, divided state",
    "ddp, half weights",
    "fsdp",
    "fsdp, accumulated",
    "fsdp, clipped",
    "fsdp, kept",
    "fsdp, half",
    "fsdp, copies",
    "fsdp, copies, half",
    "fsdp, all copies",
    "split",
    "split, half",
    "split, clipped",
    "split, accumulated",
    "split, copies",
    "split over all",
]


MEASURED = {1: OF_ONE, 2: list(CONFIGS), 4: OF_FOUR}


def prepared_run(config):
    described = config.get("strategy") or dict(type="DDPStrategy")
    strategy = STRATEGIES.build(
        copy.deepcopy(described),
        default_args=dict(
            env_kwargs=dict(shared=True, launcher="pytorch", timestamp="t", randomness={}, seed=0)
        ),
    )
    built = MODELS.build(config["model"])
    model = strategy.wrap_model(strategy.convert_model(built), config.get("model_wrapper_cfg"))
    strategy.model = model
    optim_wrapper = strategy.build_optim_wrapper(config["optim_wrapper"], model)
    return strategy.join(model, optim_wrapper), optim_wrapper


def kept_by(model, optim_wrapper):
    bare = getattr(model, "module", model)
    optimizer = optim_wrapper.optimizer
    state = getattr(optimizer, "optim", optimizer).state

    def held(tensors):
        return sum(local_of(t.detach()).nbytes for t in tensors)

    return dict(
        weights=held([*bare.parameters(), *bare.buffers()]),
        gradients=held(p.grad for p in bare.parameters() if p.grad is not None),
        optimizer=held(
            v for entry in state.values() for v in entry.values() if isinstance(v, torch.Tensor)
        ),
    )


def measure(name):
    """Train for real; return what rank 0 holds, and the collectives of a step."""

    config = copy.deepcopy({**PLAIN, **CONFIGS[name]})
    model, optim_wrapper = prepared_run(config)
    counts = config["optim_wrapper"].get("accumulative_counts", 1)
    step = 0

    def train():
        nonlocal step
        for _ in range(counts):
            if step % counts == 0:
                optim_wrapper.optimizer.zero_grad()
            with optim_wrapper.optim_context(model):
                run = model.module if "by child" in name else model
                loss = run(torch.ones(4, 10), mode="loss")["loss"]
            optim_wrapper.update_params(loss)
            step += 1

    # Gradients stay to be measured.
    optim_wrapper.zero_grad = lambda **kwargs: None
    # Buckets are made anew after the first iteration; PowerSGD begins after some.
    for _ in range(4):
        train()
    recorder = Recorder()
    with recorder if name != "ddp, thin factors" else counted_calls(recorder):
        train()
    return dict(kept_by(model, optim_wrapper), collectives=recorder.collectives)


@contextmanager
def counted_calls(recorder):
    """Count all-reduces where they are called: most of these come from threads of torch."""
    import torch.distributed as dist

    reduce = dist.all_reduce

    def counted(tensor, *args, **kwargs):
        calls, size = recorder.collectives.get("all_reduce", (0, 0))
        recorder.collectives["all_reduce"] = (calls + 1, size + tensor.nbytes)
        return reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    try:
        yield
    finally:
        dist.all_reduce = reduce


def measure_all(names, peaks, batch_size):
    import warnings

    warnings.simplefilter("ignore")
    found = {name: measure(name) for name in names}
    return found, {name: peak_of(PEAKS[name], batch_size) for name in peaks}


@pytest.fixture(scope="module")
def measured_on():
    """Return the function from a number of ranks to what each has measured; they start once."""
    return functools.cache(
        lambda ranks: run_distributed(measure_all, ranks, MEASURED[ranks], *PEAKS_ON[ranks])
    )


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_memory_and_traffic_are_what_ranks_really_hold_and_send(measured_on, ranks):
    everyone = [kept for kept, _ in measured_on(ranks)]
    for name in MEASURED[ranks]:
        found = [one[name] for one in everyone]
        plan = plan_config(
            {**PLAIN, **CONFIGS[name]},
            ranks,
            input_shapes=["10"],
            batch_size=4,
        )
        for part in ("weights", "gradients", "optimizer"):
            planned = getattr(plan.memory, part)
            if plan.host is not None:
                planned += getattr(plan.host, part)
            assert planned == max(one[part] for one in found), (name, part)
        if ranks == 1:
            # Collectives of one rank, which wrappers call all the same, go over no link.
            assert plan.traffic == {}
            continue
        collectives = {}
        for traffic in plan.traffic.values():
            for kind, (calls, size) in traffic.collectives.items():
                more = collectives.get(kind, (0, 0))
                collectives[kind] = (calls + more[0], size + more[1])
        assert collectives == found[0]["collectives"], name


@MODELS.register_module(force=True)
class WideNet(BaseModel):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 256)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(256), nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
            for _ in range(4)
        )

    def forward(self, x, mode="tensor"):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return x if mode == "tensor" else {"loss": x.float().square().mean()}


SPLIT_WIDE = {"blocks.*.1": "colwise", "blocks.*.3": "rowwise"}
PEAKS = {
    "single": dict(optim_wrapper=ADAM, strategy=dict(type="SingleDeviceStrategy")),
    "mixed": dict(
        optim_wrapper=dict(ADAM, type="AmpOptimWrapper", dtype="bfloat16"),
        strategy=dict(type="SingleDeviceStrategy"),
    ),
    "ddp": ddp(gradient_as_bucket_view=True),
    "fsdp": fsdp(),
    "fsdp, kept": fsdp(reshard_after_forward=False),
    "fsdp, half": fsdp(mixed_precision=HALF),
    "fsdp, accumulated": fsdp(dict(ADAM, accumulative_counts=2)),
    "fsdp, again": fsdp(strategy=dict(activation_checkpointing=["blocks.0", "blocks.1"])),
    "fsdp, copies": fsdp(strategy=dict(replicate=-1)),
    "fsdp, copies, half": fsdp(strategy=dict(replicate=-1), mixed_precision=HALF),
    "split": split(2, SPLIT_WIDE),
}


# Ranks -> whose most memory at once is measured, and with which batch.
PEAKS_ON = {
    1: (["single", "ddp", "fsdp"], 128),
    2: (list(PEAKS), 512),
    4: (["ddp", "fsdp"], 128),
}


def peak_of(config, batch_size):
    from torch.profiler import ProfilerActivity, profile

    model, optim_wrapper = prepared_run({**config, "model": dict(type="WideNet")})
    optim_wrapper.zero_grad = lambda **kwargs: None

    def train():
        for _ in range(config["optim_wrapper"].get("accumulative_counts", 1)):
            with optim_wrapper.optim_context(model):
                loss = model(torch.ones(batch_size, 16), mode="loss")["loss"]
            optim_wrapper.update_params(loss)

    # Buckets are made anew after the first iteration.
    train()
    train()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most + sum(kept_by(model, optim_wrapper).values())


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_most_memory_at_once_is_near_what_is_allocated(measured_on, ranks):
    names, batch_size = PEAKS_ON[ranks]
    _, measured_peaks = measured_on(ranks)[0]
    for name in names:
        plan = plan_config(
            {**PEAKS[name], "model": dict(type="WideNet")},
            ranks,
            input_shapes=["16"],
            batch_size=batch_size,
        )
        # What operations need for themselves comes on top, what is freed meanwhile does not.
        assert 0.85 < plan.memory.total / measured_peaks[name] < 1.15, name


def test_a_ring_sends_twice_the_gradients_and_sharding_half_as_much_again():
    model = nn.Linear(1024, 1024, bias=False, device="meta")
    size = 1024 * 1024 * 4
    groups = shard_groups(model, lambda *_: False)
    assert ddp_traffic(model, 1).sent == 0
    assert ddp_traffic(model, 4).sent == 2 * 3 * size // 4
    assert ddp_traffic(model, 4, DDPOptions(compression="bf16")).sent == 2 * 3 * size // 8
    sharded = fsdp_traffic(groups, 4)
    assert sharded.sent == 3 * ddp_traffic(model, 4).sent // 2
    assert sharded.messages == 3 * 3
    assert fsdp_traffic(groups, 4, gathered_itemsize=2).sent == sharded.sent // 2
    # Weights are gathered in each iteration, gradients reduced in the last.
    assert fsdp_traffic(groups, 4, accumulation=3).sent == 7 * sharded.sent // 3


def test_buckets_close_when_they_are_full():
    model = nn.Sequential(*(nn.Linear(512, 512, bias=False, device="meta") for _ in range(5)))

    def sizes(cap):
        return [sum(p.nbytes for p in b) for b in bucketed(model.parameters(), cap)]

    assert sizes(2 << 20) == [1 << 20, 2 << 20, 2 << 20]
    assert sizes(25 << 20) == [1 << 20, 4 << 20]
    model[4].bfloat16()
    assert sizes(25 << 20) == [1 << 20, 3 << 20, 1 << 19]


def planned(model, ranks=2, batch=None, **options):
    with pretended_ranks(ranks):
        layout = Layout(options.pop("strategy", "ddp"), ranks, **options.pop("layout", {}))
        return make_plan(model, layout, batch=batch, **options)


def rows(*shape, **options):
    return lambda size: lambda model: model(torch.zeros(size, *shape, **options))


def test_scaling_stops_where_sending_takes_longer_than_computing():
    model = nn.Linear(1024, 1024, bias=False, device="meta")
    links = Links(link=1e9, local_link=1e12, ranks_per_machine=4, latency_s=0, flops=1e11)
    plan = planned(model, batch=rows(1024), batch_size=64, links=links)
    # The gradients of the input are not needed: two products in place of three.
    assert plan.compute_s == pytest.approx(2 * 2 * 64 * 1024 * 1024 / 1e11)
    assert plan.stops_at == 8  # the first that leaves a machine
    assert [p.ranks for p in plan.scaling if p.efficiency > 0.9] == [1, 2, 4]
    assert plan.step_s == (max(plan.compute_s, plan.send_s), plan.compute_s + plan.send_s)
    unknown = planned(model)
    assert unknown.step_s is None
    assert unknown.memory.activations is None
    assert unknown.notes == ["activations and times are unknown without a batch"]


def test_the_table_holds_the_ranks_asked_for_and_what_its_sets_of_ranks_allow():
    model = nn.Linear(8, 8, device="meta")
    plan = planned(model, 6, rows(8))
    assert [p.ranks for p in plan.scaling][:5] == [1, 2, 4, 6, 8]
    alone = planned(model, 1, rows(8))
    assert alone.strategy == "single"
    assert alone.efficiency == 1
    found = plan_config(split(3), 6, input_shapes=["10"], batch_size=4)
    assert [p.ranks for p in found.scaling][:3] == [3, 6, 12]


def test_synchronised_batch_statistics_are_sent_in_each_iteration():
    config = dict(model=dict(type="PlannedNet"), optim_wrapper=dict(ADAM, accumulative_counts=2))
    assert "statistics" not in plan_config(config, 4).traffic
    sent = plan_config({**config, "sync_bn": "torch"}, 4).traffic["statistics"]
    # Mean, variance and count of each rank there, two sums of gradients back; twelve channels.
    assert sent.collectives == {
        "all_gather": (2, 2 * 4 * (2 * 12 + 1) * 4),
        "all_reduce": (2, 2 * 2 * 12 * 4),
    }
    found = plan_config({**config, "sync_bn": "torch"}, 4, input_shapes=["10"], batch_size=4)
    assert found.memory.activations > 0


def test_what_a_plan_leaves_out_is_told():
    config = dict(model=dict(type="PlannedOwnStep"), custom_hooks=[dict(type="EMAHook")])
    plan = plan_config({**config, "compile": True}, 2)
    apex = dict(config, optim_wrapper=dict(ADAM, type="ApexOptimWrapper"))
    text = " ".join([*plan.notes, *plan_config(apex, 2).notes])
    assert "ApexOptimWrapper's mixed precision is not taken into account" in text
    assert "PlannedOwnStep has a train_step of its own" in text
    assert f"the averaged weights of EMAHook take {plan.memory.weights:,} B more" in text
    assert "what compiling saves is not taken into account" in text


@MODELS.register_module(force=True)
class PlannedOwnStep(PlannedNet):
    def train_step(self, data, optim_wrapper):
        return {}


def test_state_of_many_shards_is_found_with_few():
    """State of whole elements needs no more shards; what is sent to step goes over all ranks."""
    for config in (fsdp(CLIPPED), split(2, optim_wrapper=CLIPPED)):
        few, many = (plan_config({**PLAIN, **config}, ranks) for ranks in (64, 512))
        sent = few.traffic["optimizer"], many.traffic["optimizer"]
        assert sent[0].collectives == sent[1].collectives
        assert sent[1].messages * (64 - 1) == sent[0].messages * (512 - 1)
        # One row of everything is the least that a rank holds.
        assert many.memory.gradients == many.memory.optimizer
        assert few.memory.optimizer == many.memory.optimizer


def test_copies_send_between_machines_and_their_shards_within():
    links = Links(link=1e9, local_link=1e12, ranks_per_machine=4, latency_s=0)
    whole = plan_config(fsdp(), 16, links=links)
    copied = plan_config(fsdp(strategy=dict(replicate=4)), 16, links=links)
    assert set(copied.traffic) == {"data", "copies"}
    within, between = copied.traffic["data"].sent, copied.traffic["copies"].sent
    assert copied.send_s == pytest.approx(within / 1e12 + between / 1e9)
    assert whole.send_s == pytest.approx(whole.traffic["data"].sent / 1e9)
    assert copied.memory.weights > whole.memory.weights
    found = plan_config(
        fsdp(strategy=dict(replicate=4)), 16, input_shapes=["10"], batch_size=4, memory_limit=10**9
    )
    assert [p.ranks for p in found.scaling][:3] == [4, 8, 16]
    assert found.least_ranks == 4
    with pytest.raises(ValueError, match="replicate=3 does not divide the 16 ranks"):
        plan_config(fsdp(strategy=dict(replicate=3)), 16)


def test_accumulation_sends_once_for_many_samples():
    model = nn.Linear(64, 64, device="meta")
    one = planned(model, batch=rows(64), batch_size=4)
    four = planned(model, batch=rows(64), batch_size=4, layout=dict(accumulation=4))
    assert four.traffic["data"] == one.traffic["data"]
    assert four.flops == 4 * one.flops
    assert four.efficiency > one.efficiency


def test_kept_activations_and_operations_are_counted_without_computing():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).to("meta")
    plan = planned(model, batch=rows(8), batch_size=32)
    assert plan.forward_flops == 2 * 32 * (8 * 16 + 16 * 4)
    assert plan.flops == 2 * 32 * (2 * 8 * 16 + 3 * 16 * 4)
    # The input, and what the ReLU puts out, which the next layer keeps as well.
    assert plan.memory.activations == 32 * (8 + 16) * 4
    half = planned(
        model,
        batch=rows(8),
        batch_size=32,
        layout=dict(precision=Precision(autocast=torch.bfloat16)),
    )
    # Half of it, and the weights in half precision that gradients of inputs need.
    assert half.memory.activations == 32 * (8 + 16) * 2 + 16 * 4 * 2


def test_operations_of_attention_and_of_recurrent_layers_are_counted():
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0).to("meta")
    plan = planned(layer, batch=rows(10, 64), batch_size=8)
    # Four projections and two of the network; each query with each key, then with each value.
    products = 2 * 8 * 10 * (4 * 64 * 64 + 2 * 64 * 128)
    assert plan.forward_flops == products + 2 * 2 * 8 * 10 * 10 * 64
    layer = nn.LSTM(32, 64, batch_first=True).to("meta")
    plan = planned(layer, batch=rows(10, 32), batch_size=8)
    assert plan.forward_flops == 2 * 8 * 10 * 4 * (32 * 64 + 64 * 64)
    assert plan.flops == 3 * plan.forward_flops


def test_recomputing_keeps_inputs_only_and_computes_more():
    block = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8))
    model = nn.Sequential(nn.Linear(8, 8), block).to("meta")
    plan = planned(model, batch=rows(8), batch_size=32, layout=dict(recompute=("1",)))
    # The input of the first layer and that of the block.
    assert plan.memory.activations == 2 * 32 * 8 * 4
    assert plan.saved_activations == 32 * 64 * 4
    # The last product of the block need not be done again.
    assert plan.recomputed_flops == 2 * 32 * 8 * 64


@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_activations_are_what_a_real_pass_keeps(kind):
    """Against a real pass on the CPU: the bytes that come and go with its graph."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.1)
    recompute = ("1",) if kind == "parts" else ()
    model = nn.Sequential(nn.Linear(16, 32), layer)
    x = torch.ones(4, 12, 16)
    counted = measured(prepared(copy.deepcopy(model), recompute), lambda m: m(x), recompute)
    plan = planned(
        copy.deepcopy(model).to("meta"),
        batch=rows(12, 16),
        batch_size=4,
        layout=dict(recompute=recompute),
    )
    assert plan.memory.activations == counted.kept
    assert plan.flops == counted.flops


def prepared(model, recompute):
    prepare_types(model, recompute, None)
    return model


def state_of(optimizer, *shapes, ranks=1, **strategy):
    model = nn.ParameterList(nn.Parameter(torch.empty(*s)) for s in shapes).to("meta")
    with pretended_ranks(ranks):
        layout, _ = layout_of({"strategy": strategy or dict(type="DDPStrategy")}, ranks, model)
        state = optimizer_state_of(model, layout, dict(optimizer=optimizer))
    parts = {n: -(-p.shape[0] // ranks) * p[0].numel() for n, p in model.named_parameters()}
    return state, state.bytes_of(parts)


def test_state_of_optimizers_is_that_of_each_shape():
    shapes = [(32, 16), (10,)]
    assert state_of(dict(type="SGD", lr=0.1), *shapes)[1] == 0
    assert state_of(dict(type="NAdam", lr=0.1), *shapes)[1] == 2 * 4 * (32 * 16 + 10) + 2 * 2 * 4
    # A row and a column in place of a matrix; the vector has its own shape.
    factored = 4 * (32 + 16) + 4 * 10 + 2 * 4
    assert state_of(dict(type="Adafactor"), *shapes)[1] == factored


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class PlannedPairConstructor:
    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.rate = optim_wrapper_cfg["rate"]

    def __call__(self, model):
        adam = torch.optim.Adam(model.one.parameters(), lr=self.rate)
        sgd = torch.optim.SGD(model.two.parameters(), lr=self.rate, momentum=0.9)
        return OptimWrapperDict(one=OptimWrapper(adam), two=OptimWrapper(sgd))


def test_several_optimizers_hold_what_each_does():
    config = dict(
        model=dict(type="PlannedParts"),
        optim_wrapper=dict(constructor="PlannedPairConstructor", rate=0.1),
    )
    plan = plan_config(config, 2)
    assert plan.memory.optimizer == 2 * 4 * 11 * 20 + 2 * 4 + 4 * (21 * 20 + 21 * 10)
    config["optim_wrapper"] = OptimWrapper(torch.optim.SGD([torch.ones(1)], lr=0.1))
    with pytest.raises(CannotPlanError, match="its optim_wrapper holds finished optimizers"):
        plan_config(config, 2)
    assert plan_config({**config, "optim_wrapper": None}, 2).memory.optimizer == 0


def test_an_optimizer_that_cannot_step_on_parts_of_weights_is_told():
    state, size = state_of(
        dict(type="Adafactor"), (32, 16), ranks=4, type="FSDPStrategy", model_wrapper={}
    )
    assert "Adafactor does not step on weights that are split over ranks" in state.problem
    assert size == 4 * (8 + 16) + 4
    state, size = state_of(dict(type="LBFGS"), (4, 4))
    assert state.problem.startswith("the state of LBFGS is unknown (taken as 0)")
    assert size == 0
