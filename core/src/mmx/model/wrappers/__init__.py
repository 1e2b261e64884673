"""Modules that wrap a model for several devices."""

from mmx.model.wrappers.distributed import MMDistributedDataParallel
from mmx.model.wrappers.fully_sharded_distributed import MMFullyShardedDataParallel
from mmx.model.wrappers.seperate_distributed import MMSeparateDistributedDataParallel
from mmx.model.wrappers.utils import is_model_wrapper

__all__ = [
    "MMDistributedDataParallel",
    "MMFullyShardedDataParallel",
    "MMSeparateDistributedDataParallel",
    "is_model_wrapper",
]
