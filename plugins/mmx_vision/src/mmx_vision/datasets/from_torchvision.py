"""torchvision's data sets, where it is installed: ``type='mmx_vision.torchvision/CIFAR10'``."""

from mmx_vision.registry import DATASETS
from mmx_vision.torchvision_parts import register_all

register_all(DATASETS, "torchvision.datasets")
