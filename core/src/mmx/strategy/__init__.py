"""Where and how a model runs: device, precision, wrapping, distribution, sharded state."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.strategy.base import BaseStrategy as BaseStrategy
    from mmx.strategy.deepspeed import DeepSpeedStrategy as DeepSpeedStrategy
    from mmx.strategy.distributed import DDPStrategy as DDPStrategy
    from mmx.strategy.fsdp import FSDPStrategy as FSDPStrategy
    from mmx.strategy.fsdp import TensorParallelStrategy as TensorParallelStrategy
    from mmx.strategy.single_device import SingleDeviceStrategy as SingleDeviceStrategy
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "base": ["BaseStrategy"],
            "deepspeed": ["DeepSpeedStrategy"],
            "distributed": ["DDPStrategy"],
            "fsdp": ["FSDPStrategy", "TensorParallelStrategy"],
            "single_device": ["SingleDeviceStrategy"],
        },
    )
