"""The short ways into the message hub, for those who log in each iteration."""

import threading

import pytest
import torch

from mmx.logging import MessageHub


def values(hub, key):
    return hub.get_scalar(key).data[0].tolist()


def test_what_goes_through_a_lane_is_there_when_somebody_reads():
    hub = MessageHub.get_instance("lanes")
    log = hub.lane("train/time")
    for seconds in (0.5, 0.25):
        log(seconds)
    assert [0.5, 0.25] == values(hub, "train/time")
    assert 0.375 == float(hub.get_scalar("train/time").mean(10))
    log(1.0)
    assert 1.0 == float(hub.get_scalar("train/time").current())


def test_the_order_of_the_calls_is_kept_whichever_way_a_number_takes():
    hub = MessageHub.get_instance("order")
    log_row, log = hub.row_lane(""), hub.lane("a")
    log(1.0)
    hub.update_scalar("a", 2.0)
    log(3.0)
    log_row({"a": torch.tensor(4.0), "b": torch.tensor(0.0)})
    log(5.0)
    log_row({"a": torch.tensor(6.0), "b": torch.tensor(0.0)})
    hub.update_scalars({"a": 7.0})
    log(8.0)
    assert [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] == values(hub, "a")


def test_a_lane_that_comes_after_rows_of_its_name_keeps_the_order():
    hub = MessageHub.get_instance("late")
    hub.update_scalars({"a": torch.tensor(1.0)})
    log = hub.lane("a")
    log(2.0)
    hub.update_scalars({"a": torch.tensor(3.0)})
    log(4.0)
    assert [1.0, 2.0, 3.0, 4.0] == values(hub, "a")


def test_rows_may_change_their_names_and_types():
    hub = MessageHub.get_instance("rows")
    log = hub.row_lane("train/")
    log({"loss": torch.tensor(1.0)})
    log({"loss": torch.tensor(2.0)})
    log({"loss": 3.0})
    log({"loss": torch.tensor(4.0), "acc": 5})
    log({"loss": torch.tensor(6.0)})
    assert [1.0, 2.0, 3.0, 4.0, 6.0] == values(hub, "train/loss")
    assert [5] == values(hub, "train/acc")


def test_lanes_survive_that_the_hub_loads_a_state():
    hub = MessageHub.get_instance("loading")
    facts, log, log_row = hub.runtime_info, hub.lane("time"), hub.row_lane("")
    log(1.0)
    log_row({"loss": torch.tensor(1.0)})
    hub.update_info("iter", 1)
    state = hub.state_dict()
    log(2.0)
    log_row({"loss": torch.tensor(2.0)})
    hub.update_info("iter", 2)
    hub.load_state_dict(state)
    assert facts is hub.runtime_info
    assert {"iter": 1} == facts
    log(3.0)
    log_row({"loss": torch.tensor(3.0)})
    assert [1.0, 3.0] == values(hub, "time")
    assert [1.0, 3.0] == values(hub, "loss")
    hub.load_state_dict(hub)
    assert {"iter": 1} == hub.runtime_info
    assert [1.0, 3.0] == values(hub, "time")


def test_memory_is_bounded_though_nobody_reads():
    hub = MessageHub.get_instance("bounded")
    log_row, log = hub.row_lane(""), hub.lane("time")
    for _ in range(2000):
        log(0.0)
        log_row({"loss": torch.tensor(0.0)})
    assert len(hub._lanes["time"]) < 1000
    assert 2000 == len(values(hub, "time")) == len(values(hub, "loss"))


def logged_in_steps(hub):
    """Log in three steps, and return the marks after the last two."""
    log, log_row = hub.lane("train/time"), hub.row_lane("train/")
    log(0.0)
    log_row({"a": torch.tensor(0.0), "b": torch.tensor(0.5)})
    marks = []
    for number in (1.0, 2.0):
        log(number)
        log_row({"a": torch.tensor(number), "b": torch.tensor(number)})
        marks.append(hub.mark())
    log(3.0)
    return marks


def test_replaying_shows_the_numbers_as_they_were_and_loses_none():
    hub = MessageHub.get_instance("replaying")
    marks, seen = logged_in_steps(hub), []
    hub.replay(marks, lambda i: seen.append((values(hub, "train/time"), values(hub, "train/a"))))
    assert [([0.0, 1.0], [0.0, 1.0]), ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])] == seen
    assert [0.0, 1.0, 2.0, 3.0] == values(hub, "train/time")
    assert [0.5, 1.0, 2.0] == values(hub, "train/b")


def test_a_replay_that_fails_loses_no_number():
    hub = MessageHub.get_instance("failing replay")
    marks = logged_in_steps(hub)
    with pytest.raises(ZeroDivisionError):
        hub.replay(marks, lambda i: 1 / 0)
    assert [0.0, 1.0, 2.0, 3.0] == values(hub, "train/time")
    assert [0.0, 1.0, 2.0] == values(hub, "train/a")


def test_numbers_that_were_handed_over_are_replayed_as_they_are():
    hub = MessageHub.get_instance("handed over")
    marks, seen = logged_in_steps(hub), []
    hub.flush()
    hub.replay(marks, lambda i: seen.append(values(hub, "train/time")))
    assert [[0.0, 1.0, 2.0, 3.0]] * 2 == seen


@pytest.mark.parametrize(
    "change",
    [
        lambda hub: hub.flush(),
        lambda hub: hub.get_scalar("train/a").mean(),
        lambda hub: hub.update_scalar("own", 1.0),
        lambda hub: hub.update_scalars({"own": 1.0}),
        lambda hub: hub.update_row("own/", {"a": 1.0}),
        lambda hub: hub.update_info("own", 1.0),
        lambda hub: hub.pop_info("own"),
        lambda hub: hub.state_dict(),
        lambda hub: hub.lane("own"),
    ],
)
def test_who_wants_to_look_is_called_before_a_change_and_once(change):
    hub = MessageHub.get_instance("looked at")
    logged_in_steps(hub)
    marks, seen = [hub.mark()], []

    def look():
        hub.replay(marks, lambda i: seen.append(dict(hub.runtime_info)))

    hub.before_change(look)
    thread = threading.Thread(target=hub.flush)
    thread.start()
    thread.join()
    assert not seen
    hub.before_change(look)
    change(hub)
    change(hub)
    assert [{}] == seen
    hub.before_change(look)
    hub.before_change(None)
    change(hub)
    assert [{}] == seen
