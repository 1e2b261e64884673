"""The table of hook calls."""

import warnings
from types import SimpleNamespace

import pytest

from mmx.hooks.hook import Hook
from mmx.runner.dispatch import Dispatch, warn_of_misspelled_stages


class Named(Hook):
    def __init__(self, name, log):
        self.name, self.log = name, log

    def before_train(self, runner):
        self.log.append(self.name)


def call(dispatch, stage, runner=None, **kwargs):
    for one in dispatch[stage]:
        one(runner, **kwargs)


def table_of(*hooks):
    dispatch = Dispatch()
    dispatch.rebuild(hooks)
    return dispatch


def test_hooks_run_in_the_order_given():
    log = []
    call(table_of(Named("a", log), Named("b", log)), "before_train")
    assert log == ["a", "b"]


def test_a_stage_that_no_hook_overrides_is_empty():
    dispatch = table_of(Named("a", []), Hook())
    assert {stage for stage in Hook.stages if dispatch[stage]} == {"before_train"}


def test_a_generic_method_fills_its_three_stages():
    class Generic(Hook):
        def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode="train"): ...

    dispatch = table_of(Generic())
    assert {stage for stage in Hook.stages if dispatch[stage]} == {
        "after_train_iter",
        "after_val_iter",
        "after_test_iter",
    }


def test_lists_are_replaced_when_hooks_change():
    log = []
    dispatch = table_of(Named("a", log))
    calls = dispatch["before_train"]
    dispatch.rebuild([Named("b", log), Named("c", log)])
    for one in [*calls, *dispatch["before_train"]]:
        one(None)
    assert log == ["a", "b", "c"]


def test_a_stage_of_a_custom_loop_works_and_follows_new_hooks():
    log = []

    class Extra(Hook):
        def before_valloader2_iter(self, runner, batch_idx, data_batch):
            log.append((batch_idx, data_batch))

    dispatch = table_of(Hook())
    assert dispatch["before_valloader2_iter"] == []
    dispatch.rebuild([Extra()])
    call(dispatch, "before_valloader2_iter", batch_idx=1, data_batch=2)
    assert log == [(1, 2)]


def test_a_stage_of_a_custom_loop_may_leave_the_runner_out():
    """The documented example of an extra stage declares its hook without the runner."""
    log = []

    class Extra(Hook):
        def before_valloader2_iter(self, batch_idx, data_batch):
            log.append((batch_idx, data_batch))

    call(table_of(Extra()), "before_valloader2_iter", "runner", batch_idx=1, data_batch=2)
    assert log == [(1, 2)]


def test_a_method_replaced_on_an_instance_is_called():
    log = []
    hook = Hook()
    hook.after_run = lambda runner: log.append(runner)
    call(table_of(hook), "after_run", "runner")
    assert log == ["runner"]


def test_an_object_that_is_no_hook_takes_part_with_the_methods_it_has():
    log = []
    other = SimpleNamespace(before_run=lambda runner: log.append("ran"))
    dispatch = table_of(other)
    call(dispatch, "before_run")
    call(dispatch, "after_run")
    assert log == ["ran"]


def test_a_misspelled_stage_warns_with_the_near_name():
    class Typo(Hook):
        def after_train_itr(self, runner, batch_idx): ...

    with pytest.warns(UserWarning, match=r"Typo\.after_train_itr.*did you mean 'after_train_iter'"):
        warn_of_misspelled_stages(Typo())


def test_a_stage_of_an_older_engine_warns_with_the_new_name():
    class Old(Hook):
        def before_epoch(self, runner): ...

    with pytest.warns(UserWarning, match=r"named _before_epoch .*before_train_epoch"):
        warn_of_misspelled_stages(Old())


def test_helpers_and_stages_of_custom_loops_do_not_warn():
    class Fine(Hook):
        def before_valloader2_iter(self, runner, batch_idx): ...

        def log_something(self): ...

        def _private(self): ...

        def before_train(self, runner): ...

        def _before_iter(self, runner, batch_idx, data_batch=None, mode="train"): ...

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_misspelled_stages(Fine())
