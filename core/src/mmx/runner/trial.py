"""Short runs that show whether a config works: a few batches, over-fitting, a round trip."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from mmx._engine_name import engine_name
from mmx.checkpoint import find_latest_checkpoint, unwrap
from mmx.dist import barrier, broadcast_object_list, get_rank, is_distributed
from mmx.registry import LOOPS, RUNNERS, DefaultScope
from mmx.runner.eval_loops import named_parts
from mmx.runner.runner import Runner
from mmx.runner.spec import as_config
from mmx.strategy.environment import setup_process

if TYPE_CHECKING:
    from mmx.config import Config


class TrialError(RuntimeError):
    """A trial run did not come through its round trip."""


def run_trial(
    cfg: Mapping[str, Any] | Config,
    *,
    fast_dev_run: int | None = None,
    overfit_batches: int | None = None,
    limit_train_batches: int | None = None,
    limit_val_batches: int | None = None,
) -> Runner:
    """Run a config in one of the ways below, or in several at once.

    Args:
        cfg: The config; it is copied.
        fast_dev_run: See :func:`fast_dev_run`.
        overfit_batches: See :func:`overfit_batches`.
        limit_train_batches: Train on so many batches an epoch.
        limit_val_batches: Validate on so many batches.

    Returns:
        The runner, after its training.

    Raises:
        ValueError: A number is not positive.
    """
    limited = limit_batches(cfg, train=limit_train_batches, val=limit_val_batches)
    if overfit_batches is not None:
        limited = _overfitting(limited, overfit_batches)
    if fast_dev_run is not None:
        return _fast_dev_run(limited, fast_dev_run)
    runner = build(limited)
    runner.train()
    return runner


def fast_dev_run(cfg: Mapping[str, Any] | Config, batches: int = 1) -> Runner:
    """Go through everything that a run does, on a few batches, and leave nothing behind.

    Trains, validates, saves, resumes from what was saved, trains on, and tests if the config has
    a test; in a temporary directory that is removed. What the config would write elsewhere
    (copies of logs and checkpoints, predictions, traces) goes there too, and experiment trackers
    are left out. With a launcher every rank must call.

    Args:
        cfg: The config; it is copied.
        batches: Batches of each data set.

    Returns:
        The runner of the resumed training.

    Raises:
        TrialError: The resumed run did not begin where the first one ended: with other weights, or
            at another iteration.
    """
    return _fast_dev_run(as_config(cfg), batches)


def overfit_batches(cfg: Mapping[str, Any] | Config, batches: int) -> Runner:
    """Train and validate on the same few batches, in the same order: the loss must go to zero.

    Args:
        cfg: The config; it is copied.
        batches: Batches of the training data.
    """
    return run_trial(cfg, overfit_batches=batches)


def limit_batches(
    cfg: Mapping[str, Any] | Config,
    *,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
) -> Config:
    """Return a copy of a config whose data sets end after so many batches.

    Args:
        cfg: The config.
        train: Batches of the training data; None leaves it whole.
        val: Batches of the validation data.
        test: Batches of the test data.

    Raises:
        ValueError: A number is not positive.
    """
    limited = as_config(cfg)
    for part, number in (("train", train), ("val", val), ("test", test)):
        if number is None:
            continue
        if number < 1:
            raise ValueError(f"the number of {part} batches should be at least 1, got {number}")
        loader = limited.get(f"{part}_dataloader")
        if loader is None:
            continue
        for one in (named_parts(loader) or {"": loader}).values():
            if not isinstance(one, Mapping):
                raise TypeError(
                    f"{part}_dataloader is a built loader, which cannot be limited; give it as a "
                    "dict, or limit its data set with torch.utils.data.Subset"
                )
            one["num_batch_per_epoch"] = number  # type: ignore[index]  # a dict of our own copy
    return limited


def build(cfg: Config) -> Runner:
    """Return the runner of the class that the config's ``runner_type`` names."""
    if "runner_type" in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)


