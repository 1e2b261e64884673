"""What is known of old names: where they went, and what differs on purpose."""

from __future__ import annotations

# Names of mmcv 1.x that MMEngine took over -> their place. "mmcv.runner.x" stands for all names
# below where the table has no longer entry.
MMCV: dict[str, str] = {}


def _moved(place: str, to: str, names: str) -> None:
    MMCV.update({f"{place}.{name}": f"{to}.{name}" for name in names.split()})


_moved(
    "mmcv",
    "mmengine",
    "Config ConfigDict DictAction FileClient Timer TimerError ProgressBar track_progress "
    "track_parallel_progress track_iter_progress check_prerequisites check_file_exist "
    "check_time concat_list deprecated_api_warning dict_from_file dump fopen has_method "
    "import_modules_from_strings is_filepath is_list_of is_method_overridden is_seq_of is_str "
    "is_tuple_of iter_cast list_cast list_from_file load mkdir_or_exist register_handler "
    "requires_executable requires_package scandir slice_list symlink to_1tuple to_2tuple "
    "to_3tuple to_4tuple to_ntuple tuple_cast build_from_cfg Registry digit_version",
)
_moved(
    "mmcv.utils",
    "mmengine",
    "Config ConfigDict DictAction Timer TimerError ProgressBar track_progress "
    "track_parallel_progress track_iter_progress check_prerequisites check_file_exist "
    "check_time concat_list deprecated_api_warning has_method import_modules_from_strings "
    "is_filepath is_list_of is_method_overridden is_seq_of is_str is_tuple_of iter_cast "
    "list_cast mkdir_or_exist requires_executable requires_package scandir slice_list "
    "symlink to_1tuple to_2tuple to_3tuple to_4tuple to_ntuple tuple_cast build_from_cfg "
    "Registry digit_version get_git_hash",
)
_moved(
    "mmcv.utils",
    "mmengine.utils.dl_utils",
    "TORCH_VERSION is_jit_tracing torch_meshgrid load_url",
)
_moved(
    "mmcv.cnn",
    "mmengine.model",
    "bias_init_with_prob caffe2_xavier_init constant_init initialize kaiming_init normal_init "
    "trunc_normal_init uniform_init xavier_init update_init_info ConstantInit XavierInit "
    "NormalInit TruncNormalInit UniformInit KaimingInit Caffe2XavierInit PretrainedInit revert_sync_batchnorm",
)
_moved(
    "mmcv.runner",
    "mmengine.model",
    "BaseModule Sequential ModuleList ModuleDict",
)
_moved(
    "mmcv.runner",
    "mmengine.runner",
    "CheckpointLoader load_checkpoint load_state_dict save_checkpoint weights_to_cpu get_priority "
    "Priority set_random_seed",
)
_moved(
    "mmcv.runner",
    "mmengine.runner.checkpoint",
    "_load_checkpoint _load_checkpoint_with_prefix",
)
_moved(
    "mmcv.runner",
    "mmengine.dist",
    "get_dist_info init_dist master_only allreduce_params",
)
_moved(
    "mmcv.runner",
    "mmengine.hooks",
    "Hook CheckpointHook EMAHook ProfilerHook SyncBuffersHook LoggerHook IterTimerHook",
)
_moved("mmcv.runner", "mmengine.registry", "HOOKS OPTIMIZERS RUNNERS")
MMCV.update(
    {
        "mmcv.runner.allreduce_params": "mmengine.dist.all_reduce_params",
        "mmcv.runner.allreduce_grads": "mmengine.dist.all_reduce_params",
        "mmcv.runner.OPTIMIZER_BUILDERS": "mmengine.registry.OPTIM_WRAPPER_CONSTRUCTORS",
        "mmcv.runner.DefaultOptimizerConstructor": "mmengine.optim.DefaultOptimWrapperConstructor",
        "mmcv.runner.build_optimizer": "mmengine.optim.build_optim_wrapper",
        "mmcv.runner.build_runner": "mmengine.runner.Runner.from_cfg",
        "mmcv.runner.BaseRunner": "mmengine.runner.Runner",
        "mmcv.runner.EpochBasedRunner": "mmengine.runner.Runner, with train_cfg=dict(by_epoch=True, max_epochs=…)",
        "mmcv.runner.IterBasedRunner": "mmengine.runner.Runner, with train_cfg=dict(by_epoch=False, max_iters=…)",
        "mmcv.runner.LrUpdaterHook": "param_scheduler, with classes of mmengine.optim",
        "mmcv.runner.OptimizerHook": "mmengine.optim.OptimWrapper",
        "mmcv.runner.GradientCumulativeOptimizerHook": "mmengine.optim.OptimWrapper(accumulative_counts=…)",
        "mmcv.runner.Fp16OptimizerHook": "mmengine.optim.AmpOptimWrapper",
        "mmcv.runner.GradientCumulativeFp16OptimizerHook": "mmengine.optim.AmpOptimWrapper(accumulative_counts=…)",
        "mmcv.runner.TextLoggerHook": "mmengine.hooks.LoggerHook",
        "mmcv.runner.TensorboardLoggerHook": "mmengine.visualization.TensorboardVisBackend",
        "mmcv.runner.WandbLoggerHook": "mmengine.visualization.WandbVisBackend",
        "mmcv.runner.MlflowLoggerHook": "mmengine.visualization.MLflowVisBackend",
        "mmcv.runner.DistSamplerSeedHook": "mmengine.hooks.DistSamplerSeedHook",
        "mmcv.runner.EvalHook": "val_dataloader, val_evaluator and val_cfg of the runner",
        "mmcv.runner.DistEvalHook": "val_dataloader, val_evaluator and val_cfg of the runner",
        "mmcv.runner.LogBuffer": "mmengine.logging.MessageHub",
        "mmcv.runner.auto_fp16": "mmengine.runner.autocast",
        "mmcv.runner.force_fp32": "mmengine.runner.autocast(enabled=False)",
        "mmcv.runner.wrap_fp16_model": "mmengine.optim.AmpOptimWrapper",
        "mmcv.runner": "mmengine.runner",
        "mmcv.engine.collect_results_cpu": "mmengine.dist.collect_results_cpu",
        "mmcv.engine.collect_results_gpu": "mmengine.dist.collect_results_gpu",
        "mmcv.engine": "the loops of mmengine.runner",
        "mmcv.fileio": "mmengine.fileio",
        "mmcv.parallel.MMDataParallel": "no wrapper: the runner moves the model",
        "mmcv.parallel.MMDistributedDataParallel": "mmengine.model.MMDistributedDataParallel",
        "mmcv.parallel.is_module_wrapper": "mmengine.model.is_model_wrapper",
        "mmcv.parallel.MODULE_WRAPPERS": "mmengine.registry.MODEL_WRAPPERS",
        "mmcv.parallel.collate": "mmengine.dataset.pseudo_collate",
        "mmcv.parallel.DataContainer": "mmengine.structures.BaseDataElement",
        "mmcv.parallel.scatter": "the model's data_preprocessor",
        "mmcv.parallel": "mmengine.model and mmengine.dataset",
        "mmcv.device": "mmengine.device",
        "mmcv.utils.config": "mmengine.config",
        "mmcv.utils.registry": "mmengine.registry",
        "mmcv.utils.get_logger": "mmengine.logging.MMLogger.get_instance",
        "mmcv.utils.print_log": "mmengine.logging.print_log",
    }
)

