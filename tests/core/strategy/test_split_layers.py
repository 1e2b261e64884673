"""What the rest of the engine knows of ranks that hold one copy of the model together."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmx.evaluator import ReducedMetric
from mmx.hooks import Hook
from mmx.model import BaseModel
from mmx.testing.distributed import run_distributed

PLAN = {"layers.*.up": "colwise", "layers.*.down": "rowwise"}
SAMPLES = 20  # the last batch of an epoch is not full, and samples are repeated
# Sums over split layers are taken in another order.
TOLERANCE = dict(rtol=1e-4, atol=1e-5)


def split(size=2, plan=PLAN, **more):
    return dict(type="TensorParallelStrategy", tensor_parallel=dict(size=size, plan=plan), **more)


class Augmented(torch.utils.data.Dataset):
    """Random changes by each of the three generators."""

    def __init__(self, noise):
        self.x = torch.randn(SAMPLES, 8, generator=torch.Generator().manual_seed(1))
        self.noise = noise

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        drawn = torch.rand(8) + np.random.rand() + random.random()
        return {"x": self.x[index] + self.noise * drawn, "y": int(self.x[index].sum() > 0)}


class Block(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.up = nn.Linear(8, 16)
        self.inner = nn.Dropout(dropout)
        self.down = nn.Linear(16, 8)
        self.outer = nn.Dropout(dropout)

    def forward(self, x):
        return x + self.outer(self.down(self.inner(self.up(self.norm(x)).relu())))


class Net(BaseModel):
    def __init__(self, seed=0, dropout=0.0):
        super().__init__()
        self.seen = []
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList([Block(dropout), Block(dropout)])
        self.head = nn.Linear(8, 2)
        self.register_buffer("offset", torch.rand(2), persistent=False)
        torch.set_rng_state(state)

    def forward(self, x, y, mode):
        if self.training:
            self.seen.append(float(x.double().sum()))
        for layer in self.layers:
            x = layer(x)
        logits = self.head(x) + self.offset
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(logits, y)}
        return logits, y


class Counted(ReducedMetric):
    default_prefix = "counted"
    reductions = {"all": "sum", "classes": 2}

    def measure(self, data_batch, data_samples):
        _, labels = data_samples
        return {"all": torch.ones_like(labels), "classes": labels}

    def compute(self, states):
        return {"all": int(states["all"]), "ones": int(states["classes"][1])}


class Losses(Hook):
    def __init__(self, losses):
        self.losses = losses

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs["loss"].detach()))


def make_runner(directory, strategy, *, model, epochs=1, workers=0, noise=0.0, batch=4, **more):
    from mmx.runner import Runner

    losses = []
    loader = dict(
        dataset=Augmented(noise),
        sampler=dict(type="DefaultSampler", shuffle=True),
        batch_size=batch,
        num_workers=workers,
        collate_fn=dict(type="default_collate"),
    )
    val = {
        **loader,
        "dataset": Augmented(0),
        "num_workers": 0,
        "sampler": dict(type="DefaultSampler", shuffle=False),
    }
    evaluator = more.pop("evaluator", None)
    if evaluator:
        more |= dict(val_dataloader=val, val_cfg=dict(), val_evaluator=evaluator)
    world = os.environ.get("WORLD_SIZE", "1")
    runner = Runner(
        model,
        str(directory),
        train_dataloader={**loader, **more.pop("train", {})},
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=epochs),
        optim_wrapper=more.pop(
            "optim_wrapper", dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9))
        ),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=100),
            checkpoint=dict(type="CheckpointHook", interval=1),
        ),
        custom_hooks=[Losses(losses), *more.pop("hooks", [])],
        randomness=dict(seed=2) | more.pop("randomness", {}),
        launcher="pytorch" if torch.distributed.is_initialized() else "none",
        strategy=strategy,
        env_cfg=dict(dist_cfg=dict(backend="gloo")),
        experiment_name=f"{Path(str(directory)).name}-{os.getpid()}-{world}-{epochs}",
        **more,
    )
    runner.losses = losses
    return runner


def weights(runner):
    """Return the weights and buffers as this rank has them, split ones put together."""
    found = {}
    for name, value in [*runner.model.named_parameters(), *runner.model.named_buffers()]:
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        found[name.removeprefix("module.")] = whole.detach().clone()
    return found


def whole_state(runner):
    """Return weights and optimizer state by the names of weights; on rank 0 alone."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        get_optimizer_state_dict,
    )

    from mmx.checkpoint import unwrap

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model = unwrap(runner.model)
    state = get_optimizer_state_dict(model, runner.optim_wrapper.optimizer, options=options)
    flat = {
        f"weight {k}": v.clone() for k, v in get_model_state_dict(model, options=options).items()
    }
    for name, entry in state.get("state", {}).items():
        flat |= {f"{key} of {name}": value.clone() for key, value in entry.items()}
    return flat


