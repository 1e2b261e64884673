"""torchvision's models, where it is installed: ``type='mmx_vision.torchvision/resnet50'``."""

from mmx_vision.registry import MODELS
from mmx_vision.torchvision_parts import register_all

register_all(MODELS, "torchvision.models")
