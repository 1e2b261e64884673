"""The runner: what builds the parts of a run, and the loops that drive them."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.runner._flexible_runner import FlexibleRunner as FlexibleRunner
    from mmx.runner.activation_checkpointing import (
        turn_on_activation_checkpointing as turn_on_activation_checkpointing,
    )
    from mmx.runner.amp import autocast as autocast
    from mmx.runner.base_loop import BaseLoop as BaseLoop
    from mmx.runner.checkpoint import CheckpointLoader as CheckpointLoader
    from mmx.runner.checkpoint import find_latest_checkpoint as find_latest_checkpoint
    from mmx.runner.checkpoint import get_state_dict as get_state_dict
    from mmx.runner.checkpoint import load_checkpoint as load_checkpoint
    from mmx.runner.checkpoint import load_state_dict as load_state_dict
    from mmx.runner.checkpoint import save_checkpoint as save_checkpoint
    from mmx.runner.checkpoint import weights_to_cpu as weights_to_cpu
    from mmx.runner.eval_loops import TestLoop as TestLoop
    from mmx.runner.eval_loops import ValLoop as ValLoop
    from mmx.runner.log_processor import LogProcessor as LogProcessor
    from mmx.runner.priority import Priority as Priority
    from mmx.runner.priority import get_priority as get_priority
    from mmx.runner.runner import Runner as Runner
    from mmx.runner.state import TrainState as TrainState
    from mmx.runner.train_loops import EpochBasedTrainLoop as EpochBasedTrainLoop
    from mmx.runner.train_loops import IterBasedTrainLoop as IterBasedTrainLoop
    from mmx.runner.trial import fast_dev_run as fast_dev_run
    from mmx.runner.trial import limit_batches as limit_batches
    from mmx.runner.trial import overfit_batches as overfit_batches
    from mmx.runner.utils import set_random_seed as set_random_seed
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "_flexible_runner": ["FlexibleRunner"],
            "activation_checkpointing": ["turn_on_activation_checkpointing"],
            "amp": ["autocast"],
            "base_loop": ["BaseLoop"],
            "checkpoint": [
                "CheckpointLoader",
                "find_latest_checkpoint",
                "get_state_dict",
                "load_checkpoint",
                "load_state_dict",
                "save_checkpoint",
                "weights_to_cpu",
            ],
            "eval_loops": ["TestLoop", "ValLoop"],
            "log_processor": ["LogProcessor"],
            "loops": [],  # shows all loops in one place, as MMEngine does
            "priority": ["Priority", "get_priority"],
            "runner": ["Runner"],
            "state": ["TrainState"],
            "train_loops": ["EpochBasedTrainLoop", "IterBasedTrainLoop"],
            "trial": ["fast_dev_run", "limit_batches", "overfit_batches"],
            "utils": ["set_random_seed"],
        },
    )
