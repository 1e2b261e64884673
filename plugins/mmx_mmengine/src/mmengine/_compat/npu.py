"""Profiling on Ascend devices, by ``torch_npu``."""

from __future__ import annotations

import os
import sys
from typing import Any

from mmx.hooks.hook import Hook
from mmx.registry import HOOKS


@HOOKS.register_module()
class NPUProfilerHook(Hook):
    """Profiles iterations ``begin`` to ``end`` of training with ``torch_npu.npu.profile``.

    Args:
        begin: The first iteration, 0-based.
        end: The iteration after the last.
        result_path: The folder of the results.
        exit_after_profiling: Leave the program once the results are written.
        use_e2e_profiler: Profile the Python side too.
        ge_profiling_to_std_out: Let the graph engine print what it measures; sets an environment
            variable.

    Raises:
        ImportError: ``torch_npu`` is not installed.
        ValueError: ``begin`` is not before ``end``.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        *,
        begin: int = 0,
        end: int = 1,
        result_path: str = "cann_profiling",
        exit_after_profiling: bool = True,
        use_e2e_profiler: bool = False,
        ge_profiling_to_std_out: bool = False,
    ) -> None:
        try:
            import torch_npu
        except ImportError as error:
            raise ImportError(
                "Failed to import torch_npu module, which NPUProfilerHook measures with: install "
                "the one made for your torch and driver"
            ) from error
        if begin >= end:
            raise ValueError(
                "The iteration to start profiling should not be greater than or equal to profile "
                f"end, but got begin={begin} and end={end}"
            )
        self.begin = begin
        self.end = end
        self.result_path = result_path
        self.exit_after_profiling = exit_after_profiling
        if ge_profiling_to_std_out:
            os.environ["GE_PROFILING_TO_STD_OUT"] = "1"
        self.profiler = torch_npu.npu.profile(result_path, use_e2e_profiler=use_e2e_profiler)

    def before_run(self, runner: Any) -> None:
        """Check that training lasts long enough.

        Raises:
            ValueError: ``end`` is beyond the last iteration.
        """
        if self.end > runner.max_iters:
            raise ValueError(
                "The profiling end iteration should not be greater than the max iteration, but "
                f"end={self.end} and training has {runner.max_iters} iterations"
            )

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Start before the first iteration to be profiled."""
        if runner.iter == self.begin:
            self.profiler.__enter__()
            runner.logger.info("NPUProfiler starts profiling...")

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """End after the last iteration to be profiled."""
        if runner.iter == self.end - 1:
            runner.logger.info("profiler may take a few minutes to save the profiling result.")
            self.profiler.__exit__(None, None, None)
            if self.exit_after_profiling:
                sys.exit()
