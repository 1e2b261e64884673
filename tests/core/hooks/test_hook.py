"""The base class of hooks and the order in which hooks run."""

from types import SimpleNamespace

import pytest

from mmx.hooks.hook import Hook
from mmx.hooks.priority import Priority, UnknownPriorityError, get_priority

TRAIN_ITER = {"batch_idx": 0, "data_batch": None}


def runner_at(epoch=0, iter=0, max_epochs=3, max_iters=9):
    return SimpleNamespace(epoch=epoch, iter=iter, max_epochs=max_epochs, max_iters=max_iters)


def test_every_stage_is_a_method_that_does_nothing():
    hook, runner = Hook(), runner_at()
    arguments = {
        "before_save_checkpoint": {"checkpoint": {}},
        "after_load_checkpoint": {"checkpoint": {}},
        "after_val_epoch": {"metrics": {"acc": 1.0}},
        "after_test_epoch": {"metrics": {"acc": 1.0}},
    }
    for stage in Hook.stages:
        given = arguments.get(stage, {})
        if stage.endswith("iter"):
            given = {"batch_idx": 0, "data_batch": None}
            if stage.startswith("after"):
                given["outputs"] = {}
        assert getattr(hook, stage)(runner, **given) is None


def test_stages_are_in_the_order_of_a_run():
    assert Hook.stages[0] == "before_run"
    assert Hook.stages[-1] == "after_run"
    assert len(Hook.stages) == 22
    assert Hook.stages.index("before_train_iter") < Hook.stages.index("after_train_iter")


@pytest.mark.parametrize("mode", ["train", "val", "test"])
def test_a_generic_method_stands_for_all_three_modes(mode):
    calls = []

    class Generic(Hook):
        def _before_epoch(self, runner, mode="train"):
            calls.append(("before_epoch", mode))

        def _after_epoch(self, runner, mode="train"):
            calls.append(("after_epoch", mode))

        def _before_iter(self, runner, batch_idx, data_batch=None, mode="train"):
            calls.append(("before_iter", batch_idx, data_batch, mode))

        def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode="train"):
            calls.append(("after_iter", batch_idx, data_batch, outputs, mode))

    hook, runner = Generic(), runner_at()
    getattr(hook, f"before_{mode}_epoch")(runner)
    getattr(hook, f"before_{mode}_iter")(runner, batch_idx=4, data_batch={"x": 1})
    getattr(hook, f"after_{mode}_iter")(runner, batch_idx=4, data_batch={"x": 1}, outputs={"y": 2})
    getattr(hook, f"after_{mode}_epoch")(runner)
    assert calls == [
        ("before_epoch", mode),
        ("before_iter", 4, {"x": 1}, mode),
        ("after_iter", 4, {"x": 1}, {"y": 2}, mode),
        ("after_epoch", mode),
    ]
    assert len(hook.get_triggered_stages()) == 12


def test_triggered_stages_are_those_a_class_overrides_in_the_order_of_a_run():
    class Some(Hook):
        def after_run(self, runner): ...

        def before_val_iter(self, runner, batch_idx, data_batch=None): ...

    class More(Some):
        def before_run(self, runner): ...

    assert Hook().get_triggered_stages() == []
    assert Some().get_triggered_stages() == ["before_val_iter", "after_run"]
    assert More().get_triggered_stages() == ["before_run", "before_val_iter", "after_run"]


# Recorded from mmengine 0.10.7: rows are epochs 0 to 3, columns (n, start) for n in -1, 0, 1, 2
# and start in 0, 1, 2.
EVERY = [
    [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0],
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1],
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0],
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1],
]


@pytest.mark.parametrize("now", range(4))
def test_every_n_counts_from_the_start(now):
    hook = Hook()
    pairs = [(n, start) for n in (-1, 0, 1, 2) for start in (0, 1, 2)]
    epochs = [hook.every_n_epochs(runner_at(epoch=now), n, start) for n, start in pairs]
    iters = [hook.every_n_train_iters(runner_at(iter=now), n, start) for n, start in pairs]
    assert epochs == [bool(flag) for flag in EVERY[now]]
    assert iters == epochs


def test_every_n_inner_iters_counts_batches():
    hook = Hook()
    assert [hook.every_n_inner_iters(i, 3) for i in range(6)] == [False, False, True] * 2
    assert not hook.every_n_inner_iters(2, 0)
    assert not hook.every_n_inner_iters(2, -1)


def test_last_epoch_iteration_and_batch():
    hook = Hook()
    assert hook.is_last_train_epoch(runner_at(epoch=2))
    assert not hook.is_last_train_epoch(runner_at(epoch=1))
    assert hook.is_last_train_iter(runner_at(iter=8))
    assert not hook.is_last_train_iter(runner_at(iter=7))
    assert hook.end_of_epoch([1, 2, 3], 2)
    assert not hook.end_of_epoch([1, 2, 3], 1)


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ("HIGHEST", 0),
        ("very_high", 10),
        (Priority.HIGH, 30),
        ("Above_Normal", 40),
        ("NORMAL", 50),
        ("BELOW_NORMAL", 60),
        ("LOW", 70),
        ("VERY_LOW", 90),
        (Priority.LOWEST, 100),
        (0, 0),
        (33, 33),
    ],
)
def test_priorities_have_numbers(given, number):
    assert get_priority(given) == number


@pytest.mark.parametrize("number", [-1, 101])
def test_a_priority_out_of_range_is_an_error(number):
    with pytest.raises(ValueError, match=r"priority must be between 0 .* and 100"):
        get_priority(number)


def test_an_unknown_priority_is_an_error_that_lists_the_known():
    with pytest.raises(UnknownPriorityError, match=r"unknown priority 'foo'; .*VERY_HIGH") as info:
        get_priority("foo")
    assert isinstance(info.value, KeyError)
    assert isinstance(info.value, ValueError)


def test_a_priority_of_another_type_is_an_error():
    with pytest.raises(TypeError, match=r"integer or Priority enum value.*1\.5 of type float"):
        get_priority(1.5)