def _overfitting(cfg: Config, batches: int) -> Config:
    limited = limit_batches(cfg, train=batches)
    loader = limited.get("train_dataloader")
    if not isinstance(loader, Mapping):
        raise ValueError("overfit_batches needs a config with train_dataloader")
    sampler = loader.get("sampler")
    if isinstance(sampler, Mapping) and (
        "shuffle" in sampler or _short_name(sampler) in _SHUFFLING
    ):
        sampler["shuffle"] = False  # type: ignore[index]  # a dict of our own copy
    validation = limited.get("val_dataloader")
    if validation is not None:
        # The validation's own settings stay: they fit its evaluator.
        for one in (named_parts(validation) or {"": validation}).values():
            if not isinstance(one, Mapping):
                raise TypeError(
                    "val_dataloader is a built loader, whose data set cannot be replaced by that of "
                    "the training; give it as a dict"
                )
            one["dataset"] = loader["dataset"]  # type: ignore[index]  # a dict of our own copy
            one["num_batch_per_epoch"] = batches  # type: ignore[index]  # as above
            if "batch_size" in loader:
                one["batch_size"] = loader["batch_size"]  # type: ignore[index]  # as above
    return limited


# Samplers that shuffle unless they are told not to.
_SHUFFLING = ("DefaultSampler", "InfiniteSampler")


def _short_name(part: Mapping[str, Any]) -> str:
    kind = part.get("type")
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")


def _fast_dev_run(cfg: Config, batches: int) -> Runner:
    short = limit_batches(cfg, train=batches, val=batches, test=batches)
    directory = _temporary_directory(short)
    try:
        runner = _round_trip(short, batches, directory)
        if is_distributed():
            barrier()  # nobody writes any more
        return runner
    finally:
        # On each rank: where one has failed, the last to leave takes all away.
        shutil.rmtree(directory, ignore_errors=True)


def _temporary_directory(cfg: Config) -> str:
    """Make a directory that all ranks use."""
    launcher = cfg.get("launcher", "none")
    if launcher == "none":
        return tempfile.mkdtemp(prefix="mmx-dev-run-")
    known = ("cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit")
    given = cfg.get("env_cfg") or {"dist_cfg": {"backend": "nccl"}}
    setup_process(launcher, **{key: given[key] for key in known if key in given})
    # Where the run's own files would go: on several machines, each of them can read that.
    place = os.path.abspath(os.path.expanduser(cfg.get("work_dir") or "."))
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    name = [tempfile.mkdtemp(prefix=".mmx-dev-run-", dir=place) if get_rank() == 0 else None]
    broadcast_object_list(name)
    return str(name[0])


def _round_trip(cfg: Config, batches: int, directory: str) -> Runner:
    first = as_config(cfg)
    first.work_dir = os.path.join(directory, "run")
    first.resume, first.load_from = False, cfg.get("load_from")
    _keep_inside(first, directory)
    _shorten(first, 1, batches)
    trained = build(first)
    trained.train()
    saved = find_latest_checkpoint(first.work_dir)
    if saved is None:
        raise TrialError("training saved no checkpoint")
    # Before the second runner is built: a model that was given as an object is that one's, too.
    weights = {k: v.clone() for k, v in unwrap(trained.model).state_dict().items()}
    iteration = trained.iter

    second = as_config(first)
    second.resume, second.load_from = True, None
    _shorten(second, 2, batches)
    resumed = build(second)
    _check_resume(resumed, weights, iteration)
    resumed.train()
    if cfg.get("test_dataloader") is not None:
        resumed.test()
    resumed.logger.info(
        f"Trained, validated, saved, resumed and trained on with {batches} batch(es) of each data "
        "set: this config works. Nothing was kept."
    )
    return resumed


# Settings that name a file or a directory of a hook's or a metric's own.
_OUTPUTS = ("out_dir", "json_trace_path", "out_file_path", "outfile_prefix")
# Settings of back ends, for an output that is no longer there.
_BACKENDS = ("backend_args", "file_client_args")
# Hook -> settings that a run of a few iterations cannot follow.
_TOO_LATE = {
    "CheckpointHook": (
        *("out_dir", "save_begin", "save_last", "save_optimizer", "save_param_scheduler"),
        *_BACKENDS,
    ),
    "EMAHook": ("begin_iter", "begin_epoch"),
    "ProfilerHook": ("profile_times", "schedule"),
}


