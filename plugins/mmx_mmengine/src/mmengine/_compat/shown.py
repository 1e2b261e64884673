"""Names that modules of the old package had imported, and so handed on to who imported from there."""

# Module of mmx -> names that it does not import itself.
SHOWN = {
    "mmx.analysis.complexity_analysis": (
        "addmm_flop_jit batchnorm_flop_jit bmm_flop_jit conv_flop_jit einsum_flop_jit "
        "elementwise_flop_counter generic_activation_jit linear_flop_jit matmul_flop_jit "
        "norm_flop_counter"
    ),
    "mmx.analysis.print_helper": "is_tuple_of",
    "mmx.config.config": (
        "_get_external_cfg_base_path _get_external_cfg_path _get_package_and_cfg_path "
        "check_file_exist digit_version dump get_installed_path is_installed print_log"
    ),
    "mmx.config.lazy": "is_seq_of",
    "mmx.config.utils": "check_file_exist load",
    "mmx.dataset.base_dataset": "Config is_abs",
    "mmx.dataset.dataset_wrapper": "BaseDataset",
    "mmx.dist.dist": (
        "barrier digit_version get_backend get_dist_info get_rank is_npu_available TORCH_VERSION"
    ),
    "mmx.dist.utils": "is_mlu_available is_musa_available is_npu_available",
    "mmx.evaluator.evaluator": "pseudo_collate",
    "mmx.fileio.backends.base": "print_log",
    "mmx.fileio.backends.petrel_backend": "BaseStorageBackend has_method",
    "mmx.fileio.file_client": "is_filepath print_log",
    "mmx.fileio.handlers.registry_utils": "is_list_of",
    "mmx.fileio.io": "FileClient is_filepath is_str",
    "mmx.fileio.parse": "FileClient get_text",
    "mmx.hooks.checkpoint_hook": "FileClient is_list_of is_main_process is_seq_of master_only",
    "mmx.hooks.empty_cache_hook": "is_cuda_available is_musa_available",
    "mmx.hooks.hook": "is_method_overridden",
    "mmx.hooks.logger_hook": "dump FileClient is_seq_of print_log scandir",
    "mmx.hooks.param_scheduler_hook": "is_list_of",
    "mmx.hooks.profiler_hook": "master_only print_log",
    "mmx.hooks.runtime_info_hook": "get_git_hash",
    "mmx.hooks.test_time_aug_hook": "Hook HOOKS MODELS RUNNERS",
    "mmx.hub.hub": (
        "_get_cfg_metainfo _get_external_cfg_base_path DefaultScope get_installed_path "
        "install_package"
    ),
    "mmx.infer.infer": "_load_checkpoint isdir load MODULE2PACKAGE print_log",
    "mmx.model": "digit_version TORCH_VERSION",
    "mmx.model.base_model.base_model": "is_list_of OptimWrapper",
    "mmx.model.base_model.data_preprocessor": "is_seq_of",
    "mmx.model.utils": "mmcv_full_available",
    "mmx.model.wrappers": "digit_version TORCH_VERSION",
    "mmx.model.wrappers.distributed": "OptimWrapper",
    "mmx.model.wrappers.fully_sharded_distributed": "BaseDataElement digit_version is_seq_of OptimWrapper",
    "mmx.model.wrappers.seperate_distributed": "OptimWrapperDict",
    "mmx.optim.optimizer.amp_optimizer_wrapper": (
        "digit_version is_cuda_available is_mlu_available is_musa_available is_npu_available "
        "TORCH_VERSION"
    ),
    "mmx.optim.optimizer.builder": "Config ConfigDict is_npu_available is_npu_support_full_precision",
    "mmx.optim.optimizer.default_constructor": "is_list_of mmcv_full_available",
    "mmx.optim.optimizer.zero_optimizer": "digit_version TORCH_VERSION",
    "mmx.optim.scheduler.param_scheduler": "BaseOptimWrapper print_log",
    "mmx.registry.build_functions": "Config ConfigDict digit_version ManagerMixin",
    "mmx.registry.default_scope": "ManagerMixin",
    "mmx.registry.registry": "DefaultScope get_object_from_string is_seq_of MODULE2PACKAGE",
    "mmx.registry.utils": "DefaultScope dump print_log",
    "mmx.runner._flexible_runner": (
        "_ParamScheduler BaseLoop Config ConfigDict DATA_SAMPLERS DATASETS "
        "default_worker_init_fn DefaultScope digit_version EpochBasedTrainLoop Evaluator "
        "EVALUATOR FileClient find_latest_checkpoint FUNCTIONS get_priority get_rank Hook "
        "HOOKS infer_launcher IterBasedTrainLoop join_path LOG_PROCESSORS LogProcessor LOOPS "
        "master_only MessageHub OptimWrapper OptimWrapperDict print_log Priority STRATEGIES "
        "TestLoop TORCH_VERSION ValLoop Visualizer VISUALIZERS"
    ),
    "mmx.runner.amp": (
        "digit_version is_cuda_available is_mlu_available is_npu_available print_log TORCH_VERSION"
    ),
    "mmx.runner.checkpoint": (
        "apply_to BaseTTAModel deprecated_function digit_version FileClient get_dist_info "
        "get_file_backend is_model_wrapper load_file mkdir_or_exist print_log"
    ),
    "mmx.runner.log_processor": "get_max_musa_memory is_musa_available",
    "mmx.runner.loops": "is_list_of",
    "mmx.runner.runner": (
        "_load_checkpoint _load_checkpoint_to_model _ParamScheduler apply_to broadcast "
        "build_optim_wrapper collect_env ConfigDict convert_sync_batchnorm DATA_SAMPLERS "
        "DATASETS default_worker_init_fn digit_version EVALUATOR FileClient FUNCTIONS "
        "get_dist_info get_git_hash HOOKS init_dist is_distributed is_seq_of join_path "
        "LOG_PROCESSORS LOOPS MMDistributedDataParallel MODEL_WRAPPERS MODELS OPTIM_WRAPPERS "
        "OptimWrapper PARAM_SCHEDULERS print_log revert_sync_batchnorm save_checkpoint "
        "set_multi_processing TORCH_VERSION VISUALIZERS weights_to_cpu"
    ),
    "mmx.runner.utils": (
        "digit_version get_rank is_cuda_available is_list_of is_musa_available print_log "
        "sync_random_seed TORCH_VERSION"
    ),
    "mmx.strategy": "digit_version TORCH_VERSION",
    "mmx.strategy.base": (
        "_ParamScheduler BaseOptimWrapper broadcast build_optim_wrapper collect_env Config "
        "ConfigDict digit_version get_dist_info infer_launcher is_model_wrapper MODELS "
        "OPTIM_WRAPPERS OptimWrapperDict PARAM_SCHEDULERS set_multi_processing TORCH_VERSION"
    ),
    "mmx.strategy.deepspeed": (
        "_ParamScheduler apply_to BaseOptimWrapper BaseStrategy digit_version get_git_hash "
        "init_dist is_main_process MODEL_WRAPPERS OPTIM_WRAPPERS OPTIMIZERS print_log "
        "save_checkpoint weights_to_cpu"
    ),
    "mmx.strategy.distributed": "init_dist is_distributed master_only MODEL_WRAPPERS",
    "mmx.strategy.fsdp": (
        "_ParamScheduler AmpOptimWrapper BaseDataPreprocessor BaseOptimWrapper "
        "build_optim_wrapper Config ConfigDict get_git_hash get_rank is_main_process "
        "is_model_wrapper mkdir_or_exist MODEL_WRAPPERS OPTIM_WRAPPERS OptimWrapper "
        "PARAM_SCHEDULERS Registry"
    ),
    "mmx.strategy.single_device": "_ParamScheduler BaseOptimWrapper get_git_hash",
    "mmx.structures.instance_data": "get_device",
    "mmx.testing.compare": "digit_version TORCH_VERSION",
    "mmx.utils.dl_utils.collect_env": "is_cuda_available is_musa_available TORCH_VERSION",
    "mmx.utils.dl_utils.hub": "digit_version mkdir_or_exist TORCH_VERSION",
    "mmx.utils.dl_utils.misc": "is_tuple_of",
    "mmx.utils.dl_utils.time_counter": "is_cuda_available is_musa_available master_only MMLogger print_log",
    "mmx.utils.dl_utils.torch_ops": "digit_version TORCH_VERSION",
    "mmx.utils.dl_utils.trace": "digit_version",
    "mmx.utils.path": "is_str",
    "mmx.visualization.vis_backend": "Config ConfigDict digit_version dump MMLogger scandir TORCH_VERSION",
    "mmx.visualization.visualizer": "BaseDataElement Config is_seq_of",
}

