"""The runner under the name and signature of MMEngine's second runner."""

from __future__ import annotations

from typing import Any

from torch import nn

from mmx.logging import MMLogger
from mmx.registry import RUNNERS
from mmx.runner.runner import Runner
from mmx.strategy import BaseStrategy


@RUNNERS.register_module()
class FlexibleRunner(Runner):
    """A :class:`~mmx.runner.Runner` whose argument ``strategy`` stands in the foreground.

    There is one runner; this adapter takes the order and the defaults of arguments that code for
    MMEngine's ``FlexibleRunner`` uses. See :class:`~mmx.runner.Runner` for what they mean.

    Args:
        launcher: None takes what the environment says (torchrun, slurm, mpi), or ``'none'``.
        compile: True or options of ``torch.compile``; otherwise the config's key ``compile``.
    """

    _logger: MMLogger

    def __init__(
        self,
        model: nn.Module | dict[str, Any],
        *,
        work_dir: str = "work_dirs",
        experiment_name: str | None = None,
        train_dataloader: Any = None,
        optim_wrapper: Any = None,
        param_scheduler: Any = None,
        train_cfg: dict[str, Any] | None = None,
        val_dataloader: Any = None,
        val_evaluator: Any = None,
        val_cfg: dict[str, Any] | None = None,
        test_dataloader: Any = None,
        test_evaluator: Any = None,
        test_cfg: dict[str, Any] | None = None,
        strategy: BaseStrategy | dict[str, Any] | None = None,
        auto_scale_lr: dict[str, Any] | None = None,
        default_hooks: dict[str, Any] | None = None,
        custom_hooks: list[Any] | None = None,
        data_preprocessor: nn.Module | dict[str, Any] | None = None,
        load_from: str | None = None,
        resume: bool = False,
        launcher: str | None = None,
        env_cfg: dict[str, Any] | None = None,
        log_processor: Any = None,
        log_level: int | str = "INFO",
        visualizer: Any = None,
        default_scope: str | None = None,
        randomness: dict[str, Any] | None = None,
        compile: bool | dict[str, Any] = False,
        cfg: Any = None,
    ) -> None:
        self._compile = compile
        super().__init__(
            model=model,
            work_dir=work_dir,
            train_dataloader=train_dataloader,
            val_dataloader=val_dataloader,
            test_dataloader=test_dataloader,
            train_cfg=train_cfg,
            val_cfg=val_cfg,
            test_cfg=test_cfg,
            auto_scale_lr=auto_scale_lr,
            optim_wrapper=optim_wrapper,
            param_scheduler=param_scheduler,
            val_evaluator=val_evaluator,
            test_evaluator=test_evaluator,
            default_hooks=default_hooks,
            custom_hooks=custom_hooks,
            data_preprocessor=data_preprocessor,
            load_from=load_from,
            resume=resume,
            launcher=_launcher_of_environment() if launcher is None else launcher,
            env_cfg=env_cfg,
            log_processor=log_processor,
            log_level=log_level,
            visualizer=visualizer,
            default_scope=default_scope,
            randomness=randomness,
            experiment_name=experiment_name,
            cfg=cfg,
            strategy=strategy,
        )

    @property
    def logger(self) -> MMLogger:
        """The run's logger."""
        return self._logger

    @logger.setter
    def logger(self, value: MMLogger) -> None:
        self._logger = value

    def build_strategy(
        self,
        strategy: BaseStrategy | dict[str, Any] | None = None,
        launcher: str | None = None,
        randomness: dict[str, Any] | None = None,
        env_cfg: dict[str, Any] | None = None,
        experiment_name: str | None = None,
        log_level: int | str | None = None,
    ) -> BaseStrategy:
        """Return the run's strategy.

        Args:
            strategy: A strategy or a dict.
            launcher: Accepted for the documented signature, like those that follow: the runner
                has prepared the process when the strategy is built.
            randomness: See ``launcher``.
            env_cfg: See ``launcher``.
            experiment_name: See ``launcher``.
            log_level: See ``launcher``.
        """
        return super().build_strategy(strategy)

    def _maybe_compile(self, target: str) -> None:
        self.strategy.compile_model(self.model, self._compile or self.cfg.get("compile", False))


def _launcher_of_environment() -> str:
    from mmx.dist import infer_launcher

    return infer_launcher()
