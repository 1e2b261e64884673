"""The base class of hooks: every stage that a run calls, and the questions hooks ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike
    from mmx.hooks.priority import Priority

DATA_BATCH = dict[Any, Any] | tuple[Any, ...] | list[Any] | None

# What one generic method stands for: overriding `_before_iter` overrides three stages.
_GENERIC_METHODS = {
    "_before_epoch": ("before_train_epoch", "before_val_epoch", "before_test_epoch"),
    "_after_epoch": ("after_train_epoch", "after_val_epoch", "after_test_epoch"),
    "_before_iter": ("before_train_iter", "before_val_iter", "before_test_iter"),
    "_after_iter": ("after_train_iter", "after_val_iter", "after_test_iter"),
}


class Hook:
    """Base class of hooks: methods that the runner calls at fixed points of a run.

    Override the methods of the stages that matter; the runner calls only those that a hook
    really overrides, so that an empty stage costs nothing. A loop of one's own may call further
    points, ``runner.call_hook('before_valloader2_iter', ...)``: a hook takes part by having a
    method of that name.

    A hook that counts or remembers something may define ``state_dict() -> dict`` (plain data and
    tensors) and ``load_state_dict(state)``. Both are optional; the runner saves the state in each
    checkpoint under the hook's class name and gives it back on resume.

    Attributes:
        priority: Default place among the hooks of a stage: a number from 0 (first) to 100, a
            member of :class:`~mmx.hooks.priority.Priority` or its name.
        stages: All stages, in the order of a run.
    """

    priority: int | str | Priority = "NORMAL"

    stages = (
        "before_run",
        "after_load_checkpoint",
        "before_train",
        "before_train_epoch",
        "before_train_iter",
        "after_train_iter",
        "after_train_epoch",
        "before_val",
        "before_val_epoch",
        "before_val_iter",
        "after_val_iter",
        "after_val_epoch",
        "after_val",
        "before_save_checkpoint",
        "after_train",
        "before_test",
        "before_test_epoch",
        "before_test_iter",
        "after_test_iter",
        "after_test_epoch",
        "after_test",
        "after_run",
    )

    def before_run(self, runner: RunnerLike) -> None:
        """Called once before the first loop of a run."""

    def after_run(self, runner: RunnerLike) -> None:
        """Called once at the end of a run, also when it ends in an error."""

    def before_train(self, runner: RunnerLike) -> None:
        """Called before training."""

    def after_train(self, runner: RunnerLike) -> None:
        """Called after training."""

    def before_val(self, runner: RunnerLike) -> None:
        """Called before each validation."""

    def after_val(self, runner: RunnerLike) -> None:
        """Called after each validation."""

    def before_test(self, runner: RunnerLike) -> None:
        """Called before testing."""

    def after_test(self, runner: RunnerLike) -> None:
        """Called after testing."""

    def before_save_checkpoint(self, runner: RunnerLike, checkpoint: dict[str, Any]) -> None:
        """Called before a checkpoint is written.

        Args:
            runner: The runner that saves.
            checkpoint: What will be written; may be changed in place. Plain data and tensors only.
        """

    def after_load_checkpoint(self, runner: RunnerLike, checkpoint: dict[str, Any]) -> None:
        """Called after a checkpoint has been read, before anything is taken from it.

        Args:
            runner: The runner that loads.
            checkpoint: What was read; may be changed in place.
        """

    def before_train_epoch(self, runner: RunnerLike) -> None:
        """Called before each training epoch."""
        self._before_epoch(runner, mode="train")

    def before_val_epoch(self, runner: RunnerLike) -> None:
        """Called before each validation epoch."""
        self._before_epoch(runner, mode="val")

    def before_test_epoch(self, runner: RunnerLike) -> None:
        """Called before the test epoch."""
        self._before_epoch(runner, mode="test")

    def after_train_epoch(self, runner: RunnerLike) -> None:
        """Called after each training epoch."""
        self._after_epoch(runner, mode="train")

    def after_val_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Called after each validation epoch.

        Args:
            runner: The running runner.
            metrics: Name -> value of all metrics of this validation.
        """
        self._after_epoch(runner, mode="val")

    def after_test_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Called after the test epoch.

        Args:
            runner: The running runner.
            metrics: Name -> value of all metrics of this test.
        """
        self._after_epoch(runner, mode="test")

    def before_train_iter(
        self, runner: RunnerLike, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Called before each training iteration.

        Args:
            runner: The running runner.
            batch_idx: 0-based index of the batch in this epoch (in an iteration-based loop: in
                this run).
            data_batch: What the data loader returned.
        """
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="train")

    def before_val_iter(
        self, runner: RunnerLike, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Called before each validation iteration."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="val")

    def before_test_iter(
        self, runner: RunnerLike, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Called before each test iteration."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="test")

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Called after each training iteration.

        Args:
            runner: The running runner.
            batch_idx: 0-based index of the batch.
            data_batch: What the data loader returned.
            outputs: What ``model.train_step`` returned: name -> loss or other scalar, on the
                device.
        """
        self._after_iter(
            runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="train"
        )

    def after_val_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Called after each validation iteration; ``outputs`` is the model's predictions."""
        self._after_iter(
            runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="val"
        )

    def after_test_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Called after each test iteration; ``outputs`` is the model's predictions."""
        self._after_iter(
            runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="test"
        )

    def _before_epoch(self, runner: RunnerLike, mode: str = "train") -> None:
        """Override to act before epochs of every kind; ``mode`` is train, val or test."""

    def _after_epoch(self, runner: RunnerLike, mode: str = "train") -> None:
        """Override to act after epochs of every kind."""

    def _before_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        mode: str = "train",
    ) -> None:
        """Override to act before iterations of every kind."""

    def _after_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | dict[str, Any] | None = None,
        mode: str = "train",
    ) -> None:
        """Override to act after iterations of every kind."""

    def every_n_epochs(self, runner: RunnerLike, n: int, start: int = 0) -> bool:
        """Tell whether the current epoch, counted from ``start``, ends a group of ``n`` epochs.

        Args:
            runner: The running runner; ``runner.epoch`` is 0-based and not yet advanced.
            n: Length of a group; never true if it is not positive.
            start: Epochs before this one do not count.
        """
        done = runner.epoch + 1 - start
        return n > 0 and done >= 0 and done % n == 0

    def every_n_inner_iters(self, batch_idx: int, n: int) -> bool:
        """Tell whether the batch ends a group of ``n`` batches of its epoch."""
        return n > 0 and (batch_idx + 1) % n == 0

    def every_n_train_iters(self, runner: RunnerLike, n: int, start: int = 0) -> bool:
        """Tell whether the current training iteration, counted from ``start``, ends a group.

        Args:
            runner: The running runner; ``runner.iter`` is 0-based and not yet advanced.
            n: Length of a group; never true if it is not positive.
            start: Iterations before this one do not count.
        """
        done = runner.iter + 1 - start
        return n > 0 and done >= 0 and done % n == 0

    def end_of_epoch(self, dataloader: Any, batch_idx: int) -> bool:
        """Tell whether the batch is the last one of the data loader."""
        return bool(batch_idx + 1 == len(dataloader))

    def is_last_train_epoch(self, runner: RunnerLike) -> bool:
        """Tell whether the current epoch is the last one of training."""
        return bool(runner.epoch + 1 == runner.max_epochs)

    def is_last_train_iter(self, runner: RunnerLike) -> bool:
        """Tell whether the current iteration is the last one of training."""
        return bool(runner.iter + 1 == runner.max_iters)

    def idle_iters(self, runner: RunnerLike, batch_idx: int, mode: str) -> int | None:
        """Tell for how many iterations this hook's iteration stages would do nothing.

        A hook that acts every so many iterations can spare the run the calls in between. It is
        asked again after each iteration in which it was called. A class that overrides a stage but
        not this method is called in each iteration, whatever its base class says.

        Args:
            runner: The running runner.
            batch_idx: Index of the batch that comes next.
            mode: ``train``, ``val`` or ``test``.

        Returns:
            The number of iterations, beginning with the next one, that need no call; 0 if the next
            one does. None: in the present state of the run each one does.
        """
        return None

    def get_triggered_stages(self) -> list[str]:
        """Return the stages that this hook's class overrides, in the order of a run."""
        cls = type(self)
        triggered = {name for name in Hook.stages if getattr(cls, name) is not getattr(Hook, name)}
        for generic, stages in _GENERIC_METHODS.items():
            if getattr(cls, generic) is not getattr(Hook, generic):
                triggered.update(stages)
        return [stage for stage in Hook.stages if stage in triggered]