def _keep_inside(cfg: Config, directory: str) -> None:
    """Let hooks, metrics and visualizer write into the directory only, and from the start."""
    hooks = dict(cfg.get("default_hooks") or {})
    checkpoint = hooks.get("checkpoint")
    if not isinstance(checkpoint, Mapping):
        checkpoint = {"type": "CheckpointHook"}
    hooks["checkpoint"] = {**checkpoint, "interval": 1}
    cfg.default_hooks = {name: _moved(hook, directory) for name, hook in hooks.items()}
    if cfg.get("custom_hooks"):
        cfg.custom_hooks = [_moved(hook, directory) for hook in cfg.custom_hooks]
    for name in ("val_evaluator", "test_evaluator"):
        if cfg.get(name) is not None:
            cfg[name] = _moved_metrics(cfg[name], directory)
    visualizer = cfg.get("visualizer")
    if isinstance(visualizer, Mapping):
        kept = {key: value for key, value in visualizer.items() if key != "save_dir"}
        if kept.get("vis_backends"):
            # Trackers of experiments would keep what is only tried.
            kept["vis_backends"] = [{"type": "mmx.LocalVisBackend"}]
        cfg.visualizer = kept


def _moved(part: Any, directory: str) -> Any:
    """Return a hook's or a metric's config whose outputs lie in a directory."""
    if not isinstance(part, Mapping):
        return part
    drop = set(_TOO_LATE.get(_short_name(part), ()))
    if any(part.get(key) is not None for key in _OUTPUTS):
        drop.update(_BACKENDS)
    moved = {key: value for key, value in part.items() if key not in drop}
    for key in _OUTPUTS:
        if moved.get(key) is not None:
            moved[key] = os.path.join(directory, os.path.basename(str(moved[key])))
    return moved


def _moved_metrics(evaluator: Any, directory: str) -> Any:
    if isinstance(evaluator, list | tuple):
        return [_moved_metrics(one, directory) for one in evaluator]
    if isinstance(evaluator, Mapping) and "metrics" in evaluator:
        return {**evaluator, "metrics": _moved_metrics(evaluator["metrics"], directory)}
    if isinstance(evaluator, Mapping) and "type" not in evaluator:  # of several data sets, by name
        return {name: _moved_metrics(one, directory) for name, one in evaluator.items()}
    return _moved(evaluator, directory)


def _shorten(cfg: Config, rounds: int, batches: int) -> None:
    """Let training end after so many rounds of ``batches`` iterations, validation included."""
    loop = cfg.train_cfg
    accepted = _arguments_of_loop(cfg)
    wanted: dict[str, Any]
    if "max_iters" in loop or loop.get("by_epoch") is False:
        wanted = {"max_iters": rounds * batches, "val_begin": 1, "val_interval": batches}
        cfg.default_hooks["checkpoint"]["by_epoch"] = False
    else:
        wanted = {"max_epochs": rounds, "val_begin": 1, "val_interval": 1}
    for name, value in wanted.items():
        if accepted is None or name in accepted:
            loop[name] = value
    loop.pop("dynamic_intervals", None)


def _arguments_of_loop(cfg: Config) -> set[str] | None:
    """Return the arguments that a loop of one's own takes; None if it takes any, as the usual do."""
    kind = cfg.train_cfg.get("type")
    if isinstance(kind, str):
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope") or engine_name()):
            kind = LOOPS.get(kind)
    if kind is None:
        return None
    parameters = inspect.signature(kind).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return None if takes_any else set(parameters)


def _check_resume(runner: Runner, weights: dict[str, torch.Tensor], iteration: int) -> None:
    """Let a runner compare what it resumes with what the one before it had at its end."""
    load_or_resume = runner.load_or_resume

    def checked() -> None:
        if runner._has_loaded:
            return
        load_or_resume()
        found: Any = unwrap(runner.model).state_dict()
        differing = [k for k, v in weights.items() if not torch.equal(v, found[k].to(v.device))]
        if differing:
            raise TrialError(
                f"weights differ after saving and resuming: {', '.join(differing[:5])}. A buffer "
                "that is not persistent, or code that changes weights outside of training steps, "
                "would do that"
            )
        if runner.iter != iteration:
            raise TrialError(
                f"training ended after iteration {iteration}, but was resumed after iteration "
                f"{runner.iter}. A loop whose `iter` is not saved would do that"
            )

    runner.load_or_resume = checked  # type: ignore[method-assign]
