"""The message hub."""

import copy
import gc
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmx.logging import HistoryBuffer, MessageHub, MMLogger
from mmx.logging import message_hub as module

pytestmark = pytest.mark.usefixtures("isolated")


def values_of(hub):
    return {key: buffer.data[0].tolist() for key, buffer in hub.log_scalars.items()}


def test_instances_are_found_by_name_and_one_is_always_there():
    hub = MessageHub.get_instance("one")
    assert MessageHub.get_instance("one") is hub is MessageHub.get_current_instance()
    with pytest.raises(ValueError, match="non-empty"):
        MessageHub("")


def test_without_any_instance_the_current_one_is_named_mmx(monkeypatch):
    monkeypatch.setattr(MessageHub, "_instance_dict", {})
    assert "mmx" == MessageHub.get_current_instance().instance_name


@pytest.mark.parametrize("name", ["log_scalars", "runtime_info", "resumed_keys"])
def test_first_content_comes_in_dicts(name):
    with pytest.raises(TypeError, match=f"{name} should be a dict or `None`, but got list"):
        MessageHub("x", **{name: [1]})


def test_first_content_is_checked():
    with pytest.raises(TypeError, match="must be HistoryBuffer, but 'a' is int"):
        MessageHub("x", log_scalars={"a": 1})
    with pytest.raises(ValueError, match=r"must be contained in .* but got a"):
        MessageHub("x", resumed_keys={"a": True})
    hub = MessageHub(
        "x",
        log_scalars={"loss": HistoryBuffer([1.0], [1])},
        runtime_info={"iter": 3},
        resumed_keys={"loss": True},
    )
    hub.update_scalar("loss", 2.0)
    assert {"loss": [1.0, 2.0]} == values_of(hub)
    assert 3 == hub.get_info("iter")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (1.5, 1.5),
        (True, 1),
        (np.array(2), 2),
        (np.array([[2.5]]), 2.5),
        (np.float32(0.5), 0.5),
        (torch.tensor(3), 3),
        (torch.tensor([[0.25]]), 0.25),
        (torch.ones(1, requires_grad=True), 1.0),
    ],
)
@pytest.mark.parametrize("method", ["update_scalar", "update_scalars"])
def test_numbers_in_all_their_forms(value, expected, method):
    hub = MessageHub("x")
    for _ in range(2):
        if method == "update_scalar":
            hub.update_scalar("a", value)
        else:
            hub.update_scalars({"a": value})
    assert [expected, expected] == hub.get_scalar("a").data[0].tolist()


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("x", TypeError, "'a': a logged value should be .*, but got str"),
        ([1], TypeError, "but got list"),
        (None, TypeError, "but got NoneType"),
        (1j, TypeError, "but got complex"),
        (torch.zeros(2), ValueError, r"'a': a logged tensor needs exactly one .* \(2,\)"),
        (np.zeros(2), ValueError, r"'a': a logged array needs exactly one .* \(2,\)"),
        (np.array(["x"]), TypeError, "a real number, but got 'x'"),
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_what_is_no_single_number_is_refused_at_once(value, error, message, before):
    hub = MessageHub("x")
    if before:
        hub.update_scalar("a", torch.tensor(1.0))
    with pytest.raises(error, match=message):
        hub.update_scalar("a", value)
    with pytest.raises(error, match=message):
        hub.update_scalars({"b": 1.0, "a": value})
    assert before == ("a" in hub.log_scalars)


def test_update_scalars_takes_dicts_with_counts():
    hub = MessageHub("x")
    hub.update_scalars({"a": 1, "c": dict(value=4, count=2)})
    hub.update_scalars({"a": 2, "c": dict(value=6)})
    assert {"a": [1, 2], "c": [4, 6]} == values_of(hub)
    assert 10 / 3 == hub.get_scalar("c").mean()
    with pytest.raises(
        ValueError, match=r"value must be defined in \{'val': 1\}, the entry of 'c'"
    ):
        hub.update_scalars({"c": dict(val=1)})
    with pytest.raises(TypeError, match="`log_dict` must be a dict!, but got list"):
        hub.update_scalars([1])


