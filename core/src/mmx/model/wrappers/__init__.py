"""Modules that wrap a model for several devices."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.model.wrappers.distributed import (
        MMDistributedDataParallel as MMDistributedDataParallel,
    )
    from mmx.model.wrappers.distributed import (
        UnusedParametersError as UnusedParametersError,
    )
    from mmx.model.wrappers.fully_sharded_distributed import (
        MMFullyShardedDataParallel as MMFullyShardedDataParallel,
    )
    from mmx.model.wrappers.seperate_distributed import (
        MMSeparateDistributedDataParallel as MMSeparateDistributedDataParallel,
    )
    from mmx.model.wrappers.utils import is_model_wrapper as is_model_wrapper
else:
    # Importing torch's sharding takes half a second.
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "distributed": ["MMDistributedDataParallel", "UnusedParametersError"],
            "fully_sharded_distributed": ["MMFullyShardedDataParallel"],
            "seperate_distributed": ["MMSeparateDistributedDataParallel"],
            "utils": ["is_model_wrapper"],
        },
    )
