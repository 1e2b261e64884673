"""The top-level keys of a config that mean something to a run."""

from __future__ import annotations

# Top-level keys that a runner, or the command line, reads.
KNOWN_KEYS = frozenset(
    (
        "model",
        "work_dir",
        "train_dataloader",
        "val_dataloader",
        "test_dataloader",
        "train_cfg",
        "val_cfg",
        "test_cfg",
        "auto_scale_lr",
        "optim_wrapper",
        "param_scheduler",
        "val_evaluator",
        "test_evaluator",
        "default_hooks",
        "custom_hooks",
        "data_preprocessor",
        "load_from",
        "resume",
        "launcher",
        "env_cfg",
        "log_processor",
        "log_level",
        "visualizer",
        "default_scope",
        "randomness",
        "experiment_name",
        "strategy",
        "runner_type",
        "compile",
        "sync_bn",
        "find_unused_parameters",
        "model_wrapper_cfg",
        "custom_imports",
        "tta_model",
        "tta_pipeline",
        "vis_backends",
        "plugins",
        "activation_checkpointing",
        "efficient_conv_bn_eval",
    )
)


class UnknownKeyWarning(UserWarning):
    """A top-level key means nothing to a run, and looks like a misspelled one that does."""
