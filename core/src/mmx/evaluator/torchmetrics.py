"""The metrics of torchmetrics, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mmx.dist import all_gather_object, get_data_group, get_model_parallel_size
from mmx.evaluator.metric import BaseMetric, MetricError
from mmx.evaluator.reduced import HeldBack
from mmx.registry import METRICS

Inputs = Sequence[str] | Callable[[Any, Any], tuple[Any, ...]] | None


@METRICS.register_module()
class TorchMetric(BaseMetric):
    """A metric of torchmetrics, which keeps and synchronises its own states.

    Samples that a sampler repeated are not counted. Needs ``pip install 'mmx[torchmetrics]'``.

    Args:
        metric: Name in the package, ``'Accuracy'`` or ``'classification.MulticlassAccuracy'``, or a
            metric object.
        inputs: Where the arguments of the metric's ``update`` are. None: ``data_samples`` is a tuple
            of them, as batches. Names: ``data_samples`` is a sequence of dicts, one for each sample,
            and their fields of these names, dots leading inwards (``'pred.scores'``), are stacked
            if they are tensors, arrays or numbers, and listed otherwise. A function of
            ``(data_batch, data_samples)``: returns the tuple of batches.
        name: Name of the result. None: the metric's name. A metric that returns a dict names its
            results itself.
        prefix: As in :class:`BaseMetric`.
        **kwargs: Arguments of the metric.

    Raises:
        ImportError: torchmetrics is not installed.
        ValueError: It has no such metric.
    """

    warns_without_prefix = False

    def __init__(
        self,
        metric: Any,
        inputs: Inputs = None,
        name: str | None = None,
        prefix: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix=prefix)
        self.metric = _build(metric, kwargs)
        if name is None:
            name = metric.rpartition(".")[2] if isinstance(metric, str) else type(metric).__name__
        self.name = name
        self.inputs = inputs
        self._held = HeldBack()

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Update the metric with the batch before this one, and keep this one until the next."""
        arguments = self._arguments(data_batch, data_samples)
        sizes = {len(argument) for argument in arguments}
        if len(sizes) != 1:
            raise ValueError(
                f"the arguments of {self.name} must be batches of one size, got {sorted(sizes)}"
            )
        before = self._held.swap(arguments, sizes.pop())
        if before is not None:
            self._update(before)

    def _arguments(self, data_batch: Any, data_samples: Any) -> tuple[Any, ...]:
        if self.inputs is None:
            if isinstance(data_samples, (str, Mapping)) or not isinstance(data_samples, Sequence):
                raise TypeError(
                    f"{self.name} expects the model to predict a tuple of update's arguments, but got "
                    f"{type(data_samples)}; inputs=... says where they are"
                )
            return tuple(data_samples)
        if callable(self.inputs):
            return tuple(self.inputs(data_batch, data_samples))
        return tuple(_stack([_field(s, path) for s in data_samples]) for path in self.inputs)

    def _update(self, arguments: tuple[Any, ...]) -> None:
        if not len(arguments[0]):
            return
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.device != self.metric.device:
                self.metric.to(argument.device)
                break
        self.metric.update(*arguments)

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Not used: nothing is collected."""
        raise NotImplementedError("TorchMetric lets torchmetrics compute")

    def evaluate(self, size: int) -> dict[str, Any]:
        """Return the metrics over all processes, and reset. See :class:`BaseMetric`."""
        held, self._held = self._held, HeldBack()
        values: dict[str, Any] = {}
        try:
            # Agreed on before computing, which is collective.
            with _raised_on_all_ranks(self.name):
                if held.batch is not None:
                    last = len(held.batch[0])
                    keep = last - held.excess(size, last, self.name)
                    self._update(tuple(argument[:keep] for argument in held.batch))
            self._count_samples_once()
            with _raised_on_all_ranks(self.name):
                values = self._named(self.metric.compute())
        finally:
            self.metric.reset()
        if self.prefix:
            values = {f"{self.prefix}/{key}": value for key, value in values.items()}
        return values

    def _count_samples_once(self) -> None:
        """Compute over one of the ranks that hold a copy of the model together, as all see its samples."""
        if get_model_parallel_size() == 1:
            return
        group = get_data_group()
        for part in self.metric.modules():
            if getattr(part, "process_group", group) is None:
                part.process_group = group

    def _named(self, computed: Any) -> dict[str, Any]:
        if isinstance(computed, Mapping):
            return {str(key): _plain(value) for key, value in computed.items()}
        return {self.name: _plain(computed)}


@contextmanager
def _raised_on_all_ranks(name: str) -> Iterator[None]:
    error: Exception | None = None
    try:
        yield
    except Exception as e:  # noqa: BLE001  # raised again below, on every rank
        error = e
    failures = all_gather_object(f"{type(error).__name__}: {error}" if error else None)
    if error is not None:
        raise error
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise MetricError(name, failure, f"on rank {rank}")


def _build(metric: Any, kwargs: dict[str, Any]) -> Any:
    try:
        package = importlib.import_module("torchmetrics")
    except ImportError as e:
        raise ImportError("TorchMetric needs torchmetrics: pip install 'mmx[torchmetrics]'") from e
    if not isinstance(metric, str):
        if not isinstance(metric, (package.Metric, package.MetricCollection)):
            raise TypeError(f"metric must be a name or a torchmetrics metric, got {type(metric)}")
        if kwargs:
            raise TypeError(f"a finished metric takes no arguments, got {sorted(kwargs)}")
        return metric
    path, _, name = metric.removeprefix("torchmetrics.").rpartition(".")
    try:
        module = importlib.import_module(f"torchmetrics.{path}") if path else package
        found = getattr(module, name)
    except (ImportError, AttributeError) as e:
        raise ValueError(
            f"torchmetrics has no metric {metric!r}; names are as in its documentation, for example "
            "'Accuracy' or 'classification.MulticlassAccuracy'"
        ) from e
    if not (isinstance(found, type) and issubclass(found, package.Metric)):
        raise ValueError(f"torchmetrics.{metric} is no metric class")
    return found(**kwargs)


def _field(sample: Any, path: str) -> Any:
    value = sample
    for part in path.split("."):
        try:
            value = value[part]
        except KeyError as e:
            raise KeyError(
                f"no field {path!r} in a sample with the fields {sorted(map(str, value))}"
            ) from e
    return value


def _stack(values: list[Any]) -> Any:
    """Return a batch of the samples' values."""
    if values and isinstance(values[0], np.ndarray):
        values = [torch.from_numpy(value) for value in values]
    first = values[0] if values else None
    if isinstance(first, torch.Tensor):
        # Labels come as shape (1,) and as scalars.
        return torch.stack([v.reshape(()) if v.numel() == 1 and v.ndim <= 1 else v for v in values])
    if isinstance(first, (bool, int, float, np.number)):
        return torch.tensor(values)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    return value
