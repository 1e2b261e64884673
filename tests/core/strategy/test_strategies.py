"""Strategies: a single device, several ranks, sharded weights."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.checkpoint import unwrap
from mmx.logging import MMLogger
from mmx.model import BaseModel
from mmx.optim import OptimWrapper
from mmx.registry import MODELS
from mmx.strategy import (
    BaseStrategy,
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    SingleDeviceStrategy,
)

SCRIPT = Path(__file__).parent / "ranks.py"


@MODELS.register_module(force=True)
class StrategyNet(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.SyncBatchNorm(2)

    def forward(self, x, mode="tensor"):
        return {"loss": self.norm(self.linear(x)).pow(2).sum()}


def on_two_ranks(scenario, directory):
    """Run a scenario of ranks.py and return both ranks' results."""
    result = subprocess.run(
        [sys.executable, str(SCRIPT), scenario, str(directory)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(2)]


def single_process(directory, **options):
    spec = importlib.util.spec_from_file_location("strategy_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    runner = module.make_runner(str(directory), launcher="none", **options)
    runner.train()
    return module.whole_weights(runner)


def close(a, b, tolerance=1e-5):
    for key in a:
        torch.testing.assert_close(
            torch.tensor(a[key]), torch.tensor(b[key]), rtol=tolerance, atol=tolerance
        )
    return a.keys() == b.keys()


def test_prepare_builds_places_and_returns_what_was_asked_for(tmp_path):
    strategy = SingleDeviceStrategy(work_dir=str(tmp_path))
    model = strategy.prepare(dict(type="StrategyNet"))
    assert isinstance(model, StrategyNet)
    assert type(model.norm) is not nn.SyncBatchNorm
    assert strategy.prepare(dict(type="StrategyNet")) is model

    strategy = SingleDeviceStrategy(work_dir=str(tmp_path))
    model, optim_wrapper, schedulers = strategy.prepare(
        StrategyNet(),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        param_scheduler=dict(type="MultiStepLR", milestones=[1]),
        dispatch_kwargs=dict(max_epochs=3, max_iters=30, epoch_length=10),
    )
    assert isinstance(optim_wrapper, OptimWrapper)
    assert schedulers[0].end == 3


def test_reverting_synchronised_layers_is_told_where_there_are_any(tmp_path):
    log = tmp_path / "run.log"
    logger = MMLogger.get_instance("reverting", log_file=str(log))
    SingleDeviceStrategy(work_dir=str(tmp_path)).convert_model(nn.BatchNorm1d(2))
    logger.info("end of the first")
    SingleDeviceStrategy(work_dir=str(tmp_path)).convert_model(nn.SyncBatchNorm(2))
    first, second = log.read_text().split("end of the first")
    assert "SyncBatchNorm" not in first
    assert "all SyncBatchNorm (SyncBN) layers in the model will be automatically" in second


def test_a_strategy_knows_its_environment(tmp_path):
    strategy = SingleDeviceStrategy(
        work_dir=str(tmp_path),
        experiment_name="exp",
        env_kwargs=dict(randomness=dict(seed=4), cudnn_benchmark=False),
    )
    assert isinstance(strategy, BaseStrategy)
    assert (strategy.seed, strategy.rank, strategy.world_size) == (4, 0, 1)
    assert (strategy.launcher, strategy.distributed) == ("none", False)
    assert strategy.experiment_name == f"exp_{strategy.timestamp}"
    assert strategy.log_dir == os.path.join(str(tmp_path), strategy.timestamp)
    assert strategy.randomness == {"seed": 4}
    machine, run = strategy.collect_env()
    assert "Python" in machine
    assert run["seed"] == 4


def test_state_is_saved_and_loaded(tmp_path):
    def prepared():
        strategy = SingleDeviceStrategy(work_dir=str(tmp_path))
        strategy.prepare(
            StrategyNet(),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
            param_scheduler=dict(type="MultiStepLR", milestones=[1]),
        )
        return strategy

    first, seen = prepared(), []
    loss = first.model(torch.randn(4, 2))["loss"]
    first.optim_wrapper.update_params(loss)
    first.param_schedulers[0].step()
    path = str(tmp_path / "epoch_1.pth")
    first.save_checkpoint(
        path, extra_ckpt=dict(mine=1), callback=lambda ckpt: seen.append(sorted(ckpt))
    )
    assert seen == [["meta", "mine", "optimizer", "param_schedulers", "state_dict"]]
    second = prepared()
    rest = second.resume(path, callback=lambda ckpt: seen.append("called"))
    assert seen[-1] == "called"
    assert rest["mine"] == 1
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key])
    assert first.scheduler_state_dict() == second.scheduler_state_dict()
    third = prepared()
    (tmp_path / "last_checkpoint").write_text(path)
    assert third.load_or_resume(resume=True)["mine"] == 1
    assert prepared().load_or_resume() is None
    assert "optimizer" in prepared().load_or_resume(load_from=path)