def train_with_random_numbers(directory, size, workers_of_runs):
    """Everything that draws: augmentation, here and in workers, dropout, the ranks' own models."""
    out = {}
    for workers in workers_of_runs:
        folder = Path(directory, f"random-{os.environ['WORLD_SIZE']}-{workers}")

        def make(folder, workers=workers, **more):
            return make_runner(
                folder,
                split(size, {**PLAN, "layers.*.inner": "random"}),
                model=Net(seed=int(os.environ["RANK"]), dropout=0.5),
                epochs=2,
                workers=workers,
                noise=1.0,
                randomness=dict(diff_rank_seed=True),
                auto_scale_lr=dict(base_batch_size=8, enable=True),
                train=dict(num_batch_per_epoch=2),
                **more,
            )

        runner = make(folder)
        begin = weights(runner)
        runner.train()
        resumed = make(f"{folder}-resumed", resume=True, load_from=str(folder / "epoch_1.pth"))
        resumed.train()
        out[workers] = {
            "begin": begin,
            "end": weights(runner),
            "resumed": weights(resumed),
            "seen": runner.model.seen,
            "losses": runner.losses,
            "lr": runner.optim_wrapper.get_lr()["lr"][0],
            "iters": runner.iter,
        }
    return out


def evaluate_and_save(directory, size):
    """Metrics, throughput, and checkpoints of all kinds."""
    world = int(os.environ["WORLD_SIZE"])
    out = {}
    evaluator = [Counted()]
    if HAS_TORCHMETRICS:
        evaluator.append(dict(type="TorchMetric", metric="SumMetric", inputs=_labels))
    shares = world // size
    runner = make_runner(
        Path(directory, f"full-{world}-{size}"),
        split(size, state_dict_cfg="full"),
        model=Net(),
        epochs=2,
        batch=4 // shares,
        evaluator=evaluator,
        hooks=[dict(type="ThroughputHook", interval=1), dict(type="EMAHook")],
    )
    runner.train()
    scalars = runner.message_hub.log_scalars
    out["metrics"] = {k: scalars[k].current() for k in scalars if k in COUNTS}
    out["share of throughput"] = shares
    out["state"] = whole_state(runner)
    out["sync"] = _group_of_batch_norm(runner.strategy)
    return out


def _labels(data_batch, data_samples):
    return (data_samples[1],)


def _group_of_batch_norm(strategy):
    from mmx.dist import get_data_group

    strategy.sync_bn = "torch"
    module = strategy.convert_model(nn.Sequential(nn.BatchNorm1d(2)))[0]
    ranks = torch.distributed.get_process_group_ranks(module.process_group)
    return type(module).__name__, module.process_group is get_data_group(), ranks


try:
    import torchmetrics  # noqa: F401

    HAS_TORCHMETRICS = True
except ImportError:
    HAS_TORCHMETRICS = False
COUNTS = ("val/counted/all", "val/counted/ones", "val/SumMetric")


