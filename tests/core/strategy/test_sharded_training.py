"""Sharded and split training against one process on the same global batch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.strategy import FSDPStrategy, TensorParallelStrategy
from mmx.testing.distributed import run_distributed

GLOBAL_BATCH = 8
# The sums of a batch and of split layers are taken in another order, so float32 differs in the
# last bits; SGD keeps that size.
TOLERANCE = dict(rtol=1e-4, atol=1e-5)


class Samples(torch.utils.data.Dataset):
    def __init__(self):
        self.x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "y": int(self.x[index].sum() > 0)}


def make_model():
    from mmx.model import BaseModel

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.up = nn.Linear(8, 16)
            self.down = nn.Linear(16, 8)

        def forward(self, x):
            return x + self.down(self.up(self.norm(x)).relu())

    class Net(BaseModel):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.ModuleList([Block(), Block()])
            self.head = nn.Linear(8, 2)

        def forward(self, x, y, mode):
            for layer in self.layers:
                x = layer(x)
            logits = self.head(x)
            if mode == "loss":
                return {"loss": nn.functional.cross_entropy(logits, y)}
            return [int(value) for value in logits.argmax(1)]

    return Net()


def make_runner(directory, launcher, strategy, *, epochs=2, model=None, copies=1, losses, **more):
    from mmx.evaluator import BaseMetric
    from mmx.hooks import Hook
    from mmx.runner import Runner

    class Losses(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            losses.append(float(outputs["loss"].detach()))

    class Answers(BaseMetric):
        default_prefix = "m"

        def process(self, data_batch, data_samples):
            self.results.extend(data_samples)

        def compute_metrics(self, results):
            return {"count": len(results), "where": sum(i * v for i, v in enumerate(results))}

    loader = dict(
        dataset=Samples(),
        sampler=dict(type="DefaultSampler", shuffle=True),
        batch_size=GLOBAL_BATCH // copies,
        collate_fn=dict(type="default_collate"),
    )
    return Runner(
        model if model is not None else make_model(),
        str(directory),
        train_dataloader=loader,
        val_dataloader={**loader, "sampler": dict(type="DefaultSampler", shuffle=False)},
        val_cfg=dict(),
        val_evaluator=Answers(),
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=epochs),
        optim_wrapper=more.pop(
            "optim_wrapper",
            dict(
                optimizer=dict(type="SGD", lr=0.1, momentum=0.9),
                clip_grad=dict(max_norm=0.3),
            ),
        ),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=100)),
        custom_hooks=[Losses()],
        randomness=dict(seed=2),
        launcher=launcher,
        strategy=strategy,
        env_cfg=dict(dist_cfg=dict(backend="gloo")),
        experiment_name=f"{Path(str(directory)).name}-{os.getpid()}-{epochs}",
        **more,
    )


PLAN = {"layers.*.up": "colwise", "layers.*.down": "rowwise"}
SPLIT = dict(size=2, plan=PLAN)
CASES = {
    "fsdp": dict(type="FSDPStrategy"),
    "by class": dict(type="FSDPStrategy", model_wrapper=dict(shard=["Block"])),
    "by size": dict(type="FSDPStrategy", model_wrapper=dict(min_num_params=100)),
    "kept": dict(type="FSDPStrategy", model_wrapper=dict(reshard_after_forward=False)),
    "recomputed": dict(type="FSDPStrategy", activation_checkpointing=["layers.0", "layers.1"]),
    "ddp": dict(type="DDPStrategy"),
    "split": dict(type="TensorParallelStrategy", tensor_parallel=SPLIT, state_dict_cfg="sharded"),
    # On two ranks nothing is sharded, on four each of two copies.
    "copied": dict(type="FSDPStrategy", replicate=2, state_dict_cfg="sharded"),
    "split and copied": dict(
        type="TensorParallelStrategy", tensor_parallel=SPLIT, replicate=-1, state_dict_cfg="sharded"
    ),
}
ON_FOUR = ["fsdp", "split", "copied", "split and copied"]


def whole(runner):
    state = {}
    for name, value in runner.model.state_dict().items():
        full = value.full_tensor() if hasattr(value, "full_tensor") else value
        state[name.removeprefix("module.")] = full.detach().clone()
    return state


def train_all(directory, names):
    world = int(os.environ["WORLD_SIZE"])
    out = {}
    for name in names:
        losses = []
        copies = world // 2 if "split" in name else world
        folder = Path(directory, f"{name}-{world}")
        runner = make_runner(folder, "pytorch", CASES[name], copies=copies, losses=losses)
        runner.train()
        scalars = runner.message_hub.log_scalars
        out[name] = {
            "losses": losses,
            "weights": whole(runner),
            "sharded": sorted(
                n
                for n, m in runner.model.named_modules()
                if hasattr(m, "set_reshard_after_forward")
            ),
            "placements": str(
                getattr(
                    dict(runner.model.named_parameters()).get("layers.0.up.weight"),
                    "placements",
                    None,
                )
            ),
            "metric": {k: scalars[k].current() for k in ("val/m/count", "val/m/where")},
            "norm": float(scalars["train/grad_norm"].current()),
        }
    return out


def resume_all(directory):
    """Go on from checkpoints of split training, split and whole; and other settings."""
    out = {}
    for name, strategy, copies, source in [
        ("split", CASES["split"], 1, "split"),
        ("fsdp", CASES["fsdp"], 2, "split"),
        ("fsdp from copies", CASES["fsdp"], 2, "split and copied"),
        ("split from copies", CASES["split"], 1, "copied"),
    ]:
        runner = make_runner(
            Path(directory, f"resumed-{name}"),
            "pytorch",
            strategy,
            copies=copies,
            losses=[],
            epochs=3,
            resume=True,
            load_from=str(Path(directory, f"{source}-4", "epoch_2.pth")),
        )
        runner.train()
        out[name] = whole(runner)
    # Weights of half precision on the way; memory only after sharding; weights in the host.
    runner = make_runner(
        Path(directory, "half"),
        "pytorch",
        dict(
            type="FSDPStrategy",
            model_wrapper=dict(
                mixed_precision=dict(param_dtype="bfloat16", reduce_dtype="float32")
            ),
        ),
        copies=2,
        losses=[],
    )
    dtypes = []
    runner.model.head.register_forward_pre_hook(
        lambda module, args: dtypes.append((args[0].dtype, module.weight.dtype))
    )
    runner.train()
    out["half"] = (str(dtypes[0]), str(runner.model.head.weight.dtype))
    strategy = FSDPStrategy(work_dir=directory, env_kwargs=dict(shared=True))
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))
    torch.manual_seed(3)
    sharded = strategy.wrap_model(model)
    out["meta"] = (
        {k: v.full_tensor() for k, v in sharded.state_dict().items()},
        sharded[0].weight.to_local().shape,
    )
    with torch.device("meta"):
        bare = nn.MultiheadAttention(4, 2)
    try:
        FSDPStrategy(work_dir=directory, env_kwargs=dict(shared=True)).wrap_model(bare)
    except ValueError as error:
        out["bare"] = str(error)
    offloaded = FSDPStrategy(
        work_dir=directory,
        env_kwargs=dict(shared=True),
        model_wrapper=dict(cpu_offload=True),
    ).wrap_model(nn.Linear(4, 2))
    offloaded(torch.ones(2, 4)).sum().backward()
    out["offloaded"] = str(offloaded.weight.grad.device)
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("training")
    losses = []
    alone = make_runner(directory / "alone", "none", None, losses=losses)
    alone.train()
    scalars = alone.message_hub.log_scalars
    expected = {
        "losses": losses,
        "weights": whole(alone),
        "metric": {k: scalars[k].current() for k in ("val/m/count", "val/m/where")},
        "norm": float(scalars["train/grad_norm"].current()),
    }
    longer = make_runner(directory / "longer", "none", None, losses=[], epochs=3)
    longer.train()
    expected["longer"] = whole(longer)
    on_two = run_distributed(train_all, 2, str(directory), list(CASES), timeout_s=120)
    on_four = run_distributed(train_all, 4, str(directory), ON_FOUR, timeout_s=120)
    resumed = run_distributed(resume_all, 2, str(directory), timeout_s=120)
    return expected, {2: on_two, 4: on_four}, resumed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "name"), [*((2, name) for name in CASES), *((4, name) for name in ON_FOUR)]
)
def test_every_way_of_sharding_trains_as_one_process_does(runs, ranks, name):
    expected, found, _ = runs
    results = [rank[name] for rank in found[ranks]]
    copies = ranks // 2 if "split" in name else ranks
    step = ranks // copies
    losses = torch.tensor([r["losses"] for r in results[::step]]).mean(0)
    torch.testing.assert_close(torch.tensor(expected["losses"]), losses, **TOLERANCE)
    for result in results:
        assert expected["weights"].keys() == result["weights"].keys()
        for key, value in expected["weights"].items():
            torch.testing.assert_close(value, result["weights"][key], **TOLERANCE)
        assert expected["norm"] == pytest.approx(result["norm"], rel=1e-3)
    # Validated once per sample, in the order of the data set.
    assert expected["metric"] == results[0]["metric"]


@pytest.mark.slow
def test_modules_are_sharded_as_asked_for(runs):
    first = runs[1][2][0]
    assert first["by class"]["sharded"] == ["", "layers.0", "layers.1"]
    assert first["by size"]["sharded"] == [
        "",
        *(f"layers.{i}.{name}" for i in (0, 1) for name in ("down", "up")),
    ]
    assert "Shard(dim=0)" in first["split"]["placements"]
    assert "Shard" in runs[1][4][0]["split"]["placements"]
    for ranks, placed in [(2, "(Replicate(), Shard(dim=0))"), (4, "(Replicate(), Shard(dim=0))")]:
        assert placed == runs[1][ranks][0]["copied"]["placements"]
    assert runs[1][2][0]["split and copied"]["placements"] == "(Shard(dim=0),)"
    placed = runs[1][4][0]["split and copied"]["placements"]
    assert placed.startswith("(Replicate(), ")
    assert "Shard" in placed.split(", ", 2)[2]


@pytest.mark.slow
def test_split_training_goes_on_on_other_numbers_of_ranks(runs):
    expected, _, (first, _) = runs
    for name in ("split", "fsdp", "fsdp from copies", "split from copies"):
        for key, value in expected["longer"].items():
            torch.testing.assert_close(value, first[name][key], **TOLERANCE)


@pytest.mark.slow
def test_precision_memory_and_place_are_as_asked_for(runs):
    first, second = runs[2]
    assert first["half"] == ("(torch.bfloat16, torch.bfloat16)", "torch.float32")
    for key, value in first["meta"][0].items():
        assert torch.equal(value, second["meta"][0][key])
        assert bool(value.isfinite().all())
    assert first["meta"][1] == (3, 4)
    assert first["meta"][0]["0.weight"].abs().max() <= 0.5
    assert torch.equal(torch.ones(6), first["meta"][0]["1.weight"])
    assert "has no reset_parameters()" in first["bare"]
    assert first["offloaded"] == "cpu"


@pytest.mark.parametrize(
    ("config", "kind", "text"),
    [
        (None, TypeError, r"should be dict\(size=2, plan="),
        (dict(plan={}), ValueError, "plan is empty"),
        (
            dict(plan={"a": "row"}),
            ValueError,
            "style 'row'; known are colwise, rowwise, sequence, random",
        ),
        (dict(plan={"a": "colwise"}, mesh=1), ValueError, "takes size and plan, but it has mesh"),
        (dict(plan={"a": "colwise"}, size=2), ValueError, "does not divide the 1 processes"),
        (
            dict(plan={"a": dict(type="colwise", output_layouts="cut")}),
            ValueError,
            r"output_layouts must be 'replicate' or 'shard\(0\)'",
        ),
        (dict(plan={"a": dict(type="colwise", out=1)}), ValueError, "unexpected keyword"),
    ],
)
def test_bad_plans_say_what_is_wrong(tmp_path, config, kind, text):
    with pytest.raises(kind, match=text):
        TensorParallelStrategy(work_dir=str(tmp_path), tensor_parallel=config or {})


@pytest.mark.parametrize(
    ("replicate", "text"),
    [
        (0, "replicate must be a positive number of copies or -1, but got 0"),
        (1.0, "but got 1.0"),
        (True, "but got True"),
        (2, "replicate=2 does not divide the 1 ranks"),
    ],
)
def test_bad_numbers_of_copies_say_what_is_wrong(tmp_path, replicate, text):
    with pytest.raises(ValueError, match=text):
        FSDPStrategy(work_dir=str(tmp_path), replicate=replicate)
    assert FSDPStrategy(work_dir=str(tmp_path), replicate=-1).replicate == 1


def test_a_pattern_that_fits_nothing_names_near_modules():
    from mmx.strategy.tensor_parallel import check_plan, parallelize

    _, plan = check_plan(dict(plan={"layers.*.upp": "colwise"}))
    with pytest.raises(ValueError, match=r"'layers\.\*\.upp'\] fits no module .*layers\.[01]\.up"):
        parallelize(make_model(), None, plan)