# Keys at the top of configs for mmcv 1.x, which nothing reads any more -> what does their work.
OLD_KEYS = {
    "lr_config": "param_scheduler",
    "momentum_config": "param_scheduler",
    "optimizer_config": "optim_wrapper (clip_grad, accumulative_counts)",
    "checkpoint_config": "default_hooks.checkpoint",
    "log_config": "default_hooks.logger and vis_backends",
    "evaluation": "val_cfg, val_dataloader and val_evaluator",
    "total_epochs": "train_cfg.max_epochs",
    "dist_params": "env_cfg.dist_cfg",
    "cudnn_benchmark": "env_cfg.cudnn_benchmark",
    "mp_start_method": "env_cfg.mp_cfg",
    "opencv_num_threads": "env_cfg.mp_cfg",
    "resume_from": "load_from with resume=True",
    "workflow": "train_cfg and val_cfg",
}

# Keys at the top of configs -> what they hold; a dict with a ``type`` is judged by that.
SETTINGS = {
    "randomness": frozenset({"seed", "diff_rank_seed", "deterministic"}),
    "auto_scale_lr": frozenset({"enable", "base_batch_size"}),
    "env_cfg": frozenset({"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"}),
}
# The same, held by these loops.
LOOPS = {
    "train_cfg": ("EpochBasedTrainLoop", "IterBasedTrainLoop"),
    "val_cfg": ("ValLoop",),
    "test_cfg": ("TestLoop",),
}

