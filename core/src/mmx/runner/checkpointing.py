"""What a runner puts into a checkpoint, and how it goes on from one."""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from mmx import checkpoint as checkpoint_io
from mmx.checkpoint import unwrap
from mmx.checkpoint.errors import MissingStateError
from mmx.dataset import dataloader_state, load_dataloader_state
from mmx.dist import get_model_parallel_size, get_rank, get_world_size, is_main_process
from mmx.fileio import join_path
from mmx.optim.optimizer.base import BaseOptimWrapper
from mmx.runner.rank_buffers import differing_buffers, load_buffers
from mmx.runner.resume import (
    ENGINE_VERSION,
    capture_random_state,
    gather_per_rank,
    own_share,
)
from mmx.runner.train_loops import IterBasedTrainLoop, _TrainLoop
from mmx.version import __version__

if TYPE_CHECKING:
    from mmx.runner.runner import Runner
    from mmx.strategy import BaseStrategy


# Saving -------------------------------------------------------------------------------------


def save(
    runner: Runner,
    out_dir: str,
    filename: str,
    *,
    file_client_args: dict[str, Any] | None,
    save_optimizer: bool,
    save_param_scheduler: bool,
    meta: dict[str, Any] | None,
    by_epoch: bool,
    backend_args: dict[str, Any] | None,
    saver: Any,
    then: Callable[[], None] | None,
) -> None:
    """See :meth:`mmx.runner.Runner.save_checkpoint`."""
    if meta is not None and not isinstance(meta, Mapping):
        raise TypeError(f"meta should be a dict or None, but got {type(meta).__name__}")
    if file_client_args is not None:
        if backend_args is not None:
            raise ValueError(
                '"file_client_args" and "backend_args" cannot be set at the same time.'
            )
        warnings.warn(
            '"file_client_args" will be removed; use "backend_args" instead', stacklevel=3
        )
        backend_args = file_client_args
    epochs, iters = _finished(runner)
    checkpoint = collect(
        runner,
        {**(meta or {}), "epoch": epochs, "iter": iters},
        save_optimizer=save_optimizer,
        save_param_scheduler=save_param_scheduler,
    )
    runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
    name = filename.format(epochs if by_epoch else iters) if "{" in filename else filename
    if runner.strategy.saves_shards:
        path = join_path(out_dir, name, backend_args=backend_args)
        checkpoint_io.save_sharded(checkpoint, path, saver=saver, then=then)
        return
    if not is_main_process():
        return
    path = join_path(out_dir, name, backend_args=backend_args)
    if saver is not None:
        saver.save(checkpoint, path, backend_args, then=then)
        return
    checkpoint["state_dict"] = checkpoint_io.weights_to_cpu(checkpoint["state_dict"])
    if "optimizer" in checkpoint:
        checkpoint["optimizer"] = checkpoint_io.weights_to_cpu(checkpoint["optimizer"])
    checkpoint_io.save_checkpoint(checkpoint, path, backend_args=backend_args)


def collect(
    runner: Runner, meta: dict[str, Any], *, save_optimizer: bool, save_param_scheduler: bool
) -> dict[str, Any]:
    """Return a checkpoint of the run as it is now. Every rank must call."""
    strategy = _strategy(runner)
    meta = {
        **meta,
        "cfg": runner.cfg.pretty_text,
        "seed": runner.seed,
        "experiment_name": runner.experiment_name,
        "time": time.strftime("%Y%m%d_%H%M%S"),
        "mmx_version": __version__,
        "torch_version": torch.__version__,
    }
    dataset: Any = getattr(runner.train_dataloader, "dataset", None)
    if hasattr(dataset, "metainfo"):
        meta["dataset_meta"] = dataset.metainfo
    checkpoint: dict[str, Any] = {
        "meta": meta,
        "state_dict": strategy.model_state_dict(),
        "message_hub": runner.message_hub.state_dict(),
    }
    if save_optimizer and runner.optim_wrapper is not None:
        if not isinstance(runner.optim_wrapper, BaseOptimWrapper):
            raise TypeError(
                "self.optim_wrapper should be an OptimWrapper or OptimWrapperDict instance, but "
                f"got {runner.optim_wrapper!r}: it is built when training begins. Save with "
                "save_optimizer=False before that"
            )
        checkpoint["optimizer"] = strategy.optim_state_dict()
    if save_param_scheduler and runner.param_schedulers is not None:
        if not _are_built(runner.param_schedulers):
            raise TypeError(
                "the parameter schedulers are built when training begins; save with "
                "save_param_scheduler=False before that"
            )
        checkpoint["param_schedulers"] = strategy.scheduler_state_dict()
    checkpoint["engine"] = _engine_state(runner)
    return checkpoint


