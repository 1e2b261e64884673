"""Profiles training with PyTorch's profiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from mmx.hooks.hook import Hook
from mmx.registry import HOOKS
from mmx.utils.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


def _ignore(profiler: torch.profiler.profile) -> None:
    """Do nothing with a finished trace."""


@HOOKS.register_module()
class ProfilerHook(Hook):
    """Profiles the first epochs or iterations of training.

    Args:
        by_epoch: ``profile_times`` counts epochs, not iterations.
        profile_times: How many are profiled.
        activity_with_cpu: Profile what the CPU does.
        activity_with_cuda: Profile what CUDA devices do.
        schedule: Arguments of :func:`torch.profiler.schedule`; None profiles every iteration.
        on_trace_ready: What happens with a trace: a function of the profiler;
            ``dict(type='log_trace', sort_by=..., row_limit=...)`` prints a table;
            ``dict(type='tb_trace', dir_name=...)`` writes files for TensorBoard and Perfetto, by
            default into ``<log_dir>/tf_tracing_logs``.
        record_shapes: Record the operators' input shapes.
        profile_memory: Track memory.
        with_stack: Record source lines.
        with_flops: Estimate the operators' floating-point operations.
        json_trace_path: File for the whole trace, for ``chrome://tracing`` or Perfetto.

    Raises:
        TypeError: A flag is no boolean, or ``schedule`` no dict.
        ValueError: ``profile_times`` is not positive, or no activity is profiled.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        *,
        by_epoch: bool = True,
        profile_times: int = 1,
        activity_with_cpu: bool = True,
        activity_with_cuda: bool = False,
        schedule: dict[str, Any] | None = None,
        on_trace_ready: Callable[..., Any] | dict[str, Any] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        json_trace_path: str | None = None,
    ) -> None:
        flags = {
            "by_epoch": by_epoch,
            "activity_with_cpu": activity_with_cpu,
            "activity_with_cuda": activity_with_cuda,
        }
        for name, flag in flags.items():
            if not isinstance(flag, bool):
                raise InvalidTypeError(f"``{name}`` should be a boolean, but got {flag!r}")
        if isinstance(profile_times, bool) or not isinstance(profile_times, int):
            raise InvalidTypeError(f"profile_times should be an integer, but got {profile_times!r}")
        if profile_times < 1:
            raise InvalidValueError(
                f"profile_times should be greater than 0, but got {profile_times}"
            )
        if not (activity_with_cpu or activity_with_cuda):
            raise InvalidValueError(
                "no activity is profiled: set activity_with_cpu or activity_with_cuda"
            )
        if schedule is not None and not isinstance(schedule, dict):
            raise InvalidTypeError(f"``schedule`` should be a dict, but got {schedule!r}")
        self.by_epoch = by_epoch
        self.profile_times = profile_times
        self.activities = []
        if activity_with_cpu:
            self.activities.append(torch.profiler.ProfilerActivity.CPU)
        if activity_with_cuda:
            self.activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.schedule = None if schedule is None else torch.profiler.schedule(**schedule)
        self.on_trace_ready = on_trace_ready
        self.record_shapes = record_shapes
        self.profile_memory = profile_memory
        self.with_stack = with_stack
        self.with_flops = with_flops
        self.json_trace_path = json_trace_path
        self._closed = True

    def before_run(self, runner: RunnerLike) -> None:
        """Start the profiler.

        Raises:
            ValueError: ``profile_times`` exceeds the training, or ``on_trace_ready`` is unknown.
        """
        unit = "epochs" if self.by_epoch else "iterations"
        total = runner.max_epochs if self.by_epoch else runner.max_iters
        if total is None:  # the runner validates or tests
            return
        if self.profile_times > total:
            raise InvalidValueError(
                f"``profile_times`` should not be greater than {total}, the {unit} of training, "
                f"but got {self.profile_times}"
            )
        handler = self._parse_trace_config(runner)
        self.profiler = torch.profiler.profile(
            activities=self.activities,
            schedule=self.schedule,
            on_trace_ready=handler,
            record_shapes=self.record_shapes,
            profile_memory=self.profile_memory,
            with_stack=self.with_stack,
            with_flops=self.with_flops,
        )
        self.profiler.__enter__()
        self._closed = False
        runner.logger.info(
            f"profiler is profiling the first {self.profile_times} {unit}; they take longer"
        )

    def _parse_trace_config(self, runner: RunnerLike) -> Callable[..., Any]:
        """Return the function that ``on_trace_ready`` stands for."""
        config = self.on_trace_ready
        if config is None:
            return _ignore
        if callable(config):
            return config
        if not isinstance(config, dict):
            raise InvalidValueError(
                f"``on_trace_ready`` should be a handler, or dict, or None, but got {config!r}"
            )
        options = dict(config)
        kind = options.pop("type", None)
        if kind == "log_trace":

            def log_table(profiler: torch.profiler.profile) -> None:
                runner.logger.info("\n" + profiler.key_averages().table(**options))

            return log_table
        if kind == "tb_trace":
            folder = options.pop("dir_name", None) or "tf_tracing_logs"
            options.setdefault("worker_name", f"rank{runner.rank}")
            path = os.path.join(runner.log_dir, folder)
            return torch.profiler.tensorboard_trace_handler(path, **options)
        raise InvalidValueError(f'trace_type should be "log_trace" or "tb_trace", but got {kind}')

    def after_train_epoch(self, runner: RunnerLike) -> None:
        """End profiling, if it is time."""
        if self.by_epoch and not self._closed and runner.epoch >= self.profile_times - 1:
            self._finish(runner)

    def after_train_iter(
        self, runner: RunnerLike, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Tell the profiler that an iteration has ended; end profiling, if it is time."""
        if self._closed:
            return
        self.profiler.step()
        if not self.by_epoch and runner.iter >= self.profile_times - 1:
            self._finish(runner)

    def after_run(self, runner: RunnerLike) -> None:
        """End profiling when the run ends before its time."""
        if not self._closed:
            self._finish(runner)

    def _finish(self, runner: RunnerLike) -> None:
        self._closed = True
        self.profiler.__exit__(None, None, None)
        if self.json_trace_path is not None:
            self._export_chrome_trace(runner)

    def _export_chrome_trace(self, runner: RunnerLike) -> None:
        path = str(self.json_trace_path)
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        self.profiler.export_chrome_trace(path)
        runner.logger.info(f"the profiler's trace is in {path}")
