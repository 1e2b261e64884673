"""Metrics of reduced tensors and of torchmetrics, against scikit-learn and torchmetrics."""

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st

import mmx.evaluator.reduced as module
from mmx.evaluator import Evaluator, ReducedMetric, TorchMetric
from mmx.registry import METRICS

CLASSES = 4


class Confusion(ReducedMetric):
    default_prefix = "c"
    reductions = {
        "pairs": CLASSES * CLASSES,
        "right": "sum",
        "top": "max",
        "low": "min",
        "all": "sum",
    }

    def measure(self, data_batch, data_samples):
        scores, labels = data_samples
        predicted = scores.argmax(1)
        return {
            "pairs": labels * CLASSES + predicted,
            "right": predicted == labels,
            "top": scores.amax(1),
            "low": scores,
            "all": torch.ones_like(labels),
        }

    def compute(self, states):
        return {
            "matrix": states["pairs"].view(CLASSES, CLASSES).tolist(),
            "accuracy": float(states["right"] / states["all"]),
            "top": float(states["top"]),
            "low": states["low"].tolist(),
        }


def random_batches(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.rand(size, CLASSES, generator=generator).softmax(1),
            torch.randint(0, CLASSES, (size,), generator=generator),
        )
        for size in sizes
    ]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 1))
def test_reduced_metrics_agree_with_scikit_learn(seed, sizes, repeated):
    batches = random_batches(seed, sizes)
    metric = Confusion()
    for batch in batches:
        metric.process(None, batch)
    scores, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    size = len(labels) - repeated
    if size == 0:
        return
    scores, labels = scores[:size], labels[:size]
    got = metric.evaluate(size)
    expected = sklearn.metrics.confusion_matrix(labels, scores.argmax(1), labels=range(CLASSES))
    assert got["c/matrix"] == expected.tolist()
    assert got["c/accuracy"] == pytest.approx(
        sklearn.metrics.accuracy_score(labels, scores.argmax(1))
    )
    assert got["c/top"] == float(scores.max())
    assert got["c/low"] == scores.amin(0).tolist()
    assert metric._states == {}


@pytest.mark.parametrize(("world", "size"), [(1, 10), (2, 9), (3, 7), (7, 3), (4, 16)])
def test_repeated_samples_are_counted_as_the_sampler_deals_them(monkeypatch, world, size):
    import mmx.dataset.sampler as sampler_module
    from mmx.dataset import DefaultSampler

    kept = 0
    for rank in range(world):
        for place in (module, sampler_module):
            monkeypatch.setattr(place, "get_dist_info", lambda rank=rank: (rank, world))
        count = len(list(DefaultSampler(range(size), shuffle=False)))
        kept += count - module.samples_to_drop(count, size)
    assert kept == size


def test_measure_must_return_rows_for_its_states():
    metric = Confusion()
    metric.measure = lambda batch, samples: {"right": torch.ones(2)}
    with pytest.raises(
        ValueError, match=r"Confusion.measure returned \['right'\], but its reductions are"
    ):
        metric.process(None, None)
    metric.measure = lambda batch, samples: {
        n: torch.ones(1 + (n == "all")) for n in Confusion.reductions
    }
    with pytest.raises(ValueError, match="must return a row for each sample"):
        metric.process(None, None)


def test_a_wrong_size_and_no_samples_are_errors():
    metric = Confusion()
    for batch in random_batches(0, [4, 2]):
        metric.process(None, batch)
    with pytest.raises(
        ValueError, match="has processed 6 samples on this rank, 3 more than a data set"
    ):
        metric.evaluate(3)
    with pytest.raises(ValueError, match="Confusion has seen no samples"):
        metric.evaluate(3)


