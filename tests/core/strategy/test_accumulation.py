"""Runs that go on in the middle of an accumulation of gradients, on ranks of another layout."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.testing.distributed import run_distributed

GLOBAL_BATCH = 8
COUNTS, SAVED_AT = 3, 5  # in the middle of the second step
# Sums over the batch and over split layers are taken in another order.
TOLERANCE = dict(rtol=1e-4, atol=1e-6)
PLAN = {"layers.*.up": "colwise", "layers.*.down": "rowwise"}


class Samples(torch.utils.data.Dataset):
    def __init__(self):
        self.x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "y": int(self.x[index].sum() > 0)}


def make_model():
    from mmx.model import BaseModel

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(6)
            self.up = nn.Linear(6, 8)
            self.down = nn.Linear(8, 6)

        def forward(self, x):
            return x + self.down(self.up(self.norm(x)).relu())

    class Net(BaseModel):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.ModuleList([Block(), Block()])
            self.head = nn.Linear(6, 2)
            self.never_used = nn.Parameter(torch.ones(3))

        def forward(self, x, y, mode):
            for layer in self.layers:
                x = layer(x)
            return {"loss": nn.functional.cross_entropy(self.head(x), y)}

    return Net()


FOUND = dict(find_unused_parameters=True)
STRATEGIES = {
    "single": (None, 1),
    "ddp": (dict(type="DDPStrategy", model_wrapper=FOUND), 0),
    "ddp in shards": (
        dict(type="DDPStrategy", model_wrapper=FOUND, state_dict_cfg="sharded"),
        0,
    ),
    "fsdp": (dict(type="FSDPStrategy"), 0),
    "fsdp in shards": (dict(type="FSDPStrategy", state_dict_cfg="sharded"), 0),
    "half": (
        dict(
            type="FSDPStrategy",
            model_wrapper=dict(
                mixed_precision=dict(param_dtype="bfloat16", reduce_dtype="float32")
            ),
        ),
        0,
    ),
    "split": (
        dict(type="TensorParallelStrategy", tensor_parallel=dict(size=2, plan=PLAN)),
        2,
    ),
    "split in shards": (
        dict(
            type="TensorParallelStrategy",
            tensor_parallel=dict(size=2, plan=PLAN),
            state_dict_cfg="sharded",
        ),
        2,
    ),
}


def make_runner(directory, name, *, counts=COUNTS, **more):
    from mmx.runner import Runner

    strategy, size = copy.deepcopy(STRATEGIES[name])
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return Runner(
        make_model(),
        str(directory),
        train_dataloader=dict(
            dataset=Samples(),
            sampler=dict(type="DefaultSampler", shuffle=True),
            batch_size=GLOBAL_BATCH * (size or 1) // world,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(
            optimizer=dict(type="SGD", lr=0.3, momentum=0.5), accumulative_counts=counts
        ),
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=SAVED_AT),
            logger=dict(type="LoggerHook", interval=100),
        ),
        randomness=dict(seed=2),
        launcher="pytorch" if torch.distributed.is_initialized() else "none",
        strategy=strategy,
        env_cfg=dict(dist_cfg=dict(backend="gloo")),
        experiment_name=f"{Path(str(directory)).name}-{os.getpid()}-{name}",
        **more,
    )


def weights(runner):
    found = {}
    for name, value in runner.model.state_dict().items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        found[name.removeprefix("module.")] = whole.detach().clone()
    return found


def train(directory, names):
    """Train without a stop, and leave a checkpoint of the middle of an accumulation."""
    world = os.environ.get("WORLD_SIZE", "1")
    out = {}
    for name in names:
        runner = make_runner(Path(directory, f"{name} on {world}"), name)
        runner.train()
        out[name] = weights(runner)
    return out


def resume(directory, cases, **more):
    """Return weights after going on from checkpoints of other layouts, and what was warned of."""
    import logging

    class Heard(logging.Handler):
        def emit(self, record):
            texts.append(record.getMessage())

    out = {}
    for source, name in cases:
        texts = []
        folder = Path(directory, source)
        runner = make_runner(
            Path(directory, f"{name} from {source} on {os.environ.get('WORLD_SIZE', '1')}"),
            name,
            resume=True,
            load_from=str(folder / f"iter_{SAVED_AT}.pth"),
            **more,
        )
        heard = Heard(logging.WARNING)
        runner.logger.addHandler(heard)
        runner.train()
        runner.logger.removeHandler(heard)
        out[source, name] = weights(runner), [t for t in texts if "gradient" in t]
    return out


ON_TWO = ["ddp", "ddp in shards", "fsdp", "fsdp in shards", "half", "split", "split in shards"]
ON_FOUR = ["fsdp in shards", "split", "split in shards"]
SAME_SHARES = [
    *((f"{name} on 2", name) for name in ON_TWO),
    ("ddp on 2", "fsdp"),
    ("fsdp in shards on 2", "ddp"),
    ("single on 1", "split"),
]
OTHER_SHARES = [
    ("single on 1", "ddp"),
    ("ddp on 2", "split"),
    ("fsdp in shards on 2", "split"),
    ("split on 2", "ddp"),
    ("split in shards on 2", "ddp in shards"),
    ("fsdp in shards on 4", "fsdp in shards"),
    ("fsdp in shards on 4", "ddp in shards"),
    ("split on 4", "split"),
    ("split in shards on 4", "split in shards"),
    # As many shares, on fewer ranks.
    ("split on 4", "ddp"),
]
ON_ONE = ["ddp on 2", "fsdp in shards on 2", "split on 2", "split in shards on 4"]
TO_FOUR = [
    ("split in shards on 4", "split in shards"),
    ("split on 4", "split"),
    ("fsdp on 2", "split in shards"),
    ("fsdp in shards on 2", "fsdp"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("accumulation"))
    straight = {1: train(directory, ["single"])}
    straight[2] = run_distributed(train, 2, directory, ON_TWO, timeout_s=120)[0]
    straight[4], resumed = zip(*run_distributed(on_four, 4, directory, timeout_s=120), strict=True)
    straight[4] = straight[4][0]
    found = {4: resumed}
    found[2] = run_distributed(resume, 2, directory, SAME_SHARES + OTHER_SHARES, timeout_s=120)
    found[1] = [resume(directory, [(source, "single") for source in ON_ONE])]
    return directory, straight, found


def on_four(directory):
    return train(directory, ON_FOUR), resume(directory, TO_FOUR)


def assert_close(expected, found):
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(value, found[name], **TOLERANCE)


@pytest.mark.slow
def test_a_run_of_any_layout_goes_on_with_what_was_accumulated(runs):
    _, straight, found = runs
    expected = straight[1]["single"]
    for results in found.values():
        for (source, name), (after, warned) in results[0].items():
            if "half" not in (name, source.split()[0]):
                assert_close(expected, after)
            assert [] == warned, (source, name)
            for other in results[1:]:
                for key, value in after.items():
                    assert torch.equal(value, other[source, name][0][key])


@pytest.mark.slow
def test_with_the_same_layout_it_ends_with_the_same_bits(runs):
    _, straight, found = runs
    for source, name in [*SAME_SHARES, ("split on 4", "split"), ("split in shards on 4", "split")]:
        ranks = int(source[-1])
        if (source, name) not in found[ranks][0] or source.rpartition(" on ")[0] != name:
            continue
        after, _ = found[ranks][0][source, name]
        for key, value in straight[ranks][name].items():
            assert torch.equal(value, after[key]), (source, key)


@pytest.mark.slow
def test_without_what_was_accumulated_it_would_end_elsewhere(runs, tmp_path):
    directory, straight, _ = runs
    path = Path(directory, "ddp on 2", f"iter_{SAVED_AT}.pth")
    saved = torch.load(path, weights_only=True)
    assert [SAVED_AT % COUNTS, 2, 2] == [
        saved["optimizer"]["accumulation"]["inner_count"] % COUNTS,
        saved["optimizer"]["accumulation"]["shares"],
        len(saved["optimizer"]["accumulation"]["sums"]),
    ]
    assert "gradients" not in saved["engine"]
    del saved["optimizer"]["accumulation"]
    (tmp_path / "bare").mkdir()
    torch.save(saved, tmp_path / "bare" / path.name)
    after, warned = resume(str(tmp_path), [("bare", "single")])["bare", "single"]
    assert "no accumulated gradients were resumed" in warned[0]
    expected = straight[1]["single"]
    assert not torch.allclose(expected["head.bias"], after["head.bias"], **TOLERANCE)


@pytest.mark.slow
def test_what_older_versions_saved_for_ranks_with_whole_weights_is_averaged(runs, tmp_path):
    directory, straight, _ = runs
    path = Path(directory, "ddp on 2", f"iter_{SAVED_AT}.pth")
    saved = torch.load(path, weights_only=True)
    accumulation = saved["optimizer"]["accumulation"]
    sums = saved["engine"]["gradients"] = accumulation.pop("sums")
    # The state of rank 0's own wrapper.
    trained = [name for name, _ in make_model().named_parameters()]
    accumulation["gradients"] = [sums[0].get(name) for name in trained]
    (tmp_path / "old").mkdir()
    torch.save(saved, tmp_path / "old" / path.name)
    after, warned = resume(str(tmp_path), [("old", "single")])["old", "single"]
    assert [] == warned
    assert_close(straight[1]["single"], after)


def optimizer_of(counts=COUNTS):
    from mmx.optim import OptimWrapper

    model = nn.Linear(2, 2)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=counts)
    wrapper.initialize_count_status(model, 0, 9)
    return model, wrapper


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"counts": 4},
            r"gradients of the 2 iterations after the last step are lost: .*"
            r"accumulative_counts=4, this run has 3",
        ),
        (
            {"sums": [{"weight": torch.ones(3, 2), "bias": torch.ones(2), "gone": torch.ones(1)}]},
            "trains no weights of their names and shapes: gone, weight. The next step",
        ),
    ],
)
def test_gradients_that_do_not_fit_are_named_in_a_warning(monkeypatch, change, text):
    import re

    from mmx.strategy.accumulation import Accumulation

    texts = []
    monkeypatch.setattr(
        "mmx.strategy.accumulation.print_log", lambda text, **kwargs: texts.append(text)
    )
    model, wrapper = optimizer_of()
    stored = {"inner_count": 2, "counts": 3, "sums": [{}], **change}
    Accumulation(model).take(wrapper, stored)
    assert re.search(text, texts[0])
    assert model.weight.grad is None
    assert ("counts" in change) == (model.bias.grad is None)


def test_parts_that_older_versions_saved_go_to_the_same_ranks_or_are_warned_of(monkeypatch):
    from types import SimpleNamespace

    from mmx.runner import checkpointing

    texts, model = [], nn.Linear(2, 2)
    runner = SimpleNamespace(model=model, logger=SimpleNamespace(warning=texts.append))
    parts = [{"bias": torch.full((2,), float(rank))} for rank in range(4)]
    engine = {"gradients": parts, "model_parallel_size": 2}
    checkpointing._resume_gradients(runner, engine)
    assert "holds those of 4 ranks that split layers in 2" in texts[0]
    assert model.bias.grad is None
    for name, value in {"world_size": 4, "model_parallel_size": 2, "rank": 3}.items():
        monkeypatch.setattr(checkpointing, f"get_{name}", lambda value=value: value)
    checkpointing._resume_gradients(runner, engine)
    assert [3.0, 3.0] == model.bias.grad.tolist()
    assert model.weight.grad is None
    assert len(texts) == 1


def test_gradients_of_a_scaled_loss_are_brought_to_the_scale_of_the_run(tmp_path):
    from mmx.optim import AmpOptimWrapper
    from mmx.strategy import SingleDeviceStrategy

    strategy = SingleDeviceStrategy(work_dir=str(tmp_path))
    strategy.model, strategy.optim_wrapper = model, wrapper = optimizer_of()
    wrapper.backward(model(torch.ones(1, 2)).sum() * 4)
    state = strategy.optim_state_dict() | {"loss_scaler": {"scale": 4.0}}
    strategy.load_optim_state_dict(state)
    assert torch.equal(torch.ones(2), model.bias.grad)
    scaled = AmpOptimWrapper(
        optimizer=wrapper.optimizer, accumulative_counts=COUNTS, dtype="bfloat16", loss_scale=8.0
    )
    strategy.optim_wrapper = scaled
    del state["loss_scaler"]
    strategy.load_optim_state_dict(state)
    assert torch.equal(torch.full((2,), 32.0), model.bias.grad)


def before_the_first_step(saves):
    """Return Adam's state after a step, perhaps saved before it."""
    from mmx.optim import OptimWrapper
    from mmx.strategy import FSDPStrategy

    torch.manual_seed(0)
    strategy = FSDPStrategy(env_kwargs=dict(shared=True), state_dict_cfg="sharded")
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].bias = None
    strategy.model = model = strategy.wrap_model(model)
    strategy.optim_wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), lr=0.1))
    if saves:
        state = strategy.optim_state_dict()
        assert {} == state["state"]
        assert ["0.weight", "0.bias", "1.weight"] == state["param_groups"][0]["params"]
        state["param_groups"][0]["lr"] = 0.2
        strategy.load_optim_state_dict(state)
    # Of the weights one gets no gradient, and no state.
    model(torch.ones(1, 2)).sum()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    strategy.optim_wrapper.step()
    steps = [float(entry["step"]) for entry in strategy.optim_wrapper.optimizer.state.values()]
    state = strategy.optim_state_dict()
    strategy.load_optim_state_dict(state)
    after = [float(entry["step"]) for entry in strategy.optim_wrapper.optimizer.state.values()]
    return steps, after, strategy.optim_wrapper.get_lr()["lr"], sorted(state["state"])


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.slow = nn.Linear(2, 2)
        self.fast = nn.Linear(2, 2)

    def forward(self, x, part):
        return getattr(self, part)(x)