# Home of these names in mmx -> names.
HOMES = {
    "mmx.analysis.jit_handles": (
        "addmm_flop_jit batchnorm_flop_jit bmm_flop_jit conv_flop_jit einsum_flop_jit "
        "elementwise_flop_counter generic_activation_jit linear_flop_jit matmul_flop_jit "
        "norm_flop_counter"
    ),
    "mmx.config": "Config ConfigDict load",
    "mmx.config.utils": (
        "_get_cfg_metainfo _get_external_cfg_base_path _get_external_cfg_path "
        "_get_package_and_cfg_path MODULE2PACKAGE"
    ),
    "mmx.dataset": "BaseDataset pseudo_collate",
    "mmx.device": (
        "get_device get_max_musa_memory is_cuda_available is_mlu_available is_musa_available "
        "is_npu_available is_npu_support_full_precision"
    ),
    "mmx.dist": (
        "barrier broadcast get_backend get_dist_info get_rank infer_launcher init_dist "
        "is_distributed is_main_process master_only sync_random_seed"
    ),
    "mmx.evaluator": "Evaluator",
    "mmx.fileio": "BaseStorageBackend dump FileClient get_file_backend get_text isdir join_path",
    "mmx.hooks": "get_priority Hook Priority",
    "mmx.logging": "MessageHub MMLogger print_log",
    "mmx.model": (
        "BaseDataPreprocessor BaseTTAModel convert_sync_batchnorm is_model_wrapper "
        "MMDistributedDataParallel revert_sync_batchnorm"
    ),
    "mmx.optim": (
        "_ParamScheduler AmpOptimWrapper BaseOptimWrapper build_optim_wrapper OptimWrapper "
        "OptimWrapperDict"
    ),
    "mmx.registry": (
        "DATA_SAMPLERS DATASETS DefaultScope EVALUATOR FUNCTIONS HOOKS LOG_PROCESSORS LOOPS "
        "MODEL_WRAPPERS MODELS OPTIM_WRAPPERS OPTIMIZERS PARAM_SCHEDULERS Registry RUNNERS "
        "STRATEGIES VISUALIZERS"
    ),
    "mmx.runner": (
        "BaseLoop EpochBasedTrainLoop find_latest_checkpoint IterBasedTrainLoop LogProcessor "
        "save_checkpoint TestLoop ValLoop weights_to_cpu"
    ),
    "mmx.runner.checkpoint": "_load_checkpoint _load_checkpoint_to_model",
    "mmx.strategy": "BaseStrategy",
    "mmx.structures": "BaseDataElement",
    "mmx.utils": (
        "apply_to check_file_exist deprecated_function digit_version get_git_hash "
        "get_installed_path get_object_from_string has_method install_package is_abs "
        "is_filepath is_installed is_list_of is_method_overridden is_seq_of is_str "
        "is_tuple_of ManagerMixin mkdir_or_exist scandir"
    ),
    "mmx.utils.dl_utils": "collect_env mmcv_full_available set_multi_processing TORCH_VERSION",
    "mmx.visualization": "Visualizer",
}

# The same where the home calls them otherwise.
RENAMED = {
    "default_worker_init_fn": "mmx.dataset:worker_init_fn",
    "load_file": "mmx.fileio:load",
}