def test_whether_a_name_is_saved_cannot_change():
    hub = MessageHub("x")
    hub.update_scalar("a", 1.0)
    hub.update_info("b", 1, resumed=False)
    for call in (
        lambda: hub.update_scalar("a", 2.0, resumed=False),
        lambda: hub.update_scalars({"a": 2.0}, resumed=False),
        lambda: hub.update_info("b", 2),
        lambda: hub.update_info_dict({"b": 2}),
    ):
        with pytest.raises(ValueError, match="used to be resumed="):
            call()
    assert {"a": [1.0]} == values_of(hub)
    assert 1 == hub.get_info("b")


def test_a_history_that_was_handed_out_goes_on_growing():
    hub = MessageHub("x")
    hub.update_scalars({"a": 1.0, "b": 2.0})
    buffer = hub.get_scalar("a")
    hub.update_scalars({"a": 3.0, "b": 4.0})
    assert [1.0, 3.0] == buffer.data[0].tolist()
    buffer.update(5.0)
    hub.update_scalars({"a": 6.0, "b": 7.0})
    assert [1.0, 3.0, 5.0, 6.0] == buffer.data[0].tolist()


def test_a_missing_name_is_an_error_that_lists_the_others():
    hub = MessageHub("x")
    hub.update_scalar("loss", 1.0)
    with pytest.raises(KeyError, match=r"zz is not found .* 'x'; there are loss"):
        hub.get_scalar("zz")


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["scalar", "row", "tensors", "update", "read"]),
        st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(CALLS)
def test_values_keep_the_order_of_the_calls(calls):
    hub, expected = MessageHub("order"), {}
    for number, (kind, keys) in enumerate(calls):
        if kind == "read":
            for key in keys:
                if key in hub.log_scalars:
                    assert expected[key] == hub.get_scalar(key).data[0].tolist()
            continue
        if kind in ("scalar", "update"):
            keys = keys[:1]
        for key in keys:
            expected.setdefault(key, []).append(float(number))
        if kind == "scalar":
            hub.update_scalar(keys[0], float(number))
        elif kind == "update" and keys[0] in hub.log_scalars:
            hub.get_scalar(keys[0]).update(float(number))
        elif kind == "tensors":
            hub.update_scalars({key: torch.tensor(float(number)) for key in keys})
        else:
            hub.update_scalars({key: float(number) for key in keys})
    assert expected == values_of(hub)


def test_names_that_change_all_the_time_do_not_pile_up():
    hub = MessageHub("x")
    for number in range(600):
        hub.update_row("", {f"k{number % 300}": 1.0, "loss": float(number)})
    assert len(hub._groups) <= 256
    assert [float(n) for n in range(600)] == hub.get_scalar("loss").data[0].tolist()


def test_memory_does_not_grow_with_the_run():
    hub = MessageHub("x")
    hub.max_length = 500
    row = {f"loss{i}": 0.5 for i in range(5)}

    def held():
        hub.flush()
        gc.collect()
        buffers = hub.log_scalars.values()
        return sum(
            sys.getsizeof(b._tail) + (b._logs._array.nbytes if b._logs._array is not None else 0)
            for b in buffers
        )

    for _ in range(3072):
        hub.update_row("train/", row)
    before = held()
    for _ in range(20480):
        hub.update_row("train/", row)
    assert before == held()
    assert 500 == len(hub.get_scalar("train/loss0"))
    assert 0.5 == hub.get_scalar("train/loss0").mean(23552)


def test_more_is_kept_on_request():
    hub = MessageHub("x")
    hub.update_scalar("a", 1.0)
    hub.keep_at_least(20_000)
    hub.keep_at_least(5)
    hub.update_scalar("b", 1.0)
    assert 20_000 == hub.get_scalar("a").max_length == hub.get_scalar("b").max_length


@pytest.fixture
def transfers(monkeypatch):
    """Sizes of the transfers of this machine, which has an accelerator."""
    sizes = []

    def read_tensors(tensors):
        sizes.append(len(tensors))
        return [float(tensor) for tensor in tensors]

    monkeypatch.setattr(module, "tensors_live_on_cpu", lambda: False)
    for place in ("_rows", "history_buffer"):
        monkeypatch.setattr(f"mmx.logging.{place}.read_tensors", read_tensors)
    return sizes


