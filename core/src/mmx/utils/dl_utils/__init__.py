"""Small tools around torch, which is imported when one of them is used."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.utils.dl_utils.collect_env import collect_env as collect_env
    from mmx.utils.dl_utils.hub import load_url as load_url
    from mmx.utils.dl_utils.misc import has_batch_norm as has_batch_norm
    from mmx.utils.dl_utils.misc import is_norm as is_norm
    from mmx.utils.dl_utils.misc import mmcv_full_available as mmcv_full_available
    from mmx.utils.dl_utils.misc import tensor2imgs as tensor2imgs
    from mmx.utils.dl_utils.parrots_wrapper import TORCH_VERSION as TORCH_VERSION
    from mmx.utils.dl_utils.setup_env import set_multi_processing as set_multi_processing
    from mmx.utils.dl_utils.time_counter import TimeCounter as TimeCounter
    from mmx.utils.dl_utils.torch_ops import torch_meshgrid as torch_meshgrid
    from mmx.utils.dl_utils.trace import is_jit_tracing as is_jit_tracing
else:
    # Not later: importing the module would put it where the function of the same name belongs.
    from mmx.utils.dl_utils.collect_env import collect_env as collect_env

    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "collect_env": [
                "collect_env",
            ],
            "hub": [
                "load_url",
            ],
            "misc": [
                "has_batch_norm",
                "is_norm",
                "mmcv_full_available",
                "tensor2imgs",
            ],
            "parrots_wrapper": [
                "TORCH_VERSION",
            ],
            "setup_env": [
                "set_multi_processing",
            ],
            "time_counter": [
                "TimeCounter",
            ],
            "torch_ops": [
                "torch_meshgrid",
            ],
            "trace": [
                "is_jit_tracing",
            ],
        },
    )
