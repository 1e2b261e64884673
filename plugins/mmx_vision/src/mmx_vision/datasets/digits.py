"""The handwritten digits that scikit-learn ships."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmx.dataset import BaseDataset
from mmx_vision.registry import DATASETS


@DATASETS.register_module()
class Digits(BaseDataset):
    """1,797 real handwritten digits, 8 × 8 grey pixels, in a fixed stratified split.

    Each sample is a dict with ``img``, uint8 of shape ``(8, 8, 1)`` in 0–255, and ``gt_label``, an int
    from 0 to 9; then the pipeline applies. The data is a copy of the test set of the UCI ML
    handwritten digits. Nothing is downloaded.

    Args:
        split: ``'train'``, ``'val'`` or ``'all'``.
        val_share: Share of each class that is held out for validation.
        split_seed: Which samples are held out. The same for both splits.
        pipeline: Transforms, as configs or callables.
        **kwargs: As for :class:`mmx.dataset.BaseDataset`.
    """

    METAINFO = {"classes": tuple(str(digit) for digit in range(10))}

    def __init__(
        self,
        split: str = "train",
        val_share: float = 0.2,
        split_seed: int = 0,
        pipeline: Sequence[dict[str, Any] | Callable[..., Any]] = (),
        **kwargs: Any,
    ) -> None:
        if split not in ("train", "val", "all"):
            raise ValueError(f"split must be 'train', 'val' or 'all', got {split!r}")
        if not 0 < val_share < 1:
            raise ValueError(f"val_share must lie between 0 and 1, got {val_share}")
        self.split = split
        self.val_share = val_share
        self.split_seed = split_seed
        kwargs.setdefault("test_mode", split != "train")
        super().__init__(ann_file="", pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the samples of the split, in the order of the original file."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = (digits.images * (255 / 16)).round().astype("uint8")[..., None]
        chosen: Any = range(len(images))
        if self.split != "all":
            train, val = train_test_split(
                chosen,
                test_size=self.val_share,
                random_state=self.split_seed,
                stratify=digits.target,
            )
            chosen = sorted(train if self.split == "train" else val)
        return [{"img": images[i], "gt_label": int(digits.target[i])} for i in chosen]