def test_tensors_of_an_accelerator_wait_for_one_transfer(transfers):
    hub, read = MessageHub("x"), transfers
    for number in range(50):
        hub.update_row("train/", {"loss": torch.tensor(float(number)), "acc": 0.5})
    assert [] == read
    assert 49.0 == hub.get_scalar("train/loss").current()
    assert 0.5 == hub.get_scalar("train/acc").mean(10)
    assert [50] == read
    with pytest.raises(ValueError, match="'train/loss': a logged tensor needs exactly one"):
        hub.update_row("train/", {"loss": torch.zeros(2), "acc": 0.5})


def test_all_that_waits_is_read_together(transfers):
    hub = MessageHub("x")
    for number in range(50):
        hub.update_row("train/", {"loss": torch.tensor(float(number)), "aux": torch.tensor(1.0)})
    hub.read()
    assert [100] == transfers
    assert 49.0 == hub.get_scalar("train/loss").current()
    assert 1.0 == hub.get_scalar("train/aux").mean(50)
    hub.read()
    assert [100] == transfers


def test_nothing_waits_for_an_accelerator_until_somebody_needs_a_number(transfers):
    hub = MessageHub("x")
    log_time = hub.lane("train/time")
    for number in range(1500):
        log_time(0.1)
        # Losses that come under changing names, and one that a hook logs once more.
        hub.update_row("train/", {"loss": torch.tensor(1.0)})
        hub.update_row("train/", {"loss": torch.tensor(3.0), "aux": torch.tensor(2.0)})
        if number % 100 == 0:
            hub.update_scalar("train/aux", 4.0)
            hub.flush()
            assert 0.1 == pytest.approx(hub.get_scalar("train/time").mean(1))
        if number % 500 == 0:  # log lines
            hub.read()
            assert {number // 500 + 1} == {len(transfers)}
    assert 2.0 == hub.get_scalar("train/loss").mean(1000)
    assert 2.0 == hub.get_scalar("train/aux").mean(10)
    assert 3000 == len(hub.get_scalar("train/loss").data[0])


def test_without_any_reader_tensors_are_read_before_they_take_up_much_room(transfers):
    hub = MessageHub("x")
    for number in range(5000):
        hub.update_row("train/", {"loss": torch.tensor(float(number))})
    # So many wait in a buffer, and those of less than a whole number of rows in the hub.
    assert [2048, 2048] == transfers
    assert 4999.0 == hub.get_scalar("train/loss").current()
    assert list(range(5000)) == hub.get_scalar("train/loss").data[0].tolist()


def test_a_tensor_that_is_changed_in_place_is_copied(monkeypatch):
    monkeypatch.setattr(module, "tensors_live_on_cpu", lambda: False)
    hub, running = MessageHub("x"), torch.zeros(())
    for _ in range(3):
        running.add_(1)
        hub.update_scalars({"running": running})
    assert [1.0, 2.0, 3.0] == hub.get_scalar("running").data[0].tolist()


def test_facts_are_overwritten_and_popped():
    hub, value = MessageHub("x"), [1]
    hub.update_info("list", value)
    hub.update_info_dict({"iter": 1, "epoch": 2})
    hub.update_info("iter", 5)
    assert hub.get_info("list") is value
    assert 5 == hub.get_info("iter")
    assert {"list": [1], "iter": 5, "epoch": 2} == dict(hub.runtime_info)
    assert 5 == hub.pop_info("iter")
    assert 7 == hub.pop_info("iter", 7) == hub.get_info("iter", 7)
    with pytest.raises(TypeError, match="`info_dict` must be a dict!, but got list"):
        hub.update_info_dict([1])


def test_state_survives_a_checkpoint(tmp_path):
    hub = MessageHub("x")
    hub.update_scalars({"loss": 0.5, "acc": dict(value=2.0, count=4)})
    hub.update_scalar("lr", 0.1, resumed=False)
    hub.update_info("iter", 3)
    hub.update_info("classes", ("cat", "dog"))
    hub.update_info("volatile", 1, resumed=False)
    torch.save(hub.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    assert {"version", "log_scalars", "runtime_info", "resumed_keys"} == set(state)
    assert ["loss", "acc"] == list(state["log_scalars"])

    other = MessageHub("y")
    other.update_scalar("loss", 1.0)
    other.load_state_dict(state)
    assert {"loss": [0.5], "acc": [2.0]} == values_of(other)
    assert [4] == other.get_scalar("acc").data[1].tolist()
    assert {"iter": 3, "classes": ("cat", "dog")} == dict(other.runtime_info)
    other.update_scalars({"loss": 0.25})
    assert [0.5, 0.25] == other.get_scalar("loss").data[0].tolist()


def test_what_is_no_plain_data_is_left_out_of_checkpoints(capsys):
    MMLogger.get_instance("test_hub_state")
    hub = MessageHub("x")
    hub.update_info("function", len)
    hub.update_info("nested", {"a": [1, object()]})
    hub.update_info("fine", {"a": [1, None, "x", np.float32(1)]})
    assert ["fine"] == list(hub.state_dict()["runtime_info"])
    assert "function in message_hub is no plain data" in capsys.readouterr().out


def test_states_of_mmengine_load():
    hub = MessageHub("x")
    state = {
        "log_scalars": {"loss": HistoryBuffer([1.0, 2.0], [1, 1])},
        "runtime_info": {"iter": 2},
        "resumed_keys": {"loss": True, "iter": True},
    }
    hub.load_state_dict(state)
    state["log_scalars"]["loss"].update(9.0)
    assert {"loss": [1.0, 2.0]} == values_of(hub)


def test_what_a_state_does_not_name_stays():
    hub = MessageHub("x")
    hub.update_info("meta", "kept", resumed=False)
    hub.update_info("iter", 1)
    for value in (1.0, 2.0):
        hub.update_scalar("time", value)
        hub.update_scalar("loss", value)
    hub.load_state_dict(
        {
            "log_scalars": {"loss": HistoryBuffer([5.0], [1])},
            "runtime_info": {"iter": 3, "epoch": 1},
            "resumed_keys": {"loss": True, "iter": True, "epoch": True},
        }
    )
    assert {"loss": [5.0], "time": [1.0, 2.0]} == values_of(hub)
    assert {"meta": "kept", "iter": 3, "epoch": 1} == hub.runtime_info
    hub.update_scalar("time", 3.0)
    hub.update_scalar("loss", 6.0)
    assert {"loss": [5.0, 6.0], "time": [1.0, 2.0, 3.0]} == values_of(hub)
    assert "meta" not in hub.state_dict()["runtime_info"]


def test_wrong_states_are_refused_and_wrong_entries_skipped(capsys):
    MMLogger.get_instance("test_hub_load")
    hub = MessageHub("x")
    with pytest.raises(KeyError, match="must contain key: `runtime_info`"):
        hub.load_state_dict({"log_scalars": {}})
    with pytest.raises(TypeError, match="a dict or a MessageHub, but got int"):
        hub.load_state_dict(3)
    hub.load_state_dict({"log_scalars": {"a": 1}, "runtime_info": {}, "resumed_keys": {"q": True}})
    out = capsys.readouterr().out
    assert "a in message_hub is not HistoryBuffer, just skip resuming it." in out
    assert "resumed key: q is not defined in message_hub" in out
    assert not hub.log_scalars


def test_another_hub_can_be_taken_over_whole():
    hub, other = MessageHub("x"), MessageHub("y")
    hub.update_scalar("loss", 1.0, resumed=False)
    hub.update_info("fn", len)
    other.load_state_dict(hub)
    hub.update_scalar("loss", 2.0, resumed=False)
    assert {"loss": [1.0]} == values_of(other)
    assert other.get_info("fn") is len


def test_totals_go_on_after_a_resume():
    hub = MessageHub("x")
    hub.max_length = 10
    for number in range(2000):
        hub.update_scalar("loss", float(number))
    other = MessageHub("y")
    other.max_length = 10
    other.load_state_dict(copy.deepcopy(hub.state_dict()))
    other.update_scalar("loss", 2000.0)
    assert 1000.0 == other.get_scalar("loss").mean(2001)


def test_peek_changes_nothing():
    hub = MessageHub("x")
    hub.update_scalars({"loss": 1.0})
    assert hub.peek("loss", 5) is None  # still waiting in its row
    assert hub.peek("nothing", 5) is None
    hub.flush()
    assert 1.0 == hub.peek("loss", 5)
