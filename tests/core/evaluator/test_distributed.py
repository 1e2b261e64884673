"""Every collective path of evaluation on two processes, with uneven shards and a failing rank."""

import pytest
import torch

from mmx.evaluator import BaseMetric, DumpResults, Evaluator, ReducedMetric, TorchMetric
from mmx.evaluator.metric import MetricError
from mmx.testing.distributed import run_distributed

SIZE = 7


class Gather(BaseMetric):
    default_prefix = "g"

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return {"order": [int(result["i"]) for result in results]}


class Broken(Gather):
    def compute_metrics(self, results):
        raise KeyError("no ground truth")


class Sum(ReducedMetric):
    default_prefix = "s"
    reductions = {"sum": "sum", "max": "max", "min": "min", "bins": 8}

    def measure(self, data_batch, data_samples):
        rows = torch.tensor([sample["i"] for sample in data_samples])
        return {"sum": rows, "max": rows.float(), "min": rows[:, None], "bins": rows}

    def compute(self, states):
        return {name: state.tolist() for name, state in states.items()}


class BrokenSum(Sum):
    def compute(self, states):
        raise KeyError("no ground truth")


def run(kinds, round_up=True, batch_size=2, ranks_with_data=(0, 1)):
    """Evaluate the numbers 0 to 6 as a loader would deal them, and return the metrics."""
    from mmx.dataset import DefaultSampler
    from mmx.dist import get_rank

    metrics = []
    for kind, kwargs in kinds:
        metrics.append(kind(**kwargs))
    evaluator = Evaluator(metrics)
    sampler = DefaultSampler(range(SIZE), shuffle=False, round_up=round_up)
    samples = [{"i": torch.tensor(index)} for index in sampler]
    if get_rank() in ranks_with_data:
        for at in range(0, len(samples), batch_size):
            evaluator.process(samples[at : at + batch_size])
    try:
        return evaluator.evaluate(SIZE)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def agreed(*args, **kwargs):
    first, second = run_distributed(run, 2, *args, **kwargs)
    assert first == second
    return first


@pytest.mark.parametrize("round_up", [True, False])
def test_all_ranks_get_the_metrics_of_the_whole_data_set(round_up):
    mean = (TorchMetric, {"metric": "SumMetric", "inputs": ["i"]})
    got = agreed([(Gather, {}), (Sum, {}), mean], round_up=round_up)
    assert got == {
        "g/order": [0, 1, 2, 3, 4, 5, 6],
        "s/sum": 21,
        "s/max": 6.0,
        "s/min": [0],
        "s/bins": [1, 1, 1, 1, 1, 1, 1, 0],
        "SumMetric": 21.0,
    }


def test_results_travel_through_the_accelerators_group_too():
    got = agreed(
        [(Gather, {"collect_device": "gpu"}), (Gather, {"prefix": "d", "collect_dir": "x"})]
    )
    assert got["g/order"] == got["d/order"] == [0, 1, 2, 3, 4, 5, 6]


def test_a_rank_may_have_no_samples():
    got = agreed([(Gather, {}), (Sum, {})], round_up=False, ranks_with_data=(0,))
    assert got["g/order"] == [0, 2, 4, 6]
    assert (got["s/sum"], got["s/max"], got["s/min"]) == (12, 6.0, [0])


@pytest.mark.parametrize("kind", [Broken, BrokenSum])
def test_a_metric_that_fails_on_the_main_process_fails_on_all(kind):
    first, second = run_distributed(run, 2, [(kind, {})])
    assert first == "KeyError: 'no ground truth'"
    text = (
        f"MetricError: {kind.__name__} failed on another process with KeyError: 'no ground truth'"
    )
    assert second.startswith(text)
    assert "Traceback" in second


def fail_on_rank_one():
    """TorchMetric and ReducedMetric whose held-back batch fails on one rank only."""
    from mmx.dist import get_rank

    texts = []
    metric = TorchMetric("MeanMetric")
    metric.process(None, (torch.ones(2) if get_rank() == 0 else ["a", "b"],))
    reduced = Sum()
    for size in (1,) if get_rank() == 0 else (2, 2):
        reduced.process(None, [{"i": 1}] * size)
    for each, size in ((metric, 4), (reduced, 2)):
        try:
            each.evaluate(size)
        except Exception as error:
            texts.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return texts


def test_a_failure_on_another_rank_than_the_main_one_fails_on_all():
    first, second = run_distributed(fail_on_rank_one, 2)
    assert first[0].startswith("MetricError: MeanMetric failed on another process with ")
    assert not second[0].startswith("MetricError")
    text = "Sum has processed 4 samples on this rank, 3 more than a data set of size 2 gives it"
    assert first[1].startswith(f"ValueError: {text}")
    assert first[1] == second[1]


def dump(path):
    from mmx.dist import get_rank

    metric = DumpResults(path)
    metric.process(None, [{"rank": get_rank(), "n": n} for n in range(2)])
    return metric.evaluate(3)


def test_results_of_all_ranks_are_dumped(tmp_path):
    import pickle

    path = tmp_path / "all.pkl"
    assert run_distributed(dump, 2, str(path)) == [{}, {}]
    expected = [{"rank": 0, "n": 0}, {"rank": 1, "n": 0}, {"rank": 0, "n": 1}]
    assert pickle.loads(path.read_bytes()) == expected


def test_the_error_names_metric_and_cause():
    error = MetricError("Accuracy", "KeyError: 'x'", "Traceback …")
    assert (error.metric, error.rank_traceback) == ("Accuracy", "Traceback …")
