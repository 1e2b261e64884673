"""From configuration to the parts that only a runner needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmx import dataset
from mmx.evaluator import BaseMetric, Evaluator
from mmx.hooks.hook import Hook
from mmx.registry import (
    EVALUATOR,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    VISUALIZERS,
    DefaultScope,
)
from mmx.runner.base_loop import BaseLoop
from mmx.runner.log_processor import LogProcessor
from mmx.runner.spec import LoopConfigError, MissingLoopKindError, copied
from mmx.runner.train_loops import EpochBasedTrainLoop, IterBasedTrainLoop
from mmx.visualization import Visualizer

DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    "runtime_info": {"type": "RuntimeInfoHook"},
    "timer": {"type": "IterTimerHook"},
    "sampler_seed": {"type": "DistSamplerSeedHook"},
    "logger": {"type": "LoggerHook"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "checkpoint": {"type": "CheckpointHook", "interval": 1},
}


def build_dataloader(dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False) -> Any:
    """Return a data loader. See :meth:`mmx.runner.Runner.build_dataloader`.

    Anything that can be iterated over is a loader: that is all that loops need.
    """
    if not isinstance(dataloader, Mapping) and not hasattr(dataloader, "__iter__"):
        raise TypeError(
            f"dataloader should be a DataLoader object or a dict, but got {dataloader!r}"
        )
    return dataset.build_dataloader(copied(dataloader), seed, diff_rank_seed)


def build_evaluator(evaluator: Any) -> Evaluator:
    """Return an evaluator. See :meth:`mmx.runner.Runner.build_evaluator`."""
    if isinstance(evaluator, Evaluator):
        return evaluator
    if isinstance(evaluator, BaseMetric):
        return Evaluator(evaluator)
    if isinstance(evaluator, Mapping):
        if "metrics" in evaluator:
            return EVALUATOR.build({"type": "Evaluator", **evaluator})
        return Evaluator(copied(evaluator))
    if isinstance(evaluator, Sequence) and not isinstance(evaluator, str):
        return Evaluator(copied(list(evaluator)))
    raise TypeError(
        f"evaluator should be one of dict, list of dict, and Evaluator, but got {evaluator!r}"
    )


def build_log_processor(log_processor: Any) -> LogProcessor:
    """Return a log processor. See :meth:`mmx.runner.Runner.build_log_processor`."""
    if isinstance(log_processor, LogProcessor):
        return log_processor
    if isinstance(log_processor, Mapping):
        return LOG_PROCESSORS.build({"type": "LogProcessor", **log_processor})
    raise TypeError(
        f"log processor should be a LogProcessor object or dict, but got {log_processor!r}"
    )


def build_visualizer(visualizer: Any, name: str, save_dir: str) -> Visualizer:
    """Return a visualizer; with None one that writes to local files."""
    if isinstance(visualizer, Visualizer):
        return visualizer
    if visualizer is None:
        visualizer = {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    if not isinstance(visualizer, Mapping):
        raise TypeError(
            f"visualizer should be Visualizer object, a dict or None, but got {visualizer!r}"
        )
    config = {"type": "Visualizer", "name": name, "save_dir": save_dir, **copied(visualizer)}
    return VISUALIZERS.build(config)


def build_hook(hook: Any) -> Hook:
    """Return a hook, built if it is given as a dict."""
    if isinstance(hook, Hook):
        return hook
    if not isinstance(hook, Mapping):
        raise TypeError(f"hook should be an instance of Hook or dict, but got {hook!r}")
    return HOOKS.build(hook)


def build_train_loop(loop: Any, **parts: Any) -> BaseLoop:
    """Return a training loop; a dict without ``type`` says ``by_epoch``.

    Args:
        loop: A loop or a dict.
        **parts: ``runner`` and ``dataloader``.
    """
    if isinstance(loop, BaseLoop):
        return loop
    if not isinstance(loop, Mapping):
        raise TypeError(f"train_loop should be a Loop object or dict, but got {loop!r}")
    config = dict(copied(loop))
    if "type" in config and "by_epoch" in config:
        raise LoopConfigError("Only one of `type` or `by_epoch` can exist in `loop_cfg`.")
    if "type" in config:
        return LOOPS.build(config, default_args=_kept_in_scope(config, parts))
    if "by_epoch" not in config:
        raise MissingLoopKindError(
            f"train_cfg needs 'by_epoch' or the 'type' of a loop, but got {config!r}"
        )
    by_epoch = config.pop("by_epoch")
    return _construct(
        EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop, "train_cfg", config, parts
    )


def _kept_in_scope(config: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """Return the runner's parts so that a loop's ``_scope_`` does not reach into them.

    ``_scope_`` switches the scope for one dict and what is in it. The loader and the evaluator are
    handed to the loop by the runner; their types mean the runner's scope, wherever the loop is from.
    """
    current = DefaultScope.get_current_instance()
    if "_scope_" not in config or current is None:
        return parts
    return {name: _with_scope(part, current.scope_name) for name, part in parts.items()}


def _with_scope(part: Any, scope: str) -> Any:
    if isinstance(part, Mapping):
        inner = {key: _with_scope(value, scope) for key, value in part.items()}
        return {"_scope_": scope, **inner} if "type" in inner else inner
    if type(part) in (list, tuple):
        return type(part)(_with_scope(item, scope) for item in part)
    return part


def build_eval_loop(loop: Any, kind: type[BaseLoop], name: str, **parts: Any) -> BaseLoop:
    """Return a validation or test loop.

    Args:
        loop: A loop or a dict.
        kind: The class if the dict names none.
        name: The argument that ``loop`` was given as, for messages.
        **parts: ``runner``, ``dataloader`` and ``evaluator``.
    """
    if isinstance(loop, BaseLoop):
        return loop
    if not isinstance(loop, Mapping):
        word = name.replace("_cfg", "_loop")
        raise TypeError(f"{word} should be a Loop object or dict, but got {loop!r}")
    config = dict(copied(loop))
    if "type" in config:
        return LOOPS.build(config, default_args=_kept_in_scope(config, parts))
    return _construct(kind, name, config, parts)


def _construct(
    kind: type[BaseLoop], name: str, config: dict[str, Any], parts: dict[str, Any]
) -> BaseLoop:
    try:
        return kind(**config, **parts)
    except TypeError as error:
        own = [p for p in inspect.signature(kind).parameters if p not in parts]
        if set(config) - set(own):
            error.add_note(f"{name} takes {', '.join(own)}; it has {', '.join(config)}")
        raise


def describe_hooks(hooks: Sequence[Hook], priority_of: Callable[[Any], str]) -> str:
    """Return, for each stage, which hooks run in which order."""
    lines = []
    for stage in Hook.stages:
        at_stage = [hook for hook in hooks if stage in hook.get_triggered_stages()]
        if not at_stage:
            continue
        lines.append(f"{stage}:")
        lines += [f"({priority_of(hook):<12}) {type(hook).__name__:<35}" for hook in at_stage]
        lines.append(" -------------------- ")
    return "\n".join(lines)
