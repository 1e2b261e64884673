"""The root registries: one for each kind of part of a training run.

Projects hang their own registries below these (``parent=``); ``locations`` are the packages of the
core whose files register here. A file is imported when one of its names is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmx.registry.build_functions import (
    build_model_from_cfg,
    build_optimizer_from_cfg,
    build_runner_from_cfg,
    build_scheduler_from_cfg,
)
from mmx.registry.registry import Registry

if TYPE_CHECKING:
    # What each registry builds, for editors and type checkers.
    from torch import nn
    from torch.optim import Optimizer
    from torch.utils.data import Dataset, Sampler

    from mmx.evaluator import BaseMetric, Evaluator
    from mmx.hooks import Hook
    from mmx.optim import OptimWrapper
    from mmx.optim.scheduler.param_scheduler import _ParamScheduler
    from mmx.runner import BaseLoop, LogProcessor, Runner
    from mmx.strategy import BaseStrategy
    from mmx.visualization import BaseVisBackend, Visualizer

# `Runner`, and classes that build one in other ways.
RUNNERS: Registry[Runner] = Registry(
    "runner", build_func=build_runner_from_cfg, scope="mmx", locations=["mmx.runner"]
)
# Constructors that define how to build runners.
RUNNER_CONSTRUCTORS: Registry[Any] = Registry(
    "runner constructor", scope="mmx", locations=["mmx.runner"]
)
# Training, validation and test loops, such as `EpochBasedTrainLoop`.
LOOPS: Registry[BaseLoop] = Registry("loop", scope="mmx", locations=["mmx.runner"])
# Hooks, such as `CheckpointHook`.
HOOKS: Registry[Hook] = Registry("hook", scope="mmx", locations=["mmx.hooks"])
# Where a run computes: device, precision, distribution.
STRATEGIES: Registry[BaseStrategy] = Registry("strategy", scope="mmx", locations=["mmx.strategy"])

# Data sets and their wrappers.
DATASETS: Registry[Dataset[Any]] = Registry("dataset", scope="mmx", locations=["mmx.dataset"])
# Samplers of data loaders.
DATA_SAMPLERS: Registry[Sampler[Any]] = Registry(
    "data sampler", scope="mmx", locations=["mmx.dataset"]
)
# What is done to a sample of data.
TRANSFORMS: Registry[Any] = Registry("transform", scope="mmx", locations=["mmx.dataset"])

# Models and their parts: backbones, necks, heads, losses, activations.
MODELS: Registry[nn.Module] = Registry(
    "model", build_func=build_model_from_cfg, scope="mmx", locations=["mmx.model"]
)
# Wrappers of models for distributed training.
MODEL_WRAPPERS: Registry[nn.Module] = Registry(
    "model_wrapper", scope="mmx", locations=["mmx.model"]
)
# How weights begin.
WEIGHT_INITIALIZERS: Registry[Any] = Registry(
    "weight initializer", scope="mmx", locations=["mmx.model"]
)

# Optimizers: torch's own and more.
OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer", build_func=build_optimizer_from_cfg, scope="mmx", locations=["mmx.optim"]
)
# Optimizers with accumulation, clipping and mixed precision.
OPTIM_WRAPPERS: Registry[OptimWrapper] = Registry(
    "optim_wrapper", scope="mmx", locations=["mmx.optim"]
)
# Constructors that define which parameters an optimizer gets, and with which settings.
OPTIM_WRAPPER_CONSTRUCTORS: Registry[Any] = Registry(
    "optimizer wrapper constructor", scope="mmx", locations=["mmx.optim"]
)
# Schedules of learning rate and momentum.
PARAM_SCHEDULERS: Registry[_ParamScheduler] = Registry(
    "parameter scheduler",
    build_func=build_scheduler_from_cfg,
    scope="mmx",
    locations=["mmx.optim"],
)

# Evaluation metrics.
METRICS: Registry[BaseMetric] = Registry("metric", scope="mmx", locations=["mmx.evaluator"])
# Evaluators, which hold metrics.
EVALUATOR: Registry[Evaluator] = Registry("evaluator", scope="mmx", locations=["mmx.evaluator"])

# Task-specific parts, such as anchor generators and box coders.
TASK_UTILS: Registry[Any] = Registry("task util", scope="mmx", locations=["mmx.model"])

# Visualizers, and where they keep what they draw.
VISUALIZERS: Registry[Visualizer] = Registry(
    "visualizer", scope="mmx", locations=["mmx.visualization"]
)
VISBACKENDS: Registry[BaseVisBackend] = Registry(
    "vis_backend", scope="mmx", locations=["mmx.visualization"]
)

# How log lines are made.
LOG_PROCESSORS: Registry[LogProcessor] = Registry(
    "log_processor", scope="mmx", locations=["mmx.runner"]
)

# Inferencers of different tasks.
INFERENCERS: Registry[Any] = Registry("inferencer", scope="mmx", locations=["mmx.infer"])

# Functions, such as `collate_fn` of a data loader.
FUNCTIONS: Registry[Any] = Registry("function", scope="mmx", locations=["mmx.dataset"])