# Names of the old package that have no counterpart -> what to do instead.
REPLACED = {
    "mmengine._strategy.colossalai": "use FSDPStrategy or DeepSpeedStrategy",
    "mmengine._strategy.base": "override the public methods of the strategy",
    "mmengine._strategy.deepspeed": "any OptimWrapper works with DeepSpeedStrategy",
    "mmengine._strategy.fsdp": "FSDPStrategy shards with FSDP2",
    "mmengine.config.utils": "Config.fromfile reads pure-Python configs itself",
    "mmengine.config.config": "use Config.fromfile and Config.fromstring",
    "mmengine.analysis.jit_analysis": "FlopAnalyzer counts operators while they run",
    "mmengine.dist.dist": "use the public functions of mmengine.dist",
    "mmengine.utils.dl_utils.visualize": "it was a demonstration: write to a Visualizer",
}

# Class of mmx -> private methods that the old class called and ours does not: overriding them has
# no effect.
NOT_CALLED: dict[str, dict[str, str]] = {
    "mmx.runner.runner.Runner": {
        "_build_param_scheduler": "override build_param_scheduler",
        "_check_scheduler_cfg": "override build_param_scheduler",
    },
    "mmx.strategy.base.BaseStrategy": {
        "_setup_distributed": "pass env_cfg=dict(dist_cfg=…)",
        "_build_param_scheduler": "override build_param_scheduler",
        "_wrap_model": "override wrap_model",
    },
    "mmx.config.config.Config": dict.fromkeys(
        (
            "_dict_to_config_dict",
            "_get_base_files",
            "_parse_lazy_import",
            "_substitute_base_vars",
            "_substitute_predefined_vars",
            "_validate_py_syntax",
        ),
        "convert the config after Config.fromfile",
    ),
    "mmx.hooks.early_stopping_hook.EarlyStoppingHook": {
        "_init_rule": "pass rule= to the constructor"
    },
    "mmx.hooks.logger_hook.LoggerHook": {"_process_tags": "override after_train_iter"},
    "mmx.logging.message_hub.MessageHub": {
        "_get_valid_value": "convert before update_scalar",
        "_parse_input": "convert before update_scalars",
    },
    "mmx.dataset.sampler.InfiniteSampler": {"_infinite_indices": "override __iter__"},
    "mmx.infer.infer.BaseInferencer": {
        "_get_models_from_metafile": "override list_models",
        "_get_repo_or_mim_dir": "pass the config's path",
    },
}

# Function -> argument -> why any value but the default one is refused.
REFUSED_ARGUMENTS = {
    "mmx.utils.dl_utils.hub.load_url": {
        "weights_only": "only tensors and plain data are ever loaded: leave it out"
    },
}