def _finished(runner: Runner) -> tuple[int, int]:
    """Return how many epochs and iterations are finished, also while their hooks run."""
    if isinstance(runner._train_loop, _TrainLoop):
        return runner._state.finished_epochs, runner._state.finished_iters
    # A loop that counts by itself: checkpoints are saved by hooks that run before it counts on.
    stage = runner._state.stage
    return (
        runner.epoch + (stage == "after_train_epoch"),
        runner.iter + (stage == "after_train_iter"),
    )


def _engine_state(runner: Runner) -> dict[str, Any]:
    state = runner._state
    stream = state.stream if state.stream is not None else capture_random_state()
    engine: dict[str, Any] = {
        "version": ENGINE_VERSION,
        "world_size": get_world_size(),
        "model_parallel_size": get_model_parallel_size(),
        "random": gather_per_rank(stream),
        "hooks": {name: hook.state_dict() for name, hook in _stateful(runner.hooks)},
    }
    buffers = differing_buffers(runner)
    if buffers is not None:
        engine["buffers"] = buffers
    loop = runner._train_loop
    if not isinstance(loop, _TrainLoop):
        return engine
    data_pass, batches = _data_position(loop)
    engine["loop"] = {
        "kind": "iter" if isinstance(loop, IterBasedTrainLoop) else "epoch",
        "epoch": state.finished_epochs,
        "iter": state.finished_iters,
        "data_pass": data_pass,
        "batches": batches,
        "samples": _samples(loop.dataloader, batches),
        "validation_due": state.validation_due,
    }
    engine["sampler_seed"] = _sampler_seed(loop.dataloader)
    if batches and state.pass_stream is not None:
        engine["pass_random"] = gather_per_rank(state.pass_stream)
    loader_state = dataloader_state(loop.dataloader)
    if len(loader_state) > 1:  # more than its version
        engine["dataloader"] = gather_per_rank(loader_state)
    return engine


def _data_position(loop: _TrainLoop) -> tuple[int, int]:
    """Return the number of the current pass over the data, and its batches trained on."""
    state = loop._state
    if isinstance(loop, IterBasedTrainLoop):
        iterator = loop.dataloader_iterator
        return iterator._epoch, iterator._batches
    return state.finished_epochs, state.finished_iters - state.pass_start


def _samples(dataloader: Any, batches: int) -> int | None:
    """Return the samples in so many batches over all ranks, None if batches have no fixed size."""
    size = _batch_size(dataloader)
    return None if size is None else batches * size * get_world_size() // get_model_parallel_size()


def _batch_size(dataloader: Any) -> int | None:
    size = getattr(dataloader, "batch_size", None)
    if size is None:
        size = getattr(getattr(dataloader, "batch_sampler", None), "batch_size", None)
    return size if isinstance(size, int) else None


def _samplers(dataloader: Any) -> Iterator[Any]:
    for owner in (dataloader, getattr(dataloader, "batch_sampler", None)):
        sampler = getattr(owner, "sampler", None)
        if sampler is not None:
            yield sampler


def _sampler_seed(dataloader: Any) -> int | None:
    for sampler in _samplers(dataloader):
        seed = getattr(sampler, "seed", None)
        if isinstance(seed, int):
            return seed
    return None


