"""Images in one folder for each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmx.dataset import BaseDataset
from mmx_vision.registry import DATASETS

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """Images below ``root/<class name>/``, at any depth; classes are numbered in sorted order.

    Each sample is a dict with ``img_path`` and ``gt_label``; start the pipeline with ``LoadImage``.

    Args:
        root: Folder with one folder for each class.
        pipeline: Transforms, as configs or callables.
        extensions: File endings that count as images, in lower case.
        **kwargs: As for :class:`mmx.dataset.BaseDataset`.

    Raises:
        FileNotFoundError: ``root`` has no folders, or a class has no image.
    """

    def __init__(
        self,
        root: str | Path,
        pipeline: Sequence[dict[str, Any] | Callable[..., Any]] = (),
        extensions: Sequence[str] = EXTENSIONS,
        **kwargs: Any,
    ) -> None:
        self.root = Path(root)
        self.extensions = tuple(extensions)
        folders = sorted(p for p in self.root.glob("*") if p.is_dir())
        if not folders:
            raise FileNotFoundError(f"{self.root} has no folders: one for each class is expected")
        metainfo = {
            "classes": tuple(p.name for p in folders),
            **(kwargs.pop("metainfo", None) or {}),
        }
        super().__init__(ann_file="", metainfo=metainfo, pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return path and class of every image, sorted by class, then by path."""
        samples = []
        for label, name in enumerate(self.metainfo["classes"]):
            paths = sorted(
                p for p in (self.root / name).rglob("*") if p.suffix.lower() in self.extensions
            )
            if not paths:
                raise FileNotFoundError(
                    f"{self.root / name} has no image; known endings are {', '.join(self.extensions)}"
                )
            samples += [{"img_path": str(p), "gt_label": label} for p in paths]
        return samples
