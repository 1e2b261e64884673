"""Where a part of the old layout lives now, and names that mmx does not have."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from mmengine._compat import shown

# Module below ``mmengine`` -> the module it stands for, where that is not ``mmx`` and the same.
MOVED = {
    "_strategy": "mmx.strategy",
    "_strategy.colossalai": "mmengine._compat.colossalai",
    "_strategy.utils": "mmengine._compat.strategy_utils",
    "testing._internal": "mmengine._compat.testing_internal",
    "testing._internal.distributed": "mmengine._compat.testing_internal.distributed",
}

_URLS = "get_deprecated_model_names get_external_models get_mmcls_models get_torchvision_models"

# Module of mmx -> where names that it lacks are -> these names.
_PLACES: dict[str, dict[str, str]] = {
    "mmx.analysis.complexity_analysis": {
        "mmengine._compat.torch_helpers": "_DEFAULT_SUPPORTED_ACT_OPS _DEFAULT_SUPPORTED_FLOP_OPS"
    },
    "mmx.analysis.jit_analysis": {
        "mmengine._compat.torch_helpers": "_named_modules_with_dup _named_modules_without_dup",
    },
    "mmx.config.config": {"mmengine._compat.helpers": "_lazy2string"},
    "mmx.device.utils": {
        "mmengine._compat.torch_helpers": (
            "DEVICE IS_DIPU_AVAILABLE IS_MLU_AVAILABLE IS_MUSA_AVAILABLE IS_NPU_AVAILABLE"
        )
    },
    "mmx.dist.dist": {
        "mmengine._compat.torch_helpers": (
            "_all_gather_object _broadcast_object_list _collect_results_device _gather_object"
        )
    },
    "mmx.dist.utils": {
        "mmengine._compat.torch_helpers": "_init_dist_mpi _init_dist_pytorch _init_dist_slurm"
    },
    "mmx.hooks": {"mmengine._compat.npu": "NPUProfilerHook"},
    "mmx.hooks.early_stopping_hook": {"mmengine._compat.annotations": "DATA_BATCH"},
    "mmx.hooks.logger_hook": {"mmengine._compat.annotations": "SUFFIX_TYPE"},
    "mmx.hooks.profiler_hook": {
        "mmengine._compat.npu": "NPUProfilerHook",
        "mmengine._compat.torch_helpers": "check_kineto",
    },
    "mmx.infer.infer": {"mmx.config.utils": "MODULE2PACKAGE"},
    "mmx.logging.logger": {
        "mmengine._compat.helpers": (
            "_accquire_lock _get_device_id _get_host_info _get_logging_file_handlers _get_rank "
            "_get_world_size _release_lock"
        )
    },
    "mmx.model.base_model.data_preprocessor": {"mmengine._compat.annotations": "CastData"},
    "mmx.model.test_time_aug": {
        "mmengine._compat.annotations": (
            "EnhancedBatchDataSamples EnhancedBatchInputs MergedDataSamples"
        )
    },
    "mmx.model.weight_init": {"mmengine._compat.torch_helpers": "_no_grad_trunc_normal_"},
    "mmx.optim.optimizer.builder": {
        "mmengine._compat.torch_helpers": "NPU_OPTIMIZERS register_torch_npu_optimizers"
    },
    "mmx.registry.default_scope": {"mmengine._compat.helpers": "_accquire_lock _release_lock"},
    "mmx.registry.registry": {"mmx.config.utils": "MODULE2PACKAGE"},
    "mmx.runner": {"mmengine._compat.model_urls": _URLS},
    "mmx.runner._flexible_runner": {
        "mmengine._compat.annotations": "ConfigType OptimWrapperType ParamSchedulerType",
        "mmengine._compat.torch_helpers": "_get_batch_size",
    },
    "mmx.runner.activation_checkpointing": {"mmengine._compat.torch_helpers": "wrap_forward"},
    "mmx.runner.checkpoint": {
        "mmengine._compat.helpers": (
            "DEFAULT_CACHE_DIR ENV_MMENGINE_HOME ENV_XDG_CACHE_HOME _get_mmengine_home"
        ),
        "mmengine._compat.model_urls": f"{_URLS} load_from_mmcls load_from_openmmlab",
        "mmengine._compat.torch_helpers": (
            "_IncompatibleKeys _process_mmcls_checkpoint _save_to_state_dict load_from_pavi"
        ),
        "mmx.checkpoint.load": (
            "load_from_ceph load_from_http load_from_local load_from_torchvision"
        ),
    },
    "mmx.runner.runner": {
        "mmengine._compat.annotations": "ConfigType OptimWrapperType ParamSchedulerType",
        "mmengine._compat.torch_helpers": "_SlicedDataset _get_batch_size",
    },
    "mmx.runner.utils": {"mmengine._compat.torch_helpers": "_get_batch_size"},
    "mmx.strategy": {"mmengine._compat.colossalai": "ColossalAIStrategy"},
    "mmx.strategy.base": {"mmengine._compat.annotations": "ParamSchedulerType"},
    "mmx.strategy.deepspeed": {
        "mmengine._compat.deepspeed": "DeepSpeedOptimWrapper MMDeepSpeedEngineWrapper"
    },
    "mmx.strategy.fsdp": {"mmengine._compat.strategy_utils": "MetaTensorContext"},
    "mmx.structures.instance_data": {
        "mmengine._compat.annotations": "BoolTypeTensor IndexType LongTypeTensor"
    },
    "mmx.testing.compare": {"mmengine._compat.helpers": "_any"},
    "mmx.utils.dl_utils.collect_env": {
        "mmx.utils.dl_utils.parrots_wrapper": "get_build_config is_rocm_pytorch"
    },
    "mmx.utils.manager": {"mmengine._compat.helpers": "_accquire_lock _release_lock"},
    "mmx.utils.misc": {"mmengine._compat.helpers": "_check_executable"},
    "mmx.utils.progressbar_rich": {"mmengine._compat.helpers": "_tasks_with_index"},
    "mmx.visualization.vis_backend": {"mmengine._compat.annotations": "SUFFIX_TYPE"},
    "mmx.visualization.visualizer": {"mmengine._compat.annotations": "VisBackendsType"},
}


def _table() -> dict[str, dict[str, tuple[str, str]]]:
    homes = {name: home for home, names in shown.HOMES.items() for name in names.split()}
    places = {name: (home, name) for name, home in homes.items()}
    for name, place in shown.RENAMED.items():
        home, _, other = place.partition(":")
        places[name] = home, other
    table: dict[str, dict[str, tuple[str, str]]] = {}
    for module, names in shown.SHOWN.items():
        table[module] = {name: places[name] for name in names.split()}
    for module, sources in _PLACES.items():
        for source, names in sources.items():
            table.setdefault(module, {}).update({name: (source, name) for name in names.split()})
    return table


# Module of mmx -> name that it lacks -> module that has it, and its name there.
EXTRA = _table()

# Packages whose further names were documented, so that ``import *`` brings them.
_DOCUMENTED = ("mmx.hooks", "mmx.runner", "mmx.strategy")

# Package -> modules in it that have the name of a function that the package shows. Importing such a
# module under a second name would put it where the function belongs.
HOMONYMS = {"mmx.utils.dl_utils": ("collect_env",)}


class _Extended(ModuleType):
    """A module with further names. A class of its own, so that they outlive a reload."""

    def __getattr__(self, name: str) -> object:
        place = EXTRA[self.__name__].get(name)
        if place is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(place[0]), place[1])
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *EXTRA[self.__name__]})


def extend(module: ModuleType) -> None:
    """Let a module of mmx find its further names; what it has itself goes first."""
    if module.__name__ in EXTRA and not isinstance(module, _Extended):
        module.__class__ = _Extended
    if module.__name__ in _DOCUMENTED:
        names = {n for names in _PLACES[module.__name__].values() for n in names.split()}
        vars(module)["__all__"] = sorted({*module.__all__, *names})


def import_homonyms(package: ModuleType) -> None:
    """Import what `HOMONYMS` lists under the old name too, without touching the package."""
    for name in HOMONYMS.get(package.__name__, ()):
        homonym = importlib.import_module(f"{package.__name__}.{name}")
        sys.modules[homonym.__name__.replace("mmx.", "mmengine.", 1)] = homonym
