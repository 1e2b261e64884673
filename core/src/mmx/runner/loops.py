"""The loops: training by epochs and by iterations, validation, test."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from mmx.checkpoint import unwrap
from mmx.dataset import iterate_from
from mmx.dist import all_reduce, get_world_size
from mmx.evaluator import BaseMetric, Evaluator
from mmx.logging import HistoryBuffer, print_log
from mmx.registry import LOOPS
from mmx.runner.amp import autocast
from mmx.runner.base_loop import BaseLoop
from mmx.runner.dispatch import HookCall, table_of
from mmx.runner.resume import capture_random_state, restore_random_state, training_stream_kept
from mmx.runner.signals import StopAgreement
from mmx.runner.state import RunStopped, TrainState
from mmx.runner.utils import calc_dynamic_intervals
from mmx.structures import BaseDataElement
from mmx.utils.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from mmx.runner.runner import Runner

Intervals = Sequence[tuple[int, int]] | None


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
        alone = stop.alone
        self._calls = table_of(runner)
        for idx, data_batch in enumerate(self._open(self._epoch), skip):
            if every:
                state.validation_due = self._is_inner_validation_due(state.iter + 1, idx)
            run_iter(idx, data_batch)
            if (state.stop_signal if alone else stop.poll()) and idx + 1 < length:
                raise RunStopped(stop.signal)
            if every and state.validation_due:
                self._validate()
                if not runner.model.training:
                    runner.model.train()
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
        self._calls = table_of(runner)
        while state.iter < self._max_iters and not self.stop_training:
            if not runner.model.training:
                runner.model.train()
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

    def _unit_count(self) -> int:
        return self._state.iter

    def _unit_total(self) -> int:
        return self._max_iters


class _EvalLoop(BaseLoop):
    """What validation and test share: named data sets, evaluators, losses.

    Args:
        runner: The runner.
        dataloader: A data loader, a dict to build one from, or a dict name -> one of these. With
            names, metrics get the set's name as prefix, ``name/metric``.
        evaluator: An evaluator or what to build one from; for named sets, one for all of them or
            a dict name -> evaluator.
        fp16: Run the model under mixed precision.
        with_loss: Also compute the model's losses on each batch. They are averaged over
            iterations and ranks and join the metrics.
    """

    mode: str
    # Names of the stages around an iteration, and of the model's method.
    _before_iter: str
    _after_iter: str
    _model_step: str

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader[Any] | dict[str, Any],
        evaluator: Evaluator | dict[str, Any] | list[Any],
        fp16: bool = False,
        with_loss: bool = False,
    ) -> None:
        named = named_parts(dataloader) or {"": dataloader}
        names = list(named)
        # `dataloader` and `evaluator` are those of the first set until another one is running.
        super().__init__(runner, named[names[0]])
        loaders = [self.dataloader, *(self._build_dataloader(named[n]) for n in names[1:])]
        evaluators = self._build_evaluators(evaluator, names)
        self.evaluator = evaluators[0]
        self._sets = list(zip(names, loaders, evaluators, strict=True))
        self.fp16 = fp16
        self.with_loss = with_loss
        self._losses: dict[str, HistoryBuffer] = {}
        # While `run` is under way, as in training loops.
        self._calls: dict[str, list[HookCall]] | None = None
        for _, loader, one in self._sets:
            self._introduce(loader, one)

    def _build_evaluators(self, evaluator: Any, names: list[str]) -> list[Evaluator]:
        if names != [""] and isinstance(evaluator, Mapping) and set(evaluator) == set(names):
            return [self._build_evaluator(evaluator[name]) for name in names]
        return [self._build_evaluator(evaluator)] * len(names)

    def _build_evaluator(self, evaluator: Any) -> Evaluator:
        if isinstance(evaluator, tuple):
            evaluator = list(evaluator)
        if isinstance(evaluator, dict | list | BaseMetric):
            return self._runner.build_evaluator(evaluator)
        if not isinstance(evaluator, Evaluator):
            raise InvalidTypeError(
                "evaluator must be one of dict, list, metric or Evaluator instance, "
                f"but got {evaluator!r}"
            )
        return evaluator

    def _introduce(self, dataloader: Any, evaluator: Evaluator) -> None:
        dataset: Any = getattr(dataloader, "dataset", None)
        if hasattr(dataset, "metainfo"):
            evaluator.dataset_meta = dataset.metainfo
            self._runner.visualizer.dataset_meta = dataset.metainfo
        else:
            print_log(
                f"Dataset {type(dataset).__name__} has no metainfo. ``dataset_meta`` in "
                "evaluator, metric and visualizer will be None.",
                logger="current",
                level=logging.WARNING,
            )

    def run(self) -> dict[str, Any]:
        """Evaluate the model on all data sets.

        Returns:
            Name -> value of all metrics; the same on every rank.
        """
        runner, mode = self._runner, self.mode
        runner.call_hook(f"before_{mode}")
        try:
            runner.call_hook(f"before_{mode}_epoch")
            with _evaluating(runner.model):
                metrics = self._run_sets()
                runner.call_hook(f"after_{mode}_epoch", metrics=metrics)
        except BaseException as error:
            # Hooks that changed something for the evaluation (averaged weights) put it back.
            try:
                runner.call_hook(f"abort_{mode}")
            except Exception as second:  # noqa: BLE001 the first error is the one to report
                error.add_note(f"a hook failed while the evaluation was undone: {second!r}")
            raise
        runner.call_hook(f"after_{mode}")
        return metrics

    def _run_sets(self) -> dict[str, Any]:
        metrics: dict[str, Any] = {}
        first = self.dataloader, self.evaluator
        try:
            for name, dataloader, evaluator in self._current_sets():
                # Hooks and subclasses see the set that is being run.
                self.dataloader, self.evaluator = dataloader, evaluator
                if name and hasattr(dataloader.dataset, "metainfo"):
                    evaluator.dataset_meta = dataloader.dataset.metainfo
                own = self._run_set()
                metrics.update({f"{name}/{k}": v for k, v in own.items()} if name else own)
        finally:
            self.dataloader, self.evaluator = first
        return metrics

    def _current_sets(self) -> list[tuple[str, Any, Evaluator]]:
        # A loader or an evaluator exchanged on the loop counts.
        if len(self._sets) == 1:
            return [("", self.dataloader, self.evaluator)]
        return self._sets

    def _run_set(self) -> dict[str, Any]:
        state: Any = getattr(self._runner, "_state", None)
        # Ranks may have different numbers of batches here, so they only stop after a validation.
        alone = state is not None and get_world_size() == 1
        self._losses.clear()
        run_iter = self.run_iter
        self._calls = table_of(self._runner)
        try:
            with torch.no_grad():
                for idx, data_batch in enumerate(self.dataloader):
                    run_iter(idx, data_batch)
                    if alone and state.stop_signal:
                        raise RunStopped(state.stop_signal)
        finally:
            self._calls = None
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        if self._losses:
            metrics.update(_parse_losses(self._losses, self.mode))
        return metrics

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Evaluate the model on one batch.

        Args:
            idx: 0-based index of the batch in its data set.
            data_batch: What the data loader returned.
        """
        if torch.is_grad_enabled():  # called from outside of `run`
            with torch.no_grad():
                return self.run_iter(idx, data_batch)
        runner, calls = self._runner, self._calls
        if calls is not None and runner._state.stage is not None:  # inside of a hook's stage
            calls = None
        if calls is None:
            runner.call_hook(self._before_iter, batch_idx=idx, data_batch=data_batch)
        else:
            runner._state.stage = self._before_iter
            for call in calls[self._before_iter]:
                call(runner, batch_idx=idx, data_batch=data_batch)
            runner._state.stage = None
        if self.fp16:
            with autocast(enabled=True):
                outputs = self._step(data_batch)
        else:
            outputs = self._step(data_batch)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        if calls is None:
            runner.call_hook(
                self._after_iter, batch_idx=idx, data_batch=data_batch, outputs=outputs
            )
        else:
            runner._state.stage = self._after_iter
            for call in calls[self._after_iter]:
                call(runner, batch_idx=idx, data_batch=data_batch, outputs=outputs)
            runner._state.stage = None
        return None

    def _step(self, data_batch: Any) -> Any:
        model = self._runner.model
        outputs = getattr(model, self._model_step)(data_batch)
        if self.with_loss:
            _add_losses(_losses_of(model, data_batch), self._losses)
        elif type(outputs) is list and outputs and isinstance(outputs[-1], BaseDataElement):
            outputs, self._losses = _update_losses(outputs, self._losses)
        return outputs


