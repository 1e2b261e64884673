"""The runner: one object that builds what a run needs, runs it, and saves and resumes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeAlias

from torch import nn
from torch.utils.data import DataLoader

from mmx._engine_name import engine_name
from mmx.checkpoint import find_latest_checkpoint, unwrap
from mmx.config import Config
from mmx.device import get_device
from mmx.dist import data_share, get_rank, get_world_size, master_only, share_failure
from mmx.evaluator import BaseMetric, Evaluator
from mmx.hooks.hook import Hook
from mmx.hooks.priority import Priority, get_priority
from mmx.logging import MessageHub, MMLogger
from mmx.model import is_model_wrapper
from mmx.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from mmx.optim import OptimWrapperDict
from mmx.optim.optimizer.base import BaseOptimWrapper
from mmx.registry import (
    RUNNERS,
    STRATEGIES,
    DefaultScope,
    adjust_runner_spec,
    config_path,
    configure_plugins,
    plugin_default_hooks,
)
from mmx.runner import builders, checkpointing, spec
from mmx.runner.base_loop import BaseLoop
from mmx.runner.dispatch import Dispatch, HookCaller, HookList, warn_of_misspelled_stages
from mmx.runner.eval_loops import TestLoop, ValLoop
from mmx.runner.log_processor import LogProcessor
from mmx.runner.signals import signals_stop
from mmx.runner.state import RunStopped, TrainState
from mmx.runner.train_loops import EpochBasedTrainLoop as EpochBasedTrainLoop
from mmx.runner.train_loops import IterBasedTrainLoop as IterBasedTrainLoop
from mmx.strategy import BaseStrategy, building
from mmx.strategy.activation_checkpointing import turn_on_activation_checkpointing
from mmx.strategy.base import STRIP_WRAPPER
from mmx.strategy.environment import (
    describe_environment,
    set_random_seed,
    setup_process,
    shared_timestamp,
)
from mmx.utils import mkdir_or_exist
from mmx.utils.errors import InvalidTypeError, InvalidValueError
from mmx.visualization import Visualizer

ConfigType: TypeAlias = Mapping[str, Any] | Config
ReviseKeys = list[tuple[str, str]]

# Loops that keep their counters where they are read quickest.
_STANDARD_LOOPS = frozenset((EpochBasedTrainLoop, IterBasedTrainLoop))


@RUNNERS.register_module()
class Runner(HookCaller):
    """Trains, validates and tests a model with parts that it builds from configuration.

    Parts are given as objects or as dicts. Model, logger, visualizer and hooks are made at once;
    loops, data loaders, optimizer and evaluators when :meth:`train`, :meth:`val` or :meth:`test`
    needs them, so that a config for training serves for testing as well. All arguments are copied
    and checked before anything is built.

    Args:
        model: The model, or a dict to build it from.
        work_dir: Where checkpoints go; logs go into a folder in it named by the time.
        train_dataloader: Loader of the training data, or a dict. None if there is no training.
        val_dataloader: The same for validation; or a dict name -> loader for several sets, whose
            metrics then carry the set's name, ``name/metric``.
        test_dataloader: The same for the test.
        train_cfg: A loop, or its arguments: ``by_epoch=True, max_epochs=...``,
            ``by_epoch=False, max_iters=...`` or ``type=...``; also ``val_begin``,
            ``val_interval``, ``dynamic_intervals``.
        val_cfg: A loop or its arguments, ``dict()`` for the usual one; ``fp16=True`` validates in
            mixed precision, ``with_loss=True`` also reports the losses.
        test_cfg: The same for the test.
        auto_scale_lr: ``dict(base_batch_size=..., enable=True)`` scales the learning rate by how
            much larger the batches (over all ranks) are than ``base_batch_size``.
        optim_wrapper: An optimizer wrapper, or a dict with ``optimizer``.
        param_scheduler: Schedulers of learning rate and momentum, or dicts.
        val_evaluator: Evaluator of the validation, or what to build it from.
        test_evaluator: Evaluator of the test.
        default_hooks: Changes to the default hooks: name -> hook or dict, None leaves one out.
            They are ``runtime_info``, ``timer``, ``sampler_seed``, ``logger``,
            ``param_scheduler`` and ``checkpoint``.
        custom_hooks: Further hooks.
        data_preprocessor: Becomes the model's ``data_preprocessor`` if the model is a dict that
            has none.
        load_from: Checkpoint whose weights are loaded; with ``resume`` the one to resume from.
        resume: Resume the run from ``load_from``, or else from the latest checkpoint in
            ``work_dir``.
        launcher: ``'none'``, or what started the processes of this run: ``'pytorch'``,
            ``'slurm'`` or ``'mpi'``.
        env_cfg: ``cudnn_benchmark``, ``mp_cfg`` (of data workers), ``dist_cfg`` (with
            ``backend``), ``resource_limit``.
        log_processor: Formats log lines.
        log_level: Level of the log's handlers; ``'DEBUG'`` also tells what is built.
        visualizer: Where scalars and pictures go; by default local files.
        default_scope: Scope in which names without a scope are looked up. Default: the engine's own.
        randomness: ``seed`` (None draws one), ``diff_rank_seed``, ``deterministic``.
        experiment_name: Name of the run; the time is appended.
        cfg: The full config, for the log, the checkpoints, and the keys ``compile``,
            ``model_wrapper_cfg``, ``sync_bn`` and ``find_unused_parameters``.
        strategy: How the model is placed, wrapped and saved: a strategy or a dict. By default
            distributed data parallel with a launcher, a single device without.

    Raises:
        ValueError: Arguments contradict each other.
        TypeError: An argument has the wrong type.
    """

    cfg: Config
    # Any class the user chose: loops ask it for train_step and the like.
    model: Any
    _train_loop: BaseLoop | dict[str, Any] | None
    _val_loop: BaseLoop | dict[str, Any] | None
    _test_loop: BaseLoop | dict[str, Any] | None

    def __init__(
        self,
        model: nn.Module | dict[str, Any],
        work_dir: str,
        train_dataloader: DataLoader[Any] | dict[str, Any] | None = None,
        val_dataloader: DataLoader[Any] | dict[str, Any] | None = None,
        test_dataloader: DataLoader[Any] | dict[str, Any] | None = None,
        train_cfg: dict[str, Any] | None = None,
        val_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        auto_scale_lr: dict[str, Any] | None = None,
        optim_wrapper: BaseOptimWrapper | dict[str, Any] | None = None,
        param_scheduler: Any = None,
        val_evaluator: Evaluator | BaseMetric | dict[str, Any] | list[Any] | None = None,
        test_evaluator: Evaluator | BaseMetric | dict[str, Any] | list[Any] | None = None,
        default_hooks: dict[str, Any] | None = None,
        custom_hooks: list[Any] | None = None,
        data_preprocessor: nn.Module | dict[str, Any] | None = None,
        load_from: str | None = None,
        resume: bool = False,
        launcher: str = "none",
        env_cfg: dict[str, Any] | None = None,
        log_processor: LogProcessor | dict[str, Any] | None = None,
        log_level: int | str = "INFO",
        visualizer: Visualizer | dict[str, Any] | None = None,
        default_scope: str | None = None,
        randomness: dict[str, Any] | None = None,
        experiment_name: str | None = None,
        cfg: ConfigType | None = None,
        strategy: BaseStrategy | dict[str, Any] | None = None,
    ) -> None:
        env_cfg = dict(spec.copied(env_cfg)) if env_cfg else {"dist_cfg": {"backend": "nccl"}}
        randomness = dict(randomness) if randomness else {"seed": None}
        self.cfg = spec.as_config(cfg)
        configure_plugins(self.cfg.get("plugins"))
        # Copied before plugins, which may adjust it, see it: what the caller gave stays as it was.
        arguments: dict[str, Any] = {
            "model": model,
            "train_dataloader": train_dataloader,
            "val_dataloader": val_dataloader,
            "test_dataloader": test_dataloader,
            "train_cfg": train_cfg,
            "val_cfg": val_cfg,
            "test_cfg": test_cfg,
            "auto_scale_lr": auto_scale_lr,
            "optim_wrapper": optim_wrapper,
            "param_scheduler": param_scheduler,
            "val_evaluator": val_evaluator,
            "test_evaluator": test_evaluator,
            "default_hooks": default_hooks,
            "custom_hooks": custom_hooks,
            "data_preprocessor": data_preprocessor,
            "randomness": randomness,
            "load_from": load_from,
            "resume": resume,
            "log_processor": log_processor,
            "visualizer": visualizer,
            "strategy": strategy,
        }
        arguments = {name: spec.copied(value) for name, value in arguments.items()}
        adjust_runner_spec(arguments)
        spec.check({**arguments, "launcher": launcher, "cfg": cfg})
        self._work_dir = os.path.abspath(os.path.expanduser(os.fspath(work_dir)))
        mkdir_or_exist(self._work_dir)

        self._state = TrainState()
        self._train_dataloader = arguments["train_dataloader"]
        self._train_loop = arguments["train_cfg"]
        self.optim_wrapper: Any = arguments["optim_wrapper"]
        self.auto_scale_lr = arguments["auto_scale_lr"]
        self.param_schedulers: Any = arguments["param_scheduler"]
        self._val_dataloader = arguments["val_dataloader"]
        self._val_loop = arguments["val_cfg"]
        self._val_evaluator = arguments["val_evaluator"]
        self._test_dataloader = arguments["test_dataloader"]
        self._test_loop = arguments["test_cfg"]
        self._test_evaluator = arguments["test_evaluator"]
        self._load_from = arguments["load_from"]
        self._resume = arguments["resume"]
        self._has_loaded = False
        # True between the hooks' before_run and after_run: what begins is always brought to an end.
        self._is_running = False

        self._launcher = launcher
        self._distributed = launcher != "none"
        self._env_cfg = env_cfg
        self._prepare_environment(env_cfg, randomness)
        self._name_experiment(experiment_name)
        self._log_dir = os.path.join(self._work_dir, self._timestamp)
        mkdir_or_exist(self._log_dir)
        if default_scope is None:
            default_scope = engine_name()
        self.default_scope = DefaultScope.get_instance(
            self._instance_name, scope_name=default_scope
        )

        with DefaultScope.overwrite_default_scope(default_scope):
            self.log_processor = self.build_log_processor(arguments["log_processor"] or {})
            self.logger = self.build_logger(log_level=log_level)
            self._log_env(env_cfg)
            self.message_hub = self.build_message_hub()
            self.visualizer = self.build_visualizer(arguments["visualizer"])
            self.strategy = self.build_strategy(arguments["strategy"])
            with config_path("model", self.cfg.filename):
                self.model = self._prepare_model(arguments["model"], arguments["data_preprocessor"])
            self._dispatch = Dispatch()
            self._hooks = []
            self.register_hooks(arguments["default_hooks"], arguments["custom_hooks"])
            for hook in plugin_default_hooks(arguments):
                self.register_hook(hook)
            self.logger.info(
                f"Hooks will be executed in the following order:\n{self.get_hooks_info()}"
            )
        self.dump_config()

    def _prepare_environment(self, env_cfg: dict[str, Any], randomness: dict[str, Any]) -> None:
        if is_overridden_without_arguments(self.setup_env):
            self.setup_env()  # type: ignore[call-arg]  # a subclass that needs no config
        else:
            self.setup_env(env_cfg)
        self._rank, self._world_size = get_rank(), get_world_size()
        if not hasattr(self, "_timestamp"):
            self._timestamp = shared_timestamp()
        self._randomness_cfg = randomness
        self.set_randomness(**randomness)

    def _name_experiment(self, experiment_name: str | None) -> None:
        if experiment_name is not None:
            self._experiment_name = f"{experiment_name}_{self._timestamp}"
        elif self.cfg.filename is not None:
            stem = os.path.splitext(os.path.basename(self.cfg.filename))[0]
            self._experiment_name = f"{stem}_{self._timestamp}"
        else:
            self._experiment_name = self._timestamp
        # Two runners of one process may be made in the same second. They must not share their
        # logger, message hub and visualizer, which are found by name.
        name, number = self._experiment_name, 1
        while any(kind.check_instance_created(name) for kind in (MessageHub, MMLogger, Visualizer)):
            number += 1
            name = f"{self._experiment_name}_{number}"
        self._experiment_name = self._instance_name = name

    def _prepare_model(self, model: Any, data_preprocessor: Any) -> nn.Module:
        if isinstance(model, Mapping):
            model = spec.copied(model)
            if data_preprocessor is not None:
                model.setdefault("data_preprocessor", spec.copied(data_preprocessor))
        built = self.build_model(model)
        self._model_name = type(unwrap(built)).__name__
        return self.wrap_model(self.cfg.get("model_wrapper_cfg"), built)

    @classmethod
    def from_cfg(cls, cfg: ConfigType) -> Runner:
        """Build a runner from a config, whose keys are the arguments of the class.

        The config is copied. A key that looks like a misspelled argument is warned about.
        """
        if not isinstance(cfg, Mapping | Config):
            raise InvalidTypeError(
                f"cfg should be a Config or a dict, but got {type(cfg).__name__}"
            )
        absent = [name for name in ("model", "work_dir") if name not in cfg]
        if absent:
            raise MissingKeyError(
                f"the config has no {' and no '.join(map(repr, absent))}, which a runner needs"
            )
        full = spec.as_config(cfg)
        spec.warn_of_unknown_keys(full._cfg_dict)
        extra = {"strategy": full["strategy"]} if full.get("strategy") is not None else {}
        return cls(
            model=full["model"],
            work_dir=full["work_dir"],
            train_dataloader=full.get("train_dataloader"),
            val_dataloader=full.get("val_dataloader"),
            test_dataloader=full.get("test_dataloader"),
            train_cfg=full.get("train_cfg"),
            val_cfg=full.get("val_cfg"),
            test_cfg=full.get("test_cfg"),
            auto_scale_lr=full.get("auto_scale_lr"),
            optim_wrapper=full.get("optim_wrapper"),
            param_scheduler=full.get("param_scheduler"),
            val_evaluator=full.get("val_evaluator"),
            test_evaluator=full.get("test_evaluator"),
            default_hooks=full.get("default_hooks"),
            custom_hooks=full.get("custom_hooks"),
            data_preprocessor=full.get("data_preprocessor"),
            load_from=full.get("load_from"),
            resume=full.get("resume", False),
            launcher=full.get("launcher", "none"),
            env_cfg=full.get("env_cfg"),
            log_processor=full.get("log_processor"),
            log_level=full.get("log_level", "INFO"),
            visualizer=full.get("visualizer"),
            default_scope=full.get("default_scope"),
            randomness=full.get("randomness"),
            experiment_name=full.get("experiment_name"),
            cfg=full,
            **extra,
        )

    # What it is -----------------------------------------------------------------------------

    @property
    def experiment_name(self) -> str:
        """Name of the run: as given, or the config file's, with the time stamp."""
        return self._experiment_name

    @property
    def model_name(self) -> str:
        """Name of the model's class."""
        return self._model_name

    @property
    def work_dir(self) -> str:
        """Directory of the run's checkpoints, absolute."""
        return self._work_dir

    @property
    def log_dir(self) -> str:
        """Directory of the run's logs: the time stamp's folder in :attr:`work_dir`."""
        return self._log_dir

    @property
    def max_epochs(self) -> int:
        """Epochs to train, 0 without training."""
        loop = self.train_loop
        return 0 if loop is None else loop.max_epochs  # type: ignore[attr-defined]

    @property
    def max_iters(self) -> int:
        """Iterations to train, 0 without training."""
        loop = self.train_loop
        return 0 if loop is None else loop.max_iters  # type: ignore[attr-defined]

    @property
    def epoch(self) -> int:
        """Finished epochs; inside ``after_train_epoch`` the 0-based number of the current one."""
        loop = self._train_loop
        return 0 if loop is None or isinstance(loop, dict) else getattr(loop, "epoch", 0)

    @property
    def train_state(self) -> TrainState | None:
        """The counters of the training loop; None if it is not built yet or counts by itself."""
        return self._state if self._train_loop.__class__ in _STANDARD_LOOPS else None

    @property
    def iter(self) -> int:
        """Finished iterations; inside ``after_train_iter`` the 0-based number of the current one."""
        loop: Any = self._train_loop
        if loop.__class__ in _STANDARD_LOOPS:  # asked several times in each iteration
            return loop._state.iter
        return 0 if loop is None or isinstance(loop, dict) else getattr(loop, "iter", 0)

    @property
    def launcher(self) -> str:
        """What started the processes of this run."""
        return self._launcher

    @property
    def distributed(self) -> bool:
        """Whether the run has a launcher, and so may have several processes."""
        return self._distributed

    @property
    def rank(self) -> int:
        """Number of this process, 0-based."""
        return self._rank

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self._world_size

    @property
    def deterministic(self) -> bool:
        """Whether only deterministic algorithms are used."""
        return self._deterministic

    @property
    def seed(self) -> int:
        """The seed, drawn if none was given."""
        return self._seed

    @property
    def timestamp(self) -> str:
        """When the runner was made, ``YYYYMMDD_hhmmss``; the same on every rank."""
        return self._timestamp

    @property
    def hooks(self) -> list[Hook]:
        """The registered hooks in order of priority."""
        return self._hooks

    @property
    def _hooks(self) -> list[Hook]:
        return self._hook_list

    @_hooks.setter
    def _hooks(self, hooks: Iterable[Hook]) -> None:
        # Projects replace and change this list between the stages of a run.
        self._hook_list = HookList(hooks, self._dispatch.rebuild)
        self._dispatch.rebuild(self._hook_list)

    @property
    def train_loop(self) -> BaseLoop | None:
        """The training loop, built on first use."""
        if not isinstance(self._train_loop, BaseLoop) and self._train_loop is not None:
            self._train_loop = self.build_train_loop(self._train_loop)
        return self._train_loop

    @property
    def val_loop(self) -> BaseLoop | None:
        """The validation loop, built on first use."""
        if not isinstance(self._val_loop, BaseLoop) and self._val_loop is not None:
            self._val_loop = self.build_val_loop(self._val_loop)
        return self._val_loop

    @property
    def test_loop(self) -> BaseLoop | None:
        """The test loop, built on first use."""
        if not isinstance(self._test_loop, BaseLoop) and self._test_loop is not None:
            self._test_loop = self.build_test_loop(self._test_loop)
        return self._test_loop

    @property
    def train_dataloader(self) -> Any:
        """The training data loader, built on first use; None without training."""
        return getattr(self.train_loop, "dataloader", None)

    @property
    def val_dataloader(self) -> Any:
        """The validation data loader (of several sets the one that is running)."""
        return getattr(self.val_loop, "dataloader", None)

    @property
    def test_dataloader(self) -> Any:
        """The test data loader (of several sets the one that is running)."""
        return getattr(self.test_loop, "dataloader", None)

    @property
    def val_evaluator(self) -> Any:
        """The evaluator of the validation."""
        return getattr(self.val_loop, "evaluator", None)

    @property
    def test_evaluator(self) -> Any:
        """The evaluator of the test."""
        return getattr(self.test_loop, "evaluator", None)

    @property
    def val_interval(self) -> int | None:
        """How many epochs or iterations lie between validations, None without training."""
        return getattr(self.train_loop, "val_interval", None)

    @property
    def val_begin(self) -> int | None:
        """First epoch or iteration after which validation runs, None without training."""
        return getattr(self.train_loop, "val_begin", None)

    # Environment ----------------------------------------------------------------------------

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Prepare this process: cuDNN, data workers, process group, open-file limit.

        Args:
            env_cfg: As for the class.
        """
        known = {
            k: v
            for k, v in env_cfg.items()
            if k in ("cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit")
        }
        setup_process(self._launcher, **known)
        self._timestamp = shared_timestamp()

    def set_randomness(
        self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        """Seed all random number generators.

        Args:
            seed: The seed; None draws one, the same on every rank.
            diff_rank_seed: Add the rank to the seed.
            deterministic: Use deterministic algorithms only.
        """
        self._deterministic = deterministic
        self._seed = set_random_seed(
            seed=seed, deterministic=deterministic, diff_rank_seed=diff_rank_seed
        )

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        _, _, text = describe_environment(self._seed, self._launcher, env_cfg)
        self.logger.info(text)
        if self.cfg._cfg_dict:
            self.logger.info(f"Config:\n{self.cfg.pretty_text}")

    # Building -------------------------------------------------------------------------------

    def build_logger(
        self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any
    ) -> MMLogger:
        """Return the run's logger.

        Args:
            log_level: Level of its handlers.
            log_file: Where it writes; by default ``<log_dir>/<timestamp>.log``.
            **kwargs: Further arguments of :class:`~mmx.logging.MMLogger`.
        """
        if log_file is None:
            log_file = os.path.join(self._log_dir, f"{self._timestamp}.log")
        options = {"log_level": log_level, "log_file": log_file, "file_mode": "a", **kwargs}
        options.setdefault("name", self._instance_name)
        options.setdefault("other_ranks_level", "WARNING")
        return MMLogger.get_instance(**options)

    def build_message_hub(self, message_hub: dict[str, Any] | None = None) -> MessageHub:
        """Return the run's message hub.

        Args:
            message_hub: Its arguments; ``name`` defaults to the experiment's.
        """
        if message_hub is not None and not isinstance(message_hub, Mapping):
            raise InvalidTypeError(f"message_hub should be a dict or None, but got {message_hub!r}")
        return MessageHub.get_instance(**{"name": self._instance_name, **(message_hub or {})})

    def build_visualizer(self, visualizer: Visualizer | dict[str, Any] | None = None) -> Visualizer:
        """Return the run's visualizer; by default one that writes to local files."""
        return builders.build_visualizer(visualizer, self._instance_name, self._log_dir)

    def build_strategy(self, strategy: BaseStrategy | dict[str, Any] | None = None) -> BaseStrategy:
        """Return the run's strategy.

        Args:
            strategy: A strategy or a dict. None, or a dict without ``type``, takes distributed
                data parallel where there is a launcher and a single device otherwise.
        """
        if isinstance(strategy, BaseStrategy):
            return strategy
        if strategy is not None and not isinstance(strategy, Mapping):
            raise InvalidTypeError(
                f"strategy should be a strategy object or a dict, but got {strategy!r}"
            )
        given = dict(spec.copied(strategy or {}))
        if "type" not in given:
            given["type"] = "DDPStrategy" if self._distributed else "SingleDeviceStrategy"
            if self._distributed:
                given.setdefault("sync_bn", self.cfg.get("sync_bn"))
                given.setdefault(
                    "model_wrapper",
                    {"find_unused_parameters": self.cfg.get("find_unused_parameters", False)},
                )
        shared = {
            "shared": True,
            "launcher": self._launcher,
            "timestamp": self._timestamp,
            "randomness": self._randomness_cfg,
            "seed": self._seed,
        }
        built: BaseStrategy = STRATEGIES.build(
            given, default_args={"work_dir": self._work_dir, "env_kwargs": shared}
        )
        built.logger = self.logger
        return built

    def build_model(self, model: nn.Module | dict[str, Any]) -> nn.Module:
        """Return the model, built if it is given as a dict."""
        return building.model_from(model)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Place the model on this process's device and wrap it.

        Args:
            model_wrapper_cfg: A registered wrapper and its arguments; None takes the strategy's.
            model: The model.

        Raises:
            TypeError: The model is wrapped already, and ``model_wrapper_cfg`` is given.
        """
        if is_model_wrapper(model):
            if model_wrapper_cfg is not None:
                raise InvalidTypeError(
                    'model has been wrapped and "model_wrapper_cfg" should be None, '
                    f"but got {model_wrapper_cfg!r}"
                )
            return model
        return self.strategy.wrap_model(self.strategy.convert_model(model), model_wrapper_cfg)

    def _init_model_weights(self) -> None:
        self.strategy._init_model_weights(self.model)

    def build_optim_wrapper(self, optim_wrapper: Any) -> BaseOptimWrapper | OptimWrapperDict:
        """Return the optimizer wrapper, built for the model if it is given as a dict.

        A dict holds ``optimizer`` (a dict or a built one) or ``constructor``; or it maps names to
        built optimizer wrappers, for several optimizers.
        """
        return self.strategy.build_optim_wrapper(optim_wrapper, self.model)

    def build_param_scheduler(self, scheduler: Any) -> building.Schedulers:
        """Return the parameter schedulers of :attr:`optim_wrapper`.

        Args:
            scheduler: A scheduler or a dict, or a list of these; for several optimizers also a
                dict name -> one of these.

        Returns:
            A list, or for several optimizers a dict name -> list.

        Raises:
            RuntimeError: The optimizer wrapper has not been built.
        """
        if not isinstance(self.optim_wrapper, BaseOptimWrapper):
            raise NotYetBuiltError(
                "`build_optim_wrapper` should be called before `build_param_scheduler`, because "
                "the latter depends on the former"
            )
        return building.param_schedulers_from(scheduler, self.optim_wrapper, self._training_lengths)

    def _training_lengths(self) -> dict[str, Any]:
        if self._train_loop is None:
            return {}
        lengths = {"max_epochs": self.max_epochs, "max_iters": self.max_iters}
        if hasattr(self.train_dataloader, "__len__"):
            with suppress(TypeError):  # a loader of an iterable data set has no length
                lengths["epoch_length"] = len(self.train_dataloader)
        return lengths

    def scale_lr(
        self, optim_wrapper: BaseOptimWrapper, auto_scale_lr: dict[str, Any] | None = None
    ) -> None:
        """Scale the learning rate by how much larger the batches are than it was chosen for.

        Args:
            optim_wrapper: A built optimizer wrapper.
            auto_scale_lr: ``dict(base_batch_size=..., enable=True)``.

        Raises:
            ValueError: ``base_batch_size`` is absent.
            RuntimeError: Parameter schedulers have been built, which remember the unscaled rate.
        """
        if not auto_scale_lr or not auto_scale_lr.get("enable", False):
            return
        if "base_batch_size" not in auto_scale_lr:
            raise InvalidValueError("Lack of `base_batch_size` in `auto_scale_lr`.")
        if is_built(self.param_schedulers):
            raise RuntimeError(
                "`scale_lr` should be called before building ParamScheduler because "
                "ParamScheduler will store initial lr from optimizer wrappers"
            )
        if not isinstance(optim_wrapper, BaseOptimWrapper):
            raise InvalidTypeError(
                "`scale_lr` should be called after building OptimWrapper, "
                f"but got {type(optim_wrapper).__name__}"
            )
        loader: Any = self._train_dataloader
        size = (
            loader["batch_size"]
            if isinstance(loader, Mapping) and "batch_size" in loader
            else self.train_dataloader.batch_size
        )
        _, shares = data_share(self._rank, self._world_size)
        building.scale_learning_rate(optim_wrapper, auto_scale_lr["base_batch_size"], size, shares)

    def build_evaluator(
        self, evaluator: dict[str, Any] | list[Any] | BaseMetric | Evaluator
    ) -> Evaluator:
        """Return an evaluator.

        Args:
            evaluator: An evaluator; a metric or a metric's dict; a list of these; or an
                evaluator's dict, with ``metrics`` and perhaps ``type``.
        """
        return builders.build_evaluator(evaluator)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader[Any] | dict[str, Any],
        seed: int | None = None,
        diff_rank_seed: bool = False,
    ) -> Any:
        """Return a data loader.

        Args:
            dataloader: A data loader, or a dict: ``dataset`` (an object or a dict), ``sampler``
                or ``batch_sampler`` (dicts), ``collate_fn`` and ``worker_init_fn`` (functions or
                dicts), ``num_batch_per_epoch`` (only so many batches), and arguments of
                :class:`torch.utils.data.DataLoader`.
            seed: Seed of sampler and workers.
            diff_rank_seed: The ranks' seeds differ.
        """
        return builders.build_dataloader(dataloader, seed, diff_rank_seed)

    def build_log_processor(self, log_processor: LogProcessor | dict[str, Any]) -> LogProcessor:
        """Return a log processor, built if it is given as a dict."""
        return builders.build_log_processor(log_processor)

    def build_train_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """Return the training loop; a dict without ``type`` says ``by_epoch``."""
        return builders.build_train_loop(loop, runner=self, dataloader=self._train_dataloader)

    def build_val_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """Return the validation loop; by default a :class:`~mmx.runner.ValLoop`."""
        return builders.build_eval_loop(
            loop,
            ValLoop,
            "val_cfg",
            runner=self,
            dataloader=self._val_dataloader,
            evaluator=self._val_evaluator,
        )

    def build_test_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """Return the test loop; by default a :class:`~mmx.runner.TestLoop`."""
        return builders.build_eval_loop(
            loop,
            TestLoop,
            "test_cfg",
            runner=self,
            dataloader=self._test_dataloader,
            evaluator=self._test_evaluator,
        )

    def _maybe_compile(self, target: str) -> None:
        """Compile the model if the config's key ``compile`` asks for it."""
        self.strategy.compile_model(self.model, self.cfg.get("compile", False))

    def _change_forward(self) -> None:
        """Change how named parts compute, as the config's keys for it ask; names and weights stay."""
        for key, turn_on in (
            ("activation_checkpointing", turn_on_activation_checkpointing),
            ("efficient_conv_bn_eval", turn_on_efficient_conv_bn_eval),
        ):
            modules = self.cfg.get(key)
            if modules:
                self.logger.info(f'Enabling the "{key}" feature for sub-modules: {modules}')
                turn_on(unwrap(self.model), modules)

    # Hooks ----------------------------------------------------------------------------------

    def register_hook(
        self, hook: Hook | dict[str, Any], priority: str | int | Priority | None = None
    ) -> None:
        """Add a hook after those of higher or equal priority.

        Args:
            hook: A hook or a dict; the dict's ``priority`` replaces the class's.
            priority: Replaces both.
        """
        own = None
        if isinstance(hook, Mapping):
            hook = dict(hook)
            own = hook.pop("priority", None)
        built = builders.build_hook(hook)
        for choice in (priority, own):
            if choice is not None:
                built.priority = choice
                break
        level = get_priority(built.priority)
        position = len(self._hooks)
        while position and get_priority(self._hooks[position - 1].priority) > level:
            position -= 1
        warn_of_misspelled_stages(built)
        self._hooks.insert(position, built)

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """Add the default hooks.

        Args:
            hooks: Name -> hook or dict that replaces or joins them; None leaves that one out.
        """
        chosen = {**spec.copied(builders.DEFAULT_HOOKS), **(hooks or {})}
        for name, hook in chosen.items():
            if hook is not None:
                with config_path(f"default_hooks.{name}", self.cfg.filename):
                    self.register_hook(hook)

    def register_custom_hooks(self, hooks: list[Hook | dict[str, Any]]) -> None:
        """Add further hooks, in their order."""
        for index, hook in enumerate(hooks):
            with config_path(f"custom_hooks.{index}", self.cfg.filename):
                self.register_hook(hook)

    def register_hooks(
        self,
        default_hooks: dict[str, Any] | None = None,
        custom_hooks: list[Any] | None = None,
    ) -> None:
        """Add the default hooks and then further ones."""
        self.register_default_hooks(default_hooks)
        if custom_hooks is not None:
            self.register_custom_hooks(custom_hooks)

    def get_hooks_info(self) -> str:
        """Return, for each stage, which hooks run in which order."""
        names = {priority.value: priority.name for priority in Priority}

        def priority_of(hook: Hook) -> str:
            level = get_priority(hook.priority)
            return names.get(level, str(level))

        return builders.describe_hooks(self._hooks, priority_of)

    # Running --------------------------------------------------------------------------------

    def train(self) -> nn.Module:
        """Train, and return the model.

        SIGTERM and SIGINT end training after the current step, with a checkpoint; see
        ``docs/runner.md``.

        Raises:
            RuntimeError: The runner has no training arguments.
        """
        self._need_step("train")
        with self._running(stops=True):
            self._train_loop = self.build_train_loop(self._need("train"))
            self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
            loader = getattr(self._train_loop, "dataloader", None)
            size = getattr(loader, "batch_size", None)
            if size is not None:
                self.strategy.dispatch_kwargs["train_micro_batch_size_per_gpu"] = size
            self.model = self.strategy.join(self.model, self.optim_wrapper)
            self.scale_lr(self.optim_wrapper, self.auto_scale_lr)
            if self.param_schedulers is not None:
                self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
            if self._val_loop is not None:
                self._need_step("val")
                self._val_loop = self.build_val_loop(self._val_loop)
            self._begin_run()
            if not self._has_loaded:
                # Weights that were loaded or trained before stay.
                self._init_model_weights()
            self._change_forward()
            self.load_or_resume()
            checkpointing.begin_accumulation(self)
            self._maybe_compile("train_step")
            model: nn.Module = self._train_loop.run()
            self._end_run()
        return model

    def val(self) -> dict[str, Any]:
        """Validate, and return the metrics.

        Raises:
            RuntimeError: The runner has no validation arguments.
        """
        return self._evaluate("val")

    def test(self) -> dict[str, Any]:
        """Test, and return the metrics.

        Raises:
            RuntimeError: The runner has no test arguments.
        """
        return self._evaluate("test")

    def _evaluate(self, mode: str) -> dict[str, Any]:
        loop: Any = self._need(mode)
        self._need_step(mode)
        with self._running(stops=False):
            if mode == "val":
                loop = self._val_loop = self.build_val_loop(loop)
            else:
                loop = self._test_loop = self.build_test_loop(loop)
            self._begin_run()
            self.load_or_resume()
            self._maybe_compile(f"{mode}_step")
            metrics: dict[str, Any] = loop.run()
            self._end_run()
        return metrics

    def _need(self, mode: str) -> Any:
        loop = getattr(self, f"_{mode}_loop")
        if loop is None:
            last = "optim_wrapper" if mode == "train" else f"{mode}_evaluator"
            raise RuntimeError(
                f"`self._{mode}_loop` should not be None when calling {mode} method. Please "
                f"provide `{mode}_dataloader`, `{mode}_cfg` and `{last}` arguments when "
                "initializing runner."
            )
        return loop

    def _need_step(self, mode: str) -> None:
        if mode == "train":
            self._need(mode)
        model = unwrap(self.model)
        if not hasattr(model, f"{mode}_step"):
            raise NotImplementedByModelError(
                f"If you want to {'train' if mode == 'train' else mode} your model, please make "
                f"sure your model has implemented `{mode}_step`; {type(model).__name__} has not. "
                "Subclasses of mmx.model.BaseModel have it"
            )

    def _begin_run(self) -> None:
        self._dispatch.rebuild(self._hooks)
        self._is_running = True
        self.call_hook("before_run")
        if self.cfg._cfg_dict:
            self.visualizer.add_config(self.cfg)

    def _end_run(self) -> None:
        self._is_running = False
        self.call_hook("after_run")

    @contextmanager
    def _running(self, stops: bool) -> Iterator[None]:
        """Make this runner's scope, logger, hub and visualizer the current ones; always tear down.

        Args:
            stops: SIGTERM and SIGINT end the run after the current step, with a checkpoint.
        """
        with ExitStack() as stack:
            stack.enter_context(DefaultScope.overwrite_default_scope(self.default_scope.scope_name))
            for current in (self.logger, self.message_hub, self.visualizer):
                stack.enter_context(current.as_current())
            self._state.stop_signal = 0
            if stops:
                stack.enter_context(signals_stop(self._state, self.logger))
            try:
                yield
            except RunStopped as stop:
                self._tear_down(stop)
                checkpointing.save_on_stop(self)
                self._finish_hooks(stop)
                raise stop.ending() from None
            except BaseException as error:
                self._tear_down(error)
                # On every rank the same cause: a rank that waited for this one learns of it.
                shared = share_failure(error)
                self._finish_hooks(shared)
                if shared is not error:
                    raise shared from error
                raise

    def _tear_down(self, error: BaseException) -> None:
        """Note where the run was when it failed, and leave the stage it was in."""
        stage, self._state.stage = self._state.stage, None
        if not isinstance(error, RunStopped):
            where = f"epoch {self.epoch + 1}, iteration {self.iter + 1}"
            if stage is not None:
                where += f", hooks of {stage}"
            if self.iter or stage is not None:
                error.add_note(f"at {where} of the run {self._experiment_name}")

    def _finish_hooks(self, error: BaseException) -> None:
        """Call each hook's ``after_run``, whatever the others do."""
        if not self._is_running:
            return
        self._is_running = False
        for call in list(self._dispatch["after_run"]):
            try:
                call(self)
            except Exception as second:
                # The error that ended the run is the one to raise.
                self.logger.error(f"after the run had failed, {call!r} failed too", exc_info=second)
                error.add_note(f"after that, after_run of a hook failed: {second!r}")

    # Checkpoints ----------------------------------------------------------------------------

    def load_or_resume(self) -> None:
        """Load or resume as ``load_from`` and ``resume`` say; once per runner."""
        if self._has_loaded:
            return
        if self._resume:
            resume_from = self._load_from
            if resume_from is None:
                resume_from = find_latest_checkpoint(self._work_dir)
                if resume_from is not None:
                    self.logger.info(f"Auto resumed from the latest checkpoint {resume_from}.")
            if resume_from is not None:
                self.resume(resume_from)
                self._has_loaded = True
        elif self._load_from is not None:
            self.load_checkpoint(self._load_from)
            self._has_loaded = True

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable[..., Any] = "cpu",
        strict: bool = False,
        revise_keys: ReviseKeys = STRIP_WRAPPER,
    ) -> dict[str, Any]:
        """Load the weights of a checkpoint, and return the checkpoint.

        Args:
            filename: Path, URL or address like ``torchvision://resnet50``.
            map_location: As for ``torch.load``.
            strict: Raise if keys or shapes do not match; otherwise they are logged.
            revise_keys: ``(pattern, replacement)`` pairs for ``re.sub`` on each key.
        """
        return checkpointing.load(self, filename, map_location, strict, revise_keys)

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: str | Callable[..., Any] = "default",
    ) -> None:
        """Put the run back to where a checkpoint was saved.

        Training that goes on from there is equal, to the last bit, to training that was never
        stopped. Every rank must call.

        Args:
            filename: Path, URL or address.
            resume_optimizer: Also load the optimizer's state.
            resume_param_scheduler: Also load the parameter schedulers' states.
            map_location: As for ``torch.load``; ``'default'`` is this process's device.
        """
        if map_location == "default":
            map_location = get_device()
        resuming, self._resume = self._resume, True
        try:
            # Hooks look at this flag: an average is taken up on resume, and begun anew otherwise.
            checkpoint = self.load_checkpoint(filename, map_location=map_location)
        finally:
            self._resume = resuming
        checkpointing.resume(self, checkpoint, resume_optimizer, resume_param_scheduler)
        self._has_loaded = True
        self.logger.info(f"resumed epoch: {self.epoch}, iter: {self.iter}")

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict[str, Any] | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: dict[str, Any] | None = None,
        saver: Any = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Save the run: weights, and all that resuming needs. Every rank must call.

        Args:
            out_dir: Directory or address.
            filename: File name; ``{}`` stands for the epoch (or iteration).
            file_client_args: Old name of ``backend_args``.
            save_optimizer: Save the optimizer's state; without it the file cannot be resumed from.
            save_param_scheduler: Save the parameter schedulers' states.
            meta: Further entries of the checkpoint's ``meta``.
            by_epoch: Number the file by epoch, not by iteration, where the name has ``{}``.
            backend_args: Arguments of the file back end.
            saver: An :class:`~mmx.checkpoint.AsyncCheckpointSaver` to write in the background.
            then: Called when the file is durable; only with ``saver``.

        Raises:
            TypeError: ``meta`` is no dict.
        """
        checkpointing.save(
            self,
            out_dir,
            filename,
            file_client_args=file_client_args,
            save_optimizer=save_optimizer,
            save_param_scheduler=save_param_scheduler,
            meta=meta,
            by_epoch=by_epoch,
            backend_args=backend_args,
            saver=saver,
            then=then,
        )

    @master_only
    def dump_config(self) -> None:
        """Write the config into :attr:`work_dir`, under its file's name or the time stamp."""
        name = (
            os.path.basename(self.cfg.filename)
            if self.cfg.filename is not None
            else f"{self._timestamp}.py"
        )
        self.cfg.dump(os.path.join(self._work_dir, name))


class NotYetBuiltError(RuntimeError, AssertionError):
    """Something is built from a part that is not built yet."""


class NotImplementedByModelError(TypeError, AssertionError, AttributeError):
    """The model lacks the method that a loop calls."""


class MissingKeyError(KeyError, ValueError):
    """A config lacks a key that a runner needs."""

    def __str__(self) -> str:
        return str(self.args[0])


def is_built(schedulers: Any) -> bool:
    """Tell whether any of some parameter schedulers has been built."""
    from mmx.optim import _ParamScheduler

    if isinstance(schedulers, Mapping):
        return "type" not in schedulers and any(is_built(part) for part in schedulers.values())
    if isinstance(schedulers, list | tuple):
        return any(is_built(part) for part in schedulers)
    return isinstance(schedulers, _ParamScheduler)


def is_overridden_without_arguments(method: Callable[..., Any]) -> bool:
    """Tell whether a bound method takes no arguments at all."""
    import inspect

    return not inspect.signature(method).parameters
