"""The base class of metrics, and the metric that saves predictions."""

from __future__ import annotations

import logging
import traceback
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mmx.dist import broadcast_object_list, collect_results, is_main_process
from mmx.fileio import dump
from mmx.logging import print_log
from mmx.registry import METRICS
from mmx.structures import BaseDataElement


class MetricError(RuntimeError):
    """A metric failed on another process, which raises the original error.

    Attributes:
        metric: Name of the metric.
        rank_traceback: Where it failed: the other process's traceback, or its number.
    """

    def __init__(self, metric: str, cause: str, rank_traceback: str) -> None:
        super().__init__(f"{metric} failed on another process with {cause}\n{rank_traceback}")
        self.metric = metric
        self.rank_traceback = rank_traceback


class BaseMetric(metaclass=ABCMeta):
    """Base class of metrics.

    :meth:`process` sees each batch and appends what is needed of it to ``self.results``;
    :meth:`evaluate` gathers the results of all processes on the main one, where
    :meth:`compute_metrics` makes numbers of them.

    Args:
        collect_device: ``'cpu'`` or ``'gpu'``: where results are when they travel between processes.
        prefix: Put in front of each metric name, with a slash. None: ``default_prefix``.
        collect_dir: Folder on a file system of all processes, through which the results travel;
            with ``collect_device='cpu'`` only. None: they travel in memory.

    Attributes:
        default_prefix: Prefix of the class.
        results: What :meth:`process` has appended since the last evaluation.
    """

    default_prefix: str | None = None
    # False where names without a prefix are meant.
    warns_without_prefix = True

    def __init__(
        self,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        if collect_device not in ("cpu", "gpu"):
            raise ValueError(f"collect_device must be 'cpu' or 'gpu', got {collect_device!r}")
        if collect_dir is not None and collect_device != "cpu":
            raise ValueError("`collect_dir` could only be configured when `collect_device='cpu'`")
        self._dataset_meta: dict[str, Any] | None = None
        self.collect_device = collect_device
        self.results: list[Any] = []
        self.prefix = prefix or self.default_prefix
        self.collect_dir = collect_dir
        if self.prefix is None and self.warns_without_prefix:
            print_log(
                f"The prefix is not set in metric class {type(self).__name__}.",
                logger="current",
                level=logging.WARNING,
            )

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Meta information of the data set: classes, palette and so on."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any]) -> None:
        self._dataset_meta = dataset_meta

    @abstractmethod
    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Append what is needed of one batch to ``self.results``, one item for each sample.

        Args:
            data_batch: What the data loader gave.
            data_samples: What the model predicted; data elements come as dicts.
        """

    @abstractmethod
    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Return metric names and values, made of the results of all processes."""

    def evaluate(self, size: int) -> dict[str, Any]:
        """Return the metrics over all processes, and forget the results.

        Every rank must call it, and gets the same metrics.

        Args:
            size: Number of samples of the whole data set. Results beyond it are of samples that
                the sampler repeated to give all ranks equally many; they are dropped.

        Raises:
            MetricError: :meth:`compute_metrics` failed; the main process raises the original error.
        """
        name = type(self).__name__
        if not self.results:
            print_log(
                f"{name} got empty `self.results`. Please ensure that the processed results are "
                "properly added into `self.results` in `process` method.",
                logger="current",
                level=logging.WARNING,
            )
        results = collect_results(self.results, size, self.collect_device, tmpdir=self.collect_dir)
        try:
            return self._compute_for_all(lambda: self.compute_metrics(_to_cpu(results)))
        finally:
            # Emptied also after a failure, or the next evaluation would mix both.
            self.results.clear()

    def _compute_for_all(self, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return on every rank, with the prefix, the metrics that the main process computes.

        Raises:
            MetricError: ``compute`` failed; the main process raises the original error.
        """
        error: Exception | None = None
        message: list[Any] = [None]
        if is_main_process():
            try:
                metrics = dict(compute())
                if self.prefix:
                    metrics = {f"{self.prefix}/{key}": value for key, value in metrics.items()}
                message = [("metrics", metrics)]
            except Exception as e:  # noqa: BLE001  # raised again below, on every rank
                error = e
                message = [("error", (f"{type(e).__name__}: {e}", traceback.format_exc()))]
        # On every rank, also after a failure: the others wait for it.
        broadcast_object_list(message)
        if error is not None:
            raise error
        kind, content = message[0]
        if kind == "error":
            raise MetricError(type(self).__name__, *content)
        return content


@METRICS.register_module()
class DumpResults(BaseMetric):
    """Save the predictions of all processes in one pickle file; measures nothing.

    Args:
        out_file_path: Path of the file; ends in ``.pkl`` or ``.pickle``.
        collect_device: As in :class:`BaseMetric`.
        collect_dir: As in :class:`BaseMetric`.
    """

    def __init__(
        self,
        out_file_path: str,
        collect_device: str = "cpu",
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, collect_dir=collect_dir)
        if not str(out_file_path).endswith((".pkl", "pickle")):
            raise ValueError(f"The output file must be a pkl file, got {str(out_file_path)!r}")
        self.out_file_path = out_file_path

    def process(self, data_batch: Any, predictions: Sequence[Any]) -> None:
        """Keep the predictions of a batch, moved to the CPU."""
        self.results.extend(_to_cpu(predictions))

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Write the file."""
        dump(results, self.out_file_path)
        print_log(f"Results has been saved to {self.out_file_path}.", logger="current")
        return {}


def _to_cpu(data: Any) -> Any:
    """Return ``data`` with its tensors and data elements on the CPU, in the same containers."""
    if isinstance(data, (Tensor, BaseDataElement)):
        return data.to("cpu")
    if isinstance(data, list):
        return [_to_cpu(item) for item in data]
    if isinstance(data, tuple):
        parts = [_to_cpu(item) for item in data]
        return type(data)(*parts) if hasattr(data, "_fields") else tuple(parts)
    if isinstance(data, dict):
        return {key: _to_cpu(value) for key, value in data.items()}
    return data
