"""Data elements: what travels between data set, model and metrics."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.structures.base_data_element import BaseDataElement as BaseDataElement
    from mmx.structures.instance_data import InstanceData as InstanceData
    from mmx.structures.label_data import LabelData as LabelData
    from mmx.structures.pixel_data import PixelData as PixelData
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "base_data_element": ["BaseDataElement"],
            "instance_data": ["InstanceData"],
            "label_data": ["LabelData"],
            "pixel_data": ["PixelData"],
        },
    )