@LOOPS.register_module()
class ValLoop(_EvalLoop):
    __doc__ = "Validate: run ``model.val_step`` on each batch." + (
        (_EvalLoop.__doc__ or "").partition("\n\n")[1]
        + (_EvalLoop.__doc__ or "").partition("\n\n")[2]
    )
    mode = "val"
    _before_iter, _after_iter, _model_step = "before_val_iter", "after_val_iter", "val_step"

    @property
    def val_loss(self) -> dict[str, HistoryBuffer]:
        """Losses of the current validation, by name."""
        return self._losses

    @val_loss.setter
    def val_loss(self, value: dict[str, HistoryBuffer]) -> None:
        self._losses = value


@LOOPS.register_module()
class TestLoop(_EvalLoop):
    __doc__ = "Test: run ``model.test_step`` on each batch." + (
        (_EvalLoop.__doc__ or "").partition("\n\n")[1]
        + (_EvalLoop.__doc__ or "").partition("\n\n")[2]
    )
    mode = "test"
    # Its name makes pytest take it for a test class where it is imported.
    __test__ = False
    _before_iter, _after_iter, _model_step = "before_test_iter", "after_test_iter", "test_step"

    @property
    def test_loss(self) -> dict[str, HistoryBuffer]:
        """Losses of the current test, by name."""
        return self._losses

    @test_loss.setter
    def test_loss(self, value: dict[str, HistoryBuffer]) -> None:
        self._losses = value


