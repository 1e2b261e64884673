"""The training loops: by epochs and by iterations."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from mmx.dataset import iterate_from
from mmx.logging import print_log
from mmx.registry import LOOPS
from mmx.runner.base_loop import BaseLoop
from mmx.runner.dispatch import HookCall, dispatch_of
from mmx.runner.quiet import QuietTraining
from mmx.runner.resume import capture_random_state, restore_random_state, training_stream_kept
from mmx.runner.signals import StopAgreement
from mmx.runner.state import RunStopped, TrainState
from mmx.runner.utils import calc_dynamic_intervals
from mmx.utils.errors import InvalidValueError

if TYPE_CHECKING:
    from mmx.runner.runner import Runner

Intervals = Sequence[tuple[int, int]] | None
# What follows the last batch.
_END = object()


class _TrainLoop(BaseLoop):
    """What both training loops share: counters, the moments of validation, and the position.

    Everything that decides about validation is counted in the loop's own unit (epochs or
    iterations), except ``val_every``, which is counted in the other one.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader[Any] | dict[str, Any],
        val_begin: int,
        val_interval: int,
        dynamic_intervals: Intervals,
        val_before_train: bool,
    ) -> None:
        super().__init__(runner, dataloader)
        # A loop built for another runner (a mock, an older engine's) still has counters.
        state = getattr(runner, "_state", None)
        self._state = state if isinstance(state, TrainState) else TrainState()
        self.val_begin = val_begin
        self.val_interval = val_interval
        self.val_before_train = val_before_train
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            val_interval, dynamic_intervals
        )
        # Set by a hook (early stopping) to end training after the current epoch or iteration.
        self.stop_training = False
        self._stop = StopAgreement(self._state)
        # While `run` is under way: what the runner calls at each stage, None if it wants to be asked
        # each time.
        self._calls: dict[str, list[HookCall]] | None = None
        # Batches of the current pass over the data that a resumed run has already trained on.
        self._skip_batches = 0
        # Random states to be taken up at the first batch; None when not resuming.
        self._resume_stream: dict[str, Any] | None = None
        self._resume_pass_stream: dict[str, Any] | None = None
        visualizer = getattr(runner, "visualizer", None)
        dataset = getattr(self.dataloader, "dataset", None)
        if hasattr(dataset, "metainfo"):
            visualizer.dataset_meta = dataset.metainfo  # type: ignore[union-attr]
        else:
            print_log(
                f"Dataset {type(dataset).__name__} has no metainfo. ``dataset_meta`` in "
                "visualizer will be None.",
                logger="current",
                level=logging.WARNING,
            )

    @property
    def _epoch(self) -> int:
        return self._state.epoch

    @_epoch.setter
    def _epoch(self, value: int) -> None:
        self._state.epoch = value

    @property
    def _iter(self) -> int:
        return self._state.iter

    @_iter.setter
    def _iter(self, value: int) -> None:
        self._state.iter = value

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self._state.epoch

    @property
    def iter(self) -> int:
        """Finished iterations."""
        return self._state.iter

    def _decide_current_val_interval(self) -> None:
        """Choose the validation interval that holds from the current milestone on."""
        self.val_interval = self._interval_at(self._unit_count())

    def _interval_at(self, count: int) -> int:
        """Return the interval that holds after ``count`` epochs or iterations.

        As in MMEngine, a milestone counts from the moment that its epoch is the next one.
        """
        if len(self.dynamic_milestones) == 1:
            return self.val_interval
        step = bisect.bisect(self.dynamic_milestones, count + 1)
        return self.dynamic_intervals[step - 1]

    def _is_validation_due(self, count: int) -> bool:
        """Tell whether validation follows epoch (or iteration) number ``count``, 1-based."""
        return (
            count >= self.val_begin
            and (count % self._interval_at(count) == 0 or count == self._unit_total())
            and self._runner.val_loop is not None
        )

    def _unit_count(self) -> int:
        """Return the finished epochs or iterations, whichever validation is counted in."""
        raise NotImplementedError

    def _unit_total(self) -> int:
        raise NotImplementedError

    def _begin_calls(self) -> QuietTraining | None:
        """Look at the runner's hooks before iterations; return what does quiet ones, if any are."""
        dispatch = dispatch_of(self._runner)
        self._calls = None if dispatch is None else dispatch.table
        is_usual = getattr(self._runner, "train_state", None) is self._state
        return QuietTraining(self) if dispatch is not None and is_usual else None

    def _train_on(self, idx: int, data_batch: Any) -> None:
        """Train on one batch: the hooks before, the model's step, the hooks after."""
        runner, state = self._runner, self._state
        if self._calls is None or state.stage is not None:
            runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
            outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
            runner.call_hook(
                "after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs
            )
            state.iter += 1
            return
        # As `call_hook` does it, without the calls in between.
        state.stage = "before_train_iter"
        for call in self._calls["before_train_iter"]:
            call(runner, batch_idx=idx, data_batch=data_batch)
        state.stage = None
        outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
        state.stage = "after_train_iter"
        for call in self._calls["after_train_iter"]:
            call(runner, batch_idx=idx, data_batch=data_batch, outputs=outputs)
        state.stage = None
        state.iter += 1

    def _validate(self) -> None:
        val_loop = self._runner.val_loop
        if val_loop is None:
            return
        state = self._state
        state.validation_due = True
        # The line of the latest iteration, before a validation that may take its time.
        getattr(self._runner.logger, "write_waiting", lambda: None)()
        with training_stream_kept(state):
            val_loop.run()
        state.validation_due = False

    def _validate_first(self) -> None:
        """Validate where the run begins: on request, or because a resumed run still owes it."""
        state = self._state
        if state.validation_due:
            self._runner.logger.info(
                "The checkpoint was saved before a validation that was due; running it now."
            )
            if self._resume_stream is not None:
                # With the random numbers that it would have had; they are put back afterwards.
                restore_random_state(self._resume_stream)
            self._validate()
        elif self.val_before_train and state.iter == 0:
            self._validate()

    def _take_up_stream(self) -> None:
        """Set the random state of the position that was resumed, unless that has been done."""
        resume, self._resume_stream = self._resume_stream, None
        if resume is not None:
            restore_random_state(resume)

    def _open(self, epoch: int) -> Iterator[Any]:
        """Return an iterator over the rest of the current pass over the data.

        Random numbers are taken in the order of a run that was never stopped: what the data
        loader draws when it starts, then what training draws.
        """
        state, skip = self._state, self._skip_batches
        resume, self._resume_stream = self._resume_stream, None
        begin, self._resume_pass_stream = self._resume_pass_stream, None
        if skip and begin is not None:
            restore_random_state(begin)
        elif not skip and resume is not None:
            restore_random_state(resume)
        state.pass_start = state.iter - skip
        state.pass_stream = capture_random_state(accelerators=False)
        seed = self._runner.seed
        batches = iterate_from(self.dataloader, epoch=epoch, skip_batches=skip, seed=seed)
        if skip and resume is not None:
            restore_random_state(resume)
        self._skip_batches = 0
        return batches


