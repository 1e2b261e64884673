"""Plans of runs on many ranks, against what ranks really hold and send."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from mmx.analysis.plan import (
    Links,
    ddp_buckets,
    ddp_traffic,
    fsdp_traffic,
    make_plan,
    memory_of,
    optimizer_state,
    run_on_meta,
    shard_groups,
)
from mmx.model import BaseModel
from mmx.registry import MODELS
from mmx.testing.distributed import run_distributed


def net(device="cpu"):
    torch.manual_seed(0)
    with torch.device(device):
        model = nn.Sequential(
            nn.Sequential(nn.Linear(10, 37), nn.ReLU(), nn.Linear(37, 12)),
            nn.BatchNorm1d(12),
            nn.Linear(12, 6, bias=False),
        )
    model[2].weight.requires_grad_(True)
    return model


def chosen(name, module):
    return name == "0"


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.1)


def measure(strategy, reshard=True):
    """Train one step for real; return what rank 0 holds and what its collectives worked on."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor
    from torch.utils._python_dispatch import TorchDispatchMode

    from mmx.dist import get_world_size

    model = net()
    if strategy == "fsdp" and get_world_size() > 1:
        fully_shard(model[0], reshard_after_forward=reshard)
        fully_shard(model, reshard_after_forward=reshard)
        wrapped = model
    elif get_world_size() > 1:
        wrapped = nn.parallel.DistributedDataParallel(
            model, broadcast_buffers=False, bucket_cap_mb=0.001
        )
    else:
        wrapped = model
    seen = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "c10d":
                name = function._opname.rstrip("_")
                tensors = args[0] if isinstance(args[0], list) else [args[0]]
                if "reduce_scatter" in name:
                    tensors = [args[1]]
                tensors = torch.utils._pytree.tree_leaves(tensors)
                seen.append((name, sum(t.nbytes for t in tensors)))
            return function(*args, **(kwargs or {}))

    optimizer = adam(model.parameters())

    def step():
        wrapped(torch.ones(4, 10)).sum().backward()
        optimizer.step()

    step()
    if strategy == "ddp":
        optimizer.zero_grad()
        step()  # the buckets are made anew after the first
    optimizer.zero_grad()
    with Record():
        step()

    def local(tensor):
        return tensor.to_local().nbytes if isinstance(tensor, DTensor) else tensor.nbytes

    counts = {}
    for name, size in seen:
        kind = next(
            kind
            for kind in ("all_reduce", "all_gather", "reduce_scatter")
            if kind.replace("_", "") in name.replace("_", "")
        )
        calls, total = counts.get(kind, (0, 0))
        counts[kind] = (calls + 1, total + size)
    return {
        "weights": sum(map(local, [*model.parameters(), *model.buffers()])),
        "gradients": sum(local(p.grad) for p in model.parameters()),
        "optimizer": sum(local(v) for entry in optimizer.state.values() for v in entry.values()),
        "collectives": counts,
    }


def measure_all():
    return measure("ddp"), measure("fsdp"), measure("fsdp", reshard=False)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_memory_and_traffic_are_what_ranks_really_hold_and_send(ranks):
    (ddp, fsdp, kept), *_ = run_distributed(measure_all, ranks)
    model = net("meta")
    per_byte, per_weight = optimizer_state(adam)
    assert (per_byte, per_weight) == (2.0, 4)
    groups = shard_groups(model, chosen)
    state = dict(state_per_byte=per_byte, state_per_weight=per_weight)
    for measured, planned in [
        (ddp, memory_of(model, ranks, **state)),
        (fsdp, memory_of(model, ranks, **state, groups=groups)),
    ]:
        for name in ("weights", "gradients", "optimizer"):
            assert getattr(planned, name) == measured[name], name
    bucket_cap = int(0.001 * 1024 * 1024)
    assert ddp_traffic(model, ranks, bucket_cap).collectives == ddp["collectives"]
    assert fsdp_traffic(groups, ranks).collectives == fsdp["collectives"]
    assert (
        fsdp_traffic(groups, ranks, reshard_after_forward=False).collectives == kept["collectives"]
    )


def test_a_ring_sends_twice_the_gradients_and_sharding_half_as_much_again():
    model = nn.Linear(1024, 1024, bias=False, device="meta")
    size = 1024 * 1024 * 4
    assert ddp_traffic(model, 1).sent == 0
    assert ddp_traffic(model, 4).sent == 2 * 3 * size // 4
    sharded = fsdp_traffic(shard_groups(model, lambda *_: False), 4)
    assert sharded.sent == 3 * ddp_traffic(model, 4).sent // 2
    assert sharded.messages == 3 * 3
    half = fsdp_traffic(shard_groups(model, lambda *_: False), 4, gathered_itemsize=2)
    assert half.sent == sharded.sent // 2


