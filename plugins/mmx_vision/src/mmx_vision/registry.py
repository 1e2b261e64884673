"""The registries of this plugin: children of mmx's, in the scope ``mmx_vision``."""

from mmx.registry import DATASETS as MMX_DATASETS
from mmx.registry import METRICS as MMX_METRICS
from mmx.registry import MODELS as MMX_MODELS
from mmx.registry import TRANSFORMS as MMX_TRANSFORMS
from mmx.registry import Registry

DATASETS = Registry(
    "dataset", parent=MMX_DATASETS, scope="mmx_vision", locations=["mmx_vision.datasets"]
)
METRICS = Registry(
    "metric", parent=MMX_METRICS, scope="mmx_vision", locations=["mmx_vision.metrics"]
)
MODELS = Registry("model", parent=MMX_MODELS, scope="mmx_vision", locations=["mmx_vision.models"])
TRANSFORMS = Registry(
    "transform", parent=MMX_TRANSFORMS, scope="mmx_vision", locations=["mmx_vision.transforms"]
)