@LOOPS.register_module()
class EpochBasedTrainLoop(_TrainLoop):
    """Train for a number of epochs; an epoch is one pass over the data loader.

    Args:
        runner: The runner.
        dataloader: A data loader, or a dict to build one from.
        max_epochs: Epochs to train.
        val_begin: First epoch, 1-based, after which validation runs.
        val_interval: Validate every so many epochs, and after the last one.
        dynamic_intervals: ``(epoch, interval)`` pairs: the interval from before that epoch on.
        val_every_iters: Also validate every so many iterations, inside epochs.
        val_before_train: Also validate once before training.

    Raises:
        ValueError: ``max_epochs`` is no whole number.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader[Any] | dict[str, Any],
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: Intervals = None,
        val_every_iters: int | None = None,
        val_before_train: bool = False,
    ) -> None:
        super().__init__(
            runner, dataloader, val_begin, val_interval, dynamic_intervals, val_before_train
        )
        self._max_epochs = _whole_number("max_epochs", max_epochs)
        self._max_iters = self._max_epochs * len(self.dataloader)
        self.val_every_iters = val_every_iters

    @property
    def max_epochs(self) -> int:
        """Epochs to train."""
        return self._max_epochs

    @property
    def max_iters(self) -> int:
        """Iterations to train."""
        return self._max_iters

    def run(self) -> torch.nn.Module:
        """Train, and return the model."""
        runner, state = self._runner, self._state
        runner.call_hook("before_train")
        self._validate_first()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            if self._stop.signal:
                raise RunStopped(self._stop.signal)
            self._decide_current_val_interval()
            if self._is_validation_due(self._epoch):
                self._validate()
            state.validation_due = False
        self._stop.close()
        self._take_up_stream()
        runner.call_hook("after_train")
        return runner.model

    def run_epoch(self) -> None:
        """Train on one pass over the data, or on what a resumed run has left of it."""
        runner, state = self._runner, self._state
        if not self._skip_batches:
            self._take_up_stream()
        runner.call_hook("before_train_epoch")
        runner.model.train()
        skip = self._skip_batches
        # The last batch of an epoch is followed by the epoch's own hooks; a run stops after them.
        length = len(self.dataloader)
        run_iter = self._train_on if _is_own(self, "run_iter") else self.run_iter
        every, stop = self.val_every_iters, self._stop
        quiet = self._begin_calls()
        batches = iter(self._open(self._epoch))
        idx = skip
        while True:
            if quiet is not None:
                # Neither the last iteration nor one that a validation follows.
                limit = length - 1 - idx
                if every:
                    limit = min(limit, -(state.iter + 1) % every)
                    state.validation_due = False
                done = quiet.run(batches, idx, limit)
                idx += done
                if done:
                    continue
            data_batch = next(batches, _END)
            if data_batch is _END:
                break
            if every:
                state.validation_due = self._is_inner_validation_due(state.iter + 1, idx)
            run_iter(idx, data_batch)
            if stop.poll() and idx + 1 < length:
                raise RunStopped(stop.signal)
            if every and state.validation_due:
                self._validate()
                if not runner.model.training:
                    runner.model.train()
            idx += 1
        self._calls = None
        state.pass_start = state.iter
        # Until the epoch's own validation has run, a checkpoint says that it is still to come.
        state.validation_due = self._is_validation_due(self._epoch + 1)
        runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train on one batch.

        Args:
            idx: 0-based index of the batch in its epoch.
            data_batch: What the data loader returned.
        """
        self._train_on(idx, data_batch)

    def _unit_count(self) -> int:
        return self._epoch

    def _unit_total(self) -> int:
        return self._max_epochs

    def _is_inner_validation_due(self, iteration: int, idx: int) -> bool:
        last = idx + 1 == len(self.dataloader)
        return (
            not last
            and iteration % self.val_every_iters == 0  # type: ignore[operator]  # asked only if set
            and self._runner.val_loop is not None
        )