def resume_and_go_on(directory, source, cases):
    """Resume from one checkpoint in several ways; return the states then and an epoch later."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    out = {}
    for name, (strategy, shares) in cases.items():
        runner = make_runner(
            Path(directory, f"from-{source}-{name}-{world}"),
            strategy,
            model=Net(seed=7),
            epochs=3,
            batch=4 // shares,
            resume=True,
            load_from=str(Path(directory, source, "epoch_2.pth")),
            hooks=[dict(type="EMAHook")],
        )
        resumed = {}

        class Look(Hook):
            def before_train(self, runner, _out=resumed):
                _out.update(whole_state(runner))

        runner.register_hook(Look())
        runner.train()
        out[name] = {"resumed": resumed, "after": whole_state(runner)}
    return out


def overflow(directory):
    """The gradient of rank 1's part alone is not finite: no rank may step."""
    runner = make_runner(
        Path(directory, "overflow"),
        split(),
        model=Net(),
        optim_wrapper=dict(
            type="AmpOptimWrapper",
            dtype="bfloat16",
            loss_scale=dict(init_scale=8.0),
            optimizer=dict(type="SGD", lr=0.1),
        ),
    )
    steps = []

    class Spoil(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            steps.append(
                (runner.model.head.bias.tolist(), runner.optim_wrapper.loss_scaler.get_scale())
            )

    def spoil(parameter):
        if runner.iter == 1 and runner.rank == 1:
            parameter.grad.to_local()[0, 0] = float("inf")

    runner.register_hook(Spoil())
    runner.model.layers[0].up.weight.register_post_accumulate_grad_hook(spoil)
    runner.train()
    return steps


def begin_on_meta(directory):
    """A model without memory, its weights drawn part by part with different seeds."""
    from mmx.strategy import FSDPStrategy

    torch.manual_seed(int(os.environ["RANK"]))
    out = {}
    for name, more in {
        "split": dict(tensor_parallel=dict(size=2, plan={"0": "colwise", "1": "rowwise"})),
        "split and copied": dict(
            tensor_parallel=dict(size=2, plan={"0": "colwise", "1": "rowwise"}), replicate=-1
        ),
        "copied": dict(replicate=2),
    }.items():
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 4))
        strategy = FSDPStrategy(work_dir=directory, env_kwargs=dict(shared=True), **more)
        model = strategy.wrap_model(model)
        out[name] = {k: v.full_tensor() for k, v in model.state_dict().items() if _is_split(v)}
        out[name] |= {k: v.clone() for k, v in model.state_dict().items() if not _is_split(v)}
    return out


def _is_split(value):
    return hasattr(value, "full_tensor")


def warned_of(hidden, dropout):
    """Split a layer, perhaps unevenly, and return what is logged."""
    from mmx.strategy import TensorParallelStrategy

    texts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mmx.strategy.tensor_parallel.print_log", lambda text, **kwargs: texts.append(text)
        )
        model = nn.Sequential(nn.Linear(4, hidden), nn.Dropout(dropout), nn.Linear(hidden, 4))
        plan = {"0": "colwise", "2": "rowwise"}
        TensorParallelStrategy(
            env_kwargs=dict(shared=True), tensor_parallel=dict(plan=plan)
        ).wrap_model(model)
    return texts


