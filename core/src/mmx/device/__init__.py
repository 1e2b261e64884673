"""Which device to use, on whatever accelerator torch was built for."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.device.utils import get_device as get_device
    from mmx.device.utils import get_max_cuda_memory as get_max_cuda_memory
    from mmx.device.utils import get_max_memory as get_max_memory
    from mmx.device.utils import get_max_musa_memory as get_max_musa_memory
    from mmx.device.utils import is_cuda_available as is_cuda_available
    from mmx.device.utils import is_dipu_available as is_dipu_available
    from mmx.device.utils import is_mlu_available as is_mlu_available
    from mmx.device.utils import is_mps_available as is_mps_available
    from mmx.device.utils import is_musa_available as is_musa_available
    from mmx.device.utils import is_npu_available as is_npu_available
    from mmx.device.utils import is_npu_support_full_precision as is_npu_support_full_precision
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "utils": [
                "get_device",
                "get_max_cuda_memory",
                "get_max_memory",
                "get_max_musa_memory",
                "is_cuda_available",
                "is_dipu_available",
                "is_mlu_available",
                "is_mps_available",
                "is_musa_available",
                "is_npu_available",
                "is_npu_support_full_precision",
            ],
        },
    )
