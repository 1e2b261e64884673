"""An inferencer for any model whose config has a test pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mmx.dataset import Compose
from mmx.infer.infer import BaseInferencer, ConfigType
from mmx.registry import INFERENCERS
from mmx.structures import BaseDataElement


@INFERENCERS.register_module()
class PipelineInferencer(BaseInferencer):
    """Run inputs through the test pipeline of a config, and return plain predictions.

    A path or address becomes a sample ``{"img_path": path}``; a ``.npy`` file, an array or a tensor
    ``{"img": array}``, and transforms whose names begin with ``Load`` are left out for it; a dict is a
    sample as it is.

    Data elements become dicts. Of tensors, each sample's row is its prediction; a vector of scores gets
    ``pred_label`` and ``pred_score`` of the highest, and ``pred_class`` if the checkpoint knows the names.
    Of a tuple, the first item is the prediction.

    Args:
        model: As in :class:`BaseInferencer`.
        weights: As in :class:`BaseInferencer`.
        device: As in :class:`BaseInferencer`.
        scope: As in :class:`BaseInferencer`.
        show_progress: As in :class:`BaseInferencer`.
        pipeline: Transforms in place of the config's.
    """

    def __init__(
        self,
        model: Any = None,
        weights: str | None = None,
        device: str | None = None,
        scope: str | None = None,
        show_progress: bool = True,
        pipeline: Sequence[Any] | None = None,
    ) -> None:
        self.transforms = pipeline
        self.dataset_meta: dict[str, Any] = {}
        super().__init__(model, weights, device, scope, show_progress)

    def _load_weights_to_model(
        self, model: torch.nn.Module, checkpoint: dict[str, Any] | None, cfg: ConfigType | None
    ) -> None:
        super()._load_weights_to_model(model, checkpoint, cfg)
        self.dataset_meta = dict(((checkpoint or {}).get("meta") or {}).get("dataset_meta") or {})

    def _init_pipeline(self, cfg: ConfigType) -> Callable[..., Any]:
        transforms = self.transforms
        if transforms is None:
            transforms = _test_pipeline(cfg)
        full = Compose(transforms)
        loaded = Compose([t for t in transforms if not _loads(t)])

        def prepare(item: Any) -> Any:
            if isinstance(item, Mapping):
                return full(dict(item))
            if isinstance(item, str) and not item.endswith(".npy"):
                if not any(_loads(t) for t in transforms):
                    raise ValueError(
                        f"the test pipeline has no transform that loads {item}: give an array or a .npy "
                        "file, or a pipeline that begins with one, in `inferencer=dict(type="
                        "'PipelineInferencer', pipeline=[...])`"
                    )
                return full({"img_path": item})
            if isinstance(item, str):
                item = np.load(item, allow_pickle=False)
            elif isinstance(item, torch.Tensor):
                item = item.numpy(force=True)
            return loaded({"img": item, "ori_shape": item.shape[:2], "img_shape": item.shape[:2]})

        return prepare

    @torch.no_grad()
    def forward(self, inputs: Any, **kwargs: Any) -> list[Any]:
        """Return the predictions of a batch, one for each input."""
        output = super().forward(inputs, **kwargs)
        if isinstance(output, tuple):
            output = output[0]
        return list(output)

    def visualize(self, inputs: list[Any], preds: Any, show: bool = False, **kwargs: Any) -> None:
        """Draw nothing: how to draw a prediction is a matter of the task."""

    def postprocess(
        self,
        preds: Any,
        visualization: Any,
        return_datasample: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return ``predictions``, as plain data or as they are, and ``visualization``."""
        if not return_datasample:
            preds = [self._plain_prediction(pred) for pred in preds]
        return {"predictions": preds, "visualization": visualization}

    def _plain_prediction(self, pred: Any) -> Any:
        if isinstance(pred, torch.Tensor) and pred.ndim == 1 and pred.is_floating_point():
            score, label = pred.max(dim=0)
            result = {
                "pred_label": int(label),
                "pred_score": float(score),
                "pred_scores": pred.tolist(),
            }
            classes = self.dataset_meta.get("classes")
            if classes and len(classes) == len(pred):
                result["pred_class"] = classes[int(label)]
            return result
        return _plain(pred)


def _plain(value: Any) -> Any:
    """Return a value as data that JSON can hold."""
    if isinstance(value, BaseDataElement):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _loads(transform: Any) -> bool:
    """Whether a transform, or a config of one, reads files."""
    kind = transform.get("type") if isinstance(transform, Mapping) else type(transform)
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return name.rpartition(".")[2].startswith("Load")


def _test_pipeline(cfg: ConfigType) -> list[Any]:
    """Return the pipeline of the test data set, or else of the validation data set."""
    if cfg.get("test_pipeline") is not None:
        return list(cfg["test_pipeline"])
    for key in ("test_dataloader", "val_dataloader"):
        dataset: Any = (cfg.get(key) or {}).get("dataset")
        while isinstance(dataset, Mapping):
            if "pipeline" in dataset:
                return list(copy.deepcopy(dataset["pipeline"]))
            inner = dataset.get("dataset")
            if inner is None and dataset.get("datasets"):
                inner = dataset["datasets"][0]
            dataset = inner
    raise ValueError(
        "the config has no test pipeline: neither test_pipeline nor a pipeline in the data set of "
        "test_dataloader or val_dataloader; pass pipeline=[...]"
    )
