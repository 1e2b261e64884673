import pickle

import numpy as np
import pytest
import torch

import mmx.evaluator.metric as metric_module
from mmx.evaluator import BaseMetric, DumpResults, Evaluator, get_metric_value
from mmx.evaluator.metric import _to_cpu
from mmx.registry import EVALUATOR, METRICS
from mmx.structures import BaseDataElement, InstanceData


class Count(BaseMetric):
    """Counts samples and remembers what it was given."""

    default_prefix = "count"

    def __init__(self, name="samples", **kwargs):
        super().__init__(**kwargs)
        self.name = name
        self.seen = []

    def process(self, data_batch, data_samples):
        self.seen.append((data_batch, data_samples))
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return {self.name: len(results)}


@pytest.fixture
def said(monkeypatch):
    messages = []
    monkeypatch.setattr(metric_module, "print_log", lambda text, **kwargs: messages.append(text))
    return messages


def test_metrics_are_built_and_merged():
    METRICS.register_module(name="CountForTest", module=Count)
    try:
        evaluator = EVALUATOR.build(
            {"type": "Evaluator", "metrics": [{"type": "CountForTest"}, Count("x", prefix="other")]}
        )
    finally:
        METRICS._module_dict.pop("CountForTest")
    evaluator.process([1, 2], data_batch="batch")
    evaluator.process([3])
    assert evaluator.metrics[0].seen == [("batch", [1, 2]), (None, [3])]
    assert evaluator.evaluate(3) == {"count/samples": 3, "other/x": 3}
    assert evaluator.metrics[0].results == []


def test_one_metric_needs_no_list():
    assert len(Evaluator(Count()).metrics) == 1
    assert Evaluator([]).evaluate(0) == {}


def test_two_metrics_of_one_name_are_an_error():
    evaluator = Evaluator([Count(), Count()])
    evaluator.process([1])
    with pytest.raises(
        ValueError, match=r"same metric name count/samples. Please make sure all metrics"
    ):
        evaluator.evaluate(1)


def test_the_prefix_is_the_users_then_the_classs(said):
    class Plain(Count):
        default_prefix = None

    for metric, key in ((Count(prefix="mine"), "mine/samples"), (Plain(), "samples")):
        metric.process(None, [1])
        assert metric.evaluate(1) == {key: 1}
    assert said == ["The prefix is not set in metric class Plain."]


def test_results_beyond_the_size_are_dropped():
    metric = Count()
    metric.process(None, [1, 2, 3])
    assert metric.evaluate(2) == {"count/samples": 2}


def test_empty_results_are_warned_of(said):
    assert Count().evaluate(0) == {"count/samples": 0}
    assert said[0].startswith("Count got empty `self.results`. Please ensure that")


def test_a_failing_metric_raises_and_forgets():
    class Failing(Count):
        def compute_metrics(self, results):
            raise KeyError("no")

    metric = Failing()
    metric.process(None, [1])
    with pytest.raises(KeyError, match="no"):
        metric.evaluate(1)
    assert metric.results == []


def test_wrong_collect_arguments_are_refused():
    with pytest.raises(ValueError, match="collect_device must be 'cpu' or 'gpu', got 'tpu'"):
        Count(collect_device="tpu")
    with pytest.raises(ValueError, match="could only be configured when `collect_device='cpu'`"):
        Count(collect_device="gpu", collect_dir="x")
    assert Count(collect_dir="x").collect_dir == "x"


def test_the_meta_information_reaches_every_metric():
    evaluator = Evaluator([Count(), Count(prefix="b")])
    assert evaluator.dataset_meta is None
    evaluator.dataset_meta = {"classes": ["a"]}
    assert [m.dataset_meta for m in evaluator.metrics] == [{"classes": ["a"]}] * 2


def test_data_elements_become_dicts_and_anything_else_stays():
    metric = Count()
    evaluator = Evaluator(metric)
    element = BaseDataElement(metainfo={"i": 1}, found=InstanceData(a=[1]))
    evaluator.process([element, 5])
    assert metric.seen[-1][1] == [{"i": 1, "found": {"a": [1]}}, 5]
    evaluator.process((element,))
    assert metric.seen[-1][1] == [{"i": 1, "found": {"a": [1]}}]
    pair = (torch.ones(2, 3), torch.ones(2))
    evaluator.process(pair)
    assert metric.seen[-1][1] is pair
    as_dict = {"pred": 1}
    evaluator.process(as_dict)
    assert metric.seen[-1][1] is as_dict
    evaluator.process(iter([element]))
    assert metric.seen[-1][1] == [{"i": 1, "found": {"a": [1]}}]