def drop_in_parts(recomputed):
    """Train with dropout of split and of whole activations; return what was dropped where."""
    from mmx.strategy import TensorParallelStrategy

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Linear(4, 16, bias=False)
            self.inner = nn.Dropout(0.5)
            self.down = nn.Linear(16, 4)
            self.outer = nn.Dropout(0.5)

        def forward(self, x):
            part = self.up(x)
            inner = self.inner(torch.ones_like(part))
            masks.append(inner)
            return self.outer(self.down(part * inner))

    masks, parts = [], {"layers.*.up": "colwise", "layers.*.down": "rowwise"}
    torch.manual_seed(3)
    model = nn.Sequential()
    model.layers = nn.ModuleList([Halves(), Halves()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mmx.strategy.tensor_parallel.print_log", lambda text, **kwargs: texts.append(text)
        )
        texts = []
        model = TensorParallelStrategy(
            env_kwargs=dict(shared=True),
            tensor_parallel=dict(plan={**parts, "layers.*.inner": "random"}),
            activation_checkpointing=["layers.0", "layers.1"] if recomputed else None,
        ).wrap_model(model)
    torch.manual_seed(5)
    x = torch.ones(2, 4)
    for layer in model.layers:
        x = layer(x)
    x.sum().backward()
    gradients = [
        p.grad.full_tensor() for p in (model.layers[0].up.weight, model.layers[1].up.weight)
    ]
    training = [mask.tolist() for mask in masks]
    state = torch.get_rng_state()
    model.eval()
    model.layers[0](torch.ones(2, 4))
    return {
        "masks": training,
        "out": x.tolist(),
        "gradients": gradients,
        "evaluation draws nothing": torch.equal(state, torch.get_rng_state()),
        "state": state,
        "warned": texts,
    }


def on_two(directory):
    out = {"random": train_with_random_numbers(directory, 2, [2])}
    out["saved"] = evaluate_and_save(directory, 2)
    out["overflow"] = overflow(directory)
    out["dropped"] = {recomputed: drop_in_parts(recomputed) for recomputed in (False, True)}
    out["warned"] = [warned_of(5, 0.5), warned_of(5, 0.0), warned_of(6, 0.5)]
    return out


def on_four(directory):
    out = {"random": train_with_random_numbers(directory, 2, [0, 2])}
    out["saved"] = evaluate_and_save(directory, 2)
    out["meta"] = begin_on_meta(directory)
    out["resumed"] = {
        "full-2-2": resume_and_go_on(
            directory,
            "full-2-2",
            {
                "split in four": (split(4), 1),
                "split": (split(2), 2),
                "split in copies": (split(2, replicate=-1), 2),
            },
        ),
        "full-4-2": resume_and_go_on(directory, "full-4-2", {"split": (split(2), 2)}),
    }
    return out


def back_on_two(directory):
    cases = {"ddp": (dict(type="DDPStrategy"), 2), "split": (split(2), 1)}
    return resume_and_go_on(directory, "full-4-2", cases)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("split"))
    found = {2: run_distributed(on_two, 2, directory, timeout_s=240)}
    found[4] = run_distributed(on_four, 4, directory, timeout_s=240)
    found["back"] = run_distributed(back_on_two, 2, directory, timeout_s=240)
    found["alone"] = resume_and_go_on(directory, "full-4-2", {"alone": (None, 1)})
    return found


