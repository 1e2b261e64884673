"""Which classes are taken for which."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmx.evaluator import BaseMetric
from mmx.logging import print_log
from mmx_vision.registry import METRICS


@METRICS.register_module()
class ConfusionMatrix(BaseMetric):
    """Count of samples by true and predicted class; optionally drawn to a picture.

    Returns ``confusion/balanced_accuracy``, the mean share of right answers over the classes that
    occur, in per cent. The counts themselves, int64 ``(classes, classes)``, rows true, columns
    predicted, are in ``matrix`` afterwards.

    Args:
        num_classes: Number of classes; None takes it from the scores.
        out_file: Picture to draw, for example ``confusion.png``; needs matplotlib.
        classes: Names for the picture; None takes those of the data set.
        **kwargs: As for :class:`mmx.evaluator.BaseMetric`.
    """

    default_prefix = "confusion"

    def __init__(
        self,
        num_classes: int | None = None,
        out_file: str | Path | None = None,
        classes: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.out_file = out_file
        self.classes = classes
        self.matrix: torch.Tensor | None = None

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count one batch: scores ``(N, classes)``, labels ``(N,)``."""
        scores, labels = data_samples
        size = self.num_classes or scores.shape[1]
        predicted = scores.argmax(dim=1).cpu()
        labels = labels.cpu()
        # Pairs, not a matrix for each batch: padding samples can be cut off exactly.
        self.results.extend((labels * size + predicted).tolist())
        self.num_classes = size

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """Add up the data set and draw the picture."""
        size = self.num_classes or 0
        counts = torch.bincount(torch.tensor(results), minlength=size * size)
        self.matrix = counts.reshape(size, size)
        total = self.matrix.sum(dim=1)
        share = self.matrix.diagonal()[total > 0] / total[total > 0]
        if self.out_file is not None:
            self.draw(self.out_file)
        return {"balanced_accuracy": 100 * share.double().mean().item()}

    def draw(self, out_file: str | Path) -> None:
        """Draw ``matrix`` to a picture.

        Raises:
            RuntimeError: Nothing has been evaluated yet.
        """
        if self.matrix is None:
            raise RuntimeError("there is no confusion matrix to draw before an evaluation")
        from matplotlib.figure import Figure

        size = len(self.matrix)
        names = self.classes or (self.dataset_meta or {}).get("classes") or range(size)
        figure = Figure(figsize=(1.5 + 0.5 * size, 1.2 + 0.5 * size), layout="constrained")
        axes = figure.subplots()
        axes.imshow(self.matrix.numpy(), cmap="Blues")
        axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix")
        axes.set_xticks(range(size), [str(n) for n in names], rotation=45)
        axes.set_yticks(range(size), [str(n) for n in names])
        dark = self.matrix.max() / 2
        for row in range(size):
            for column in range(size):
                count = int(self.matrix[row, column])
                if count:
                    colour = "white" if count > dark else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=colour)
        Path(out_file).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out_file, dpi=120)
        print_log(f"The confusion matrix is drawn to {out_file}.", "current", logging.DEBUG)
