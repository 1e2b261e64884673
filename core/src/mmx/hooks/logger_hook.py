"""Writes log lines, and hands what they say to the visualizer."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmx.dist import is_main_process
from mmx.fileio import get_file_backend
from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.logging import MMLogger
from mmx.registry import HOOKS
from mmx.utils.errors import InvalidTypeError, InvalidValueError
from mmx.utils.misc import has_methods
from mmx.visualization import Visualizer

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike

Suffixes = Sequence[str] | str
_RECORDS_ON_RANK_0 = {"add_scalars": Visualizer.add_scalars}


@HOOKS.register_module()
class LoggerHook(Hook):
    """Every ``interval`` iterations a line in the log and a record in the visualizer's back ends.

    Args:
        interval: Iterations between lines.
        ignore_last: No line for the rest of an epoch that is shorter than ``interval`` (unless
            the whole epoch is).
        interval_exp_name: Iterations between lines that say the experiment's name.
        out_dir: Directory or address below which the logs are copied after the run, into a folder
            named like the work directory's last part.
        out_suffix: Endings of the files that are copied.
        keep_local: Keep the local files that have been copied.
        file_client_args: Old name of ``backend_args``.
        log_metric_by_epoch: Metrics of a validation are recorded by epoch; otherwise, and in runs
            by iteration, by iteration.
        backend_args: Arguments of the file back end of ``out_dir``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An interval is not positive, or both ``file_client_args`` and ``backend_args``
            are given, or the former without ``out_dir``.
    """

    priority = "BELOW_NORMAL"

    def __init__(
        self,
        interval: int = 10,
        ignore_last: bool = True,
        interval_exp_name: int = 1000,
        out_dir: str | Path | None = None,
        out_suffix: Suffixes = (".json", ".log", ".py", "yaml"),
        keep_local: bool = True,
        file_client_args: dict[str, Any] | None = None,
        log_metric_by_epoch: bool = True,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        for name, number in (("interval", interval), ("interval_exp_name", interval_exp_name)):
            if isinstance(number, bool) or not isinstance(number, int):
                raise InvalidTypeError(f"{name} must be an integer, but got {number!r}")
            if number <= 0:
                raise InvalidValueError(f"{name} must be greater than 0, but got {number}")
        for name, flag in (("ignore_last", ignore_last), ("keep_local", keep_local)):
            if not isinstance(flag, bool):
                raise InvalidTypeError(f"{name} must be a boolean, but got {flag!r}")
        if out_dir is not None and not isinstance(out_dir, str | Path):
            raise InvalidTypeError(f"out_dir must be a str or Path object, but got {out_dir!r}")
        if not isinstance(out_suffix, str) and not (
            isinstance(out_suffix, Sequence) and all(isinstance(s, str) for s in out_suffix)
        ):
            raise InvalidTypeError(
                "out_suffix should be a string or a sequence of string, but got "
                f"{type(out_suffix).__name__}"
            )
        if out_dir is None and file_client_args is not None:
            raise InvalidValueError(
                'file_client_args should be "None" when `out_dir` is not specified.'
            )
        if file_client_args is not None and backend_args is not None:
            raise InvalidValueError(
                '"file_client_args" and "backend_args" cannot be set at the same time.'
            )
        self.interval = interval
        self.ignore_last = ignore_last
        self.interval_exp_name = interval_exp_name
        self.out_suffix = out_suffix
        self.keep_local = keep_local
        self.file_client_args = file_client_args
        self.log_metric_by_epoch = log_metric_by_epoch
        self.json_log_path: str | None = None
        self.out_dir = None if out_dir is None else os.fspath(out_dir)
        if self.out_dir is not None:
            self.file_backend = get_file_backend(
                self.out_dir, backend_args=backend_args or file_client_args
            )
            self.file_client = self.file_backend
        # Batches of the running epoch; None where it is unknown.
        self._epoch_length: int | None = None
        self._knows_length = False
        # The counters of the running epoch, if the loop has the usual ones.
        self._train_state: Any = None
        self._visualizer: Any = None
        # Where lines may be waiting.
        self._logger: MMLogger | None = None
        # Step of the latest training record.
        self._last_step = 0

    def before_run(self, runner: RunnerLike) -> None:
        """Decide where records and copies go."""
        if self.out_dir is not None:
            name = os.path.basename(os.path.normpath(runner.work_dir))
            self.out_dir = self.file_backend.join_path(self.out_dir, name)
            runner.logger.info(
                f"Text logs will be saved to {self.out_dir} after the training process."
            )
        self.json_log_path = f"{runner.timestamp}.json"
        self._visualizer = runner.visualizer

    def before_train_epoch(self, runner: RunnerLike) -> None:
        """Ask the data loader for its length once instead of after each batch."""
        self._epoch_length = _length_of(runner.train_dataloader)
        self._knows_length = True
        # A stand-in for the runner may have something else under this name, or nothing.
        state = getattr(runner, "train_state", None)
        self._train_state = state if isinstance(getattr(state, "iter", None), int) else None

    def after_train_epoch(self, runner: RunnerLike) -> None:
        """Forget the length."""
        self._write_waiting()
        self._knows_length = False
        self._train_state = None

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Log, if a line is due."""
        done = batch_idx + 1
        if (
            self._train_state is not None
            and done % self.interval
            and done != self._epoch_length
            and (self._train_state.iter + 1) % self.interval_exp_name
        ):
            return  # in nearly all iterations
        length = self._epoch_length if self._knows_length else _length_of(runner.train_dataloader)
        is_end = done == length
        if is_end or (runner.iter + 1) % self.interval_exp_name == 0:
            runner.logger.info(f"Exp name: {runner.experiment_name}")
        if done % self.interval != 0 and not (
            is_end and (not self.ignore_last or done <= self.interval)
        ):
            return
        self._last_step = step = runner.iter + 1
        visualizer, file_path = runner.visualizer, self.json_log_path

        def record(tag: dict[str, Any]) -> None:
            visualizer.add_scalars(tag, step=step, file_path=file_path)

        self._log_iteration(
            runner, batch_idx, "train", record if _records_here(visualizer) else None
        )

    def idle_iters(self, runner: RunnerLike, batch_idx: int, mode: str) -> int | None:
        """Return the iterations before the next line."""
        number = self.interval - 1 - batch_idx % self.interval
        if mode != "train":
            return number
        if self._train_state is None or not self._knows_length:
            return None
        if self._epoch_length is not None and batch_idx < self._epoch_length:
            number = min(number, self._epoch_length - 1 - batch_idx)
        return min(number, -(self._train_state.iter + 1) % self.interval_exp_name)

    def after_val_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Log, if a line is due."""
        if (batch_idx + 1) % self.interval == 0:
            self._log_iteration(runner, batch_idx, "val")

    def after_test_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Log, if a line is due."""
        if (batch_idx + 1) % self.interval == 0:
            self._log_iteration(runner, batch_idx, "test")

    def _log_iteration(
        self,
        runner: RunnerLike,
        batch_idx: int,
        mode: str,
        record: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Log a line, soon if lines follow each other quickly, and record what it says."""
        logger, processor = runner.logger, runner.log_processor
        if not isinstance(logger, MMLogger) or not hasattr(processor, "entry_after_iter"):
            tag, line = processor.get_log_after_iter(runner, batch_idx, mode)
            logger.info(line)
            if record is not None:
                record(tag)
            return
        if record is None and not logger.is_heard(logging.INFO):
            processor.stand_by(runner, batch_idx, mode)
            return
        entry = processor.entry_after_iter(runner, batch_idx, mode)
        found: dict[str, Any] = {}

        def text() -> str:
            nonlocal found
            found, line = entry()
            return str(line)

        self._logger = logger
        logger.info_soon(text, None if record is None else lambda: record(found))

    def _write_waiting(self) -> None:
        if self._logger is not None:
            self._logger.write_waiting()

    def after_val_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Log and record the metrics."""
        length = len(runner.val_dataloader)
        tag, line = runner.log_processor.get_log_after_epoch(runner, length, "val")
        runner.logger.info(line)
        by_epoch = self.log_metric_by_epoch and runner.log_processor.by_epoch
        step = runner.epoch if by_epoch else runner.iter
        runner.visualizer.add_scalars(tag, step=step, file_path=self.json_log_path)

    def after_test_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Log the metrics, and write them to ``<log_dir>/<timestamp>.json``."""
        tag, line = runner.log_processor.get_log_after_epoch(
            runner, len(runner.test_dataloader), "test", with_non_scalar=True
        )
        runner.logger.info(line)
        if is_main_process():
            path = os.path.join(runner.log_dir, str(self.json_log_path))
            with open(path, "w", encoding="utf-8") as file:
                file.write(json.dumps(_to_json(tag)))

    def after_run(self, runner: RunnerLike) -> None:
        """Close the visualizer and copy the logs."""
        self._write_waiting()
        self._logger = None
        runner.visualizer.close()
        if self.out_dir is None or not is_main_process():
            return
        for path in sorted(_files_ending_in(runner.log_dir, self.out_suffix)):
            target = self.file_backend.join_path(
                self.out_dir, os.path.relpath(path, runner.log_dir).replace(os.sep, "/")
            )
            with open(path, "rb") as file:
                self.file_backend.put(file.read(), target)
            runner.logger.info(f"The file {path} has been uploaded to {target}.")
        if not self.keep_local:
            self._remove_local(runner)

    def state_dict(self) -> dict[str, Any]:
        """Return with which records of the visualizer a resumed run goes on."""
        self._write_waiting()
        visualizer = self._visualizer
        has_state = hasattr(visualizer, "state_dict")
        return {
            "version": 1,
            "last_step": self._last_step,
            "visualizer": visualizer.state_dict() if has_state else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the visualizer go on with its records."""
        self._last_step = int(state.get("last_step", 0))
        if state.get("visualizer") and hasattr(self._visualizer, "load_state_dict"):
            self._visualizer.load_state_dict(state["visualizer"], step=self._last_step)

    def _remove_local(self, runner: RunnerLike) -> None:
        # An open file cannot be removed everywhere.
        for handler in getattr(runner.logger, "handlers", ()):
            if isinstance(handler, logging.FileHandler):
                handler.close()
        for path in sorted(_files_ending_in(runner.log_dir, self.out_suffix)):
            os.remove(path)


def _records_here(visualizer: Any) -> bool:
    """Tell whether a visualizer may record on this rank; the usual one does so on rank 0."""
    is_usual = isinstance(visualizer, Visualizer) and has_methods(visualizer, _RECORDS_ON_RANK_0)
    return is_main_process() or not is_usual


def _length_of(dataloader: Any) -> int | None:
    try:
        return len(dataloader)
    except TypeError:  # an iterable data set has no length
        return None


def _files_ending_in(directory: str, suffixes: Suffixes) -> Iterator[str]:
    endings = suffixes if isinstance(suffixes, str) else tuple(suffixes)
    for folder, _, names in os.walk(directory):
        for name in names:
            if name.endswith(endings):
                yield os.path.join(folder, name)


def _to_json(value: Any) -> Any:
    """Return a value as JSON can write it; what it cannot becomes text."""
    if isinstance(value, dict):
        return {str(k): _to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_to_json(v) for v in value]
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)
