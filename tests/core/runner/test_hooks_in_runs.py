"""The built-in hooks in whole runs: what they do to a run, and that a resumed one is no different."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmx.checkpoint import unwrap
from mmx.dist import barrier
from mmx.evaluator import BaseMetric
from mmx.hooks import EarlyStoppingHook, EMAHook, Hook, ProfilerHook, ThroughputHook
from mmx.logging import MessageHub
from mmx.model import BaseModel
from mmx.runner import BaseLoop, Runner, fast_dev_run
from mmx.structures import BaseDataElement
from mmx.testing import run_distributed
from mmx.visualization import Visualizer

NO_VAL = {"val_dataloader": None, "val_cfg": None, "val_evaluator": None}


def hook_of(runner: Any, kind: type) -> Any:
    return next(hook for hook in runner.hooks if type(hook) is kind)


# Early stopping -------------------------------------------------------------------------------


class Scripted(BaseMetric):
    """A score for each number of trained iterations, whatever the model says."""

    def __init__(self, scores: dict[int, float]) -> None:
        super().__init__()
        self.scores = scores

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        iteration = MessageHub.get_current_instance().get_info("iter")
        return {"score": self.scores.get(iteration + 1, 0.9)}


# By epochs of 5 iterations: a plateau from the second on. By threes: from iteration 6 on.
PLATEAU = {5: 0.5, 10: 0.6, 15: 0.6, 20: 0.61, 3: 0.5, 6: 0.6, 9: 0.6, 12: 0.61}
PATIENT = {"type": "EarlyStoppingHook", "monitor": "score", "rule": "greater"} | {
    "min_delta": 0.05,
    "patience": 2,
}
BY_EPOCH = {"by_epoch": True, "max_epochs": 10}
BY_ITER = {"by_epoch": False, "max_iters": 50, "val_interval": 3}


@pytest.mark.parametrize(
    ("train_cfg", "end", "saved"), [(BY_EPOCH, (4, 20), 18), (BY_ITER, (0, 12), 10)]
)
def test_a_plateau_ends_training_where_it_would_have_in_an_undisturbed_run(
    make_runner, tmp_path, monkeypatch, train_cfg, end, saved
):
    def run(**more: Any) -> Any:
        runner = make_runner(
            train_cfg=train_cfg,
            val_evaluator=[Scripted(PLATEAU)],
            custom_hooks=[PATIENT],
            default_hooks={
                "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 2}
            },
            **more,
        )
        runner.train()
        return runner

    whole = run(work_dir=tmp_path / "whole")
    assert end == (whole.epoch, whole.iter)
    state = hook_of(whole, EarlyStoppingHook).state_dict()
    assert {"version": 1, "wait_count": 2, "best_score": 0.6} == state
    said = Path(whole.log_dir, f"{whole.timestamp}.log").read_text()
    assert "the monitored metric did not improve in the last 2 records. best score: 0.600." in said
    # Between the two validations that are too many.
    middle = str(tmp_path / "whole" / f"iter_{saved}.pth")
    resumed = run(load_from=middle, resume=True)
    assert end == (resumed.epoch, resumed.iter)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key])
    # What has not been saved would begin to wait anew.
    monkeypatch.setattr(EarlyStoppingHook, "load_state_dict", lambda self, state: None)
    assert run(load_from=middle, resume=True).iter > whole.iter


@pytest.mark.parametrize(
    ("change", "end"),
    [
        ({"stopping_threshold": 0.55}, 10),
        ({"patience": 1}, 15),
        ({"patience": 1, "min_delta": 0.001}, 15),
        ({"min_delta": 0.001}, 35),
        ({"rule": "less", "patience": 1}, 10),
    ],
)
def test_training_ends_after_the_epoch_that_the_settings_say(make_runner, change, end):
    runner = make_runner(
        train_cfg=BY_EPOCH, val_evaluator=[Scripted(PLATEAU)], custom_hooks=[{**PATIENT, **change}]
    )
    runner.train()
    assert end == runner.iter


def test_a_score_that_is_not_a_number_ends_training(make_runner):
    runner = make_runner(
        train_cfg=BY_EPOCH, val_evaluator=[Scripted({10: float("nan")})], custom_hooks=[PATIENT]
    )
    runner.train()
    assert 2 == runner.epoch


# Order of samples -----------------------------------------------------------------------------


class OlderLoop(BaseLoop):
    """Trains by epochs as MMEngine's loop does: the sampler is the hook's business."""

    def __init__(self, runner: Any, dataloader: Any, max_epochs: int) -> None:
        super().__init__(runner, dataloader)
        self._epoch = self._iter = 0
        self.max_epochs, self.max_iters = max_epochs, max_epochs * len(self.dataloader)

    epoch = property(lambda self: self._epoch)
    iter = property(lambda self: self._iter)

    def run(self) -> nn.Module:
        runner = self.runner
        runner.call_hook("before_train")
        while self._epoch < self.max_epochs:
            runner.call_hook("before_train_epoch")
            for idx, batch in enumerate(self.dataloader):
                runner.call_hook("before_train_iter", batch_idx=idx, data_batch=batch)
                outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
                runner.call_hook(
                    "after_train_iter", batch_idx=idx, data_batch=batch, outputs=outputs
                )
                self._iter += 1
            runner.call_hook("after_train_epoch")
            self._epoch += 1
        runner.call_hook("after_train")
        return runner.model


def test_the_sampler_seed_hook_gives_each_epoch_its_order_also_after_a_resume(
    make_runner, parts, tmp_path
):
    def orders(**more: Any) -> list[list[int]]:
        recorder = parts.Recorder()
        make_runner(
            train_cfg={"type": OlderLoop, "max_epochs": 3},
            custom_hooks=[recorder],
            **more,
            **NO_VAL,
        ).train()
        flat = [index for batch in recorder.samples for index in batch]
        return [flat[at : at + 20] for at in range(0, len(flat), 20)]

    whole = orders(work_dir=tmp_path / "whole")
    assert [list(range(20))] * 3 == [sorted(order) for order in whole]
    assert 3 == len({tuple(order) for order in whole})
    assert whole[1:] == orders(load_from=str(tmp_path / "whole" / "epoch_1.pth"), resume=True)
    without = orders(default_hooks={"sampler_seed": None})
    assert without[0] == without[1] == without[2] == whole[0]


# Measurements ---------------------------------------------------------------------------------


def test_throughput_is_logged_with_the_models_exact_operations(make_runner):
    hook = ThroughputHook(interval=2, peak_tflops=1e-3)
    runner = make_runner(
        custom_hooks=[hook],
        default_hooks={"logger": {"type": "LoggerHook", "interval": 5}},
        **NO_VAL,
    )
    begin = time.perf_counter()
    runner.train()
    whole_s = time.perf_counter() - begin
    # Two layers, 4 -> 8 and 8 -> 2, on 4 samples: the pass forward, the gradients of both weights,
    # and that of the second layer's input. A multiplication and an addition are two operations.
    first, second = 2 * 4 * 4 * 8, 2 * 4 * 8 * 2
    assert first + second + first + 2 * second == hook.flops_per_iter
    hub = runner.message_hub
    rates, operations, share = (
        list(hub.get_scalar(f"train/{name}").data[0])
        for name in ("samples_per_s", "tflops_per_s", "mfu")
    )
    # 5 + 5 iterations, the second of which is spent on counting; epochs are not mixed.
    assert 3 == len(rates)
    # Two iterations took no longer than the whole run, and more than two microseconds.
    assert all(8 / whole_s < rate < 4e6 for rate in rates)
    for rate, achieved, used in zip(rates, operations, share, strict=True):
        assert achieved == pytest.approx(rate / 4 * hook.flops_per_iter / 1e12)
        assert used == pytest.approx(achieved / 1e-3)
    logged = [
        json.loads(line)
        for line in Path(runner.log_dir, "vis_data", "scalars.json").read_text().splitlines()
    ]
    assert any(line.get("samples_per_s", 0) > 0 and "mfu" in line for line in logged)
    assert "samples_per_s: " in Path(runner.log_dir, f"{runner.timestamp}.log").read_text()


def complete_events(path: Path) -> list[dict[str, Any]]:
    """Return the spans of a trace, with what TensorBoard and Perfetto need to draw them."""
    trace = json.loads(path.read_text())
    assert trace["schemaVersion"] == 1
    spans = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    for span in spans:
        assert span["dur"] >= 0
        assert {"name", "ts", "pid", "tid", "cat"} <= set(span)
    return spans


def test_a_profiled_run_leaves_traces_that_viewers_open(make_runner, tmp_path):
    whole = tmp_path / "traces" / "whole.json"
    hooks = [
        {
            "type": "ProfilerHook",
            "by_epoch": False,
            "profile_times": 3,
            "json_trace_path": str(whole),
        }
    ]
    runner = make_runner(custom_hooks=hooks, **NO_VAL)
    runner.train()
    spans = complete_events(whole)
    steps = [span for span in spans if span["name"] == "Optimizer.step#SGD.step"]
    # Three of the ten iterations: no more are profiled.
    assert 3 == len(steps)
    assert {"aten::linear", "aten::batch_norm"} <= {span["name"] for span in spans}

    schedule = {"wait": 1, "warmup": 1, "active": 2, "repeat": 1}
    trace = {"type": "tb_trace"}
    runner = make_runner(
        custom_hooks=[ProfilerHook(schedule=schedule, on_trace_ready=trace)], **NO_VAL
    )
    runner.train()
    files = list(Path(runner.log_dir, "tf_tracing_logs").iterdir())
    # The name by which TensorBoard's plugin finds it: worker, time, ending.
    assert 1 == len(files)
    assert files[0].name.startswith("rank0.")
    assert files[0].name.endswith(".pt.trace.json")
    spans = complete_events(files[0])
    assert 2 == sum(span["name"] == "Optimizer.step#SGD.step" for span in spans)
    assert {"ProfilerStep#2", "ProfilerStep#3"} <= {span["name"] for span in spans}


def test_the_cache_is_emptied_as_often_as_a_run_has_epochs_and_iterations(make_runner, monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr("mmx.hooks.empty_cache_hook.is_cuda_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))

    def count(**options: Any) -> int:
        calls.clear()
        make_runner(custom_hooks=[{"type": "EmptyCacheHook", **options}]).train()
        return len(calls)

    # Two epochs of five iterations, each with a validation of three.
    assert 2 + 2 == count()
    assert 2 * (2 + 2) == count(before_epoch=True)
    assert 2 * (5 + 3) == count(after_epoch=False, after_iter=True)


@pytest.mark.parametrize("keep_local", [True, False])
def test_logs_of_a_run_are_copied_elsewhere(make_runner, tmp_path, keep_local):
    logger = {"type": "LoggerHook", "interval": 5, "out_dir": str(tmp_path / "elsewhere")}
    runner = make_runner(
        work_dir=tmp_path / "named",
        default_hooks={"logger": {**logger, "keep_local": keep_local}},
        cfg={"some": 1},
    )
    runner.train()
    copies = {path.name: path for path in (tmp_path / "elsewhere" / "named").rglob("*.*")}
    log, scalars = copies[f"{runner.timestamp}.log"].read_text(), copies["scalars.json"].read_text()
    assert "Epoch(train) [2][5/5]" in log
    losses = [row["loss"] for row in map(json.loads, scalars.splitlines()) if "loss" in row]
    assert 2 == len(losses)
    assert keep_local == Path(runner.log_dir, f"{runner.timestamp}.log").exists()
    # Checkpoints are no logs.
    assert not [name for name in copies if name.endswith(".pth")]
    assert (tmp_path / "named" / "epoch_2.pth").exists()


# Schedules ------------------------------------------------------------------------------------


def test_schedules_by_iteration_by_epoch_and_by_metric_reach_the_optimizer(make_runner, tmp_path):
    rates: list[tuple[float, float]] = []

    class Reads(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            (group,) = runner.optim_wrapper.param_groups
            rates.append((group["lr"], group["momentum"]))

    def run(**more: Any) -> list[tuple[float, float]]:
        rates.clear()
        make_runner(
            train_cfg={"by_epoch": True, "max_epochs": 6},
            val_evaluator=[Scripted({5: 1.0, 10: 1.0, 15: 1.0, 20: 2.0, 25: 1.0, 30: 1.0})],
            param_scheduler=[
                {"type": "LinearLR", "start_factor": 0.2, "by_epoch": False, "end": 5},
                {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5},
                {"type": "ReduceOnPlateauLR", "monitor": "score", "rule": "greater", "factor": 0.1}
                | {"patience": 1, "threshold": 0.01},
                {"type": "StepMomentum", "step_size": 3, "gamma": 0.5},
            ],
            custom_hooks=[Reads()],
            default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
            **more,
        ).train()
        return list(rates)

    whole = run(work_dir=tmp_path / "whole")
    # The ramp ends with the first epoch; the step comes after two epochs; after a second validation
    # that is no better than the first one the metric's schedule divides by ten.
    epochs = [0.1, 0.05, 0.005, 0.005, 0.005]
    expected = [0.02 + 0.02 * i for i in range(5)] + [rate for rate in epochs for _ in range(5)]
    assert expected == pytest.approx([rate for rate, _ in whole])
    assert [0.9] * 15 + [0.45] * 15 == pytest.approx([momentum for _, momentum in whole])
    for epoch in (2, 3):
        file = str(tmp_path / "whole" / f"epoch_{epoch}.pth")
        assert whole[5 * epoch :] == run(load_from=file, resume=True)


def test_the_average_of_a_whole_run_is_what_the_formula_says(make_runner):
    weights: list[torch.Tensor] = []

    class Keeps(Hook):
        def after_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            weights.append(runner.model.first.weight.detach().clone())

    runner = make_runner(
        custom_hooks=[{"type": "EMAHook", "momentum": 0.25}, Keeps()],
        train_cfg={"by_epoch": False, "max_iters": 6},
        **NO_VAL,
    )
    runner.train()
    expected = weights[0]
    for weight in weights[1:]:
        expected = 0.75 * expected + 0.25 * weight
    found = hook_of(runner, EMAHook).ema_model.module.first.weight
    torch.testing.assert_close(found, expected)


# Pictures -------------------------------------------------------------------------------------


class Pictures(torch.utils.data.Dataset):
    """Grey pictures of 12 by 8, each a little lighter."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = BaseDataElement(
            metainfo={"img_path": f"there/{index}.png", "ori_height": 8, "ori_width": 12}
        )
        return {"inputs": torch.full((3, 8, 12), 20.0 * index), "data_sample": sample}


