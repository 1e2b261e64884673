"""Runs one or more metrics over predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from mmx.evaluator.metric import BaseMetric
from mmx.registry import EVALUATOR, FUNCTIONS, METRICS
from mmx.structures import BaseDataElement
from mmx.utils.errors import InvalidValueError


@lru_cache(maxsize=256)
def _is_data_element(kind: type) -> bool:
    return issubclass(kind, BaseDataElement)


# What predictions often are, and what is no data element.
PLAIN_KINDS = frozenset((dict, list, tuple, str, int, float))


@EVALUATOR.register_module()
class Evaluator:
    """One or more metrics that see the same predictions.

    Args:
        metrics: A metric, a dict to build one from, or a sequence of these.
    """

    def __init__(self, metrics: Mapping[str, Any] | BaseMetric | Sequence[Any]) -> None:
        self._dataset_meta: dict[str, Any] | None = None
        if not isinstance(metrics, Sequence):
            metrics = [metrics]
        self.metrics: list[BaseMetric] = [
            METRICS.build(metric) if isinstance(metric, Mapping) else metric for metric in metrics
        ]

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Meta information of the data set; setting it sets that of each metric."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any]) -> None:
        self._dataset_meta = dataset_meta
        for metric in self.metrics:
            metric.dataset_meta = dataset_meta

    def process(self, data_samples: Any, data_batch: Any | None = None) -> None:
        """Let each metric process one batch.

        Args:
            data_samples: What the model predicted. The data elements in a sequence become dicts;
                anything else goes to the metrics as it is.
            data_batch: What the data loader gave.
        """
        if not isinstance(data_samples, (list, tuple)) and isinstance(data_samples, Iterator):
            data_samples = list(data_samples)
        if isinstance(data_samples, (list, tuple)):
            # The set of types is small, however large the batch.
            kinds = {*map(type, data_samples)}
            if not kinds <= PLAIN_KINDS and any(map(_is_data_element, kinds)):
                data_samples = [
                    sample.to_dict() if isinstance(sample, BaseDataElement) else sample
                    for sample in data_samples
                ]
        for metric in self.metrics:
            metric.process(data_batch, data_samples)

    def evaluate(self, size: int) -> dict[str, Any]:
        """Return the metrics of all that has been processed since the last call.

        Every rank must call it.

        Args:
            size: Number of samples of the whole data set.

        Raises:
            ValueError: Two metrics give a value of the same name.
        """
        metrics: dict[str, Any] = {}
        for metric in self.metrics:
            results = metric.evaluate(size)
            for name in results:
                if name in metrics:
                    raise InvalidValueError(
                        f"There are multiple evaluation results with the same metric name {name}. "
                        "Please make sure all metrics have different prefixes."
                    )
            metrics.update(results)
        return metrics

    def offline_evaluate(
        self,
        data_samples: Sequence[Any] | Iterable[Any],
        data: Sequence[Any] | Iterable[Any] | None = None,
        chunk_size: int = 1,
    ) -> dict[str, Any]:
        """Return the metrics of predictions that were made before.

        Args:
            data_samples: Predictions, one for each sample.
            data: The samples that belong to them; chunks of them go through
                :func:`mmx.dataset.pseudo_collate`.
            chunk_size: Samples that are processed at a time.

        Raises:
            ValueError: ``data`` and ``data_samples`` differ in length, or ``chunk_size`` is not positive.
        """
        if chunk_size < 1:
            raise InvalidValueError(f"chunk_size must be positive, got {chunk_size}")
        if (
            isinstance(data, Sequence)
            and isinstance(data_samples, Sequence)
            and len(data_samples) != len(data)
        ):
            raise InvalidValueError(
                "data_samples and data should have the same length, but got data_samples length: "
                f"{len(data_samples)} data length: {len(data)}"
            )
        # Evaluators and data sets do not import each other.
        collate: Any = FUNCTIONS.get("pseudo_collate")
        size = 0
        samples_left = iter(data_samples)
        data_left = None if data is None else iter(data)
        for chunk in _chunks(samples_left, chunk_size):
            batch = None
            if data_left is not None:
                items = next(_chunks(data_left, len(chunk)), [])
                if len(items) != len(chunk):
                    raise InvalidValueError(
                        "data_samples and data should have the same length, but data ended after "
                        f"{size + len(items)} samples"
                    )
                batch = collate(items)
            size += len(chunk)
            self.process(chunk, batch)
        if data_left is not None and next(data_left, data_left) is not data_left:
            raise InvalidValueError(
                "data_samples and data should have the same length, but data_samples ended after "
                f"{size} samples and data goes on"
            )
        return self.evaluate(size)


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
