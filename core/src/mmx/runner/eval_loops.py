"""The loops of validation and test."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from mmx.checkpoint import unwrap
from mmx.dist import all_reduce, get_world_size
from mmx.evaluator import BaseMetric, Evaluator
from mmx.logging import HistoryBuffer, print_log
from mmx.registry import LOOPS
from mmx.runner.amp import autocast
from mmx.runner.base_loop import BaseLoop
from mmx.runner.dispatch import HookCall, dispatch_of
from mmx.runner.quiet import QuietEvaluation
from mmx.runner.state import RunStopped
from mmx.structures import BaseDataElement
from mmx.utils.errors import InvalidTypeError
from mmx.utils.misc import has_methods

if TYPE_CHECKING:
    from mmx.runner.runner import Runner


# What follows the last batch.
_END = object()


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
        dispatch = dispatch_of(self._runner)
        self._calls = None if dispatch is None else dispatch.table
        is_own = has_methods(self, _OWN_METHODS) and not self.fp16
        quiet = QuietEvaluation(self) if is_own else None
        idx = 0
        try:
            with torch.no_grad():
                batches = iter(self.dataloader)
                while True:
                    done = 0 if quiet is None else quiet.run(batches, idx, alone)
                    idx += done
                    if done:
                        continue
                    data_batch = next(batches, _END)
                    if data_batch is _END:
                        break
                    run_iter(idx, data_batch)
                    idx += 1
                    if alone and state.stop_signal:
                        raise RunStopped(state.stop_signal)
        finally:
            self._calls = None
            # Lines tell which data set they are about.
            getattr(self._runner.logger, "write_waiting", lambda: None)()
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
            return outputs
        return self._without_losses(outputs)

    def _without_losses(self, outputs: Any) -> Any:
        """Take the losses off predictions, if there are any."""
        if type(outputs) is list and outputs and isinstance(outputs[-1], BaseDataElement):
            outputs, self._losses = _update_losses(outputs, self._losses)
        return outputs


_OWN_METHODS = {name: vars(_EvalLoop)[name] for name in ("run_iter", "_step", "_without_losses")}


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
