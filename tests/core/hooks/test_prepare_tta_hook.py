"""Test-time augmentation by a hook."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from mmx.evaluator import BaseMetric
from mmx.hooks import PrepareTTAHook
from mmx.hooks.test_time_aug_hook import build_runner_with_tta
from mmx.model import BaseModel, BaseTTAModel
from mmx.registry import DATASETS, METRICS, MODELS, TRANSFORMS


@MODELS.register_module(force=True)
class TTANet(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x, mode="tensor"):
        return [value * self.weight for value in x]


@MODELS.register_module(force=True)
class MeanOfCopies(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return [sum(copies) / len(copies) for copies in data_samples_list]


@TRANSFORMS.register_module(force=True)
class PlusAndMinus:
    """The sample, one more, and three less."""

    def __call__(self, sample):
        return {"x": [sample["x"], sample["x"] + 1, sample["x"] - 4]}


@DATASETS.register_module(force=True)
class FourNumbers(torch.utils.data.Dataset):
    def __init__(self, pipeline=()):
        self.pipeline = [TRANSFORMS.build(step) for step in pipeline]

    def __len__(self):
        return 4

    def __getitem__(self, index):
        sample = {"x": torch.tensor(float(index))}
        for transform in self.pipeline:
            sample = transform(sample)
        return sample


@METRICS.register_module(force=True)
class SumOfPredictions(BaseMetric):
    default_prefix = "toy"

    def process(self, data_batch, data_samples):
        self.results += [float(value) for value in data_samples]

    def compute_metrics(self, results):
        return {"sum": sum(results)}


def stub(model):
    return types.SimpleNamespace(model=model)


def test_the_model_is_wrapped_once_before_testing():
    net, hook = TTANet(), PrepareTTAHook({"type": "MeanOfCopies"})
    runner = stub(net)
    hook.before_test(runner)
    hook.before_test(runner)
    assert type(runner.model) is MeanOfCopies
    assert runner.model.module is net
    assert hook.tta_cfg == {"type": "MeanOfCopies"}


def test_another_model_is_wrapped_anew():
    hook = PrepareTTAHook({"type": "MeanOfCopies"})
    first, second = stub(TTANet()), stub(TTANet())
    hook.before_test(first)
    hook.before_test(second)
    assert type(second.model) is MeanOfCopies


def config(work_dir):
    return dict(
        model=dict(type="TTANet"),
        work_dir=str(work_dir),
        test_dataloader=dict(
            dataset=dict(type="RepeatDataset", times=1, dataset=dict(type="FourNumbers")),
            batch_size=2,
            sampler=dict(type="DefaultSampler", shuffle=False),
        ),
        test_cfg={},
        test_evaluator=dict(type="SumOfPredictions"),
        tta_model=dict(type="MeanOfCopies"),
        tta_pipeline=[dict(type="PlusAndMinus")],
        experiment_name="tta",
    )


def test_a_runner_tests_with_the_pipeline_and_model_of_the_config(tmp_path):
    cfg = config(tmp_path)
    runner = build_runner_with_tta(cfg)
    # Each sample is one less on average.
    assert runner.test() == {"toy/sum": 0 + 1 + 2 + 3 - 4}
    assert type(runner.model) is MeanOfCopies
    assert runner.test() == {"toy/sum": 2}
    assert "pipeline" not in cfg["test_dataloader"]["dataset"]["dataset"]


@pytest.mark.parametrize("key", ["tta_model", "tta_pipeline", "test_dataloader"])
def test_a_config_that_lacks_a_part_is_an_error(tmp_path, key):
    cfg = config(tmp_path)
    del cfg[key]
    with pytest.raises(KeyError, match=f"the config should have '{key}'"):
        build_runner_with_tta(cfg)