class Looks(BaseModel):
    """Predicts each picture's brightness."""

    def forward(self, inputs: Any, data_sample: Any, mode: str = "tensor") -> Any:
        for picture, sample in zip(inputs, data_sample, strict=True):
            sample.set_field(float(picture.mean()), "brightness")
        return data_sample


class Draws(Visualizer):
    """Draws a picture, and in it what has been predicted, as a white line of that length."""

    def add_datasample(
        self, name: str, image: Any, data_sample: Any = None, pred: Any = None, *args: Any
    ) -> None:
        image = image.copy()
        image[0, : int(pred.brightness / 20)] = 255
        self.add_image(name.removesuffix(".png"), image)


class Counts(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {"count": len(results)}


@pytest.mark.parametrize(("interval", "drawn"), [(1, [0, 1, 2, 3, 4]), (2, [2, 3])])
def test_pictures_of_a_test_are_drawn_into_files(make_runner, tmp_path, interval, drawn):
    from PIL import Image

    runner = make_runner(
        model=Looks(),
        train_dataloader=None,
        train_cfg=None,
        optim_wrapper=None,
        **NO_VAL,
        test_dataloader={
            "dataset": Pictures(),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "batch_size": 2,
        },
        test_cfg={},
        test_evaluator=[Counts()],
        visualizer={"type": Draws, "vis_backends": [{"type": "LocalVisBackend"}]},
        custom_hooks=[{"type": "NaiveVisualizationHook", "interval": interval}],
    )
    assert {"count": 5} == runner.test()
    files = sorted(Path(runner.log_dir).rglob("*.png"))
    assert [f"{index}_0.png" for index in drawn] == [file.name for file in files]
    for index, file in zip(drawn, files, strict=True):
        pixels = np.asarray(Image.open(file))
        assert (8, 12, 3) == pixels.shape
        # The prediction of this picture, and of no other.
        assert index == (pixels[0, :, 0] == 255).sum()
        assert (pixels[1:] == 20 * index).all()


# Several ranks --------------------------------------------------------------------------------


class Few(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((4,), float(index)), index % 2


class Normed(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Any, y: Any, mode: str = "tensor") -> Any:
        scores = self.last(self.norm(x))
        return {"loss": nn.functional.cross_entropy(scores, y)} if mode == "loss" else [*y]


class Means(Hook):
    """Keeps the running mean at the end of each training epoch and before each validation; also
    the seed, and which samples this rank trains on.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.seeds: list[int] = []
        self.samples: list[int] = []

    def before_train_epoch(self, runner: Any) -> None:
        self.seeds.append(torch.initial_seed())

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.samples += [int(x) for x in data_batch[0][:, 0]]

    def _keep(self, runner: Any) -> None:
        self.seen.append(round(float(unwrap(runner.model).norm.running_mean[0]), 4))

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._keep(runner)

    def after_train_epoch(self, runner: Any) -> None:
        self._keep(runner)


def _loader(size: int) -> dict[str, Any]:
    return {
        "dataset": Few(),
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "default_collate"},
        "batch_size": size,
    }


def _ranked(folder: str, **changes: Any) -> dict[str, Any]:
    return {
        "model": Normed(),
        "work_dir": f"{folder}/work",
        "launcher": "pytorch",
        "env_cfg": {"dist_cfg": {"backend": "gloo"}},
        "train_dataloader": _loader(4),
        "train_cfg": {"by_epoch": True, "max_epochs": 1},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}},
        "val_dataloader": _loader(16),
        "val_cfg": {},
        "val_evaluator": [Counts()],
        "randomness": {"seed": 1},
        **changes,
    }


def _runs_of_a_rank(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # A trial first: it is what starts the process group.
    runner = fast_dev_run(_ranked(folder), 2)
    barrier()
    found["trial"] = (runner.iter, len(runner.train_dataloader.dataset), os.listdir(folder))
    barrier()
    for name, hooks, changes in (
        ("synced", [{"type": "SyncBuffersHook"}], {}),
        ("apart", [], {"auto_scale_lr": {"enable": True, "base_batch_size": 4}}),
        ("own seeds", [], {"randomness": {"seed": 1, "diff_rank_seed": True}}),
    ):
        means, rate = Means(), ThroughputHook(interval=2, flops=True)
        settings = _ranked(folder, custom_hooks=[*hooks, means, rate], **changes)
        settings["train_dataloader"]["sampler"]["shuffle"] = name == "own seeds"
        runner = Runner(**settings)
        runner.train()
        found[name] = means.seen
        found[f"{name}: facts"] = means.seeds, means.samples, runner.optim_wrapper.get_lr()["lr"]
    found["flops"] = rate.flops_per_iter
    hub = runner.message_hub
    found["rates"] = [
        float(hub.get_scalar(f"train/{what}").current())
        for what in ("samples_per_s", "tflops_per_s")
    ]
    return found


def test_buffers_rates_seeds_and_trials_of_several_ranks(tmp_path: Path) -> None:
    first, second = run_distributed(_runs_of_a_rank, 2, str(tmp_path), init=False)
    # Two runs of two iterations on as many batches of each rank; one directory, gone at the end.
    assert (4, 16, []) == first["trial"] == second["trial"]
    # At the end of the epoch, and in validation: the same on both, which each for itself would not be.
    assert first["synced"] == second["synced"]
    assert 2 == len(set(first["synced"] + [0.0]))
    middle = (np.array(first["apart"]) + np.array(second["apart"])) / 2
    assert first["synced"] == pytest.approx(middle.tolist(), abs=1e-3)
    assert all(abs(a - b) > 0.1 for a, b in zip(first["apart"], second["apart"], strict=True))
    # The rate goes with the samples of both.
    assert [0.1] == first["synced: facts"][2]
    assert [pytest.approx(0.2)] == first["apart: facts"][2]
    # The same seed on both, unless they are to differ; then they agree on the order all the same.
    assert [1] == first["apart: facts"][0] == second["apart: facts"][0]
    assert ([1], [2]) == (first["own seeds: facts"][0], second["own seeds: facts"][0])
    trained = [*first["own seeds: facts"][1], *second["own seeds: facts"][1]]
    assert list(range(32)) == sorted(trained)
    assert trained != sorted(trained)
    # Of both ranks together: 8 samples for twice the operations of one.
    forward = 2 * 4 * 4 * 2
    assert 3 * forward == first["flops"] == second["flops"]
    samples, operations = first["rates"]
    assert operations == pytest.approx(samples / 8 * 2 * 3 * forward / 1e12)
