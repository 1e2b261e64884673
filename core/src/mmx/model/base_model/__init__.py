"""The base class of algorithms and the preprocessing of batches."""

from mmx.model.base_model.base_model import BaseModel
from mmx.model.base_model.batch_augment import (
    BatchMixDataPreprocessor,
    CutMixDataPreprocessor,
    MixUpDataPreprocessor,
)
from mmx.model.base_model.data_preprocessor import BaseDataPreprocessor, ImgDataPreprocessor

__all__ = [
    "BaseDataPreprocessor",
    "BaseModel",
    "BatchMixDataPreprocessor",
    "CutMixDataPreprocessor",
    "ImgDataPreprocessor",
    "MixUpDataPreprocessor",
]
