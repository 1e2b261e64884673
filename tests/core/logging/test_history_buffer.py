"""The buffer of one logged number."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmx.logging import HistoryBuffer

NUMBERS = st.floats(-1e6, 1e6)


def filled(values, counts=None, max_length=1000000):
    buffer = HistoryBuffer(max_length=max_length)
    for value, count in zip(values, counts or [1] * len(values), strict=True):
        buffer.update(value, count)
    return buffer


def test_a_new_buffer_is_empty():
    logs, counts = HistoryBuffer().data
    assert len(logs) == len(counts) == 0
    assert HistoryBuffer().max_length == 1000000


@pytest.mark.parametrize("as_sequence", [list, tuple, np.array, torch.tensor])
def test_first_values_may_be_any_sequence(as_sequence):
    logs, counts = HistoryBuffer(as_sequence([1.5, 2.5]), as_sequence([1, 2])).data
    assert [1.5, 2.5] == logs.tolist()
    assert [1, 2] == counts.tolist()


def test_arrays_of_ints_stay_ints_until_a_float_arrives():
    assert np.float64 == filled([1, 2]).data[0].dtype  # as of an array that starts out empty
    buffer = HistoryBuffer([1], [1])
    buffer.update(2)
    assert np.int64 == buffer.data[0].dtype
    assert isinstance(buffer.current(), np.int64)
    assert isinstance(buffer.max(), np.int64)
    buffer.update(0.5)
    assert np.float64 == buffer.data[0].dtype
    buffer.update(3)
    assert isinstance(buffer.current(), np.float64)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="equal lengths, but got 2 and 1"):
        HistoryBuffer([1, 2], [1])


def test_max_length_keeps_the_latest_and_warns_about_too_many_first_values():
    with pytest.warns(UserWarning, match="keeps the last 3"):
        buffer = HistoryBuffer([1, 2, 3, 4], [1, 1, 1, 1], max_length=3)
    assert [2, 3, 4] == buffer.data[0].tolist()
    buffer.update(9)
    assert [3, 4, 9] == buffer.data[0].tolist()
    assert 3 == len(buffer)
    with pytest.raises(ValueError, match="max_length should be positive"):
        HistoryBuffer(max_length=0)


def test_the_mean_divides_by_counts():
    buffer = HistoryBuffer([1, 2, 3], [1, 2, 3])
    assert 1.0 == buffer.mean()
    assert 1.0 == buffer.mean(2)
    buffer.update(9, 1)
    assert 15 / 7 == buffer.mean()


def test_windows_longer_than_the_history_take_all_of_it():
    buffer = filled([1.0, 5.0, 3.0])
    assert 3.0 == buffer.mean(100) == buffer.mean() == buffer.mean(0)
    assert 1.0 == buffer.min(100)
    assert 3.0 == buffer.min(1)
    assert 5.0 == buffer.max(2)


@pytest.mark.parametrize("name", ["mean", "min", "max"])
def test_a_window_is_a_whole_number(name):
    method = getattr(filled([1.0]), name)
    with pytest.raises(TypeError, match="type of window size should be int, but got str"):
        method("1")
    with pytest.raises(TypeError, match="should be int, but got float"):
        method(1.0)
    with pytest.raises(ValueError, match="not be negative, but got -1"):
        method(-1)
    assert 1.0 == method(np.int64(1))


def test_statistics_of_an_empty_history():
    buffer = HistoryBuffer()
    assert np.isnan(buffer.mean())
    with pytest.raises(ValueError, match="empty array! please call update first"):
        buffer.current()
    for name in ("min", "max"):
        with pytest.raises(ValueError, match=f"empty history has no {name}"):
            getattr(buffer, name)()


def test_what_may_be_logged():
    buffer = HistoryBuffer()
    for wrong in ("a", None, [1], np.array([1.0])):
        with pytest.raises(TypeError, match="log_val must be int or float"):
            buffer.update(wrong)
    with pytest.raises(TypeError, match="count must be int or float, but got str"):
        buffer.update(1, "a")
    with pytest.raises(ValueError, match=r"exactly one element, but got the shape \(2,\)"):
        buffer.update(torch.zeros(2))
    buffer.update(np.float32(2))
    buffer.update(torch.tensor([4.0]))
    buffer.update(torch.tensor(6, dtype=torch.int64))
    buffer.update(torch.ones((), requires_grad=True))
    assert [2.0, 4.0, 6.0, 1.0] == buffer.data[0].tolist()


def test_a_tensor_changed_afterwards_does_not_change_the_history():
    buffer, tensor = HistoryBuffer(), torch.tensor(1.0)
    buffer.update(tensor)
    tensor.fill_(7)
    assert 1.0 == buffer.current()


def test_statistics_are_called_by_name():
    buffer = filled([1.0, 2.0, 3.0])
    assert 2.5 == buffer.statistics("mean", 2) == buffer.statistics("mean", window_size=2)
    assert 3.0 == buffer.statistics("current")
    with pytest.raises(KeyError, match=r"nope has not been registered.*current, max, mean, min"):
        buffer.statistics("nope")


def test_registered_statistics_see_values_and_counts(monkeypatch):
    monkeypatch.setattr(
        HistoryBuffer, "_statistics_methods", dict(HistoryBuffer._statistics_methods)
    )

    @HistoryBuffer.register_statistics
    def weighted(self, weights):
        return (self._log_history * np.array(weights) / self._count_history).sum()

    assert 5.0 == filled([1.0, 2.0]).statistics("weighted", [1, 2])
    with pytest.raises(ValueError, match="cannot be registered twice"):
        HistoryBuffer.register_statistics(weighted)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(NUMBERS, max_size=3000),
    max_length=st.integers(1, 2500),
    window=st.integers(1, 3000),
    counted=st.booleans(),
)
def test_a_ring_answers_like_a_list(values, max_length, window, counted):
    counts = [i % 3 + 1 for i in range(len(values))] if counted else [1] * len(values)
    buffer = filled(values, counts, max_length)
    logs, numbers = values[-max_length:], counts[-max_length:]
    assert logs == buffer.data[0].tolist()
    assert numbers == buffer.data[1].tolist()
    if values:
        assert values[-1] == buffer.current()
        assert max(logs[-window:]) == buffer.max(window)
        assert min(logs[-window:]) == buffer.min(window)
        expected = sum(logs[-window:]) / sum(numbers[-window:])
        assert buffer.mean(window) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_totals_cover_what_was_forgotten():
    buffer = HistoryBuffer(max_length=10)
    buffer.keep_totals()
    for value in range(5000):
        buffer.update(float(value))
    assert 10 == len(buffer)
    assert 2499.5 == buffer.mean() == buffer.mean(5000)
    assert 0.0 == buffer.min()
    assert 4999.0 == buffer.max()
    assert 4994.5 == buffer.mean(10)


def test_a_larger_limit_keeps_what_there_is():
    buffer = filled([1.0, 2.0, 3.0, 4.0], max_length=3)
    buffer.set_max_length(5)
    for value in (5.0, 6.0, 7.0):
        buffer.update(value)
    assert [3.0, 4.0, 5.0, 6.0, 7.0] == buffer.data[0].tolist()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_copies_hold_the_same_and_live_apart(clone):
    buffer = filled([1.0, 2.0], [1, 3])
    other = clone(buffer)
    other.update(5.0)
    assert [1.0, 2.0] == buffer.data[0].tolist()
    assert [1.0, 2.0, 5.0] == other.data[0].tolist()
    assert [1, 3, 1] == other.data[1].tolist()


def test_state_is_plain_data_that_loads_without_running_code(tmp_path):
    buffer = filled([1.0, 2.0], [1, 3])
    torch.save(buffer.state_dict(), tmp_path / "state")
    restored = HistoryBuffer()
    restored.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert [1.0, 2.0] == restored.data[0].tolist()
    assert [1, 3] == restored.data[1].tolist()


def test_peek_reads_what_is_there_without_waiting():
    buffer = HistoryBuffer()
    assert buffer.peek(3) is None
    for value in (1.0, 2.0, 6.0):
        buffer.update(value)
    assert 4.0 == buffer.peek(2)
    assert 3.0 == buffer.peek(10)


def test_a_device_tensor_is_read_only_when_asked_for():
    class OnDevice(torch.Tensor):
        """Stands in for a tensor on an accelerator, and counts how often it is read."""

        reads = 0

        @property
        def is_cpu(self):
            return False

        def item(self):
            OnDevice.reads += 1
            return super().item()

    buffer = HistoryBuffer()
    for value in (1.0, 2.0):
        buffer.update(torch.tensor(value).as_subclass(OnDevice))
    assert buffer.peek(2) is None
    assert 0 == OnDevice.reads
    assert 1.5 == buffer.mean()
    assert 2 == OnDevice.reads
    assert 2.0 == buffer.current()
    assert 2 == OnDevice.reads


@pytest.mark.parametrize("number", [1, 5, 7, 8, 9, 10, 16, 50, 127, 128, 129, 300])
def test_means_are_those_of_numpy_to_the_last_bit(number):
    generator = np.random.default_rng(number)
    values = (generator.normal(size=number) * 10.0 ** generator.integers(-6, 6, number)).tolist()
    buffer = HistoryBuffer()
    for value in values:
        buffer.update(value)
    assert np.array(values).sum() / number == buffer.mean(number)
    assert buffer.mean(number) == buffer.glance(number)


def test_a_glance_sees_the_usual_and_leaves_the_rest():
    buffer = HistoryBuffer()
    assert buffer.glance(1) is None
    buffer.update(1.5)
    assert 1.5 == buffer.glance(None)
    assert buffer.glance(2) is None
    buffer.update(2)
    assert buffer.glance(None) is None  # ints are for `current`, which knows all values
    buffer.update(3.0, count=2)
    assert buffer.glance(1) is None
