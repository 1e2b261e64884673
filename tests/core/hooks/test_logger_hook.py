"""When lines are logged, and where logs go."""

import json
import logging
from types import SimpleNamespace
from unittest.mock import MagicMock, call

import numpy as np
import pytest
import torch

from mmx.hooks import LoggerHook


@pytest.fixture
def runner(tmp_path):
    log_dir = tmp_path / "work" / "20260101_000000"
    log_dir.mkdir(parents=True)
    runner = MagicMock()
    runner.timestamp = "20260101_000000"
    runner.log_dir, runner.work_dir = str(log_dir), str(log_dir.parent)
    runner.experiment_name = "exp"
    runner.iter, runner.epoch = 9, 3
    runner.train_dataloader = runner.val_dataloader = runner.test_dataloader = [0] * 25
    runner.log_processor.get_log_after_iter.return_value = ({"a": 1}, "a line")
    tag = {"a": 1, "b": np.float32(2), "c": torch.tensor([1, 2]), "d": {"x": np.arange(2)}}
    runner.log_processor.get_log_after_epoch.return_value = (tag, "a line of metrics")
    return runner


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(interval=0), ValueError, "interval must be greater than 0, but got 0"),
        (dict(interval="a"), TypeError, "interval must be an integer, but got 'a'"),
        (dict(interval=True), TypeError, "interval must be an integer"),
        (dict(interval_exp_name=-1), ValueError, "interval_exp_name must be greater than 0"),
        (dict(ignore_last=1), TypeError, "ignore_last must be a boolean"),
        (dict(keep_local=1), TypeError, "keep_local must be a boolean"),
        (dict(out_dir=3), TypeError, "out_dir must be a str or Path object"),
        (dict(out_suffix=3), TypeError, "out_suffix should be a string or a sequence of string"),
        (dict(out_suffix=[3]), TypeError, "out_suffix should be a string or a sequence of string"),
        (
            dict(file_client_args=dict(backend="disk")),
            ValueError,
            'should be "None" when `out_dir` is not specified',
        ),
        (
            dict(out_dir="x", file_client_args={}, backend_args={}),
            ValueError,
            "cannot be set at the same time",
        ),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        LoggerHook(**arguments)


@pytest.mark.parametrize("in_epoch", [False, True])
@pytest.mark.parametrize(
    ("batch_idx", "iteration", "options", "name", "line"),
    [
        (8, 8, {}, False, False),
        (9, 9, {}, False, True),
        (24, 24, {}, True, False),
        (24, 99, {}, True, False),
        (24, 24, dict(ignore_last=False), True, True),
        (24, 24, dict(interval=30), True, True),
        (9, 999, {}, True, True),
        (4, 1004, dict(interval=5), False, True),
        (4, 19, dict(interval=5, interval_exp_name=20), True, True),
    ],
)
def test_when_a_line_is_due(runner, batch_idx, iteration, options, name, line, in_epoch):
    hook = LoggerHook(**options)
    hook.before_run(runner)
    if in_epoch:
        hook.before_train_epoch(runner)
        runner.train_dataloader = None  # not asked again
    runner.reset_mock()
    runner.iter = iteration
    hook.after_train_iter(runner, batch_idx)
    lines = [call("Exp name: exp")] * name + [call("a line")] * line
    assert runner.logger.info.call_args_list == lines
    records = [call({"a": 1}, step=iteration + 1, file_path="20260101_000000.json")] * line
    assert runner.visualizer.add_scalars.call_args_list == records


def test_a_loader_without_length_has_no_last_batch(runner):
    class Endless:
        pass

    runner.train_dataloader = Endless()
    hook = LoggerHook()
    hook.before_train_epoch(runner)
    hook.after_train_iter(runner, 4)
    runner.logger.info.assert_not_called()
    hook.after_train_iter(runner, 9)
    runner.logger.info.assert_called_once_with("a line")


@pytest.mark.parametrize("mode", ["val", "test"])
def test_evaluations_log_lines_and_record_nothing(runner, mode):
    hook = LoggerHook()
    after = getattr(hook, f"after_{mode}_iter")
    after(runner, 8)
    after(runner, 9)
    assert runner.logger.info.call_args_list == [call("a line")]
    runner.log_processor.get_log_after_iter.assert_called_once_with(runner, 9, mode)
    runner.visualizer.add_scalars.assert_not_called()


@pytest.mark.parametrize(
    ("by_metric", "by_epoch", "step"), [(True, True, 3), (False, True, 9), (True, False, 9)]
)
def test_metrics_of_a_validation_are_recorded(runner, by_metric, by_epoch, step):
    runner.log_processor.by_epoch = by_epoch
    hook = LoggerHook(log_metric_by_epoch=by_metric)
    hook.before_run(runner)
    hook.after_val_epoch(runner)
    runner.log_processor.get_log_after_epoch.assert_called_once_with(runner, 25, "val")
    runner.logger.info.assert_called_once_with("a line of metrics")
    arguments = runner.visualizer.add_scalars.call_args
    assert arguments.kwargs == {"step": step, "file_path": "20260101_000000.json"}


def test_metrics_of_a_test_go_into_a_file(runner):
    hook = LoggerHook()
    hook.before_run(runner)
    hook.after_test_epoch(runner, {"a": 1})
    with open(f"{runner.log_dir}/20260101_000000.json") as file:
        assert json.load(file) == {"a": 1, "b": 2.0, "c": [1, 2], "d": {"x": [0, 1]}}


def test_the_visualizer_is_closed_at_the_end(runner):
    hook = LoggerHook()
    hook.before_run(runner)
    hook.after_run(runner)
    runner.visualizer.close.assert_called_once_with()


@pytest.mark.parametrize("keep_local", [True, False])
def test_logs_are_copied_elsewhere(runner, tmp_path, keep_local):
    from pathlib import Path

    log_dir = Path(runner.log_dir)
    (log_dir / "vis_data").mkdir()
    for name in ("a.log", "b.json", "c.txt", "vis_data/z.json"):
        (log_dir / name).write_text(name)
    handler = logging.FileHandler(log_dir / "a.log")
    runner.logger.handlers = [handler]
    hook = LoggerHook(out_dir=tmp_path / "out", keep_local=keep_local)
    hook.before_run(runner)
    hook.after_run(runner)
    out = tmp_path / "out" / "work"
    copied = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert copied == ["a.log", "b.json", "vis_data/z.json"]
    assert (out / "vis_data" / "z.json").read_text() == "vis_data/z.json"
    assert (log_dir / "c.txt").exists()
    assert (log_dir / "a.log").exists() is keep_local
    assert "Text logs will be saved to" in runner.logger.info.call_args_list[0].args[0]
    handler.close()


def test_a_resumed_run_goes_on_with_the_records_of_the_one_before(runner):
    before, after = LoggerHook(), LoggerHook()
    before.before_run(runner)
    runner.visualizer.state_dict.return_value = {"backends": {"x": {"run_id": 5}}}
    before.after_train_iter(runner, 9)
    state = before.state_dict()
    later = SimpleNamespace(visualizer=MagicMock(), timestamp="later")
    after.before_run(later)
    after.load_state_dict(state)
    later.visualizer.load_state_dict.assert_called_once_with(
        {"backends": {"x": {"run_id": 5}}}, step=10
    )
    assert after.state_dict()["last_step"] == 10