class _InfiniteDataloaderIterator:
    """Batches without end: starts the next pass over the data when one ends.

    Args:
        dataloader: The data loader; its sampler's ``set_epoch`` is called for each pass.
    """

    def __init__(
        self,
        dataloader: DataLoader[Any],
        open_pass: Callable[[int], Iterator[Any]] | None = None,
    ) -> None:
        self._dataloader = dataloader
        self._open = open_pass or (lambda epoch: iterate_from(dataloader, epoch=epoch))
        self._iterator: Iterator[Any] | None = None
        self._epoch = 0
        # Batches handed out in the current pass.
        self._batches = 0

    def __iter__(self) -> _InfiniteDataloaderIterator:
        return self

    def seek(self, data_pass: int, batches: int) -> None:
        """Go to a position; ``open_pass`` must skip the batches."""
        self._epoch, self._batches, self._iterator = data_pass, batches, None

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = self._open(self._epoch)
        try:
            data = next(self._iterator)
        except StopIteration:
            data = self._next_pass()
        self._batches += 1
        return data

    def _next_pass(self) -> Any:
        if not self._batches:
            raise InvalidValueError(
                "the data loader of an iteration-based loop has no batches: its data set is empty, "
                "or smaller than one batch while drop_last is on"
            )
        if self._epoch == 0:
            print_log(
                "Reach the end of the dataloader, it will be restarted and continue to iterate. "
                "It is recommended to use `mmx.dataset.InfiniteSampler` to enable the dataloader "
                "to iterate infinitely.",
                logger="current",
                level=logging.WARNING,
            )
        self._epoch += 1
        self._batches = 0
        self._iterator = self._open(self._epoch)
        return next(self._iterator)


