"""Short runs that show whether a config works: a few batches, over-fitting, a round trip."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from mmx.checkpoint import find_latest_checkpoint, unwrap
from mmx.registry import RUNNERS
from mmx.runner.eval_loops import named_parts
from mmx.runner.runner import Runner
from mmx.runner.spec import as_config

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
    a test; in a temporary directory that is removed.

    Args:
        cfg: The config; it is copied.
        batches: Batches of each data set.

    Returns:
        The runner of the resumed training.

    Raises:
        TrialError: The resumed run did not begin with the weights that were saved.
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
    if isinstance(sampler, Mapping) and "shuffle" in sampler:
        sampler["shuffle"] = False  # type: ignore[index]  # a dict of our own copy
    if limited.get("val_dataloader") is not None and named_parts(limited.val_dataloader) is None:
        # The validation's own settings stay: they fit its evaluator.
        limited.val_dataloader["dataset"] = loader["dataset"]
        limited.val_dataloader["num_batch_per_epoch"] = batches
        for key in ("batch_size",):
            if key in loader:
                limited.val_dataloader[key] = loader[key]
    return limited


def _fast_dev_run(cfg: Config, batches: int) -> Runner:
    short = limit_batches(cfg, train=batches, val=batches, test=batches)
    directory = tempfile.mkdtemp(prefix="mmx-dev-run-")
    try:
        return _round_trip(short, batches, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _round_trip(cfg: Config, batches: int, directory: str) -> Runner:
    first = as_config(cfg)
    first.work_dir = os.path.join(directory, "run")
    first.resume, first.load_from = False, cfg.get("load_from")
    _shorten(first, 1, batches)
    hooks = dict(first.get("default_hooks") or {})
    hooks["checkpoint"] = {
        **(hooks.get("checkpoint") or {"type": "CheckpointHook"}),
        "interval": 1,
        "out_dir": None,
    }
    first.default_hooks = hooks
    trained = build(first)
    trained.train()
    saved = find_latest_checkpoint(first.work_dir)
    if saved is None:
        raise TrialError("training saved no checkpoint")

    second = as_config(first)
    second.resume, second.load_from = True, None
    _shorten(second, 2, batches)
    resumed = build(second)
    _check_resume(trained, resumed)
    resumed.train()
    if cfg.get("test_dataloader") is not None:
        resumed.test()
    resumed.logger.info(
        f"Trained, validated, saved, resumed and trained on with {batches} batch(es) of each data "
        "set: this config works. Nothing was kept."
    )
    return resumed


def _shorten(cfg: Config, rounds: int, batches: int) -> None:
    """Let training end after so many rounds of ``batches`` iterations, validation included."""
    loop = cfg.train_cfg
    if "max_iters" in loop or loop.get("by_epoch") is False:
        loop["max_iters"] = rounds * batches
        loop["val_begin"], loop["val_interval"] = 1, batches
        checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
        cfg.default_hooks = {
            **(cfg.get("default_hooks") or {}),
            "checkpoint": {"type": "CheckpointHook", **checkpoint, "by_epoch": False},
        }
    else:
        loop["max_epochs"] = rounds
        loop["val_begin"], loop["val_interval"] = 1, 1
    loop.pop("dynamic_intervals", None)


def _check_resume(trained: Runner, resumed: Runner) -> None:
    """Let the second runner compare what it loads with what the first one has."""
    wanted = {k: v.clone() for k, v in unwrap(trained.model).state_dict().items()}
    load_or_resume = resumed.load_or_resume

    def checked() -> None:
        if resumed._has_loaded:
            return
        load_or_resume()
        found: Any = unwrap(resumed.model).state_dict()
        differing = [k for k, v in wanted.items() if not torch.equal(v, found[k].to(v.device))]
        if differing:
            raise TrialError(
                f"weights differ after saving and resuming: {', '.join(differing[:5])}. A buffer "
                "that is not persistent, or code that changes weights outside of training steps, "
                "would do that"
            )

    resumed.load_or_resume = checked  # type: ignore[method-assign]
