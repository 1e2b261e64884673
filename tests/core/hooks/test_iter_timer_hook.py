"""The timing of iterations."""

from types import SimpleNamespace

import pytest

from mmx.hooks import IterTimerHook
from mmx.logging import MessageHub

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def clock(monkeypatch):
    state = SimpleNamespace(now=100.0)
    # The clock that projects replace in their own tests.
    monkeypatch.setattr("time.time", lambda: state.now)
    return state


@pytest.fixture
def runner():
    return SimpleNamespace(
        message_hub=MessageHub("timer"), iter=5, max_iters=10, val_dataloader=[0] * 5,
        test_dataloader=[0] * 4,
    )  # fmt: skip


def iterate(hook, runner, clock, batch_idx=0, mode="train", data=1.0, step=2.0):
    clock.now += data
    getattr(hook, f"before_{mode}_iter")(runner, batch_idx)
    clock.now += step
    getattr(hook, f"after_{mode}_iter")(runner, batch_idx)


def test_waiting_and_whole_iterations_are_timed(runner, clock):
    hook = IterTimerHook()
    hook.before_train(runner)
    clock.now += 50
    hook.before_train_epoch(runner)
    iterate(hook, runner, clock)
    iterate(hook, runner, clock, data=0.5)
    hub = runner.message_hub
    assert hub.get_scalar("train/data_time").data[0].tolist() == [1.0, 0.5]
    assert hub.get_scalar("train/time").data[0].tolist() == [3.0, 2.5]


def test_time_left_counts_from_where_training_began(runner, clock):
    hook = IterTimerHook()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    iterate(hook, runner, clock)
    assert runner.message_hub.get_info("eta") == 3.0 * 4
    runner.iter = 6
    iterate(hook, runner, clock, step=0.0)
    assert runner.message_hub.get_info("eta") == 2.0 * 3
    hook.after_train(runner)
    runner.max_iters = 20
    runner.iter = 7
    iterate(hook, runner, clock, step=1.0)
    assert runner.message_hub.get_info("eta") == 2.0 * 12


@pytest.mark.parametrize(("mode", "length"), [("val", 5), ("test", 4)])
def test_evaluations_have_a_time_left_of_their_own(runner, clock, mode, length):
    hook = IterTimerHook()
    getattr(hook, f"before_{mode}_epoch")(runner)
    iterate(hook, runner, clock, 0, mode)
    iterate(hook, runner, clock, 1, mode, step=0.0)
    assert runner.message_hub.get_info("eta") == 2.0 * (length - 2)
    getattr(hook, f"after_{mode}_epoch")(runner)
    assert hook.time_sec_test_val == 0
    assert hook.time_sec_tot == 0
    assert set(runner.message_hub.log_scalars) == {f"{mode}/data_time", f"{mode}/time"}
