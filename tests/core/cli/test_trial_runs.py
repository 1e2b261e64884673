"""Short runs by the command line: what they run, and what they leave behind."""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from mmx.cli.main import cli
from mmx.hooks import Hook
from mmx.registry import HOOKS, RUNNERS
from mmx.runner import Runner

pytestmark = pytest.mark.usefixtures("isolated")

CONFIG = """
_base_ = "mmx_toy::two_rings.py"
custom_hooks = [dict(type="Watcher")]
train_dataloader = dict(dataset=dict(size=640), batch_size=16)
val_dataloader = dict(dataset=dict(size=100), batch_size=10)
test_dataloader = dict(
    dataset=dict(type="TwoRings", size=60, seed=1),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    batch_size=10,
)
test_cfg = dict()
test_evaluator = dict(type="Accuracy")
"""
# What a run may write elsewhere, and what it cannot do within a few iterations.
FAR_REACHING = """
visualizer = dict(
    type="mmx.Visualizer", save_dir="drawn", vis_backends=[dict(type="mmx.MLflowVisBackend")]
)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1, out_dir="logs", keep_local=False),
    checkpoint=dict(
        type="CheckpointHook", interval=5, out_dir="kept", save_begin=3, save_last=False,
        save_optimizer=False, save_best="accuracy",
    ),
)
custom_hooks = [
    dict(type="Watcher"),
    dict(type="EMAHook", begin_epoch=4),
    dict(type="ProfilerHook", profile_times=3, json_trace_path="traced/trace.json"),
]
test_evaluator = [dict(type="Accuracy"), dict(type="mmx.DumpResults", out_file_path="dumped.pkl")]
"""