def test_an_unknown_reduction_is_an_error():
    class Wrong(Confusion):
        reductions = {**Confusion.reductions, "all": "mean"}

    metric = Wrong()
    metric.process(None, random_batches(0, [2])[0])
    with pytest.raises(
        ValueError, match="a reduction must be 'sum', 'max', 'min' or an int, got 'mean'"
    ):
        metric.evaluate(2)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("Accuracy", {"task": "multiclass", "num_classes": CLASSES}),
        ("classification.MulticlassF1Score", {"num_classes": CLASSES}),
        ("torchmetrics.AUROC", {"task": "multiclass", "num_classes": CLASSES}),
        ("ConfusionMatrix", {"task": "multiclass", "num_classes": CLASSES}),
    ],
)
@pytest.mark.parametrize("repeated", [0, 1])
def test_metrics_of_torchmetrics_are_used_by_name(name, kwargs, repeated):
    metric = METRICS.build({"type": "TorchMetric", "metric": name, "name": "value", **kwargs})
    evaluator = Evaluator(metric)
    for seed in range(2):
        batches = random_batches(seed, [20, 13, 14])
        for batch in batches:
            evaluator.process(batch)
        scores, labels = (torch.cat(parts)[: 47 - repeated] for parts in zip(*batches, strict=True))
        own = torchmetrics
        for part in name.removeprefix("torchmetrics.").split("."):
            own = getattr(own, part)
        expected = own(**kwargs)(scores, labels)
        got = evaluator.evaluate(47 - repeated)["value"]
        assert torch.allclose(torch.as_tensor(got), expected.to(torch.as_tensor(got).dtype))


def test_fields_of_samples_are_stacked():
    samples = [
        {"pred": {"score": torch.tensor([0.1, 0.9])}, "gt": torch.tensor([1])},
        {"pred": {"score": torch.tensor([0.8, 0.2])}, "gt": torch.tensor([1])},
    ]
    metric = TorchMetric(
        "Accuracy",
        ["pred.score", "gt"],
        prefix="p",
        task="multiclass",
        num_classes=2,
        average="micro",
    )
    metric.process(None, samples)
    assert metric.evaluate(2) == {"p/Accuracy": 0.5}
    numbers = TorchMetric("MeanSquaredError", ["a", "b"])
    numbers.process(None, [{"a": 1.0, "b": np.array([2.0])}, {"a": 2.0, "b": np.array([2.0])}])
    assert numbers.evaluate(2) == {"MeanSquaredError": 0.5}
    with pytest.raises(
        KeyError, match=r"no field 'pred.absent' in a sample with the fields \['score'\]"
    ):
        TorchMetric("MeanMetric", ["pred.absent"]).process(None, samples)


def test_inputs_may_be_a_function_and_the_metric_an_object():
    metric = TorchMetric(torchmetrics.MeanMetric(), lambda batch, samples: (torch.tensor(samples),))
    metric.process(None, [1.0, 3.0])
    assert metric.evaluate(2) == {"MeanMetric": 2.0}
    collection = torchmetrics.MetricCollection(
        [torchmetrics.MeanMetric(), torchmetrics.MaxMetric()]
    )
    with pytest.raises(TypeError, match="a finished metric takes no arguments, got \\['a'\\]"):
        TorchMetric(collection, a=1)


@pytest.mark.parametrize(
    ("metric", "error", "text"),
    [
        ("Absent", ValueError, "torchmetrics has no metric 'Absent'"),
        ("no.Absent", ValueError, "torchmetrics has no metric 'no.Absent'"),
        ("functional.accuracy", ValueError, "torchmetrics.functional.accuracy is no metric class"),
        (5, TypeError, "metric must be a name or a torchmetrics metric, got <class 'int'>"),
    ],
)
def test_what_is_no_metric_is_refused(metric, error, text):
    with pytest.raises(error, match=text):
        TorchMetric(metric)


def test_predictions_of_another_form_are_explained():
    metric = TorchMetric("MeanMetric")
    with pytest.raises(
        TypeError, match="expects the model to predict a tuple of update's arguments"
    ):
        metric.process(None, {"a": 1})
    with pytest.raises(ValueError, match=r"must be batches of one size, got \[1, 2\]"):
        metric.process(None, (torch.ones(1), torch.ones(2)))


def test_without_torchmetrics_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ImportError, match=r"pip install 'mmx\[torchmetrics\]'"):
        TorchMetric("Accuracy")
