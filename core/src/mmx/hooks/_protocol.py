"""What a hook may count on of the runner that calls it."""

from __future__ import annotations

from typing import Any, Protocol


class RunnerLike(Protocol):
    """The part of the runner that hooks use.

    Hooks stand below the runner, so they name no class of it. Parts whose class the user
    chooses (loops, loaders, model) are ``Any``.
    """

    model: Any
    optim_wrapper: Any
    param_schedulers: Any
    logger: Any
    message_hub: Any
    visualizer: Any
    log_processor: Any
    cfg: Any

    @property
    def epoch(self) -> int: ...
    @property
    def iter(self) -> int: ...
    @property
    def train_state(self) -> Any: ...
    @property
    def max_epochs(self) -> Any: ...
    @property
    def max_iters(self) -> Any: ...
    @property
    def work_dir(self) -> str: ...
    @property
    def log_dir(self) -> str: ...
    @property
    def timestamp(self) -> str: ...
    @property
    def experiment_name(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def hooks(self) -> list[Any]: ...
    @property
    def train_loop(self) -> Any: ...
    @property
    def val_loop(self) -> Any: ...
    @property
    def test_loop(self) -> Any: ...
    @property
    def train_dataloader(self) -> Any: ...
    @property
    def val_dataloader(self) -> Any: ...
    @property
    def test_dataloader(self) -> Any: ...
    @property
    def val_evaluator(self) -> Any: ...
    @property
    def test_evaluator(self) -> Any: ...
    def call_hook(self, fn_name: str, **kwargs: Any) -> None: ...
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
    ) -> Any: ...
