"""Models: base classes, initialisation, preprocessing, averages and wrappers."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.model.averaged_model import BaseAveragedModel as BaseAveragedModel
    from mmx.model.averaged_model import ExponentialMovingAverage as ExponentialMovingAverage
    from mmx.model.averaged_model import MomentumAnnealingEMA as MomentumAnnealingEMA
    from mmx.model.averaged_model import StochasticWeightAverage as StochasticWeightAverage
    from mmx.model.averaged_model import averaged_state_dict as averaged_state_dict
    from mmx.model.averaged_model import source_state_dict as source_state_dict
    from mmx.model.base_model import BaseDataPreprocessor as BaseDataPreprocessor
    from mmx.model.base_model import BaseModel as BaseModel
    from mmx.model.base_model import BatchMixDataPreprocessor as BatchMixDataPreprocessor
    from mmx.model.base_model import CutMixDataPreprocessor as CutMixDataPreprocessor
    from mmx.model.base_model import ImgDataPreprocessor as ImgDataPreprocessor
    from mmx.model.base_model import MixUpDataPreprocessor as MixUpDataPreprocessor
    from mmx.model.base_module import BaseModule as BaseModule
    from mmx.model.base_module import ModuleDict as ModuleDict
    from mmx.model.base_module import ModuleList as ModuleList
    from mmx.model.base_module import Sequential as Sequential
    from mmx.model.test_time_aug import BaseTTAModel as BaseTTAModel
    from mmx.model.utils import convert_sync_batchnorm as convert_sync_batchnorm
    from mmx.model.utils import detect_anomalous_params as detect_anomalous_params
    from mmx.model.utils import merge_dict as merge_dict
    from mmx.model.utils import revert_sync_batchnorm as revert_sync_batchnorm
    from mmx.model.utils import stack_batch as stack_batch
    from mmx.model.weight_init import BaseInit as BaseInit
    from mmx.model.weight_init import Caffe2XavierInit as Caffe2XavierInit
    from mmx.model.weight_init import ConstantInit as ConstantInit
    from mmx.model.weight_init import KaimingInit as KaimingInit
    from mmx.model.weight_init import NormalInit as NormalInit
    from mmx.model.weight_init import PretrainedInit as PretrainedInit
    from mmx.model.weight_init import TruncNormalInit as TruncNormalInit
    from mmx.model.weight_init import UniformInit as UniformInit
    from mmx.model.weight_init import XavierInit as XavierInit
    from mmx.model.weight_init import bias_init_with_prob as bias_init_with_prob
    from mmx.model.weight_init import caffe2_xavier_init as caffe2_xavier_init
    from mmx.model.weight_init import constant_init as constant_init
    from mmx.model.weight_init import initialize as initialize
    from mmx.model.weight_init import kaiming_init as kaiming_init
    from mmx.model.weight_init import normal_init as normal_init
    from mmx.model.weight_init import trunc_normal_init as trunc_normal_init
    from mmx.model.weight_init import uniform_init as uniform_init
    from mmx.model.weight_init import update_init_info as update_init_info
    from mmx.model.weight_init import xavier_init as xavier_init
    from mmx.model.wrappers import MMDistributedDataParallel as MMDistributedDataParallel
    from mmx.model.wrappers import MMFullyShardedDataParallel as MMFullyShardedDataParallel
    from mmx.model.wrappers import (
        MMSeparateDistributedDataParallel as MMSeparateDistributedDataParallel,
    )
    from mmx.model.wrappers.utils import is_model_wrapper as is_model_wrapper
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "averaged_model": [
                "BaseAveragedModel",
                "ExponentialMovingAverage",
                "MomentumAnnealingEMA",
                "StochasticWeightAverage",
                "averaged_state_dict",
                "source_state_dict",
            ],
            "base_model": [
                "BaseDataPreprocessor",
                "BaseModel",
                "BatchMixDataPreprocessor",
                "CutMixDataPreprocessor",
                "ImgDataPreprocessor",
                "MixUpDataPreprocessor",
            ],
            "base_module": [
                "BaseModule",
                "ModuleDict",
                "ModuleList",
                "Sequential",
            ],
            "test_time_aug": [
                "BaseTTAModel",
            ],
            "utils": [
                "convert_sync_batchnorm",
                "detect_anomalous_params",
                "merge_dict",
                "revert_sync_batchnorm",
                "stack_batch",
            ],
            "weight_init": [
                "BaseInit",
                "Caffe2XavierInit",
                "ConstantInit",
                "KaimingInit",
                "NormalInit",
                "PretrainedInit",
                "TruncNormalInit",
                "UniformInit",
                "XavierInit",
                "bias_init_with_prob",
                "caffe2_xavier_init",
                "constant_init",
                "initialize",
                "kaiming_init",
                "normal_init",
                "trunc_normal_init",
                "uniform_init",
                "update_init_info",
                "xavier_init",
            ],
            "wrappers": [
                "MMDistributedDataParallel",
                "MMFullyShardedDataParallel",
                "MMSeparateDistributedDataParallel",
            ],
            "wrappers.utils": [
                "is_model_wrapper",
            ],
        },
    )
