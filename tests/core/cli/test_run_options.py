"""Options of `mmx train`, `val` and `test`: each reaches the run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from mmx.cli.main import cli
from mmx.evaluator import BaseMetric
from mmx.hooks import Hook
from mmx.model import BaseModel, BaseTTAModel
from mmx.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS

pytestmark = pytest.mark.usefixtures("isolated")

CONFIG = """
_base_ = "mmx_toy::two_rings.py"
custom_hooks = [dict(type="Sees")]
train_dataloader = dict(dataset=dict(size=64), batch_size=16)
val_dataloader = dict(dataset=dict(size=20), batch_size=10)
test_dataloader = dict(
    dataset=dict(type="TwoRings", size=30, seed=1),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    batch_size=10,
)
test_cfg = dict()
test_evaluator = dict(type="Accuracy")
train_cfg = dict(max_epochs=1)
param_scheduler = None
"""


class Sees(Hook):
    """Keeps what a run begins with."""

    runs: list[Any] = []

    def before_train(self, runner: Any) -> None:
        weights = {k: v.clone() for k, v in runner.model.state_dict().items()}
        self.runs.append((runner, runner.iter, weights))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    HOOKS.register_module("Sees", module=Sees)
    monkeypatch.setattr(Sees, "runs", [])
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(CONFIG)
    return tmp_path


def mmx(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=code != 0)
    assert code == result.exit_code, result.output
    return result


def test_training_begins_with_what_the_options_say(folder: Path) -> None:
    mmx("train", "mine.py", "--seed", "3", "--work-dir", "first")
    runner, _, first = Sees.runs.pop()
    assert (3, "first") == (runner.seed, Path(runner.work_dir).name)
    assert "OptimWrapper" == type(runner.optim_wrapper).__name__
    trained = torch.load("first/epoch_1.pth", weights_only=True)["state_dict"]

    mmx("train", "mine.py", "--seed", "4", "--load-from", "first/epoch_1.pth", "--amp")
    runner, iteration, weights = Sees.runs.pop()
    assert "AmpOptimWrapper" == type(runner.optim_wrapper).__name__
    # The weights alone: training begins anew.
    assert (0, 4) == (iteration, runner.iter)
    assert all(torch.equal(trained[key], value) for key, value in weights.items())

    mmx("train", "mine.py", "--resume", "first/epoch_1.pth", "train_cfg.max_epochs=2")
    runner, iteration, weights = Sees.runs.pop()
    assert (4, 8, 3) == (iteration, runner.iter, runner.seed)
    assert all(torch.equal(trained[key], value) for key, value in weights.items())

    Path("scaled.py").write_text(CONFIG + "auto_scale_lr = dict(base_batch_size=8, enable=False)\n")
    mmx("train", "scaled.py", "--seed", "3", "--auto-scale-lr")
    runner, _, weights = Sees.runs.pop()
    assert [pytest.approx(2e-3)] == runner.optim_wrapper.get_lr()["lr"]
    assert all(torch.equal(first[key], value) for key, value in weights.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mine.py", "--auto-scale-lr"], "mine.py sets no auto_scale_lr.base_batch_size"),
        (
            ["train", "mine.py", "--amp", "optim_wrapper.type=ApexOptimWrapper"],
            "--amp replaces OptimWrapper, but optim_wrapper.type is 'ApexOptimWrapper'",
        ),
        (["test", "mine.py", "mine.py", "--tta"], "mine.py sets no tta_model and tta_pipeline"),
        (["test", "mine.py", "mine.py", "--out", "a.txt"], "name it *.pkl, not 'a.txt'"),
        (["val", "mine.py", "lost.pth"], "there is no checkpoint 'lost.pth'"),
        (["train", "mine.py", "--strict", "load_form=1"], "did you mean 'load_from'"),
        (["train", "mine.py", "model.layer=3"], "did you mean 'layers'"),
        (["val", "mine.py", "model.layer=3"], "did you mean 'layers'"),
        (["test", "mine.py", "mine.py", "model.layer=3"], "did you mean 'layers'"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    folder: Path, arguments: list[str], message: str
) -> None:
    told = mmx(*arguments, code=1).output
    assert "Error: " in told
    assert message in told
    assert "Traceback" not in told


def test_the_check_can_be_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr("mmx.cli.run_cmd.check", lambda cfg, strict: checked.append(strict))
    mmx("train", "mine.py", "--no-check", "--work-dir", "run")
    for command in (["val", "mine.py"], ["test", "mine.py", "run/epoch_1.pth"]):
        mmx(*command, "--no-check")
        assert not checked
        mmx(*command)
        assert checked.pop() is False


def test_predictions_are_saved_beside_the_metrics(folder: Path) -> None:
    mmx("train", "mine.py", "--work-dir", "run")
    told = mmx("test", "mine.py", "run/epoch_1.pth", "--out", "predicted.pkl").output
    assert "accuracy: " in told
    # What the model predicts of this plugin: of each of three batches scores and labels.
    scores, labels = pickle.loads(Path("predicted.pkl").read_bytes())[:2]
    assert ((10, 2), (10,)) == (scores.shape, labels.shape)


def test_augmented_copies_are_averaged(folder: Path) -> None:
    @MODELS.register_module("Doubles")
    class Doubles(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Any, mode: str = "tensor") -> Any:
            return [value * self.factor for value in x]

    @MODELS.register_module("Mean")
    class Mean(BaseTTAModel):
        def merge_preds(self, data_samples_list: Any) -> Any:
            return [sum(copies) / len(copies) for copies in data_samples_list]

    @TRANSFORMS.register_module("AndMore")
    class AndMore:
        def __call__(self, sample: Any) -> Any:
            return {"x": [sample["x"], sample["x"] + 10]}

    @DATASETS.register_module("Numbers")
    class Numbers(torch.utils.data.Dataset[Any]):
        def __init__(self, pipeline: Any = ()) -> None:
            self.pipeline = [TRANSFORMS.build(step) for step in pipeline]

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            sample = {"x": torch.tensor(float(index))}
            for step in self.pipeline:
                sample = step(sample)
            return sample

    @METRICS.register_module("Sum")
    class Sum(BaseMetric):
        def process(self, data_batch: Any, data_samples: Any) -> None:
            self.results += [float(value) for value in data_samples]

        def compute_metrics(self, results: list[float]) -> dict[str, float]:
            return {"sum": sum(results)}

    Path("tta.py").write_text("""
model = dict(type="Doubles")
test_dataloader = dict(
    dataset=dict(type="RepeatDataset", times=1, dataset=dict(type="Numbers")),
    sampler=dict(type="DefaultSampler", shuffle=False),
    batch_size=2,
)
test_cfg = dict()
test_evaluator = dict(type="Sum")
tta_model = dict(type="Mean")
tta_pipeline = [dict(type="AndMore")]
""")
    torch.save({"state_dict": {"factor": torch.tensor(2.0)}}, "two.pth")
    assert "sum: 6.0000" in mmx("test", "tta.py", "two.pth").output
    # Each copy is five more on average, before it is doubled.
    assert "sum: 36.0000" in mmx("test", "tta.py", "two.pth", "--tta").output
