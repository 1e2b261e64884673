"""The base class of algorithms and the preprocessing of batches."""

from mmx.model.base_model.base_model import BaseModel
from mmx.model.base_model.data_preprocessor import BaseDataPreprocessor, ImgDataPreprocessor

__all__ = ["BaseDataPreprocessor", "BaseModel", "ImgDataPreprocessor"]
