"""``mmx plan``: what it prints, and what it says when there is nothing to print."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from mmx.analysis.plan import plan_config
from mmx.cli.plan_cmd import command
from mmx.model import BaseModel
from mmx.registry import DATASETS, MODELS


@MODELS.register_module(force=True)
class CommandNet(BaseModel):
    """A network that can be told to do what is not possible without memory."""

    def __init__(self, trouble=None):
        super().__init__()
        self.trouble = trouble
        self.blocks = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)])
        if trouble == "built from numbers":
            self.rates = [r.item() for r in torch.linspace(0, 1, 3)]
        if trouble == "built from weights":
            self.scale = self.blocks[0].weight.abs().max().item()
        if trouble == "lazy":
            self.blocks.append(nn.LazyLinear(64))
        if trouble == "tied":
            self.blocks[1].weight = self.blocks[0].weight

    def forward(self, x, label=None, mode="tensor"):
        for block in self.blocks if self.trouble != "unused" else self.blocks[:1]:
            x = block(x).relu()
        if self.trouble == "numbers" and x.detach().sum().item() < 0:
            raise RuntimeError("no sum of squares")
        if self.trouble == "always":
            x.detach().numpy()
            raise RuntimeError("it never runs")
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(x, label)}
        return x


@DATASETS.register_module(force=True)
class CommandData(torch.utils.data.Dataset):
    def __init__(self, length=10, broken=False):
        self.length, self.broken = length, broken

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if self.broken:
            raise FileNotFoundError("there is no such picture")
        return dict(x=torch.ones(64), label=index)


CONFIG = """
model = dict(type='CommandNet')
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1))
train_dataloader = dict(
    batch_size=16, num_workers=2, persistent_workers=True,
    dataset=dict(type='CommandData'), sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'))
"""
SHARDED = """
strategy = dict(type='FSDPStrategy', model_wrapper=dict(
    mixed_precision=dict(param_dtype='bfloat16')))
"""
SPLIT = """
strategy = dict(
    type='TensorParallelStrategy',
    tensor_parallel=dict(size=2, plan={'blocks.0': 'colwise', 'blocks.1': 'rowwise'}))
"""


@pytest.fixture
def plan(tmp_path):
    def run(text, *arguments):
        path = tmp_path / "config.py"
        path.write_text(text)
        return CliRunner().invoke(command, [str(path), *arguments])

    return run


def planned(ranks=2, trouble=None, **options):
    config = dict(
        model=dict(type="CommandNet", trouble=trouble),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
    )
    options = {"input_shapes": ["64"], "batch_size": 8, **options}
    return plan_config(config, ranks, **options)


def test_json_holds_the_whole_plan(plan):
    result = plan(CONFIG + SHARDED, "--ranks", "1024", "--input-shape", "64", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["strategy"], found["ranks"], found["parameters"]) == ("fsdp", 1024, 2 * 65 * 64)
    # A row of 64 weights and a bias of each layer; Adam holds both moments and a counter.
    assert found["memory"]["weights"] == 2 * 65 * 4
    assert found["memory"]["optimizer"] == 2 * (2 * 65 * 4) + 4 * 4
    # In half precision: what goes into and comes out of each layer (the first also keeps its input).
    assert found["memory"]["activations"] == 3 * 16 * 64 * 2
    assert found["stops_at"] == 2
    assert set(found) == {
        "strategy", "ranks", "data_ranks", "tensor_ranks", "batch_size", "accumulation",
        "parameters", "memory", "host", "memory_limit", "fits", "least_ranks", "traffic",
        "transfers", "forward_flops", "flops", "recomputed_flops", "saved_activations",
        "compute_s", "send_s", "transfer_s", "step_s", "efficiency", "scaling", "stops_at",
        "notes",
    }  # fmt: skip
    assert found["scaling"][0] == {
        "ranks": 1,
        "efficiency": 1.0,
        "samples_per_s": pytest.approx(16 / found["compute_s"]),
        "fits": None,
    }


def test_samples_of_the_data_give_the_real_loss(plan):
    text = plan(CONFIG, "--ranks", "8", "--data").output
    assert "8,320 parameters, ddp on 8 ranks, 16 samples each" in text
    assert "it stops scaling at 2 ranks" in text
    assert "note" not in text
    shapes = json.loads(plan(CONFIG, "--ranks", "8", "--input-shape", "64", "--json").stdout)
    data = json.loads(plan(CONFIG, "--ranks", "8", "--data", "--json").stdout)
    # Logarithms of probabilities, labels and a number are kept for the loss beside the rest.
    more = data["memory"]["activations"] - shapes["memory"]["activations"]
    assert more == 16 * 64 * 4 + 16 * 8 + 4


def test_split_layers_are_shown_apart(plan):
    text = plan(CONFIG + SPLIT, "--ranks", "4", "--data").output
    assert "fsdp on 4 ranks (2 times 2 that share layers), 16 samples each" in text
    # One on what the second layer puts out. The input needs no gradients, so that there is no
    # other in the backward pass.
    assert "activations of split layers" in text
    assert "1 call on 4.1 kB" in text
    assert "clipping and stepping" not in text


def test_nothing_but_json_is_printed_whatever_is_logged(plan):
    config = CONFIG.replace(
        "lr=0.1))", "lr=0.1, weight_decay=0.1), paramwise_cfg=dict(bias_decay_mult=0.0))"
    )
    result = plan(config + SPLIT, "--ranks", "4", "--data", "--json")
    assert json.loads(result.output)["ranks"] == 4


def test_memory_on_the_host_is_shown_apart(plan):
    config = CONFIG + "strategy = dict(type='FSDPStrategy', model_wrapper=dict(cpu_offload=True))"
    result = plan(config, "--ranks", "2", "--json")
    found = json.loads(result.stdout)
    weights = 2 * 65 * 64 * 4 // 2
    assert found["memory"]["weights"] == 0
    assert found["host"]["weights"] == found["host"]["gradients"] == weights
    assert found["transfers"] == {"to_device": 2 * weights, "to_host": weights}
    text = plan(config, "--ranks", "2").output
    assert "Memory of a rank's device" in text
    assert "Memory of its host" in text
    assert "host to device              33.3 kB" in text


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ("1", "fits into 1 GB; it does from 1 rank on"),
        ("0.0001", "does not fit into 100 kB; no number of ranks is enough"),
    ],
)
def test_memory_is_held_against_what_a_device_has(plan, limit, text):
    arguments = ("--ranks", "2", "--input-shape", "64", "--memory-gb", limit)
    assert text in plan(CONFIG, *arguments).output


@pytest.mark.parametrize("config", [CONFIG + SHARDED, CONFIG + SPLIT])
def test_the_fewest_ranks_are_found_at_which_it_fits(plan, config):
    def found(ranks, limit):
        arguments = ("--input-shape", "64", "--json", "--memory-gb", str(limit / 1e9))
        return json.loads(plan(config, "--ranks", str(ranks), *arguments).stdout)

    limit = found(6, 1e9)["memory"]["total"]
    assert found(4, 1e9)["memory"]["total"] > limit
    below, at = found(4, limit + 1), found(6, limit + 1)
    assert (below["fits"], at["fits"]) == (False, True)
    assert below["least_ranks"] == at["least_ranks"]
    assert at["least_ranks"] in ({5, 6} if config.endswith(SHARDED) else {6})
    assert [p["fits"] for p in at["scaling"] if p["ranks"] in (4, 6)] == [False, True]
    text = plan(
        config, "--ranks", "4", "--input-shape", "64", "--memory-gb", str((limit + 1) / 1e9)
    ).output
    assert f"it does from {at['least_ranks']} ranks on" in text
    assert "4 ranks        0%" in text
    assert "  does not fit\n" in text


def test_memory_without_activations_is_no_promise(plan):
    text = plan(CONFIG, "--ranks", "2", "--memory-gb", "1").output
    assert "fits into 1 GB if activations take no more than what is left" in text
    text = plan(CONFIG, "--ranks", "2", "--memory-gb", "0.00001").output
    assert "does not fit into 10 kB, even without activations" in text


@pytest.mark.parametrize("trouble", ["built from numbers", "built from weights", "tied"])
def test_models_are_planned_that_the_meta_device_cannot_build(trouble):
    plan, plain = planned(trouble=trouble), planned()
    assert plan.notes == []
    assert plan.memory.activations == plain.memory.activations
    assert plan.parameters == plain.parameters - (64 * 64 if trouble == "tied" else 0)


def test_models_that_look_at_numbers_are_run_for_real_with_few_samples():
    plan, plain = planned(trouble="numbers", batch_size=50), planned(batch_size=50)
    assert plan.memory == plain.memory
    assert plan.flops == plain.flops
    assert plan.traffic == plain.traffic
    assert len(plan.notes) == 1
    assert "the model does not run without memory (" in plan.notes[0]
    assert "so that it was run on the CPU, with 2 and 3 samples" in plan.notes[0]


def test_weights_that_no_gradient_reaches_are_told_and_sent_all_the_same():
    plan, plain = planned(trouble="unused"), planned()
    assert plan.traffic == plain.traffic
    assert "no gradient reaches blocks.1.weight, blocks.1.bias from what" in plan.notes[0]


def test_models_that_never_run_are_planned_without_activations():
    plan = planned(trouble="always")
    assert plan.memory.activations is None
    assert plan.memory.weights == 2 * 65 * 64 * 4
    assert "activations and times are unknown: the model does not run without" in plan.notes[-1]
    assert "Run on the CPU it ends in" in plan.notes[-1]


def test_sharding_on_one_rank_needs_a_launcher(plan):
    text = plan(CONFIG + SHARDED, "--ranks", "1", "--input-shape", "64").output
    assert "FSDPStrategy needs a process group on one rank, too" in text


def test_ranks_that_average_nothing_are_told(plan):
    config = CONFIG + "strategy = dict(type='SingleDeviceStrategy')"
    text = plan(config, "--ranks", "4", "--input-shape", "64").output
    assert "SingleDeviceStrategy averages no gradients: 4 ranks train 4 models" in text
    assert "Sent by a rank in a step, over each link of its ring\n  nothing" in text
    wrapped = config + "\nmodel_wrapper_cfg = dict(type='MMDistributedDataParallel')"
    assert "ddp on 4 ranks" in plan(wrapped, "--ranks", "4").output


@pytest.mark.parametrize(
    ("config", "arguments", "text"),
    [
        ("a = 1", [], "it has no model"),
        (CONFIG, ["--input-shape", "big"], "--input-shape is like 3,224,224 or 512:int64, but got 'big'"),
        (CONFIG, ["--input-shape", "3,-1"], "--input-shape is like 3,224,224"),
        (CONFIG, ["--input-shape", "3:text"], "but got '3:text'"),
        (CONFIG, ["--input-shape", "3", "--data"], "give --input-shape or --data, not both"),
        (CONFIG.replace("CommandData", "Missing"), ["--data"], "no batch of train_dataloader can be made"),
        (CONFIG.replace("'CommandData'", "'CommandData', broken=True"), ["--data"], "there is no such picture"),
        ("model = dict(type='CommandNet')", ["--data"], "--data takes samples of train_dataloader"),
        (CONFIG + "strategy = dict(type='Other')", [], "strategy Other is not known here"),
        (CONFIG + "strategy = dict(type='DeepSpeedStrategy')", [], "DeepSpeed itself divides weights"),
        (CONFIG + "model_wrapper_cfg = dict(type='MMFullyShardedDataParallel')", [], "FSDPStrategy shards, too"),
        (CONFIG + "model_wrapper_cfg = dict(gradient_compression='batched_powerSGD')", [], "is not known here"),
        (CONFIG + SPLIT, ["--ranks", "3"], "tensor_parallel.size=2 does not divide the 3 processes"),
        (CONFIG + SPLIT.replace("blocks.1", "block"), [], "fits no module of CommandNet"),
        (CONFIG + SHARDED.replace("param_dtype", "dtype"), [], "dtype"),
        (CONFIG.replace("type='CommandNet'", "type='NoNet'"), [], "NoNet"),
        (CONFIG.replace("type='CommandNet'", "type='CommandNet', trouble='lazy'"), [], "lazy layers"),
        (CONFIG.replace("type='AdamW'", "type='Missing'"), [], "Missing"),
        ("custom_imports = dict(imports=['no_such_module'])", [], "no_such_module"),
        (CONFIG, ["--ranks", "0"], "Invalid value for '--ranks'"),
        (CONFIG, ["--link", "-1"], "Invalid value for '--link'"),
        (CONFIG, ["--tflops", "0"], "Invalid value for '--tflops'"),
        (CONFIG, ["--latency", "-1"], "Invalid value for '--latency'"),
        (CONFIG, ["--memory-gb", "0"], "Invalid value for '--memory-gb'"),
        (CONFIG, ["--min-efficiency", "2"], "Invalid value for '--min-efficiency'"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_says_why(plan, config, arguments, text):
    result = plan(config, "--ranks", "2", *arguments)
    assert result.exit_code in (1, 2), result.exception
    assert isinstance(result.exception, SystemExit)
    assert text in result.output


def test_what_is_missing_for_times_is_told(plan):
    text = plan(CONFIG, "--ranks", "2").output
    assert "note: activations and times are unknown without a batch: say --input-shape" in text
    text = plan("model = dict(type='CommandNet')", "--ranks", "2", "--input-shape", "64").output
    assert "train_dataloader tells no batch size, so that it is 1; say --batch-size" in text
    assert "1 sample each" in text


def test_a_plan_is_not_made_within_a_process_group(tmp_path):
    import torch.distributed as dist

    dist.init_process_group("fake", rank=0, world_size=2)
    try:
        with pytest.raises(RuntimeError, match="make it in a process of its own"):
            planned()
    finally:
        dist.destroy_process_group()
