"""From configuration to the parts that only a runner needs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, Subset

from mmx.dataset import pseudo_collate, worker_init_fn
from mmx.dist import get_rank, get_world_size
from mmx.evaluator import Evaluator
from mmx.hooks.hook import Hook
from mmx.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    VISUALIZERS,
)
from mmx.runner.base_loop import BaseLoop
from mmx.runner.log_processor import LogProcessor
from mmx.runner.loops import EpochBasedTrainLoop, IterBasedTrainLoop
from mmx.runner.spec import LoopConfigError, MissingLoopKindError, copied
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
    """Return a data loader, built from a dict of data set, sampler and loader's arguments.

    See :meth:`mmx.runner.Runner.build_dataloader`.
    """
    if isinstance(dataloader, DataLoader):
        return dataloader
    if not isinstance(dataloader, Mapping):
        # Anything that can be iterated over is a loader: that is all that loops need.
        if hasattr(dataloader, "__iter__"):
            return dataloader
        raise TypeError(
            f"dataloader should be a DataLoader object or a dict, but got {dataloader!r}"
        )
    config = dict(copied(dataloader))
    if "dataset" not in config:
        raise ValueError(
            f"a dataloader's dict needs the key 'dataset', but it has {sorted(config)}"
        )
    dataset = _build_dataset(config.pop("dataset"))
    num_batches = config.pop("num_batch_per_epoch", None)
    if num_batches is not None:
        dataset = _first_samples(dataset, num_batches, config)
    # Ranks share the seed of the sampler, so that they draw disjoint parts of one permutation.
    sampler_seed = None if diff_rank_seed else seed
    sampler = config.pop("sampler", None)
    if isinstance(sampler, Mapping):
        sampler = DATA_SAMPLERS.build(
            sampler, default_args={"dataset": dataset, "seed": sampler_seed}
        )
    batch_sampler = config.pop("batch_sampler", None)
    if isinstance(batch_sampler, Mapping):
        batch_sampler = DATA_SAMPLERS.build(
            batch_sampler,
            default_args={"sampler": sampler, "batch_size": config.pop("batch_size")},
        )
    if batch_sampler is not None:
        sampler = None
        config.pop("batch_size", None)
    config["worker_init_fn"] = _build_worker_init_fn(config, seed)
    config["collate_fn"] = _build_collate_fn(config.pop("collate_fn", None))
    if not config.get("num_workers"):
        # Settings of worker processes are errors without any, though configs keep them when
        # workers are switched off for debugging.
        config.pop("persistent_workers", None)
        config.pop("prefetch_factor", None)
    return DataLoader(dataset=dataset, sampler=sampler, batch_sampler=batch_sampler, **config)


def _build_dataset(dataset: Any) -> Any:
    if isinstance(dataset, Mapping):
        dataset = DATASETS.build(dataset)
        if hasattr(dataset, "full_init"):
            dataset.full_init()
    return dataset


def _first_samples(dataset: Any, num_batches: int, config: Mapping[str, Any]) -> Any:
    sampler = config.get("batch_sampler")
    size = config.get("batch_size") or (
        sampler.get("batch_size", 1) if isinstance(sampler, Mapping) else 1
    )
    num_samples = min(num_batches * size * get_world_size(), len(dataset))
    return _FirstSamples(dataset, range(num_samples))


class _FirstSamples(Subset[Any]):
    """A data set without its end; other attributes are the data set's own."""

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "indices"):
            raise AttributeError(name)
        return getattr(self.dataset, name)


def _build_worker_init_fn(config: dict[str, Any], seed: int | None) -> Callable[[int], None]:
    given = config.pop("worker_init_fn", None)
    settings = {
        "num_workers": config.get("num_workers", 0),
        "rank": get_rank(),
        "seed": seed,
        "disable_subprocess_warning": config.pop("disable_subprocess_warning", False),
    }
    if given is None:
        return functools.partial(worker_init_fn, **settings)
    if callable(given):
        return given  # type: ignore[no-any-return]  # the user's own
    if not isinstance(given, Mapping):
        raise TypeError(f"worker_init_fn should be a function or a dict, but got {given!r}")
    arguments = dict(given)
    function = arguments.pop("type")
    if isinstance(function, str):
        function = FUNCTIONS.get(function)
    accepted = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    offered = {k: v for k, v in settings.items() if takes_all or k in accepted}
    return functools.partial(function, **{**offered, **arguments})


def _build_collate_fn(given: Any) -> Callable[[Any], Any]:
    if given is None:
        return pseudo_collate
    if isinstance(given, str):
        given = {"type": given}
    if isinstance(given, Mapping):
        arguments = dict(given)
        kind = arguments.pop("type")
        function = FUNCTIONS.get(kind) if isinstance(kind, str) else kind
        if inspect.isclass(function):
            return function(**arguments)  # type: ignore[no-any-return]  # a callable object
        return functools.partial(function, **arguments) if arguments else function
    if callable(given):
        return given  # type: ignore[no-any-return]  # the user's own
    raise TypeError(f"collate_fn should be a dict or callable object, but got {given!r}")


def build_evaluator(evaluator: Any) -> Evaluator:
    """Return an evaluator. See :meth:`mmx.runner.Runner.build_evaluator`."""
    if isinstance(evaluator, Evaluator):
        return evaluator
    if isinstance(evaluator, Mapping):
        if "metrics" in evaluator:
            return EVALUATOR.build({"type": "Evaluator", **evaluator})  # type: ignore[no-any-return]
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
        return LOG_PROCESSORS.build({"type": "LogProcessor", **log_processor})  # type: ignore[no-any-return]
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
    return VISUALIZERS.build(config)  # type: ignore[no-any-return]


def build_hook(hook: Any) -> Hook:
    """Return a hook, built if it is given as a dict."""
    if isinstance(hook, Hook):
        return hook
    if not isinstance(hook, Mapping):
        raise TypeError(f"hook should be an instance of Hook or dict, but got {hook!r}")
    return HOOKS.build(hook)  # type: ignore[no-any-return]


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
        return LOOPS.build(config, default_args=parts)  # type: ignore[no-any-return]
    if "by_epoch" not in config:
        raise MissingLoopKindError(
            f"train_cfg needs 'by_epoch' or the 'type' of a loop, but got {config!r}"
        )
    by_epoch = config.pop("by_epoch")
    return _construct(
        EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop, "train_cfg", config, parts
    )


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
        return LOOPS.build(config, default_args=parts)  # type: ignore[no-any-return]
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