@LOOPS.register_module()
class IterBasedTrainLoop(_TrainLoop):
    """Train for a number of iterations; the data loader starts anew whenever it ends.

    The whole training counts as one epoch, whose hooks are called once.

    Args:
        runner: The runner.
        dataloader: A data loader, or a dict to build one from.
        max_iters: Iterations to train.
        val_begin: First iteration, 1-based, after which validation runs.
        val_interval: Validate every so many iterations, and after the last one.
        dynamic_intervals: ``(iteration, interval)`` pairs: the interval from before that iteration
            on.
        val_every_epochs: Validate every so many passes over the data loader instead.
        val_before_train: Also validate once before training.

    Raises:
        ValueError: ``max_iters`` is no whole number.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader[Any] | dict[str, Any],
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: Intervals = None,
        val_every_epochs: int | None = None,
        val_before_train: bool = False,
    ) -> None:
        super().__init__(
            runner, dataloader, val_begin, val_interval, dynamic_intervals, val_before_train
        )
        self._max_iters = _whole_number("max_iters", max_iters)
        # For code that asks for epochs: the whole training is one.
        self._max_epochs = 1
        if val_every_epochs is not None:
            interval = val_every_epochs * len(self.dataloader)
            self.val_interval = interval
            self.dynamic_milestones, self.dynamic_intervals = [0], [interval]
        self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader, self._open)
        self._opening_stream: dict[str, Any] | None = None
        if isinstance(self.dataloader, DataLoader) and self.dataloader.generator is None:
            # MMEngine's loop opens the data loader here, before weights are initialised, which
            # draws one number. This one opens it later but draws here, so that the same seed gives
            # the same weights.
            self._opening_stream = capture_random_state(accelerators=False)
            torch.empty((), dtype=torch.int64).random_()

    @property
    def max_epochs(self) -> int:
        """1: the whole training counts as one epoch."""
        return self._max_epochs

    @property
    def max_iters(self) -> int:
        """Iterations to train."""
        return self._max_iters

    def run(self) -> torch.nn.Module:
        """Train, and return the model."""
        runner, state = self._runner, self._state
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        self._validate_first()
        iterator = self.dataloader_iterator
        if not self._skip_batches:
            self._take_up_stream()
        run_iter, is_due, stop = self.run_iter, self._is_validation_due, self._stop
        decides = (
            len(self.dynamic_milestones) > 1
            or type(self)._decide_current_val_interval
            is not _TrainLoop._decide_current_val_interval
        )
        # Also if it is in training mode: models freeze parts of themselves in this call.
        runner.model.train()
        quiet = self._begin_calls() if _is_own(self, "run_iter") else None
        while state.iter < self._max_iters and not self.stop_training:
            if not runner.model.training:
                runner.model.train()
            if quiet is not None:
                state.validation_due = False
                if quiet.run(iterator, state.iter, self._iters_before_validation()):
                    continue
            state.validation_due = is_due(state.iter + 1)
            run_iter(next(iterator))
            if stop.poll():
                raise RunStopped(stop.signal)
            if decides:
                self._decide_current_val_interval()
                state.validation_due = is_due(state.iter)
            if state.validation_due:
                self._validate()
        self._calls = None
        self._stop.close()
        self._take_up_stream()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model

    def _open(self, epoch: int) -> Iterator[Any]:
        opening, self._opening_stream = self._opening_stream, None
        if opening is None or self._skip_batches or self._resume_stream is not None:
            return super()._open(epoch)
        now = capture_random_state(accelerators=False)
        restore_random_state(opening)
        batches = super()._open(epoch)
        restore_random_state(now)
        return batches

    def run_iter(self, data_batch: Any) -> None:
        """Train on one batch.

        Args:
            data_batch: What the data loader returned.
        """
        self._train_on(self._state.iter, data_batch)

    def _iters_before_validation(self) -> int:
        """Return how many iterations there are before the last one or one that validation follows."""
        done = self._state.iter
        number = self._max_iters - 1 - done
        # As `_is_validation_due` has it, up to where the interval changes.
        interval = self._interval_at(done)
        change = next((m for m in self.dynamic_milestones if m > done + 1), None)
        if change is not None:
            number = min(number, change - 2 - done)
        if self._runner.val_loop is None or interval < 1:
            return number
        begin = max(self.val_begin - 1 - done, 0)
        return min(number, begin + -(done + begin + 1) % interval)

    def _unit_count(self) -> int:
        return self._state.iter

    def _unit_total(self) -> int:
        return self._max_iters


def _is_own(loop: BaseLoop, method: str) -> bool:
    """Tell whether a loop of one of the classes here has the method that is defined here."""
    return getattr(type(loop), method).__module__ == __name__ and method not in vars(loop)


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or int(value) != value:
        raise InvalidValueError(f"`{name}` should be an integer number, but got {value!r}.")
    return int(value)