def assert_equal(expected, found):
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "workers"), [(2, 2), (4, 0), (4, 2)])
def test_ranks_of_one_copy_see_and_draw_the_same_and_others_something_else(runs, ranks, workers):
    results = [r["random"][workers] for r in runs[ranks]]
    for first, second in zip(results[::2], results[1::2], strict=True):
        assert first["seen"] == second["seen"]
        assert first["losses"] == second["losses"]
        assert_equal(first["end"], second["end"])
    if ranks == 4:
        assert not set(results[0]["seen"]) & set(results[2]["seen"])
        assert results[0]["losses"] != results[2]["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_all_ranks_begin_with_the_weights_and_buffers_of_rank_0(runs, ranks):
    with torch.random.fork_rng():
        model = Net(seed=0)
    expected = {k: v.detach() for k, v in [*model.named_parameters(), *model.named_buffers()]}
    for result in runs[ranks]:
        assert_equal(expected, result["random"][2]["begin"])


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "workers"), [(2, 2), (4, 0), (4, 2)])
def test_a_resumed_run_draws_what_the_uninterrupted_one_drew(runs, ranks, workers):
    for number, result in enumerate(runs[ranks]):
        expected, found = (result["random"][workers][k] for k in ("end", "resumed"))
        if number >= 2:
            # Of the batch statistics, of a rank's own samples, a checkpoint holds those of rank 0.
            own = [name for name in expected if "running" in name]
            assert own
            expected, found = (
                {k: v for k, v in d.items() if k not in own} for d in (expected, found)
            )
        assert_equal(expected, found)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_copy_counts_as_one_in_learning_rate_epoch_length_and_metrics(runs, ranks):
    for result in runs[ranks]:
        drawn = result["random"][2]
        assert 0.1 * (4 * ranks // 2) / 8 == pytest.approx(drawn["lr"])
        assert drawn["iters"] == 4
        ones = sum(Augmented(0)[i]["y"] for i in range(SAMPLES))
        expected = {"val/counted/all": SAMPLES, "val/counted/ones": ones}
        if HAS_TORCHMETRICS:
            expected["val/SumMetric"] = ones
        assert expected == result["saved"]["metrics"]


@pytest.mark.slow
def test_batch_statistics_are_synchronised_over_the_shares_of_the_data(runs):
    found = [r["saved"]["sync"] for r in runs[4]]
    assert [("SyncBatchNorm", True, [i % 2, i % 2 + 2]) for i in range(4)] == found


@pytest.mark.slow
def test_whole_checkpoints_of_split_layers_go_on_in_every_way(runs):
    for source, found in {
        "full-2-2": runs[4][0]["resumed"]["full-2-2"],
        "full-4-2": {
            **runs[4][0]["resumed"]["full-4-2"],
            **{f"{k} on two": v for k, v in runs["back"][0].items()},
            **runs["alone"],
        },
    }.items():
        saved = runs[int(source[5])][0]["saved"]["state"]
        for result in found.values():
            assert_equal(saved, result["resumed"])
        # Batch statistics are of a rank's own samples: compare those with as many.
        by_shares = {}
        for name, result in found.items():
            shares = 2 if name in ("split", "split in copies", "ddp on two") else 1
            expected = by_shares.setdefault(shares, result["after"])
            for key, value in expected.items():
                torch.testing.assert_close(value, result["after"][key], **TOLERANCE)
        assert len(by_shares) == 2


@pytest.mark.slow
def test_an_overflow_in_the_part_of_one_rank_is_seen_by_all(runs):
    first, second = [r["overflow"] for r in runs[2]]
    assert first == second
    scales = [scale for _, scale in first]
    biases = [bias for bias, _ in first]
    assert [8.0, 8.0, 4.0, 4.0, 4.0] == scales
    assert biases[1] == biases[2]
    assert biases[0] != biases[1]
    assert biases[2] != biases[3]


@pytest.mark.slow
def test_weights_drawn_in_parts_are_equal_where_ranks_have_copies_and_unlike_elsewhere(runs):
    first, *others = [r["meta"] for r in runs[4]]
    for name, expected in first.items():
        for found in others:
            assert_equal(expected, found[name])
        for value in expected.values():
            assert value.unique().numel() == value.numel()


@pytest.mark.slow
def test_random_layers_on_uneven_parts_are_warned_of(runs):
    for result in runs[2]:
        (text,), *others = result["warned"]
        assert "splits 0.weight of 5, 0.bias of 5, 2.weight of 5 over 2 ranks, which is une" in text
        assert "A random layer (1)" in text
        assert others == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [False, True])
def test_parts_are_dropped_at_places_of_their_own_if_asked_for(runs, recomputed):
    first, second = (result["dropped"][recomputed] for result in runs[2])
    layers = {str(mask) for result in (first, second) for mask in result["masks"][:2]}
    assert len(layers) == 4  # other ones in each layer, and on each rank
    # Whole activations are the same on both, and what they draw later.
    assert first["out"] == second["out"]
    assert torch.equal(first["state"], second["state"])
    assert first["evaluation draws nothing"]
    assert first["warned"] == []
    if recomputed:  # computed again, the last layer first
        assert first["masks"][2:] == first["masks"][1::-1]
        plain = runs[2][0]["dropped"][False]
        assert plain["masks"] == first["masks"][:2]
        for expected, found in zip(plain["gradients"], first["gradients"], strict=True):
            assert torch.equal(expected, found)