def test_buckets_close_when_they_are_full():
    model = nn.Sequential(*(nn.Linear(512, 512, bias=False, device="meta") for _ in range(5)))
    assert ddp_buckets(model, 2 << 20) == [1 << 20, 2 << 20, 2 << 20]
    assert ddp_buckets(model) == [1 << 20, 4 << 20]


def test_activations_and_operations_are_counted_without_computing():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).to("meta")
    kept, flops = run_on_meta(model, [torch.empty(32, 8, device="meta")])
    assert flops == 2 * 32 * (8 * 16 + 16 * 4)
    # The input, and what the ReLU puts out, which the next layer keeps as well.
    assert kept == 32 * (8 + 16) * 4


def test_scaling_stops_where_sending_takes_longer_than_computing():
    model = nn.Linear(1024, 1024, bias=False, device="meta")
    inputs = [torch.empty(64, 1024, device="meta")]
    links = Links(link=1e9, local_link=1e12, ranks_per_machine=4, latency_s=0, flops=1e11)
    plan = make_plan(model, 2, inputs=inputs, links=links)
    assert plan.compute_s == pytest.approx(3 * 2 * 64 * 1024 * 1024 / 1e11)
    assert plan.stops_at == 8  # the first that leaves a machine
    assert [n for n, efficiency, _ in plan.scaling if efficiency > 0.9] == [1, 2, 4]
    assert plan.step_s == (max(plan.compute_s, plan.send_s), plan.compute_s + plan.send_s)
    unknown = make_plan(model, 2)
    assert unknown.step_s is None
    assert unknown.notes == ["activations and times are unknown without the shape of an input"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(dict(ranks=0), "ranks must be positive"), (dict(ranks=2, strategy="x"), "must be 'ddp'")],
)
def test_bad_arguments_say_what_is_expected(arguments, text):
    with pytest.raises(ValueError, match=text):
        make_plan(nn.Linear(1, 1), **arguments)


@MODELS.register_module(force=True)
class PlannedNet(BaseModel):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)])

    def forward(self, x, mode="tensor"):
        for block in self.blocks:
            x = block(x).relu()
        return x


def plan(path, text, *arguments):
    from click.testing import CliRunner

    from mmx.cli.plan_cmd import command

    path.write_text(text)
    return CliRunner().invoke(command, [str(path), *arguments])


CONFIG = """
model = dict(type='PlannedNet')
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1))
train_dataloader = dict(batch_size=16)
strategy = dict(type='FSDPStrategy', model_wrapper=dict(mixed_precision=dict(param_dtype='bfloat16')))
"""


def test_the_command_plans_a_config(tmp_path):
    result = plan(tmp_path / "c.py", CONFIG, "--ranks", "1024", "--input-shape", "64", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["strategy"], found["ranks"], found["parameters"]) == ("fsdp", 1024, 2 * 65 * 64)
    # A row of 64 weights and a bias of each layer; Adam holds both moments and a counter.
    assert found["memory"]["weights"] == 2 * 65 * 4
    assert found["memory"]["optimizer"] == 2 * (2 * 65 * 4) + 4 * 4
    assert found["memory"]["activations"] > 0
    assert found["stops_at"] == 2
    text = plan(tmp_path / "c.py", CONFIG, "--ranks", "8").output
    assert "fsdp on 8 ranks" in text
    assert "note: activations and times are unknown" in text


@pytest.mark.parametrize(
    ("config", "arguments", "text"),
    [
        ("a = 1", [], "it has no model"),
        (CONFIG, ["--input-shape", "big"], "--input-shape is like 3,224,224, but got 'big'"),
        (CONFIG.replace("FSDPStrategy", "Other"), [], "strategy Other is not known here"),
        (CONFIG, ["--link", "0"], "are positive"),
        (CONFIG + "strategy['tensor_parallel'] = dict(size=2)", [], "cannot be planned yet"),
    ],
)
def test_the_command_says_what_it_cannot_plan(tmp_path, config, arguments, text):
    result = plan(tmp_path / "c.py", config, "--ranks", "2", *arguments)
    assert result.exit_code != 0
    assert text in result.output