def test_the_learning_rate_is_scaled_if_asked_for(tmp_path):
    strategy = SingleDeviceStrategy(
        work_dir=str(tmp_path), auto_scale_lr=dict(enable=True, base_batch_size=16)
    )
    _, optim_wrapper = strategy.prepare(
        StrategyNet(),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        dispatch_kwargs=dict(train_micro_batch_size_per_gpu=4),
    )
    assert optim_wrapper.get_lr()["lr"] == [pytest.approx(0.025)]


def test_compile_model_in_place(tmp_path):
    strategy = SingleDeviceStrategy(work_dir=str(tmp_path))
    model = nn.Linear(2, 2)
    assert strategy.compile_model(model) is model
    assert model._compiled_call_impl is None
    strategy.compile_model(model, dict(backend="eager"))
    assert model._compiled_call_impl is not None
    assert list(model.state_dict()) == ["weight", "bias"]


def test_sharding_without_a_process_group_says_how_to_start_one(tmp_path):
    strategy = FSDPStrategy(work_dir=str(tmp_path))
    with pytest.raises(RuntimeError, match="Start with torchrun and launcher='pytorch'"):
        strategy.wrap_model(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (dict(state_dict_cfg="some"), "only supports state_dict_cfg of local, full, sharded"),
        (dict(model_wrapper=dict(shards=[])), "takes auto_wrap_policy, shard, .*it has shards"),
    ],
)
def test_bad_arguments_of_the_sharded_strategy(tmp_path, arguments, text):
    with pytest.raises(ValueError, match=text):
        FSDPStrategy(work_dir=str(tmp_path), **arguments)


def test_bad_sync_bn_says_what_is_known(tmp_path):
    strategy = DDPStrategy(work_dir=str(tmp_path), sync_bn="unknown")
    with pytest.raises(ValueError) as info:
        strategy.convert_model(StrategyNet())
    assert any('should be "torch" or "mmcv"' in note for note in info.value.__notes__)


def test_two_ranks_train_the_same_model_as_one_with_twice_the_batch(tmp_path):
    first, second = on_two_ranks("ddp", tmp_path)
    assert first["wrapper"] == "MMDistributedDataParallel"
    assert (first["rank"], second["rank"], first["world"]) == (0, 1, 2)
    assert first["distributed"]
    assert first["random_states"] == 2
    assert close(first["weights"], second["weights"], 0)
    assert close(first["weights"], single_process(tmp_path / "alone", batch_size=8))


def test_sharded_weights_train_save_and_resume_like_whole_ones(tmp_path):
    first, _ = on_two_ranks("fsdp", tmp_path)
    assert first["sharded"] == "DTensor"
    assert close(first["weights"], single_process(tmp_path / "alone", batch_size=8))
    assert close(first["resumed"], first["straight"], 0)
    # Saved on two ranks, resumed on one.
    resumed = single_process(tmp_path / "work", batch_size=8, epochs=4, resume=True)
    assert close(resumed, first["straight"], 1e-4)


def test_each_rank_takes_up_its_own_part_of_an_accumulation(tmp_path):
    first, second = on_two_ranks("accumulating", tmp_path)
    assert close(first["straight"], first["resumed"], 0)
    assert close(second["straight"], second["resumed"], 0)


def test_deepspeed_absent_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    strategy = DeepSpeedStrategy(work_dir=str(tmp_path), train_micro_batch_size_per_gpu=2)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .mmx\[deepspeed\]."):
        strategy.prepare(StrategyNet(), optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)))


class Engine(nn.Module):
    """A stand-in for DeepSpeed's, that divides nothing."""

    def __init__(self, module, optimizer, config, calls):
        super().__init__()
        self.module, self.optimizer = module, optimizer
        self.config, self.calls = config, calls
        self.micro_steps = self.global_steps = self.global_samples = self.skipped_steps = 0

    def gradient_accumulation_steps(self):
        return self.config["gradient_accumulation_steps"]

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    def backward(self, loss):
        self.calls.append("backward")
        loss.backward()

    def step(self):
        self.calls.append("step")
        self.micro_steps += 1
        if self.micro_steps % self.gradient_accumulation_steps() == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()


@pytest.fixture
def engine_calls(monkeypatch):
    calls = []

    def initialize(model, optimizer, config):
        calls.append(config)
        return Engine(model, optimizer, config, calls), optimizer, None, None

    fake, parts = types.ModuleType("deepspeed"), types.ModuleType("deepspeed.utils")
    fake.initialize, fake.zero = initialize, None
    parts.safe_get_full_fp32_param = lambda parameter: None  # nothing is divided
    monkeypatch.setitem(sys.modules, "deepspeed", fake)
    monkeypatch.setitem(sys.modules, "deepspeed.utils", parts)
    return calls


