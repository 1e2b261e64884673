"""Saving checkpoints while training: at intervals, at the end, and the best."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmx import dist
from mmx.checkpoint import (
    AsyncCheckpointSaver,
    CheckpointError,
    CheckpointLoader,
    remove_stale_temporaries,
    save_checkpoint,
    write_last_checkpoint,
)
from mmx.checkpoint.durable import aside_of, remove_tree
from mmx.fileio import get_file_backend
from mmx.hooks.hook import DATA_BATCH, Hook
from mmx.hooks.metric_rule import GREATER_KEYS, IS_BETTER, LESS_KEYS, WORST, infer_rule
from mmx.logging import print_log
from mmx.registry import HOOKS
from mmx.utils.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Save checkpoints periodically, at the end of training, and whenever a metric is best.

    A new file is complete and durable before ``last_checkpoint`` names it, and only then are older
    ones deleted, so that a kill at any moment leaves a checkpoint to resume from. What was kept and
    which score was best is saved in the message hub under the names that MMEngine uses.

    Args:
        interval: Save every so many epochs (or iterations); -1 is never.
        by_epoch: Count epochs; else iterations.
        save_optimizer: Save the state of the optimizer, needed to resume.
        save_param_scheduler: Save the state of the parameter schedulers, needed to resume.
        out_dir: Where to save, as a path or an address like ``s3://bucket/runs``; the last part of
            ``runner.work_dir`` is appended. None is ``runner.work_dir`` itself.
        max_keep_ckpts: Keep this many of the newest; -1 keeps all. Best checkpoints count apart.
        save_last: Save at the end of training whatever the interval.
        save_best: Metric, or list of metrics, by which the best checkpoint is kept as
            ``best_<metric>_<name>.pth``, from which training can be resumed like from any other;
            ``'auto'`` takes the first metric that validation returns.
        rule: ``'greater'``, ``'less'``, None (told from the name), or a list of these.
        greater_keys: Parts of metric names for which larger is better, instead of the usual ones.
        less_keys: Parts of metric names for which smaller is better.
        file_client_args: Old name of ``backend_args``.
        filename_tmpl: File name with one ``{}`` for the epoch (iteration), 1-based.
        backend_args: Arguments of the file back end.
        published_keys: After training, write the last and the best checkpoint once more with these
            keys alone, under a name that ends in the first 8 digits of the file's SHA-256.
        save_begin: First epoch (iteration) that counts for ``interval``.
        async_save: Write in a thread while training goes on; one file at a time. Errors are raised
            at the next step, and what is under way is finished before the run ends.
        on_error: ``'raise'`` ends the run when a file cannot be written (full disk); ``'warn'``
            logs the error and goes on with the older checkpoints in place.
        **kwargs: Handed to ``runner.save_checkpoint``.

    Raises:
        ValueError: Arguments contradict each other.
    """

    out_dir: str

    priority = "VERY_LOW"

    rule_map = IS_BETTER
    init_value_map = WORST
    _default_greater_keys = list(GREATER_KEYS)
    _default_less_keys = list(LESS_KEYS)

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        out_dir: str | Path | None = None,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_best: str | list[str] | None = None,
        rule: str | list[str | None] | None = None,
        greater_keys: Sequence[str] | None = None,
        less_keys: Sequence[str] | None = None,
        file_client_args: dict[str, Any] | None = None,
        filename_tmpl: str | None = None,
        backend_args: dict[str, Any] | None = None,
        published_keys: str | list[str] | None = None,
        save_begin: int = 0,
        async_save: bool = False,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> None:
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_optimizer = save_optimizer
        self.save_param_scheduler = save_param_scheduler
        self.out_dir = os.fspath(out_dir) if out_dir is not None else None  # type: ignore[assignment]  # set before use
        self.max_keep_ckpts = max_keep_ckpts
        self.save_last = save_last
        self.args = kwargs
        if file_client_args is not None:
            if backend_args is not None:
                raise InvalidValueError(
                    '"file_client_args" and "backend_args" cannot be set at the same time.'
                )
            print_log(
                '"file_client_args" will be removed; use "backend_args" instead.',
                logger="current",
                level=logging.WARNING,
            )
        self.file_client_args = file_client_args
        self.backend_args = backend_args
        if filename_tmpl is None:
            filename_tmpl = "epoch_{}.pth" if by_epoch else "iter_{}.pth"
        elif filename_tmpl.count("{}") != 1:
            raise InvalidValueError(
                f"filename_tmpl must contain one and only one {{}}, got {filename_tmpl!r}"
            )
        self.filename_tmpl = filename_tmpl
        self.published_keys = _checked_published_keys(published_keys)
        if not isinstance(save_begin, int) or save_begin < 0:
            raise InvalidValueError(
                f"save_begin should be a non-negative integer, because it represents the begin "
                f"number of saving checkpoints, but got {save_begin}"
            )
        self.save_begin = save_begin
        if on_error not in ("raise", "warn"):
            raise InvalidValueError(f"on_error must be 'raise' or 'warn', got {on_error!r}")
        self.on_error = on_error
        self.async_save = async_save
        self._saver: AsyncCheckpointSaver | None = None
        # Takes back what was noted of the file that is being written, should that fail.
        self._undo: Callable[[], None] | None = None
        self._set_best_rules(save_best, rule, greater_keys, less_keys)
        self.best_ckpt_path: str | None = None
        self.best_ckpt_path_dict: dict[str, str | None] = {}
        self.last_ckpt: str | None = None
        self.keep_ckpt_ids: deque[int] = deque()
        self._ready = False

    def _set_best_rules(
        self,
        save_best: str | list[str] | None,
        rule: str | list[str | None] | None,
        greater_keys: Sequence[str] | None,
        less_keys: Sequence[str] | None,
    ) -> None:
        if save_best is not None and not (
            isinstance(save_best, str)
            or (isinstance(save_best, list) and all(isinstance(key, str) for key in save_best))
        ):
            raise InvalidTypeError(
                '"save_best" should be a str or list of str or None, '
                f"but got {type(save_best).__name__}"
            )
        if isinstance(save_best, list):
            if "auto" in save_best and len(save_best) != 1:
                raise InvalidValueError('Only support one "auto" in "save_best" list')
            if len(set(save_best)) != len(save_best):
                raise InvalidValueError('Find duplicate element in "save_best"')
        self.save_best = [save_best] if isinstance(save_best, str) else save_best
        self.greater_keys = _key_list(greater_keys, self._default_greater_keys)
        self.less_keys = _key_list(less_keys, self._default_less_keys)
        rules: list[str | None] = rule if isinstance(rule, list) else [rule]
        for one in rules:
            if one is not None and one not in self.rule_map:
                raise KeyError(f'rule must be greater, less or None, but got "{one}".')
        self.key_indicators: list[str] = []
        self.rules: list[Any] = []
        if self.save_best is None:
            return
        keys = list(self.save_best)
        if len(rules) == 1:
            rules = rules * len(keys)
        if len(rules) != len(keys):
            raise InvalidValueError(
                "Number of 'rule' must be 1 or the same as number of 'save_best', "
                f"but got {len(rules)} and {len(keys)}."
            )
        for key, one in zip(keys, rules, strict=True):
            # With "auto" the first metric of the first validation decides.
            is_known = key != "auto"
            self.rules.append(
                infer_rule(key, one, self.greater_keys, self.less_keys) if is_known else one
            )
            self.key_indicators.append(key)

    @property
    def is_better_than(self) -> dict[str, Callable[[float, float], bool]]:
        """Metric -> function that tells whether a new score beats an old one."""
        return {
            key: self.rule_map[rule]
            for key, rule in zip(self.key_indicators, self.rules, strict=True)
            if rule is not None
        }

    # Stages ---------------------------------------------------------------------------------

    def before_train(self, runner: RunnerLike) -> None:
        """Find out where to save, and take up where an interrupted run left off."""
        self._prepare(runner)
        runner.logger.info(f"Checkpoints will be saved to {self.out_dir}.")
        info = runner.message_hub.runtime_info
        if self.save_best is not None:
            if len(self.key_indicators) == 1:
                self.best_ckpt_path = self._found_here(info.get("best_ckpt", self.best_ckpt_path))
            else:
                for key in self.key_indicators:
                    self.best_ckpt_path_dict[key] = self._found_here(info.get(f"best_ckpt_{key}"))
        if self.max_keep_ckpts > 0:
            kept = info.get("keep_ckpt_ids", ())
            self.keep_ckpt_ids = deque(kept, maxlen=None)
            self._rotate(runner, self.max_keep_ckpts)
        if dist.is_main_process() and self._is_local(runner):
            os.makedirs(self.out_dir, exist_ok=True)
            removed = remove_stale_temporaries(self.out_dir)
            if removed:
                runner.logger.info(
                    f"Removed {len(removed)} unfinished file(s) of a killed run from {self.out_dir}."
                )

    def after_train_epoch(self, runner: RunnerLike) -> None:
        """Save if the epoch is due."""
        if not self.by_epoch:
            return
        if self.every_n_epochs(runner, self.interval, self.save_begin) or (
            self.save_last and self.is_last_train_epoch(runner)
        ):
            runner.logger.info(f"Saving checkpoint at {runner.epoch + 1} epochs")
            self._save_checkpoint(runner)

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Save if the iteration is due."""
        if self._saver is not None:
            # A rank that raises leaves a note and cuts its connections: the others end in their next
            # collective. Each loop has one within a fraction of a second, to agree on stopping.
            self._settle(runner, self._saver.check)
        if self.by_epoch:
            return
        if self.every_n_train_iters(runner, self.interval, self.save_begin) or (
            self.save_last and self.is_last_train_iter(runner)
        ):
            runner.logger.info(f"Saving checkpoint at {runner.iter + 1} iterations")
            self._save_checkpoint(runner)

    def idle_iters(self, runner: RunnerLike, batch_idx: int, mode: str) -> int | None:
        """Return the iterations before the next save by iteration.

        What is being written meanwhile is looked after in each.
        """
        if mode != "train" or self._saver is not None:
            return None
        if self.by_epoch:
            return sys.maxsize
        done = runner.iter
        number = runner.max_iters - 1 - done if self.save_last else sys.maxsize
        if self.interval > 0:
            since = done - self.save_begin
            number = min(number, -(since + 1) % self.interval if since >= -1 else -since - 1)
        return max(number, 0)

    def after_val_epoch(self, runner: RunnerLike, metrics: dict[str, float] | None = None) -> None:
        """Save the best checkpoint if a metric improved."""
        if not metrics:
            runner.logger.warning(
                "Since `metrics` is an empty dict, the behavior to save the best checkpoint will "
                "be skipped in this evaluation."
            )
            return
        self._save_best_checkpoint(runner, metrics)

    def after_train(self, runner: RunnerLike) -> None:
        """Finish what is being written, then publish the last and the best checkpoint."""
        self._finish(runner)
        if not self.published_keys:
            return
        self._prepare(runner)
        if self.save_last and self.last_ckpt is not None:
            self._publish_model(runner, self.last_ckpt)
        for path in [self.best_ckpt_path, *self.best_ckpt_path_dict.values()]:
            if path and self._is_own(path):
                self._publish_model(runner, path)

    def after_run(self, runner: RunnerLike) -> None:
        """Finish what is being written, also when the run ends in an error."""
        self._finish(runner)
        if self._saver is not None:
            self._saver.close()
            self._saver = None

    # Where ----------------------------------------------------------------------------------

    def _prepare(self, runner: RunnerLike) -> None:
        """Set the directory and the back end; also where no training precedes a validation."""
        if self._ready:
            return
        work_dir = os.fspath(runner.work_dir)
        if self.out_dir is None:
            self.out_dir = work_dir
        self.file_backend = get_file_backend(
            self.out_dir, backend_args=self.backend_args or self.file_client_args
        )
        self.file_client = self.file_backend
        # A directory of one's own gets a folder for each run.
        if self.out_dir != work_dir:
            name = os.path.basename(work_dir.rstrip(os.sep))
            self.out_dir = self.file_backend.join_path(self.out_dir, name)
        self._ready = True

    def _place_of(self, path: str) -> str:
        return self.file_backend.join_path(self.out_dir, os.path.basename(path))

    def _is_own(self, path: str) -> bool:
        """Tell whether a checkpoint lies where this run saves its own."""
        return str(path) == str(self._place_of(path))

    def _found_here(self, path: str | None) -> str | None:
        """Return where the best checkpoint of a resumed run is: its directory may have moved."""
        if path is None or self._is_own(path):
            return path
        here = self._place_of(path)
        moved = self.file_backend.isfile(here) or self.file_backend.isdir(here)
        return here if moved else path

    def _is_local(self, runner: RunnerLike) -> bool:
        return "://" not in self.out_dir

    # Periodic -------------------------------------------------------------------------------

    def _save_checkpoint(self, runner: RunnerLike) -> None:
        if self.by_epoch:
            step = runner.epoch + 1
            meta = {"epoch": step, "iter": runner.iter}
        else:
            step = runner.iter + 1
            meta = {"epoch": runner.epoch, "iter": step}
        self._save_checkpoint_with_step(runner, step, meta)

    def _save_checkpoint_with_step(
        self, runner: RunnerLike, step: int, meta: dict[str, Any]
    ) -> None:
        self._prepare(runner)
        # The file before this one first: what it replaces may go only when it is durable, and what
        # this one replaces only after that.
        self._finish(runner, on_all_ranks=True)
        name = self.filename_tmpl.format(step)
        path = self.file_backend.join_path(self.out_dir, name)
        before, previous = [i for i in self.keep_ckpt_ids if i != step], self.last_ckpt
        if self.max_keep_ckpts > 0:
            # The state that goes into the file counts the file itself, and those that go when it is
            # there: a run that is killed before they went deletes them when it is taken up.
            self._keep(runner, [*before, step])
        self.last_ckpt = path
        runner.message_hub.update_info("last_ckpt", path)

        def then() -> None:
            if dist.is_main_process():
                os.makedirs(runner.work_dir, exist_ok=True)
                write_last_checkpoint(runner.work_dir, path)
            self._rotate(runner, self.max_keep_ckpts)

        def undo() -> None:
            self.last_ckpt = previous
            runner.message_hub.update_info("last_ckpt", previous)
            if self.max_keep_ckpts > 0 and not self.file_backend.exists(path):
                self._keep(runner, before)

        self._write(runner, name, meta, by_epoch=self.by_epoch, then=then, undo=undo)

    def _keep(self, runner: RunnerLike, steps: list[int]) -> None:
        self.keep_ckpt_ids = deque(steps)
        runner.message_hub.update_info("keep_ckpt_ids", steps)

    def _rotate(self, runner: RunnerLike, keep: int) -> None:
        """Delete the oldest files beyond ``keep``. Called only once the newest is durable."""
        steps = list(self.keep_ckpt_ids)
        if not 0 < keep < len(steps):
            return
        left = []
        for step in steps[:-keep] if dist.is_main_process() else ():
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
            if not self._remove(runner, path):
                left.append(step)  # tried again the next time
        self._keep(runner, [*left, *steps[-keep:]])

    def _remove(self, runner: RunnerLike, path: str) -> bool:
        """Delete a checkpoint: the one path for local and remote files and sharded directories.

        Returns:
            Whether it is gone.
        """
        try:
            if self._is_local(runner):
                # What a crash has left aside would take its place.
                remove_tree(aside_of(path))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                self.file_backend.rmtree(path)
        except OSError as error:
            runner.logger.warning(f"Could not delete the old checkpoint {path}: {error}")
            return False
        return True

    def _write(
        self,
        runner: RunnerLike,
        name: str,
        meta: dict[str, Any],
        *,
        by_epoch: bool,
        then: Callable[[], None],
        undo: Callable[[], None],
    ) -> bool:
        """Save through the runner. All ranks call this.

        Args:
            runner: The runner.
            name: Name of the file.
            meta: What the file says of the run's position.
            by_epoch: Whether the file is named by the epoch.
            then: Called once the file is durable.
            undo: Called if it could not be written.

        Returns:
            Whether the file was written, or is being written.

        Raises:
            CheckpointError: On every rank, if the main process could not write the file and
                ``on_error`` is ``'raise'``.
        """
        options: dict[str, Any] = dict(self.args)
        if self.async_save:
            if self._saver is None:
                self._saver = AsyncCheckpointSaver()
            options.update(saver=self._saver, then=then)
        self._undo = undo

        def save() -> None:
            runner.save_checkpoint(
                self.out_dir,
                filename=name,
                file_client_args=self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=by_epoch,
                backend_args=self.backend_args,
                **options,
            )
            if not self.async_save:
                then()

        done = self._settle(runner, save, on_all_ranks=True)
        if not self.async_save:
            self._undo = None
        return done

    def _settle(
        self, runner: RunnerLike, act: Callable[[], None], on_all_ranks: bool = False
    ) -> bool:
        """Do what may find that a file could not be written, and follow the policy for that.

        Returns:
            Whether nothing of the kind was found.
        """
        try:
            with _same_on_all_ranks() if on_all_ranks else contextlib.nullcontext():
                act()
        except CheckpointError as error:
            undo, self._undo = self._undo, None
            if undo is not None:
                undo()
            if self.on_error == "raise":
                raise
            runner.logger.error(f"Training goes on without a new checkpoint: {error}")
            return False
        return True

    def _finish(self, runner: RunnerLike, on_all_ranks: bool = False) -> None:
        """Wait for the file that is being written."""
        if self._saver is not None:
            self._settle(runner, self._saver.wait, on_all_ranks)

    # Best -----------------------------------------------------------------------------------

    def _save_best_checkpoint(self, runner: RunnerLike, metrics: dict[str, float]) -> None:
        if not self.save_best:
            return
        if not self._is_training(runner):
            return  # validation alone changed no weights: there is nothing new to keep
        self._prepare(runner)
        if self.by_epoch:
            # `runner.epoch` has been counted up already when an epoch's validation runs.
            step, unit = runner.epoch, "epoch"
        else:
            step, unit = runner.iter, "iter"
        meta = {"epoch": runner.epoch, "iter": runner.iter}
        name = self.filename_tmpl.format(step)
        if self.key_indicators == ["auto"]:
            self._init_rule(self.rules[0], next(iter(metrics)))
        hub = runner.message_hub
        single = len(self.key_indicators) == 1
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            self._finish(runner, on_all_ranks=True)
            score = self._get_metric_score(metrics, key)
            score_name = "best_score" if single else f"best_score_{key}"
            path_name = "best_ckpt" if single else f"best_ckpt_{key}"
            best = hub.runtime_info.get(score_name, self.init_value_map[rule])
            if score is None or not self.rule_map[rule](score, best):
                continue
            old = self.best_ckpt_path if single else self.best_ckpt_path_dict.get(key)
            best_name = f"best_{key}_{name}".replace("/", "_")
            path = self.file_backend.join_path(self.out_dir, best_name)

            def note(
                best: float | None,
                path: str | None,
                key: str = key,
                names: tuple[str, str] = (score_name, path_name),
            ) -> None:
                if single:
                    self.best_ckpt_path = path
                else:
                    self.best_ckpt_path_dict[key] = path
                hub.update_info(names[0], best)
                hub.update_info(names[1], path)

            def then(old: str | None = old, path: str = path) -> None:
                # The better one is durable: only now may its predecessor go.
                # That of a run in another directory, which this one goes on from, stays.
                if old and old != path and self._is_own(old) and dist.is_main_process():
                    self._remove(runner, old)
                    runner.logger.info(f"The previous best checkpoint {old} is removed")

            def undo(
                note: Callable[..., None] = note, best: float = best, old: str | None = old
            ) -> None:
                note(best, old)

            # The state that goes into the file knows that the file is the best.
            note(score, path)
            if self._write(runner, best_name, meta, by_epoch=False, then=then, undo=undo):
                runner.logger.info(
                    f"The best checkpoint with {score:0.4f} {key} at {step} {unit} is saved to "
                    f"{best_name}."
                )

    @staticmethod
    def _is_training(runner: RunnerLike) -> bool:
        return getattr(runner, "optim_wrapper", None) is not None and not isinstance(
            runner.optim_wrapper, dict
        )

    def _init_rule(self, rule: str | None, key_indicator: str) -> None:
        self.rules = [infer_rule(key_indicator, rule, self.greater_keys, self.less_keys)]
        self.key_indicators = [key_indicator]

    def _get_metric_score(self, metrics: dict[str, Any], key_indicator: str) -> float | None:
        """Return the value of a metric as a number, or None if validation returned None for it.

        Raises:
            KeyError: Validation returned no metric of this name.
        """
        if key_indicator not in metrics:
            from difflib import get_close_matches

            near = get_close_matches(key_indicator, metrics, n=1)
            raise KeyError(
                f"save_best={key_indicator!r} is not among the metrics of validation: {', '.join(metrics)}."
                + (f" Did you mean {near[0]!r}?" if near else "")
            )
        value = metrics[key_indicator]
        return value.item() if isinstance(value, torch.Tensor) else value

    # Publish --------------------------------------------------------------------------------

    def _publish_model(self, runner: RunnerLike, ckpt_path: str) -> None:
        if not dist.is_main_process():
            return
        assert self.published_keys
        checkpoint = CheckpointLoader.load_checkpoint(ckpt_path, "cpu", None, verify=True)
        missing = [key for key in self.published_keys if key not in checkpoint]
        if missing:
            runner.logger.warning(
                f"Keys {missing} will not be saved to the published checkpoint: {ckpt_path} lacks them."
            )
        removed = [key for key in checkpoint if key not in self.published_keys]
        if removed:
            runner.logger.info(
                f"Key {removed} will be removed because they are not found in published_keys. If "
                f"you want to keep them, please set `{removed}` in published_keys"
            )
        published = {k: checkpoint[k] for k in self.published_keys if k in checkpoint}
        stem = ckpt_path.removesuffix(".pth")
        temporary = f"{stem}-publishing.pth"
        save_checkpoint(published, temporary, backend_args=self.backend_args)
        data = self.file_backend.get(temporary)
        final = f"{stem}-{hashlib.sha256(data).hexdigest()[:8]}.pth"
        if self._is_local(runner):
            os.replace(temporary, final)
        else:
            self.file_backend.put(data, final)
            self.file_backend.remove(temporary)
        runner.logger.info(f"The checkpoint ({ckpt_path}) is published to {final}.")


@contextlib.contextmanager
def _same_on_all_ranks() -> Iterator[None]:
    """Raise a failure of the main process on every rank; nobody waits for it in vain."""
    error: CheckpointError | None = None
    try:
        yield
    except CheckpointError as caught:
        error = caught
    if dist.get_world_size() > 1:
        told: list[Any] = [None if error is None else str(error)]
        dist.broadcast_object_list(told, src=0)
        if error is None and told[0] is not None:
            error = CheckpointError(f"the main process reports: {told[0]}")
    if error is not None:
        raise error


def _key_list(keys: Sequence[str] | None, default: list[str]) -> list[str]:
    if keys is None:
        return list(default)
    keys = list(keys) if isinstance(keys, (list, tuple)) else [keys]  # type: ignore[list-item]  # one key
    if not all(isinstance(key, str) for key in keys):
        raise InvalidTypeError(f"greater_keys and less_keys hold metric names, got {keys}")
    return keys


def _checked_published_keys(keys: str | list[str] | None) -> list[str] | None:
    if keys is None:
        return None
    if isinstance(keys, str):
        return [keys]
    if isinstance(keys, (list, tuple)) and all(isinstance(key, str) for key in keys):
        return list(keys)
    raise InvalidTypeError(
        f'"published_keys" should be a str, a sequence of str or None, but got {type(keys).__name__}'
    )
