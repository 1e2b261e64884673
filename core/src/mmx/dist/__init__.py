"""Talking between processes; on one process every function does the obvious thing at no cost."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.dist.dist import all_gather as all_gather
    from mmx.dist.dist import all_gather_object as all_gather_object
    from mmx.dist.dist import all_reduce as all_reduce
    from mmx.dist.dist import all_reduce_dict as all_reduce_dict
    from mmx.dist.dist import all_reduce_params as all_reduce_params
    from mmx.dist.dist import broadcast as broadcast
    from mmx.dist.dist import broadcast_object_list as broadcast_object_list
    from mmx.dist.dist import collect_results as collect_results
    from mmx.dist.dist import collect_results_cpu as collect_results_cpu
    from mmx.dist.dist import collect_results_gpu as collect_results_gpu
    from mmx.dist.dist import gather as gather
    from mmx.dist.dist import gather_object as gather_object
    from mmx.dist.dist import sync_random_seed as sync_random_seed
    from mmx.dist.failures import PeerError as PeerError
    from mmx.dist.failures import share_failure as share_failure
    from mmx.dist.objects import CollectiveError as CollectiveError
    from mmx.dist.utils import AbsentRanksError as AbsentRanksError
    from mmx.dist.utils import MissingEnvironmentError as MissingEnvironmentError
    from mmx.dist.utils import barrier as barrier
    from mmx.dist.utils import cast_data_device as cast_data_device
    from mmx.dist.utils import data_share as data_share
    from mmx.dist.utils import get_backend as get_backend
    from mmx.dist.utils import get_comm_device as get_comm_device
    from mmx.dist.utils import get_data_device as get_data_device
    from mmx.dist.utils import get_data_group as get_data_group
    from mmx.dist.utils import get_default_group as get_default_group
    from mmx.dist.utils import get_dist_info as get_dist_info
    from mmx.dist.utils import get_local_group as get_local_group
    from mmx.dist.utils import get_local_rank as get_local_rank
    from mmx.dist.utils import get_local_size as get_local_size
    from mmx.dist.utils import get_model_parallel_size as get_model_parallel_size
    from mmx.dist.utils import get_object_group as get_object_group
    from mmx.dist.utils import get_rank as get_rank
    from mmx.dist.utils import get_world_size as get_world_size
    from mmx.dist.utils import infer_launcher as infer_launcher
    from mmx.dist.utils import init_dist as init_dist
    from mmx.dist.utils import init_local_group as init_local_group
    from mmx.dist.utils import is_distributed as is_distributed
    from mmx.dist.utils import is_main_process as is_main_process
    from mmx.dist.utils import master_only as master_only
    from mmx.dist.utils import set_model_parallel_size as set_model_parallel_size
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "dist": [
                "all_gather",
                "all_gather_object",
                "all_reduce",
                "all_reduce_dict",
                "all_reduce_params",
                "broadcast",
                "broadcast_object_list",
                "collect_results",
                "collect_results_cpu",
                "collect_results_gpu",
                "gather",
                "gather_object",
                "sync_random_seed",
            ],
            "failures": ["PeerError", "share_failure"],
            "objects": ["CollectiveError"],
            "utils": [
                "AbsentRanksError",
                "MissingEnvironmentError",
                "barrier",
                "cast_data_device",
                "get_backend",
                "get_comm_device",
                "get_data_device",
                "get_data_group",
                "get_default_group",
                "data_share",
                "get_dist_info",
                "get_local_group",
                "get_local_rank",
                "get_local_size",
                "get_model_parallel_size",
                "get_object_group",
                "get_rank",
                "get_world_size",
                "infer_launcher",
                "init_dist",
                "init_local_group",
                "is_distributed",
                "is_main_process",
                "master_only",
                "set_model_parallel_size",
            ],
        },
    )
