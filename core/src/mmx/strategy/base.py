"""What all strategies share: environment, building, and the state that checkpoints hold."""

from __future__ import annotations

import os
import re
import sys
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mmx import checkpoint as checkpoint_io
from mmx.device import get_device
from mmx.dist import (
    data_share,
    get_dist_info,
    get_model_parallel_size,
    get_rank,
    get_world_size,
    is_distributed,
    is_main_process,
    set_model_parallel_size,
)
from mmx.dist.failures import watching_more
from mmx.dist.utils import keep_timeout
from mmx.fileio import join_path
from mmx.logging import MMLogger
from mmx.optim import OptimWrapperDict
from mmx.strategy import building
from mmx.strategy.accumulation import ENTRY, SUMS, Accumulation
from mmx.strategy.compiling import compile_in_place
from mmx.strategy.environment import (
    describe_environment,
    set_random_seed,
    setup_process,
    shared_timestamp,
)
from mmx.utils.errors import InvalidValueError

ReviseKeys = list[tuple[str, str]]
STATE_DICT_KINDS = ("local", "full", "sharded")
STRIP_WRAPPER: ReviseKeys = [(r"^module\.", "")]


class BaseStrategy(metaclass=ABCMeta):
    """Base class of strategies: how a model is placed, wrapped, compiled, saved and loaded.

    A runner owns one and asks it; it also works alone: :meth:`prepare` a model, then train it in
    a loop of one's own.

    Args:
        work_dir: Directory of the run.
        experiment_name: Name of the run; the time stamp is appended.
        env_kwargs: ``launcher``, ``randomness`` and the entries of a runner's ``env_cfg``
            (``cudnn_benchmark``, ``mp_cfg``, ``dist_cfg``, ``resource_limit``). With
            ``shared=True`` the process is taken as it is: a runner has prepared it.
        log_kwargs: Arguments of :meth:`build_logger`.
        auto_scale_lr: ``dict(base_batch_size=..., enable=True)``; see :meth:`prepare`.
        state_dict_cfg: How checkpoints are written: ``'full'``, one file; ``'sharded'``, a folder
            that each rank writes its part of; or ``'local'``, another name of the first. Also a
            dict with ``state_dict_type`` of these (or torch's ``StateDictType``).

    Raises:
        ValueError: ``state_dict_cfg`` is none of these.
    """

    # Whether the weights of the whole model are on each rank, so that rank 0 alone can save them.
    sharded = False
    # Whether checkpoints are folders that each rank writes its part of.
    saves_shards = False

    def __init__(
        self,
        *,
        work_dir: str = "work_dirs",
        experiment_name: str | None = None,
        env_kwargs: dict[str, Any] | None = None,
        log_kwargs: dict[str, Any] | None = None,
        auto_scale_lr: dict[str, Any] | None = None,
        state_dict_cfg: str | dict[str, Any] = "full",
    ) -> None:
        self.state_dict_cfg = state_dict_cfg
        self.saves_shards = _state_dict_kind(state_dict_cfg, type(self).__name__) == "sharded"
        self._work_dir = os.path.abspath(work_dir)
        self._env_kwargs = dict(env_kwargs or {})
        self._auto_scale_lr = auto_scale_lr
        self._prepared = False
        self.dispatch_kwargs: dict[str, Any] = {}
        self.model: Any = None
        self.optim_wrapper: Any = None
        self.param_schedulers: Any = None
        self._mesh_of_ranks: Any = None
        self._setup_env(**self._env_kwargs)
        # An earlier run in these processes may have split its model over ranks.
        self._hold_copies_together(1)
        if experiment_name is not None:
            self._experiment_name = f"{experiment_name}_{self._timestamp}"
        else:
            self._experiment_name = self._timestamp
        self._log_dir = os.path.join(self._work_dir, self._timestamp)
        self._log_kwargs = dict(log_kwargs or {})
        self._logger: MMLogger | None = None

    # Environment ----------------------------------------------------------------------------

    def _setup_env(
        self,
        *,
        launcher: str | None = None,
        cudnn_benchmark: bool = False,
        mp_cfg: dict[str, Any] | None = None,
        dist_cfg: dict[str, Any] | None = None,
        resource_limit: int = 4096,
        randomness: dict[str, Any] | None = None,
        shared: bool = False,
        timestamp: str | None = None,
        seed: int | None = None,
    ) -> None:
        self._launcher = launcher or "none"
        if shared:
            self._timestamp = timestamp or shared_timestamp()
            self._randomness = dict(randomness or {})
            self._seed = seed
            return
        setup_process(
            self._launcher,
            cudnn_benchmark=cudnn_benchmark,
            mp_cfg=mp_cfg,
            dist_cfg=dist_cfg,
            resource_limit=resource_limit,
        )
        self._timestamp = shared_timestamp()
        self._randomness = dict(randomness or {"seed": None})
        self._set_randomness(**self._randomness)

    def _set_randomness(
        self, seed: int | None = None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        self._seed = set_random_seed(
            seed, deterministic=deterministic, diff_rank_seed=diff_rank_seed
        )

    def _hold_copies_together(self, size: int) -> None:
        """Tell the engine that each ``size`` neighbouring ranks hold one copy of the model.

        They must draw the same random numbers. Processes are seeded before a strategy is made, so
        those whose seed contains the rank get theirs again.
        """
        before = get_model_parallel_size()
        set_model_parallel_size(size)
        if size != before and self._seed is not None and self._randomness.get("diff_rank_seed"):
            set_random_seed(self._seed, diff_rank_seed=True)

    def collect_env(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the machine is made of, and how this run uses it."""
        runtime = {
            key: value
            for key, value in self._env_kwargs.items()
            if key not in ("shared", "timestamp", "seed", "launcher", "randomness")
        }
        machine, run, _ = describe_environment(self._seed, self._launcher, runtime)
        return machine, run

    def build_logger(
        self,
        log_level: int | str = "INFO",
        log_file: str | None = None,
        **kwargs: Any,
    ) -> MMLogger:
        """Return the run's logger.

        Args:
            log_level: Level of its handlers.
            log_file: Where it writes; by default ``<log_dir>/<timestamp>.log``.
            **kwargs: Further arguments of :class:`~mmx.logging.MMLogger`.
        """
        if MMLogger.check_instance_created(self._experiment_name):
            return MMLogger.get_instance(self._experiment_name)
        if log_file is None:
            log_file = os.path.join(self._log_dir, f"{self._timestamp}.log")
        return MMLogger.get_instance(
            **{
                "name": self._experiment_name,
                "log_level": log_level,
                "log_file": log_file,
                "file_mode": "a",
                **kwargs,
            }
        )

    @property
    def logger(self) -> MMLogger:
        """The run's logger, built on first use."""
        if self._logger is None:
            self._logger = self.build_logger(**self._log_kwargs)
        return self._logger

    @logger.setter
    def logger(self, value: MMLogger) -> None:
        self._logger = value

    # Building -------------------------------------------------------------------------------

    @abstractmethod
    def prepare(
        self,
        model: nn.Module | dict[str, Any],
        *,
        optim_wrapper: Any = None,
        param_scheduler: Any = None,
        compile: dict[str, Any] | bool = False,
        dispatch_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Build, place and wrap what a run needs.

        Args:
            model: A model, or a dict to build one from.
            optim_wrapper: An optimizer wrapper or a dict; None if the model is not trained.
            param_scheduler: Parameter schedulers or dicts.
            compile: True or options of ``torch.compile``.
            dispatch_kwargs: What the loop knows: ``train_micro_batch_size_per_gpu``,
                ``epoch_length``, ``max_epochs``, ``max_iters``.

        Returns:
            The model, or a tuple of the model and the others that were given.
        """

    def build_model(self, model: nn.Module | dict[str, Any]) -> nn.Module:
        """Return the model, built if it is given as a dict."""
        self._model_name = type(model).__name__
        return building.model_from(model)

    def build_optim_wrapper(self, optim_wrapper: Any, model: nn.Module | None = None) -> Any:
        """Return the optimizer wrapper, built for ``model`` if it is given as a dict."""
        return building.optim_wrapper_from(
            optim_wrapper, model if model is not None else self.model
        )

    def build_param_scheduler(
        self, scheduler: Any, optim_wrapper: Any, default_args: dict[str, Any] | None = None
    ) -> building.Schedulers:
        """Return the parameter schedulers, built if they are given as dicts.

        Args:
            scheduler: A scheduler, a dict, or a list of these; or a dict name of optimizer -> one
                of these.
            optim_wrapper: What they schedule.
            default_args: ``epoch_length``, ``max_epochs`` and ``max_iters``.
        """
        return building.param_schedulers_from(
            scheduler, optim_wrapper, default_args or self.dispatch_kwargs
        )

    def compile_model(self, model: nn.Module, compile: dict[str, Any] | bool = False) -> nn.Module:
        """Compile a model in place.

        Args:
            model: The model.
            compile: False leaves it alone, True takes torch's defaults, a dict holds arguments of
                ``torch.compile`` and, under ``target``, the name of the method to compile
                (otherwise the forward pass).
        """
        if not compile_in_place(model, compile):
            return model
        self.logger.info(
            'Model has been "compiled". The first few iterations will be slow, please be patient.'
        )
        return model

    def convert_model(self, model: nn.Module) -> nn.Module:
        """Return the model with layers exchanged for those that suit this strategy."""
        return model

    def wrap_model(
        self, model: nn.Module, model_wrapper_cfg: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Place a model on this process's device, and wrap it.

        Args:
            model: The model, not wrapped.
            model_wrapper_cfg: A registered wrapper and its arguments; None takes this strategy's.
        """
        return model.to(get_device())

    def join(self, model: nn.Module, optim_wrapper: Any) -> nn.Module:
        """Return the model to train, once its optimizer is known.

        Engines that own both take them over here; otherwise it is the model itself.
        """
        return model

    def _init_model_weights(self, model: nn.Module) -> nn.Module:
        initialize_weights(model)
        return model

    def _scale_lr(self) -> None:
        scale = self._auto_scale_lr
        if not scale or not scale.get("enable", False):
            return
        if "base_batch_size" not in scale:
            raise InvalidValueError("Lack of `base_batch_size` in `auto_scale_lr`.")
        size = self.dispatch_kwargs.get("train_micro_batch_size_per_gpu")
        if size is None:
            raise InvalidValueError(
                "auto_scale_lr needs the batch size of one rank: pass "
                "dispatch_kwargs=dict(train_micro_batch_size_per_gpu=...) to prepare()"
            )
        _, shares = data_share(*get_dist_info())
        building.scale_learning_rate(self.optim_wrapper, scale["base_batch_size"], size, shares)

    def _prepared_components(self) -> Any:
        parts = [self.model]
        if self.optim_wrapper is not None:
            parts.append(self.optim_wrapper)
        if self.param_schedulers is not None:
            parts.append(self.param_schedulers)
        return tuple(parts) if len(parts) > 1 else parts[0]

    # State ----------------------------------------------------------------------------------

    def model_state_dict(self) -> dict[str, Any]:
        """Return the model's weights on the CPU, without prefixes of wrappers.

        Every rank must call; where weights are sharded only rank 0 gets them.
        """
        return checkpoint_io.weights_to_cpu(checkpoint_io.get_state_dict(self.model))

    def optim_state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer wrapper. Every rank must call.

        In the middle of an accumulation it holds the gradients of all ranks.
        """
        state: dict[str, Any] = self.optim_wrapper.state_dict()
        if get_world_size() > 1:
            self._add_sums(state)
        return state

    def _add_sums(self, state: dict[str, Any]) -> None:
        """Put what all ranks have accumulated in place of what this one has."""
        accumulation = None
        for wrapper, part in self._states_of_wrappers(state):
            if part.get(ENTRY) is not None:
                accumulation = accumulation or self._accumulation()
                part[ENTRY] = accumulation.saved(wrapper, part[ENTRY], shards=self.saves_shards)

    def _take_sums(self, state: Mapping[str, Any]) -> None:
        """Give this rank its part of what was accumulated."""
        for wrapper, part in self._states_of_wrappers(state):
            if part.get(ENTRY) is not None:
                scaler = part.get("loss_scaler") or {}
                scale = float(scaler.get("scale", 1.0))
                self._accumulation().take(wrapper, part[ENTRY], scale=scale)

    def load_accumulated_gradients(self, gradients: list[dict[str, torch.Tensor]]) -> None:
        """Take up an accumulation that was under way, on any number of ranks.

        Args:
            gradients: The whole gradients that each share of the data has summed up, by the names
                of weights.
        """
        accumulation = self._accumulation()
        wrappers = self.optim_wrapper
        for wrapper in wrappers.values() if hasattr(wrappers, "values") else [wrappers]:
            own = accumulation.names_of(wrapper)
            kept = [{n: g for n, g in share.items() if n in own} for share in gradients]
            accumulation.take(wrapper, {SUMS: kept})

    def _states_of_wrappers(self, state: Mapping[str, Any]) -> list[tuple[Any, Any]]:
        if isinstance(self.optim_wrapper, OptimWrapperDict):
            return [(self.optim_wrapper[name], part) for name, part in state.items()]
        return [(self.optim_wrapper, state)]

    def _accumulation(self) -> Accumulation:
        return Accumulation(self.model, self._ranks())

    def _ranks(self) -> Any:
        """Return all ranks as a mesh, None if checkpoints have no parts of single ranks."""
        if not self.saves_shards or get_world_size() == 1:
            return None
        if self._mesh_of_ranks is None:
            from torch.distributed.device_mesh import init_device_mesh

            kind = get_device().split(":")[0]
            with watching_more():
                self._mesh_of_ranks = init_device_mesh(kind, (get_world_size(),))
            keep_timeout(self._mesh_of_ranks.get_all_groups())
        return self._mesh_of_ranks

    def scheduler_state_dict(self) -> dict[str, Any] | list[Any]:
        """Return the states of the parameter schedulers: a list, or name -> list."""
        schedulers = self.param_schedulers
        if isinstance(schedulers, dict):
            return {
                name: [scheduler.state_dict() for scheduler in part]
                for name, part in schedulers.items()
            }
        return [scheduler.state_dict() for scheduler in schedulers]

    def load_model_state_dict(
        self,
        state_dict: dict[str, Any],
        *,
        strict: bool = False,
        revise_keys: ReviseKeys = STRIP_WRAPPER,
    ) -> None:
        """Load weights into the model.

        Args:
            state_dict: The weights, whole; every rank holds them.
            strict: Raise if keys or shapes do not match; otherwise they are logged.
            revise_keys: ``(pattern, replacement)`` pairs for ``re.sub`` on each key.
        """
        checkpoint_io._load_checkpoint_to_model(
            self.model, {"state_dict": state_dict}, strict, revise_keys=revise_keys
        )

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the optimizer wrapper, and of an accumulation that was under way."""
        if isinstance(self.optim_wrapper, OptimWrapperDict):
            plain = {name: without_sums(part) for name, part in state_dict.items()}
        else:
            plain = without_sums(state_dict)
        self.optim_wrapper.load_state_dict(plain)
        self._take_sums(state_dict)

    def load_scheduler_state_dict(self, state_dict: dict[str, Any] | list[Any]) -> None:
        """Load the states of the parameter schedulers.

        Raises:
            ValueError: Their number or the names of their optimizers differ.
        """
        schedulers = self.param_schedulers
        if isinstance(schedulers, dict):
            if not isinstance(state_dict, dict) or set(state_dict) != set(schedulers):
                raise InvalidValueError(
                    "the checkpoint's param_schedulers belong to "
                    f"{list(state_dict) if isinstance(state_dict, dict) else 'one optimizer'}, "
                    f"those of this run to {list(schedulers)}"
                )
            for name, part in schedulers.items():
                _load_schedulers(part, state_dict[name])
            return
        _load_schedulers(schedulers, state_dict)

    def read_checkpoint(
        self, filename: str, map_location: Any = "cpu", verify: bool = False
    ) -> dict[str, Any]:
        """Return a checkpoint, a file or a folder, without putting it to use.

        Of a sharded checkpoint a run without an optimizer does not read that of the optimizer.

        Args:
            filename: Path, URL or address.
            map_location: As for ``torch.load``.
            verify: Check all checksums, as is done for training in any case. Loading for inference
                does not read a whole file first, and checks all but the tensors' data.
        """
        verify = verify or self.optim_wrapper is not None
        if not checkpoint_io.is_sharded(filename):
            return checkpoint_io._load_checkpoint(
                filename, map_location=map_location, verify=verify
            )
        return checkpoint_io.read_sharded(
            filename,
            map_location,
            layout=self._layout(),
            only=None if self.optim_wrapper is not None else _is_not_the_optimizer,
            verify=verify,
        )

    def _layout(self) -> Any:
        """Return which tensors of a sharded checkpoint are read as shards; see ``read_sharded``."""
        return self._layout_of_sums

    def _layout_of_sums(self, path: tuple[Any, ...], shape: torch.Size) -> Any:
        if path[-3:-1] != (ENTRY, SUMS):
            return None
        return self._accumulation().layout(path[-1], shape)

    def load_checkpoint(
        self,
        filename: str,
        *,
        map_location: str | Callable[..., Any] = "cpu",
        strict: bool = False,
        revise_keys: ReviseKeys = STRIP_WRAPPER,
        callback: Callable[[dict[str, Any]], Any] | None = None,
    ) -> dict[str, Any]:
        """Load the weights of a checkpoint, and return the checkpoint.

        Args:
            filename: Path, URL or address.
            map_location: As for ``torch.load``.
            strict: Raise if keys or shapes do not match; otherwise they are logged.
            revise_keys: ``(pattern, replacement)`` pairs for ``re.sub`` on each key.
            callback: Called with the checkpoint before anything is taken from it.
        """
        self.logger.info(f"Load checkpoint from {filename}")
        loaded: dict[str, Any] = self.read_checkpoint(filename, map_location)
        if callback is not None:
            callback(loaded)
        state_dict = loaded.pop("state_dict", loaded)
        self.load_model_state_dict(state_dict, strict=strict, revise_keys=revise_keys)
        return loaded

    def load_or_resume(
        self, *, load_from: str | None = None, resume: bool | str = False
    ) -> dict[str, Any] | None:
        """Resume a run, or load weights, as the arguments say.

        Args:
            load_from: What to load; with ``resume=True`` what to resume from.
            resume: False, True (from ``load_from``, or else from the latest checkpoint in
                ``work_dir``), or the path to resume from.

        Returns:
            The checkpoint, None if nothing was loaded.
        """
        if not resume and load_from is None:
            return None
        path = resume_path(self._work_dir, load_from, resume)
        if path is not None:
            self.logger.info(f"Auto resumed from the latest checkpoint {path}.")
            return self.resume(path)
        if load_from is not None and not resume:
            return self.load_checkpoint(load_from)
        return None

    def resume(
        self,
        filename: str,
        *,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: str | Callable[..., Any] = "default",
        callback: Callable[[dict[str, Any]], Any] | None = None,
    ) -> dict[str, Any]:
        """Load weights, optimizer and schedulers of a checkpoint, and return the checkpoint.

        Args:
            filename: Path, URL or address.
            resume_optimizer: Also load the optimizer's state.
            resume_param_scheduler: Also load the schedulers' states.
            map_location: As for ``torch.load``; ``'default'`` is this process's device.
            callback: Called with the checkpoint before anything is taken from it.
        """
        self.logger.info(f"Resume checkpoint from {filename}")
        if map_location == "default":
            map_location = get_device()
        loaded = self.load_checkpoint(filename, map_location=map_location, callback=callback)
        if resume_optimizer and "optimizer" in loaded:
            self.load_optim_state_dict(loaded.pop("optimizer"))
        if resume_param_scheduler and self.param_schedulers is not None:
            if "param_schedulers" in loaded:
                self.load_scheduler_state_dict(loaded.pop("param_schedulers"))
            else:
                self.logger.warning(f"{filename} holds no states of parameter schedulers")
        return loaded

    def save_checkpoint(
        self,
        filename: str,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        extra_ckpt: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        """Save weights, optimizer and schedulers. Every rank must call.

        Args:
            filename: Path or address of the file.
            save_optimizer: Save the optimizer's state.
            save_param_scheduler: Save the schedulers' states.
            extra_ckpt: Further entries; ``meta`` gets the seed and the time added.
            callback: Called with the whole checkpoint before it is written.
        """
        saved = dict(extra_ckpt or {})
        saved["state_dict"] = self.model_state_dict()
        if save_optimizer and self.optim_wrapper is not None:
            saved["optimizer"] = self.optim_state_dict()
        if save_param_scheduler and self.param_schedulers is not None:
            saved["param_schedulers"] = self.scheduler_state_dict()
        meta = saved["meta"] = dict(saved.get("meta", {}))
        meta.setdefault("seed", self._seed)
        meta.setdefault("time", shared_timestamp())
        if callback is not None:
            callback(saved)
        if self.saves_shards:
            checkpoint_io.save_sharded(saved, join_path(filename))
        elif is_main_process():
            checkpoint_io.save_checkpoint(saved, join_path(filename))

    # What it is -----------------------------------------------------------------------------

    @property
    def work_dir(self) -> str:
        """Directory of the run, absolute."""
        return self._work_dir

    @property
    def log_dir(self) -> str:
        """Directory of the run's logs: the time stamp's folder in ``work_dir``."""
        return self._log_dir

    @property
    def experiment_name(self) -> str:
        """Name of the run."""
        return self._experiment_name

    @property
    def timestamp(self) -> str:
        """When the run began, ``YYYYMMDD_hhmmss``; the same on every rank."""
        return self._timestamp

    @property
    def randomness(self) -> dict[str, Any]:
        """``seed``, ``diff_rank_seed`` and ``deterministic`` as given."""
        return self._randomness

    @property
    def seed(self) -> int | None:
        """The seed, drawn if none was given."""
        return self._seed

    @property
    def launcher(self) -> str:
        """Who started the processes."""
        return self._launcher

    @property
    def distributed(self) -> bool:
        """Whether several processes train together."""
        return self._launcher != "none" or is_distributed()

    @property
    def rank(self) -> int:
        """Number of this process, 0-based."""
        return get_rank()

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return get_world_size()


def without_sums(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer wrapper's state without the gradients of an accumulation."""
    if state.get(ENTRY) is None:
        return dict(state)
    return {**state, ENTRY: {**state[ENTRY], "gradients": None}}


def _is_not_the_optimizer(entry: str) -> bool:
    return entry != "optimizer"


def _state_dict_kind(config: Any, owner: str) -> str:
    """Return which of ``STATE_DICT_KINDS`` a ``state_dict_cfg`` asks for."""
    kind = config.get("state_dict_type", "full") if isinstance(config, Mapping) else config
    name = str(getattr(kind, "name", kind)).rpartition(".")[2].lower()
    name = name.removesuffix("_state_dict")
    if name not in STATE_DICT_KINDS:
        raise InvalidValueError(
            f"{owner} only supports state_dict_cfg of {', '.join(STATE_DICT_KINDS)}, "
            f"but got {kind!r}"
        )
    return name


def initialize_weights(model: nn.Module) -> None:
    """Call a model's ``init_weights`` if it has one, and make all ranks' weights equal."""
    from mmx.dist import broadcast

    module: Any = checkpoint_io.unwrap(model)
    if not hasattr(module, "init_weights"):
        return
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and isinstance(model, fsdp.FullyShardedDataParallel):
        # Each rank holds another part of the weights, and parameters without their shapes.
        with fsdp.FullyShardedDataParallel.summon_full_params(model, writeback=True):
            module.init_weights()
            for value in (*module.parameters(), *module.buffers()):
                broadcast(value.data)
        return
    module.init_weights()
    if get_world_size() > 1:
        for value in module.state_dict().values():
            broadcast(value)


def resume_path(work_dir: str, load_from: str | None, resume: bool | str) -> str | None:
    """Return the checkpoint to resume from, None if there is nothing to resume."""
    if isinstance(resume, str):
        return resume
    if not resume:
        return None
    return load_from if load_from is not None else checkpoint_io.find_latest_checkpoint(work_dir)


def _load_schedulers(schedulers: Any, states: Any) -> None:
    if len(schedulers) != len(states):
        raise InvalidValueError(
            f"the checkpoint holds the states of {len(states)} parameter schedulers, this run has "
            f"{len(schedulers)}; resume with the same param_scheduler, or load_from the weights only"
        )
    for scheduler, state in zip(schedulers, states, strict=True):
        scheduler.load_state_dict(state)


def revised(state_dict: Mapping[str, Any], revise_keys: ReviseKeys) -> dict[str, Any]:
    """Return a state dict with ``(pattern, replacement)`` pairs applied to its keys."""
    result = dict(state_dict)
    for pattern, replacement in revise_keys:
        result = {re.sub(pattern, replacement, key): value for key, value in result.items()}
    return result