def _stateful(hooks: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the hooks that have a state to save, with a name that is the same in the next run."""
    seen: dict[str, int] = {}
    for hook in hooks:
        if not (hasattr(hook, "state_dict") and hasattr(hook, "load_state_dict")):
            continue
        name = getattr(hook, "name", None)
        if not isinstance(name, str):
            name = type(hook).__name__
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}#{seen[name]}"), hook


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's shard of a sharded tensor, and others as they are."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


# Loading ------------------------------------------------------------------------------------


def load(
    runner: Runner,
    filename: str,
    map_location: Any,
    strict: bool,
    revise_keys: list[tuple[str, str]],
) -> dict[str, Any]:
    """See :meth:`mmx.runner.Runner.load_checkpoint`."""
    checkpoint: dict[str, Any] = _strategy(runner).read_checkpoint(
        filename, map_location=map_location, verify=runner._resume
    )
    if not isinstance(checkpoint, dict):
        raise MissingStateError(f"No state_dict found in checkpoint file {filename}")
    # A file of bare weights has no entries for hooks to look at.
    runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
    _strategy(runner).load_model_state_dict(
        checkpoint.get("state_dict", checkpoint), strict=strict, revise_keys=revise_keys
    )
    runner._has_loaded = True
    runner.logger.info(f"Load checkpoint from {filename}")
    return checkpoint


def resume(
    runner: Runner,
    checkpoint: dict[str, Any],
    resume_optimizer: bool,
    resume_param_scheduler: bool,
) -> None:
    """Put a runner, whose model has its weights already, back to where it was saved."""
    # Of the weights the model has a copy; the rest would go on using the mapped file, whose space
    # then is not free when the file is deleted, and which must not be cut short.
    kept = ("optimizer", "message_hub", "engine")
    checkpoint = {k: _owned(v) if k in kept else v for k, v in checkpoint.items()}
    meta = checkpoint.get("meta", {})
    engine = checkpoint.get("engine", {})
    if engine.get("version", 0) > ENGINE_VERSION:
        raise ValueError(
            f"the checkpoint was saved by a newer mmx ({meta.get('mmx_version')}): its position "
            f"has version {engine['version']}, this one knows {ENGINE_VERSION}. Update mmx, or "
            "load the weights alone with load_from and resume=False"
        )
    _resume_message_hub(runner, checkpoint)
    states = engine.get("hooks", {})
    for name, hook in _stateful(runner.hooks):
        if name in states:
            hook.load_state_dict(states[name])
    load_buffers(runner, own_share(engine.get("buffers"), engine.get("model_parallel_size", 1)))
    if runner._train_loop is None or runner.optim_wrapper is None:
        # A validation or test of a run that is otherwise not taken up.
        return
    _warn_of_unused_average(runner, checkpoint)
    _resume_seed(runner, meta.get("seed"))
    _check_dataset(runner, meta.get("dataset_meta"))
    strategy = _strategy(runner)
    if resume_optimizer:
        if "optimizer" not in checkpoint:
            raise ValueError(
                "the checkpoint holds no state of the optimizer, so training cannot be resumed "
                "from it; load its weights with load_from and resume=False"
            )
        runner.optim_wrapper = strategy.optim_wrapper = runner.build_optim_wrapper(
            runner.optim_wrapper
        )
        strategy.load_optim_state_dict(checkpoint["optimizer"])
    if resume_param_scheduler:
        _resume_schedulers(runner, checkpoint)
    _resume_position(runner, meta, engine)
    _resume_gradients(runner, engine)


def _owned(value: Any) -> Any:
    """Return plain data with its tensors on the CPU copied; tensors on other devices are copies."""
    if isinstance(value, torch.Tensor):
        return value.clone() if value.device.type == "cpu" else value
    if isinstance(value, dict):
        copy: Any = type(value)()
        copy.update((key, _owned(item)) for key, item in value.items())
        return copy
    if type(value) in (list, tuple):
        return type(value)(_owned(item) for item in value)
    return value


def _warn_of_unused_average(runner: Runner, checkpoint: dict[str, Any]) -> None:
    if "ema_state_dict" in checkpoint and not any(hasattr(h, "ema_model") for h in runner.hooks):
        runner.logger.warning(
            "The checkpoint holds averaged weights (`ema_state_dict`), but this run has no "
            "`EMAHook`: training goes on from the average, not from the weights that were in "
            "training, and does not repeat the run that saved it. Add "
            "custom_hooks=[dict(type='EMAHook')] to go on with both"
        )


def _resume_message_hub(runner: Runner, checkpoint: dict[str, Any]) -> None:
    state = checkpoint.get("message_hub")
    if state is not None:
        runner.message_hub.load_state_dict(state)


def _resume_seed(runner: Runner, seed: int | None) -> None:
    wanted = runner._randomness_cfg.get("seed")
    if seed is None or wanted == seed:
        # Not seeded again: a checkpoint of MMEngine, which has no random state, goes on as there.
        return
    if wanted is not None:
        runner.logger.warning(
            f"The value of random seed in the checkpoint ({seed}) is different from the value in "
            f"`randomness` config ({wanted}); the checkpoint's is used."
        )
    runner._randomness_cfg.update(seed=seed)
    runner.set_randomness(**runner._randomness_cfg)


def _check_dataset(runner: Runner, saved: Any) -> None:
    current = getattr(getattr(runner.train_dataloader, "dataset", None), "metainfo", None)
    if saved is None or current is None:
        return
    differing = [key for key in saved if key not in current or not _equal(saved[key], current[key])]
    if differing or len(saved) != len(current):
        runner.logger.warning(
            "The dataset metainfo from the resumed checkpoint is different from the current "
            f"training dataset (in {', '.join(map(str, differing)) or 'its keys'}), please check "
            "the correctness of the checkpoint or the training dataset."
        )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return set(a) == set(b) and all(_equal(a[k], b[k]) for k in a)
    same = a == b
    return bool(same.all()) if hasattr(same, "all") else bool(same)


def _resume_schedulers(runner: Runner, checkpoint: dict[str, Any]) -> None:
    if runner.param_schedulers is None:
        if "param_schedulers" in checkpoint:
            runner.logger.warning(
                "`resume_param_scheduler` is True but `self.param_schedulers` is None, so skip "
                "resuming parameter schedulers"
            )
        return
    if "param_schedulers" not in checkpoint:
        raise ValueError(
            "the checkpoint holds no states of parameter schedulers, but this run has some; pass "
            "resume_param_scheduler=False to begin their schedule anew"
        )
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    if any(getattr(hook, "on_changed_settings", "keep") == "rebuild" for hook in runner.hooks):
        built = runner.param_schedulers
        for part in built.values() if isinstance(built, Mapping) else [built]:
            for scheduler in part:
                # Its hook tells what it does about them.
                scheduler._announces_changes = False
    _strategy(runner).load_scheduler_state_dict(checkpoint["param_schedulers"])


def _resume_position(runner: Runner, meta: dict[str, Any], engine: dict[str, Any]) -> None:
    loop: Any = runner.train_loop
    epoch, iteration = meta.get("epoch", 0), meta.get("iter", 0)
    saved = engine.get("loop")
    kind = "iter" if isinstance(loop, IterBasedTrainLoop) else "epoch"
    if isinstance(loop, IterBasedTrainLoop):
        epoch = 0
    loop._epoch, loop._iter = epoch, iteration
    if not isinstance(loop, _TrainLoop):
        return
    if saved is None:
        _position_of_older_engine(loop, epoch, iteration)
        return
    if saved["kind"] != kind:
        runner.logger.warning(
            f"the checkpoint was saved by a training loop by {saved['kind']}, this one counts by "
            f"{kind}: it goes on at iteration {iteration}, but not with the same samples"
        )
        _position_of_older_engine(loop, epoch, iteration)
        return
    loop._epoch = saved["epoch"] if kind == "epoch" else 0
    loop._iter = saved["iter"]
    _resume_sampler(runner, loop.dataloader, engine.get("sampler_seed"))
    _set_data_position(loop, saved["data_pass"], _batches_now(runner, loop, saved))
    runner._state.validation_due = saved["validation_due"]
    size = engine.get("model_parallel_size", 1)
    loader_state = own_share(engine.get("dataloader"), size)
    if loader_state is not None:
        load_dataloader_state(loop.dataloader, loader_state)
    random = own_share(engine.get("random"), size)
    if random is None:
        runner.logger.warning(
            f"the checkpoint was saved by {engine.get('world_size')} processes, this run has "
            f"{get_world_size()}: random numbers other than the order of samples begin anew"
        )
    loop._resume_stream = random
    loop._resume_pass_stream = own_share(engine.get("pass_random"), size)


def _set_data_position(loop: _TrainLoop, data_pass: int, batches: int) -> None:
    loop._skip_batches = batches
    if isinstance(loop, IterBasedTrainLoop):
        loop.dataloader_iterator.seek(data_pass, batches)


def _batches_now(runner: Runner, loop: _TrainLoop, saved: dict[str, Any]) -> int:
    """Return how many of this run's batches hold the samples that were trained on."""
    size, samples = _batch_size(loop.dataloader), saved["samples"]
    if size is None or samples is None:
        return int(saved["batches"])
    whole = size * (get_world_size() // get_model_parallel_size())
    if samples % whole:
        runner.logger.warning(
            f"{samples} samples of the current pass have been trained on, which is no multiple of "
            f"this run's {whole} per iteration: {samples % whole} of them are trained on again"
        )
    return int(samples // whole)


def _position_of_older_engine(loop: _TrainLoop, epoch: int, iteration: int) -> None:
    """Find the position from the counters alone, as checkpoints of MMEngine have them."""
    try:
        length = len(loop.dataloader)
    except TypeError:
        length = 0
    if isinstance(loop, IterBasedTrainLoop):
        endless = any(type(s).__name__ == "InfiniteSampler" for s in _samplers(loop.dataloader))
        if endless or not length:
            _set_data_position(loop, 0, iteration)
        else:
            _set_data_position(loop, iteration // length, iteration % length)
        return
    inside = iteration - epoch * length
    _set_data_position(loop, epoch, inside if 0 < inside < length else 0)


def _resume_sampler(runner: Runner, dataloader: Any, seed: int | None) -> None:
    """Give sampler and workers the seed of the resumed run: they were built before it was known."""
    if seed is not None:
        for sampler in _samplers(dataloader):
            if isinstance(getattr(sampler, "seed", None), int):
                sampler.seed = seed
    init = getattr(dataloader, "worker_init_fn", None)
    if isinstance(init, functools.partial) and "seed" in init.keywords:
        dataloader.worker_init_fn = functools.partial(
            init.func, *init.args, **{**init.keywords, "seed": runner.seed}
        )


def _resume_gradients(runner: Runner, engine: dict[str, Any]) -> None:
    """Take up an accumulation that mmx saved here before optimizers' states held it."""
    saved = engine.get("gradients")
    if not saved or not any(saved):
        return
    size, was_split = get_model_parallel_size(), engine.get("model_parallel_size", 1)
    if was_split == 1:
        _strategy(runner).load_accumulated_gradients(saved)
        return
    if (len(saved), was_split) != (get_world_size(), size):
        runner.logger.warning(
            "the gradients of an accumulation that was under way are lost: the checkpoint holds "
            f"those of {len(saved)} ranks that split layers in {was_split}, as mmx once saved "
            f"them, this run has {get_world_size()} in {size}. The next step is taken without them"
        )
        return
    for name, parameter in unwrap(runner.model).named_parameters():
        if name in saved[get_rank()]:
            grad = torch.zeros_like(parameter)
            _local(grad).copy_(saved[get_rank()][name])
            parameter.grad = grad


def begin_accumulation(runner: Runner) -> None:
    """Tell the optimizer wrapper where in training it is."""
    wrapper: Any = runner.optim_wrapper
    if hasattr(wrapper, "initialize_count_status"):
        wrapper.initialize_count_status(runner.model, runner.iter, runner.max_iters)


# Stopping -----------------------------------------------------------------------------------


def save_on_stop(runner: Runner) -> None:
    """Save a run that a signal stopped, so that it can be resumed. Every rank must call.

    Of the files that this writes, only the latest is kept.
    """
    loop: Any = runner._train_loop
    if not isinstance(loop, _TrainLoop) or not runner._state.finished_iters:
        return
    out_dir, last = runner.work_dir, None
    for hook in runner.hooks:
        if type(hook).__name__ == "CheckpointHook" and getattr(hook, "out_dir", None):
            out_dir, last = hook.out_dir, getattr(hook, "last_ckpt", None)  # type: ignore[attr-defined]
            saver = getattr(hook, "_saver", None)
            if saver is not None:
                # What is under way is older, and would become the latest when it is done.
                saver.wait()
    iters, at_end = runner._state.finished_iters, _data_position(loop)[1] == 0
    by_epoch = at_end and not isinstance(loop, IterBasedTrainLoop)
    name = f"epoch_{runner._state.finished_epochs}.pth" if by_epoch else f"iter_{iters}.pth"
    path = join_path(out_dir, name)
    if path == last:  # the checkpoint hook has just saved this very position
        return
    earlier = runner.message_hub.runtime_info.get("stop_ckpt")
    runner.message_hub.update_info("stop_ckpt", path)
    runner.save_checkpoint(out_dir, name, by_epoch=by_epoch)
    if not is_main_process():
        return
    os.makedirs(runner.work_dir, exist_ok=True)
    checkpoint_io.write_last_checkpoint(runner.work_dir, path)
    if earlier not in (None, path, last):
        checkpoint_io.remove_checkpoint(earlier)
    runner.logger.info(f"Saved {path}; resume with resume=True.")


def _strategy(runner: Runner) -> BaseStrategy:
    """Return the runner's strategy, which works on the parts that the runner has now."""
    strategy = runner.strategy
    strategy.model = runner.model
    strategy.optim_wrapper = runner.optim_wrapper
    strategy.param_schedulers = runner.param_schedulers
    return strategy


def _are_built(schedulers: Any) -> bool:
    parts = schedulers.values() if isinstance(schedulers, Mapping) else [schedulers]
    return all(
        isinstance(part, list) and all(hasattr(s, "state_dict") for s in part) for part in parts
    )