@pytest.mark.parametrize(("chunk_size", "chunks"), [(1, 5), (2, 3), (5, 1), (99, 1)])
@pytest.mark.parametrize("lazy", [False, True])
def test_offline_evaluation_goes_by_chunks(chunk_size, chunks, lazy):
    metric = Count()
    samples, data = list(range(5)), [{"x": i} for i in range(5)]
    if lazy:
        samples, data = iter(samples), iter(data)
    result = Evaluator(metric).offline_evaluate(samples, data, chunk_size)
    assert result == {"count/samples": 5}
    assert len(metric.seen) == chunks
    assert metric.seen[0][0] == {"x": list(range(min(chunk_size, 5)))}


def test_offline_evaluation_needs_no_data():
    metric = Count()
    assert Evaluator(metric).offline_evaluate([1, 2, 3], chunk_size=2) == {"count/samples": 3}
    assert metric.seen == [(None, [1, 2]), (None, [3])]


def test_offline_evaluation_checks_lengths():
    evaluator = Evaluator(Count())
    with pytest.raises(ValueError, match="got data_samples length: 3 data length: 2"):
        evaluator.offline_evaluate([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="data ended after 2 samples"):
        evaluator.offline_evaluate(iter([1, 2, 3]), [1, 2], 2)
    with pytest.raises(ValueError, match="data_samples ended after 2 samples and data goes on"):
        evaluator.offline_evaluate(iter([1, 2]), [1, 2, 3])
    with pytest.raises(ValueError, match="chunk_size must be positive, got 0"):
        evaluator.offline_evaluate([1], chunk_size=0)


def test_dump_results_saves_the_predictions(tmp_path):
    path = tmp_path / "out.pkl"
    evaluator = Evaluator({"type": "DumpResults", "out_file_path": str(path)})
    evaluator.process(
        [{"a": torch.ones(1, requires_grad=False)}, BaseDataElement(b=torch.zeros(1))]
    )
    assert evaluator.evaluate(2) == {}
    saved = pickle.loads(path.read_bytes())
    assert [list(sample) for sample in saved] == [["a"], ["b"]]
    with pytest.raises(ValueError, match=r"The output file must be a pkl file, got 'out.json'"):
        DumpResults("out.json")
    assert DumpResults("out.pickle").results == []


def test_to_cpu_keeps_containers():
    from collections import namedtuple

    pair = namedtuple("pair", "x y")
    data = {
        "a": (torch.ones(1), [np.ones(1)]),
        "b": BaseDataElement(t=torch.ones(1)),
        "c": pair(1, 2),
    }
    moved = _to_cpu(data)
    assert isinstance(moved["a"], tuple)
    assert isinstance(moved["b"], BaseDataElement)
    assert moved["c"] == pair(1, 2)


def test_a_metrics_value_is_found_by_its_last_part():
    metrics = {"a/acc": 1, "b/acc": 2, "c/top": 3, "plain": 4}
    assert get_metric_value("a/acc", metrics) == 1
    assert get_metric_value("top", metrics) == 3
    assert get_metric_value("plain", metrics) == 4
    with pytest.raises(
        ValueError, match=r'"acc" matches multiple metrics \[\'a/acc\', \'b/acc\'\]'
    ):
        get_metric_value("acc", metrics)
    for absent in ("zz", "b/top"):
        with pytest.raises(ValueError, match="can not match any metric in"):
            get_metric_value(absent, metrics)


def test_the_documents_metric_runs():
    class SimpleAccuracy(BaseMetric):
        default_prefix = "ACC"

        def process(self, data_batch, data_samples):
            self.results.append(
                {"pred": data_samples["pred_label"], "gt": data_samples["data_sample"]["gt_label"]}
            )

        def compute_metrics(self, results):
            preds = np.concatenate([res["pred"] for res in results])
            gts = np.concatenate([res["gt"] for res in results])
            return {"accuracy": (preds == gts).sum() / preds.size}

    evaluator = Evaluator(SimpleAccuracy())
    batch = {"pred_label": np.array([1, 2]), "data_sample": {"gt_label": np.array([1, 0])}}
    evaluator.process(data_samples=batch, data_batch=None)
    assert evaluator.evaluate(1) == {"ACC/accuracy": 0.5}