def _is_own(loop: BaseLoop, method: str) -> bool:
    """Tell whether a loop of one of the classes here has the method that is defined here."""
    return getattr(type(loop), method).__module__ == __name__ and method not in vars(loop)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into its own afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def named_parts(value: Any) -> dict[str, Any] | None:
    """Return a dict of named data loaders as such, None if ``value`` is a single one.

    Several are meant if each value is a loader, or a dict to build one from.
    """
    if not isinstance(value, dict) or not value or "dataset" in value or "type" in value:
        return None
    if all(
        isinstance(part, DataLoader) or (isinstance(part, dict) and "dataset" in part)
        for part in value.values()
    ):
        return value
    return None


def _losses_of(model: torch.nn.Module, data_batch: Any) -> dict[str, Any]:
    """Return the losses of a batch, with the model in its current mode."""
    module: Any = unwrap(model)
    data = module.data_preprocessor(data_batch, False)
    return module._run_forward(data, mode="loss")


def _update_losses(
    outputs: list[Any], losses: dict[str, HistoryBuffer]
) -> tuple[list[Any], dict[str, HistoryBuffer]]:
    """Take the losses off a model's predictions.

    A model reports losses in validation by a last element that has a single field, ``loss``: a
    dict of tensors or lists of tensors.

    Returns:
        The predictions without that element, and ``losses``, updated in place.
    """
    last: Any = outputs[-1]
    if isinstance(last, BaseDataElement) and last.keys() == ["loss"]:
        outputs = outputs[:-1]
        _add_losses(last.get("loss"), losses)
    return outputs, losses


def _add_losses(found: Mapping[str, Any], losses: dict[str, HistoryBuffer]) -> None:
    for name, value in found.items():
        buffer = losses.setdefault(name, HistoryBuffer())
        for part in value if isinstance(value, list | tuple) else [value]:
            # Tensors stay on their device until the mean is asked for.
            buffer.update(part.detach().mean() if isinstance(part, torch.Tensor) else part)


def _parse_losses(losses: dict[str, HistoryBuffer], stage: str) -> dict[str, float]:
    """Return the mean of each loss, over iterations and ranks, and their sum ``<stage>_loss``.

    As in training, only names that contain ``loss`` are part of the sum.
    """
    means = {name: float(buffer.mean()) for name, buffer in losses.items()}
    if get_world_size() > 1:
        values = torch.tensor(list(means.values()), dtype=torch.float64)
        all_reduce(values, op="mean")
        means = dict(zip(means, values.tolist(), strict=True))
    total = sum(value for name, value in means.items() if "loss" in name)
    return {**means, f"{stage}_loss": total}


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or int(value) != value:
        raise InvalidValueError(f"`{name}` should be an integer number, but got {value!r}.")
    return int(value)
