import pickle

import numpy as np
import pytest
import torch.multiprocessing
from hypothesis import given
from hypothesis import strategies as st

from mmx.dataset.annotations import SharedArray, deserialize, select, serialize

items = st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.integers())))


@given(items)
def test_items_come_back(values):
    data, ends = serialize(values)
    assert [deserialize(data, ends, i) for i in range(len(ends))] == values
    assert len(data) == (ends[-1] if len(ends) else 0)


@given(st.lists(st.text(), min_size=1), st.data())
def test_selected_items_come_back(values, data):
    positions = data.draw(st.lists(st.integers(0, len(values) - 1)))
    chosen = select(*serialize(values), positions)
    assert [deserialize(*chosen, i) for i in range(len(positions))] == [
        values[p] for p in positions
    ]


def test_arrays_are_pickled_by_value_outside_of_multiprocessing():
    data, _ = serialize(["a", "b"])
    copied = pickle.loads(pickle.dumps(data))
    assert copied.tolist() == data.tolist()
    assert data._tensor is None


def _read_twice(array, out, back):
    out.put((type(array).__name__, int(array[0])))
    back.get()
    out.put(int(array[0]))
    back.get()


@pytest.mark.parametrize("method", ["spawn"])
def test_a_spawned_process_reads_the_same_memory(method):
    context = torch.multiprocessing.get_context(method)
    array = np.arange(5, 10).view(SharedArray)
    out, back = context.Queue(), context.Queue()
    process = context.Process(target=_read_twice, args=(array, out, back), daemon=True)
    process.start()
    assert out.get(timeout=60) == ("SharedArray", 5)
    array._tensor[0] = 77
    back.put(1)
    assert out.get(timeout=60) == 77
    back.put(1)
    process.join(60)
    assert array[0] == 5
