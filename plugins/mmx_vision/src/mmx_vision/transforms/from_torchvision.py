"""torchvision's transforms, where it is installed: ``type='mmx_vision.torchvision/RandomCrop'``."""

from mmx_vision.registry import TRANSFORMS
from mmx_vision.torchvision_parts import register_all

register_all(TRANSFORMS, "torchvision.transforms")