def train_by_turns():
    """One optimizer accumulates, the other steps each time; return the whole weights."""
    from mmx.optim import OptimWrapper, OptimWrapperDict
    from mmx.strategy import FSDPStrategy, SingleDeviceStrategy

    sharded = torch.distributed.is_initialized()
    torch.manual_seed(0)
    model = Two()
    strategy = (FSDPStrategy if sharded else SingleDeviceStrategy)(env_kwargs=dict(shared=True))
    model = strategy.wrap_model(model)
    wrappers = OptimWrapperDict(
        **{
            name: OptimWrapper(
                torch.optim.SGD(getattr(model, name).parameters(), lr=0.1),
                accumulative_counts=counts,
            )
            for name, counts in [("slow", 2), ("fast", 1)]
        }
    )
    model = strategy.join(model, wrappers)
    share = torch.distributed.get_rank() if sharded else slice(None)
    for i in range(3):
        for name, wrapper in wrappers.items():
            with wrapper.optim_context(model):
                out = model((torch.tensor([[0.1, 0.2], [0.3, 0.5]]) + i)[share], name)
            wrapper.update_params(out.square().mean())
    return {n: p.full_tensor() if sharded else p.detach() for n, p in model.named_parameters()}


def test_sharded_weights_of_two_optimizers_accumulate_apart():
    expected = train_by_turns()
    for found in run_distributed(train_by_turns, 2):
        for name, value in expected.items():
            torch.testing.assert_close(value, found[name].detach(), **TOLERANCE)


def save_before_the_first_step():
    return before_the_first_step(False), before_the_first_step(True)


def test_saving_sharded_training_before_its_first_step_changes_nothing():
    without, saved = run_distributed(save_before_the_first_step, 2)[0]
    assert ([1.0], [1.0], [0.1], ["0.weight"]) == without
    assert ([1.0], [1.0], [0.2], ["0.weight"]) == saved