class Watcher(Hook):
    """Writes down what a run goes through."""

    priority = "VERY_LOW"
    seen: list[tuple[Any, ...]] = []
    runs: list[Any] = []

    def before_run(self, runner: Any) -> None:
        self.runs.append(runner)

    def before_train(self, runner: Any) -> None:
        self.seen.append(("begin", runner.epoch, runner.iter))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.seen.append(("train", len(data_batch[0])))

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.seen.append(("val", len(data_batch[0])))

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.seen.append(("test", len(data_batch[0])))

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self.seen.append(("save",))

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self.seen.append(("load",))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that commands are given in; temporary files go into one of its own."""
    HOOKS.register_module("Watcher", module=Watcher)
    monkeypatch.setattr(Watcher, "seen", [])
    monkeypatch.setattr(Watcher, "runs", [])
    (tmp_path / "temporary").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    # torch's own, which it makes when it is first asked for.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.chdir(tmp_path / "home")
    Path("mine.py").write_text(CONFIG)
    return tmp_path / "home"


def mmx(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=code != 0)
    for runner in Watcher.runs:
        for handler in list(runner.logger.handlers):
            handler.close()
    logging.captureWarnings(False)
    assert code == result.exit_code, result.output
    return result


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


TRAIN, VAL, TEST = ("train", 16), ("val", 10), ("test", 10)


@pytest.mark.parametrize(
    ("change", "begin"),
    [
        ("", ("begin", 1, 2)),
        ("train_cfg = dict(_delete_=True, by_epoch=False, max_iters=900)", ("begin", 0, 2)),
    ],
)
def test_a_fast_dev_run_goes_there_and_back_and_leaves_nothing(
    home: Path, tmp_path: Path, change: str, begin: tuple[Any, ...]
) -> None:
    Path("mine.py").write_text(CONFIG + change)
    mmx("train", "mine.py", "--fast-dev-run", "2")
    seen = [event for event in Watcher.seen if event != ("save",)]
    assert [
        *[("begin", 0, 0), TRAIN, TRAIN, VAL, VAL],
        # What is saved before a validation is resumed with it.
        *[("load",), begin, VAL, VAL, TRAIN, TRAIN, VAL, VAL, TEST, TEST],
    ] == seen
    # The second run went on from what the first one had saved, optimizer included.
    first, second = Watcher.runs[:2]
    assert (2, 4) == (first.iter, second.iter)
    steps = second.optim_wrapper.optimizer.state_dict()["state"][0]["step"]
    assert 4 == int(steps)
    assert ["mine.py"] == files(home)
    assert [] == files(tmp_path / "temporary")
    assert not os.path.exists(second.work_dir)


def test_a_fast_dev_run_keeps_what_goes_elsewhere_and_does_what_comes_late(
    home: Path, tmp_path: Path
) -> None:
    Path("mine.py").write_text(CONFIG + FAR_REACHING)
    # A bare setting is no number of batches.
    mmx("train", "mine.py", "--fast-dev-run", "model.layers=1")
    assert 1 == Watcher.runs[0].cfg.model.layers
    kinds = Counter(event[0] for event in Watcher.seen)
    assert (2, 1) == (kinds["train"], kinds["test"])
    assert kinds["load"] == 1
    assert ["mine.py"] == files(home)
    assert [] == files(tmp_path / "temporary")
    average = next(hook for hook in Watcher.runs[-1].hooks if type(hook).__name__ == "EMAHook")
    assert 2 == average.ema_model.steps


def test_a_fast_dev_run_that_fails_says_why_and_leaves_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoils(self: Any, runner: Any, checkpoint: dict[str, Any]) -> None:
        name = next(iter(checkpoint["state_dict"]))
        checkpoint["state_dict"][name] = checkpoint["state_dict"][name] + 1

    monkeypatch.setattr(Watcher, "before_save_checkpoint", spoils)
    told = mmx("train", "mine.py", "--fast-dev-run", "1", code=1).output
    assert "Error: weights differ after saving and resuming: " in told
    assert "Traceback" not in told

    def forgets(self: Any, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["meta"]["iter"] = checkpoint["engine"]["loop"]["iter"] = 0

    monkeypatch.setattr(Watcher, "before_save_checkpoint", forgets)
    told = mmx("train", "mine.py", "--fast-dev-run", "1", code=1).output
    assert "Error: training ended after iteration 1, but was resumed after iteration 0" in told
    assert ["mine.py"] == files(home)
    assert [] == files(tmp_path / "temporary")


def test_a_config_names_the_runner_and_the_run_all_the_same_way(home: Path) -> None:
    class Telling(Runner):
        def build_train_loop(self, loop: Any) -> Any:
            Watcher.seen.append(("built by", type(self).__name__))
            return super().build_train_loop(loop)

    RUNNERS.register_module("Telling", module=Telling)
    Path("mine.py").write_text(CONFIG + 'runner_type = "Telling"\nexperiment_name = "named"\n')
    mmx("train", "mine.py", "--limit-train-batches", "1", "--cfg-options", "train_cfg.max_epochs=1")
    mmx("train", "mine.py", "--fast-dev-run")
    mmx("val", "mine.py", "work_dirs/mine/epoch_1.pth", "--limit-val-batches", "1")
    assert [("built by", "Telling"), ("begin", 0, 0), TRAIN] == Watcher.seen[:3]
    # A trial has two runners.
    assert 3 == Watcher.seen.count(("built by", "Telling"))
    assert {"Telling"} == {type(runner).__name__ for runner in Watcher.runs}
    assert all(runner.experiment_name.startswith("named_2") for runner in Watcher.runs)
    meta = torch.load("work_dirs/mine/epoch_1.pth", weights_only=True)["meta"]
    assert Watcher.runs[0].experiment_name == meta["experiment_name"]


def test_limits_count_batches_of_each_epoch_and_set(home: Path) -> None:
    limits = ["--limit-train-batches", "3", "--limit-val-batches", "2"]
    mmx("train", "mine.py", *limits, "--cfg-options", "train_cfg.max_epochs=2")
    assert Counter({TRAIN: 6, VAL: 4, ("save",): 2, ("begin", 0, 0): 1}) == Counter(Watcher.seen)
    # Unlike a trial, it is an ordinary run, with all that is kept.
    weights = "work_dirs/mine/epoch_2.pth"
    assert Path(weights).is_file()
    for command, option, expected in (
        ("val", ["--limit-val-batches", "2"], {VAL: 2}),
        ("val", [], {VAL: 10}),
        ("test", ["--limit-test-batches", "4"], {TEST: 4}),
        ("test", [], {TEST: 6}),
    ):
        Watcher.seen.clear()
        shown = mmx(command, "mine.py", weights, *option).output
        assert Counter({**expected, ("load",): 1}) == Counter(Watcher.seen)
        assert "accuracy: " in shown


def test_overfitting_trains_and_validates_on_the_same_samples(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples: dict[str, list[torch.Tensor]] = {"train": [], "val": []}

    def keep(stage: str) -> Any:
        def hook(
            self: Any, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            samples[stage].append(data_batch[0])

        return hook

    for stage in samples:
        monkeypatch.setattr(Watcher, f"after_{stage}_iter", keep(stage))
    # The sampler of this kind shuffles unless it is told not to.
    sampler = "train_dataloader.sampler._delete_=True train_dataloader.sampler.type=DefaultSampler"
    options = ["--cfg-options", "train_cfg.max_epochs=2", *sampler.split()]
    mmx("train", "mine.py", "--overfit-batches", "3", *options)
    assert [6, 6] == [len(batches) for batches in samples.values()]
    for trained, validated in zip(*samples.values(), strict=True):
        assert torch.equal(trained, validated)
    assert torch.equal(samples["train"][0], samples["train"][3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mine.py", "--fast-dev-run", "0"], "Invalid value for '--fast-dev-run'"),
        (["train", "--fast-dev-run", "mine.py"], "'mine.py' is not a valid integer"),
        (["train", "mine.py", "--limit-train-batches", "0.1"], "'0.1' is not a valid integer"),
        (["val", "mine.py", "--limit-val-batches", "0"], "0 is not in the range x>=1"),
    ],
)
def test_numbers_of_batches_are_checked(home: Path, arguments: list[str], message: str) -> None:
    assert message in mmx(*arguments, code=2).output


def test_the_options_are_told_of() -> None:
    for command, options in (
        ("train", ["fast-dev-run", "overfit-batches", "limit-train-batches", "limit-val-batches"]),
        ("val", ["limit-val-batches"]),
        ("test", ["limit-test-batches"]),
    ):
        told = mmx(command, "--help").output
        assert all(f"--{option}" in told for option in options)
