"""Names that configs for DeepSpeed use; `mmx.strategy.DeepSpeedStrategy` does the work."""

from mmx.optim import OptimWrapper
from mmx.registry import OPTIM_WRAPPERS
from mmx.strategy.deepspeed import DeepSpeedModel


@OPTIM_WRAPPERS.register_module()
class DeepSpeedOptimWrapper(OptimWrapper):
    """An `OptimWrapper`: the strategy lets DeepSpeed's engine step, whatever the wrapper's class."""


MMDeepSpeedEngineWrapper = DeepSpeedModel