def test_deepspeed_takes_over_backward_pass_and_step(tmp_path, monkeypatch, engine_calls):
    calls = engine_calls
    strategy = DeepSpeedStrategy(
        work_dir=str(tmp_path),
        config=dict(gradient_clipping=2.0, gradient_accumulation_steps=2),
        zero_optimization=dict(stage=2),
        train_micro_batch_size_per_gpu=2,
    )
    model, optim_wrapper = strategy.prepare(
        StrategyNet(), optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1))
    )
    model.train_step({"x": torch.randn(4, 2)}, optim_wrapper)
    assert calls[0]["zero_optimization"] == {"stage": 2}
    assert calls[0]["gradient_clipping"] == 2.0
    assert calls[1:] == ["backward", "step"]
    warned = []
    monkeypatch.setattr(strategy.logger, "warning", warned.append)
    strategy.optim_state_dict()
    (text,) = warned
    assert "DeepSpeed keeps the gradients of the last 1 iterations to itself" in text
    model.train_step({"x": torch.randn(4, 2)}, optim_wrapper)
    state = strategy.optim_state_dict()
    assert len(warned) == 1
    # What is saved is of the model itself, and goes back to where it was.
    names = ["linear.weight", "linear.bias", "norm.weight", "norm.bias"]
    assert names == state["param_groups"][0]["params"]
    assert 2 == state["deepspeed"]["counts"]["micro_steps"]
    weights = strategy.model_state_dict()
    assert {*names} < weights.keys()
    kept = {name: value.clone() for name, value in weights.items()}
    for _ in range(2):
        model.train_step({"x": torch.randn(4, 2)}, optim_wrapper)
    assert not torch.equal(kept["linear.weight"], model.module.linear.weight)
    strategy.load_model_state_dict(kept)
    strategy.load_optim_state_dict(state)
    assert torch.equal(kept["linear.weight"], model.module.linear.weight)
    assert 2 == model.engine.micro_steps
    assert unwrap(model) is model.module
    assert model.eval().training is model.module.training is False


def test_a_run_by_deepspeed_saves_resumes_and_knows_its_batches(tmp_path, engine_calls):
    strategy = dict(type="DeepSpeedStrategy")
    trained = single_process(tmp_path / "engine", strategy=strategy)
    assert 4 == engine_calls[0]["train_micro_batch_size_per_gpu"]
    expected = single_process(tmp_path / "plain")
    assert expected == trained
    longer = single_process(tmp_path / "plain", epochs=3, resume=True)
    # From its own checkpoint, and from that of plain training and back.
    assert longer == single_process(tmp_path / "engine", epochs=3, resume=True, strategy=strategy)
    source = str(tmp_path / "plain" / "epoch_2.pth")
    more = dict(epochs=3, resume=True)
    assert longer == single_process(tmp_path / "there", load_from=source, strategy=strategy, **more)
    source = str(tmp_path / "engine" / "epoch_2.pth")
    assert longer == single_process(tmp_path / "back", load_from=source, **more)


def test_deepspeed_leaves_statistics_synchronised_where_there_are_ranks(tmp_path, monkeypatch):
    strategy = DeepSpeedStrategy(work_dir=str(tmp_path))
    assert type(strategy.convert_model(StrategyNet()).norm) is not nn.SyncBatchNorm
    monkeypatch.setattr("mmx.strategy.deepspeed.is_distributed", lambda: True)
    assert type(strategy.convert_model(StrategyNet()).norm) is nn.SyncBatchNorm


def test_deepspeed_places_models_that_it_has_not_divided(tmp_path, monkeypatch):
    strategy = DeepSpeedStrategy(work_dir=str(tmp_path))
    monkeypatch.setattr("mmx.strategy.deepspeed.get_device", lambda: "meta")
    assert strategy.wrap_model(nn.Linear(2, 2)).weight.is_meta
    divided = nn.Linear(2, 2)
    divided.weight.ds_id = 0
    assert not strategy.wrap_model(divided).weight.is_meta


def test_deepspeed_saves_whole_checkpoints_only(tmp_path):
    with pytest.raises(ValueError, match="checkpoints of DeepSpeedStrategy are whole"):
        DeepSpeedStrategy(work_dir=str(tmp_path), state_dict_cfg="sharded")


def test_the_flexible_runner_trains_with_the_strategy_asked_for_on_two_ranks(tmp_path):
    first, second = on_two_ranks("flexible", tmp_path)
    alone = single_process(tmp_path / "alone", batch_size=8)
    for kind in ("DDPStrategy", "FSDPStrategy"):
        assert (kind, 2) == (first[kind]["used"], first[kind]["world"])
        others = ("used", "world", "resumed at")
        assert [first[kind][key] for key in others] == [second[kind][key] for key in others]
        # Means of halves of a batch are not added in the order of the whole.
        assert close(alone, first[kind]["weights"])
        assert 12 == first[kind]["resumed at"]


def test_wrappers_named_by_the_config_train_on_two_ranks(tmp_path):
    found = on_two_ranks("wrapped_by_config", tmp_path)
    for rank in found:
        data_parallel, sharded = rank.values()
        assert ("MMDistributedDataParallel", True) == (
            data_parallel["used"],
            data_parallel["looks"],
        )
        assert "MMFullyShardedDataParallel" == sharded["used"]
        assert len(data_parallel["losses"]) == 8
        torch.testing.assert_close(
            torch.tensor(data_parallel["losses"]), torch.tensor(sharded["losses"])
        )
    assert found[0] != found[1], "each rank has a half of its own"
