"""Profiling."""

import json
from unittest.mock import MagicMock

import pytest
import torch

from mmx.hooks import ProfilerHook


@pytest.fixture
def runner(tmp_path):
    runner = MagicMock()
    runner.max_epochs, runner.max_iters = 3, 30
    runner.epoch = runner.iter = 0
    runner.rank = 0
    runner.log_dir = str(tmp_path)
    return runner


def train(hook, runner, epochs=2, iters=3):
    hook.before_run(runner)
    try:
        for runner.epoch in range(epochs):
            for index in range(iters):
                runner.iter = runner.epoch * iters + index
                torch.ones(3) + 1
                hook.after_train_iter(runner, index)
            hook.after_train_epoch(runner)
    finally:
        hook.after_run(runner)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(by_epoch=1), TypeError, "``by_epoch`` should be a boolean"),
        (dict(activity_with_cpu=1), TypeError, "``activity_with_cpu`` should be a boolean"),
        (dict(profile_times=0), ValueError, "should be greater than 0, but got 0"),
        (dict(profile_times="a"), TypeError, "should be an integer, but got 'a'"),
        (dict(schedule=3), TypeError, "``schedule`` should be a dict, but got 3"),
        (dict(activity_with_cpu=False), ValueError, "no activity is profiled"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        ProfilerHook(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(profile_times=5), "should not be greater than 3, the epochs"),
        (dict(by_epoch=False, profile_times=50), "should not be greater than 30, the iterations"),
        (dict(on_trace_ready=3), "should be a handler, or dict, or None, but got 3"),
        (dict(on_trace_ready=dict(type="x")), 'should be "log_trace" or "tb_trace", but got x'),
    ],
)
def test_what_does_not_fit_the_run_is_refused(runner, arguments, message):
    with pytest.raises(ValueError, match=message):
        ProfilerHook(**arguments).before_run(runner)


@pytest.mark.parametrize("options", [dict(profile_times=1), dict(by_epoch=False, profile_times=2)])
def test_the_trace_is_written(runner, tmp_path, options):
    path = tmp_path / "traces" / "trace.json"
    train(ProfilerHook(json_trace_path=str(path), **options), runner)
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert "aten::add" in names


def test_a_table_is_logged(runner):
    train(ProfilerHook(on_trace_ready=dict(type="log_trace", row_limit=3)), runner)
    assert "aten::" in runner.logger.info.call_args_list[-1].args[0]


def test_files_for_tensorboard_are_written(runner, tmp_path):
    trace = dict(type="tb_trace", dir_name="traces")
    schedule = dict(wait=0, warmup=1, active=1, repeat=1)
    train(ProfilerHook(on_trace_ready=trace, schedule=schedule), runner)
    files = list((tmp_path / "traces").iterdir())
    assert len(files) == 1
    assert files[0].name.startswith("rank0")


def test_a_function_gets_the_profiler(runner):
    seen = []
    train(ProfilerHook(on_trace_ready=seen.append), runner)
    assert [type(p) for p in seen] == [torch.profiler.profile]


def test_a_run_that_ends_early_ends_profiling(runner, tmp_path):
    path = tmp_path / "trace.json"
    hook = ProfilerHook(profile_times=3, json_trace_path=str(path))
    train(hook, runner, epochs=1)
    assert path.exists()
    hook.after_run(runner)


def test_without_training_nothing_is_profiled(runner):
    runner.max_epochs = None
    hook = ProfilerHook()
    hook.before_run(runner)
    hook.after_run(runner)
    runner.logger.info.assert_not_called()