@pytest.mark.parametrize(
    ("saved", "world", "size", "expected"),
    [
        (4, 4, 2, ["a", "b", "c", "d"]),  # as it was: each rank its own
        (2, 2, 1, ["a", "c"]),  # one rank for each copy
        (2, 4, 1, None),
        (2, 4, 4, None),
        (2, 2, 2, None),
    ],
)
def test_states_are_found_by_share_of_the_data(monkeypatch, saved, world, size, expected):
    from mmx.runner import resume

    monkeypatch.setattr("mmx.dist.utils.get_model_parallel_size", lambda: size)
    monkeypatch.setattr(resume, "get_model_parallel_size", lambda: size)
    monkeypatch.setattr(resume, "get_world_size", lambda: world)
    found = []
    for rank in range(world):
        monkeypatch.setattr(resume, "get_rank", lambda rank=rank: rank)
        found.append(resume.own_share(["a", "b", "c", "d"], 2))
    assert (expected or [None] * world) == found


def test_ranks_of_one_copy_take_the_state_of_its_rank_of_before(monkeypatch):
    from mmx.runner import resume

    monkeypatch.setattr("mmx.dist.utils.get_model_parallel_size", lambda: 2)
    monkeypatch.setattr(resume, "get_model_parallel_size", lambda: 2)
    monkeypatch.setattr(resume, "get_world_size", lambda: 4)
    found = []
    for rank in range(4):
        monkeypatch.setattr(resume, "get_rank", lambda rank=rank: rank)
        found.append(resume.own_share(["a", "b"]))
    assert ["a", "a", "b", "b"] == found


def test_an_accelerator_takes_the_state_of_a_device_of_another_number():
    from types import SimpleNamespace

    from mmx.runner.resume import _restore_accelerator

    given = []
    module = SimpleNamespace(
        __name__="torch.cuda",
        device_count=lambda: 2,
        set_rng_state=lambda state, *device: given.append((state.tolist(), *device)),
    )
    empty, state = torch.empty(0, dtype=torch.uint8), torch.ones(1, dtype=torch.uint8)
    _restore_accelerator(module, [empty, state])
    assert [([1],)] == given


def test_split_tensors_do_not_take_the_random_state_of_another_share(monkeypatch):
    from types import SimpleNamespace

    from torch.distributed.tensor import _random

    from mmx.strategy.replicas import keep_random_states

    monkeypatch.setattr(_random, "_rng_tracker", None)
    monkeypatch.setattr(
        _random, "OffsetBasedRNGTracker", lambda mesh, run_state_sync: (mesh, run_state_sync)
    )
    keep_random_states(SimpleNamespace(device_type="cpu"))
    assert _random._rng_tracker is None
    mesh = SimpleNamespace(device_type="cuda")
    keep_random_states(mesh)
    keep_random_states(SimpleNamespace(device_type="cuda"))
    assert (mesh, False) == _random._rng_tracker


def test_throughput_counts_the_samples_of_a_copy_once(monkeypatch):
    from types import SimpleNamespace

    from mmx.hooks import ThroughputHook

    monkeypatch.setattr("mmx.dist.utils.get_model_parallel_size", lambda: 2)
    monkeypatch.setattr("mmx.hooks.throughput_hook.perf_counter", lambda: 2.0)
    seen = {}
    runner = SimpleNamespace(
        world_size=4, message_hub=SimpleNamespace(update_scalar=seen.__setitem__)
    )
    hook = ThroughputHook(interval=1, peak_tflops=1.0)
    hook.flops_per_iter = 10**12
    hook.after_train_iter(runner, 0, {"inputs": torch.zeros(3, 1)})
    assert {
        "train/samples_per_s": 3 * 2 / 2,
        "train/tflops_per_s": 1.0,
        "train/mfu": 0.25,
    } == seen
