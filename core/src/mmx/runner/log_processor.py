"""The log processor: turns what a run has logged into one line and one record."""

from __future__ import annotations

import datetime
import functools
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmx.device import get_max_cuda_memory, get_max_memory, is_cuda_available
from mmx.dist import get_world_size
from mmx.logging import HistoryBuffer, MessageHub
from mmx.logging._scalars import tensors_live_on_cpu
from mmx.registry import LOG_PROCESSORS
from mmx.utils.errors import InvalidTypeError, InvalidValueError
from mmx.utils.misc import has_methods

if TYPE_CHECKING:
    from mmx.runner.runner import Runner

CustomCfg = list[dict[str, Any]]
_MODES = ("train", "val", "test")


@LOG_PROCESSORS.register_module()
class LogProcessor:
    """Formats a run's numbers: the line for people, the record for visualizers.

    Numbers whose name matches ``mean_pattern`` are averaged over the last ``window_size``
    iterations; of the others the latest is shown.

    Args:
        window_size: Over how many iterations averages are taken.
        by_epoch: Lines count epochs, ``Epoch(train) [1][10/25]``, rather than iterations,
            ``Iter(train) [10/1000]``. Should be what the training loop does.
        custom_cfg: Other statistics, a dict each: ``data_src``, the name of the number;
            ``method_name``, the statistic (``mean``, ``min``, ``max``, ``current`` or a registered
            one); ``log_name``, under which the result is shown in addition, without which it
            replaces the number; ``window_size``, a number, ``'epoch'`` (the epoch's length) or
            ``'global'`` (all iterations so far); further arguments of the statistic.
        num_digits: Digits after the point.
        log_with_hierarchy: Records keep the prefix: ``train/loss`` instead of ``loss``.
        mean_pattern: Regular expression of the names that are averaged.

    Raises:
        TypeError: ``custom_cfg`` is no list of dicts, or has no ``data_src``.
        ValueError: It sets a name twice, or uses ``'epoch'`` without ``by_epoch``.

    Examples:
        >>> from mmx.runner import LogProcessor
        >>> processor = LogProcessor(
        ...     window_size=10,
        ...     custom_cfg=[dict(data_src='loss', log_name='loss_worst', method_name='max',
        ...                      window_size=100)])
    """

    def __init__(
        self,
        window_size: int = 10,
        by_epoch: bool = True,
        custom_cfg: CustomCfg | None = None,
        num_digits: int = 4,
        log_with_hierarchy: bool = False,
        mean_pattern: str = r".*(loss|time|data_time|grad_norm).*",
    ) -> None:
        self.window_size = window_size
        self.by_epoch = by_epoch
        self.custom_cfg: CustomCfg = [] if custom_cfg is None else custom_cfg
        self.num_digits = num_digits
        self.log_with_hierarchy = log_with_hierarchy
        self.mean_pattern = re.compile(mean_pattern)
        # What of the hub's numbers a mode shows: key -> name, and whether it is averaged. There are
        # few names and many lines.
        self._shown: dict[str, dict[Any, tuple[str, bool] | None]] = {mode: {} for mode in _MODES}
        # Who was asked for an accelerator, and the answer.
        self._memory_asked: Any = None
        self._has_memory = False
        self._check_custom_cfg()

    # Lines ------------------------------------------------------------------------------------

    def get_log_after_iter(
        self, runner: Runner, batch_idx: int, mode: str
    ) -> tuple[dict[str, Any], str]:
        """Return record and line after an iteration.

        With several ranks every rank must call: the memory shown is the largest of all.

        Args:
            runner: The running runner.
            batch_idx: 0-based index of the batch in the current loop.
            mode: ``train``, ``val`` or ``test``.

        Returns:
            Name -> value, and the line.
        """
        return self._entry_after_iter(runner, batch_idx, mode)()

    def entry_after_iter(
        self, runner: Runner, batch_idx: int, mode: str
    ) -> Callable[[], tuple[dict[str, Any], str]]:
        """Return what puts record and line of an iteration together, at any later time.

        It holds the numbers as they are now, and is to be called before the epoch or the data set
        has ended. See :meth:`get_log_after_iter`, of which it is the first half; where a subclass
        overrides that, all is done here.
        """
        if not has_methods(self, _OWN_METHODS):
            done = self.get_log_after_iter(runner, batch_idx, mode)
            return lambda: done
        return self._entry_after_iter(runner, batch_idx, mode)

    def can_wait(self) -> bool:
        """Tell whether lines may be put together later than they are due.

        They may if they say no more than what the message hub held, and need no other rank. Not so
        with an accelerator: it is waited for where a line is due, and nowhere else.
        """
        return (
            type(self) is LogProcessor
            and not self._counts_memory()
            and tensors_live_on_cpu()
            and (not self.custom_cfg or get_world_size() == 1)
        )

    def stand_by(self, runner: Runner, batch_idx: int, mode: str) -> None:
        """Do after an iteration what the lines of other ranks need, where nobody wants this rank's.

        See :meth:`get_log_after_iter`, which a subclass is called for all the same: it may, for
        example, average over ranks.
        """
        if type(self) is not LogProcessor or self.custom_cfg:
            self.get_log_after_iter(runner, batch_idx, mode)
        elif self._counts_memory():
            self._get_max_memory(runner)

    def _entry_after_iter(
        self, runner: Runner, batch_idx: int, mode: str
    ) -> Callable[[], tuple[dict[str, Any], str]]:
        _check_mode(mode, _MODES)
        self._keep_enough(runner, mode)
        custom_cfg = self.custom_cfg
        if custom_cfg:
            custom_cfg = self._parse_windows_size(runner, batch_idx, custom_cfg)
        tag = self._collect_scalars(custom_cfg, runner, mode, self.log_with_hierarchy)
        done = runner.iter + 1 if _is_training_built(runner) else 0
        eta = runner.message_hub.get_info("eta")
        memory = self._get_max_memory(runner) if self._counts_memory() else None
        number = batch_idx + 1
        if mode == "train" and not self.by_epoch:
            number = self._get_iter(runner, batch_idx)
        return functools.partial(self._finish, runner, mode, number, tag, done, eta, memory)

    def _finish(
        self,
        runner: Runner,
        mode: str,
        number: int,
        tag: dict[str, Any],
        done: int,
        eta: float | None,
        memory: int | None,
    ) -> tuple[dict[str, Any], str]:
        """Return record and line of these numbers."""
        shown = dict(tag)
        if self.log_with_hierarchy:
            shown = {self._remove_prefix(name, f"{mode}/"): value for name, value in tag.items()}
        parts = [self._header_after_iter(runner, number, mode, tag)]
        parts.append(" ".join(self._pop_learning_rates(shown)))
        tag["iter"] = done
        if "time" in shown and "data_time" in shown and eta is not None:
            digits = self.num_digits
            parts.append(f"eta: {datetime.timedelta(seconds=int(eta))}")
            parts.append(f"time: {shown.pop('time'):.{digits}f}")
            parts.append(f"data_time: {shown.pop('data_time'):.{digits}f}")
        if memory is not None:
            tag["memory"] = memory
            parts.append(f"memory: {memory}")
        # The header ends in two spaces, and so does each part up to here.
        line = "".join(f"{part}  " for part in parts)
        if mode == "train":
            line += "  ".join([f"{name}: {self._text(value)}" for name, value in shown.items()])
        return tag, line

    def get_log_after_epoch(
        self, runner: Runner, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict[str, Any], str]:
        """Return record and line after a validation or test.

        Args:
            runner: The running runner.
            batch_idx: How many batches there were, less one.
            mode: ``val`` or ``test``.
            with_non_scalar: The record also has results that are no numbers.

        Returns:
            Name -> value, and the line.
        """
        _check_mode(mode, ("val", "test"))
        length = self._get_dataloader_size(runner, mode)
        header = f"{'Epoch' if self.by_epoch else 'Iter'}({mode}) "
        if self.by_epoch and mode == "val":
            epoch = self._get_epoch(runner, mode) if _is_training_built(runner) else 0
            header += f"[{epoch}]"
        header += f"[{length}/{length}]  "

        cfgs = [*self.custom_cfg]
        for name in ("time", "data_time"):
            if all(cfg["data_src"] != name for cfg in self.custom_cfg):
                # Averages over all of the data set, however short the windows are.
                cfgs.append({"data_src": name, "window_size": "epoch", "method_name": "mean"})
        custom_cfg = self._parse_windows_size(runner, batch_idx, cfgs)
        scalars = self._collect_scalars(custom_cfg, runner, mode, self.log_with_hierarchy)
        others = self._collect_non_scalars(runner, mode, self.log_with_hierarchy)

        times = OrderedDict()
        for name in list(scalars):
            if self._remove_prefix(name, f"{mode}/") in ("time", "data_time"):
                times[name] = scalars.pop(name)
        tag: OrderedDict[str, Any] = OrderedDict(scalars)
        if with_non_scalar:
            tag.update(others)
        tag.update(times)
        items = [f"{name}: {self._text(value)}" for name, value in scalars.items()]
        for name, value in others.items():
            if isinstance(value, torch.Tensor | np.ndarray):
                # On lines of its own, for its rows.
                items.append(f"{name}: \n{value}\n")
            else:
                items.append(f"{name}: {value}")
        items += [f"{name}: {self._text(value)}" for name, value in times.items()]
        return tag, header + "  " + "  ".join(items)

    def _header_after_iter(
        self, runner: Runner, number: int, mode: str, tag: dict[str, Any]
    ) -> str:
        """Return the line's head without its final spaces; the epoch joins ``tag``.

        All that it asks the runner stays as it is until the epoch, or the data set, has ended.
        """
        name = "Epoch" if self.by_epoch else "Iter"
        by_iter = mode == "train" and not self.by_epoch
        total = runner.max_iters if by_iter else self._get_dataloader_size(runner, mode)
        # Right-aligned, so that lines stand below each other.
        done = str(number).rjust(len(str(total)))
        if not self.by_epoch or mode == "test":
            return f"{name}({mode}) [{done}/{total}]"
        if _is_training_built(runner):
            tag["epoch"] = self._get_epoch(runner, mode)
            width = len(str(runner.max_epochs)) + len("[] ")
            epoch = f"[{tag['epoch']}]".rjust(width)
        else:
            tag["epoch"] = 0
            epoch = "[0]"
        return f"{name}({mode}){epoch}[{done}/{total}]"

    def _pop_learning_rates(self, shown: dict[str, Any]) -> list[str]:
        names = [name for name in shown if name[-2:] == "lr"]
        return [f"{name}: {shown.pop(name):.{self.num_digits}e}" for name in names]

    def _text(self, value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.{self.num_digits}f}"
        return str(value)

    # Collecting -------------------------------------------------------------------------------

    def _collect_scalars(
        self, custom_cfg: CustomCfg, runner: Runner, mode: str, reserve_prefix: bool = False
    ) -> OrderedDict[str, Any]:
        """Return name -> statistic of all numbers of a mode.

        Args:
            custom_cfg: With window sizes as numbers.
            runner: The runner.
            mode: Its numbers have the prefix ``<mode>/``.
            reserve_prefix: Keep the prefix.
        """
        tag: OrderedDict[str, Any] = OrderedDict()
        prefix = f"{mode}/"
        shown_prefix = prefix if reserve_prefix else ""
        window = self.window_size
        hub = runner.message_hub
        buffers: dict[str, Any] = {}
        if isinstance(hub, MessageHub):
            hub.read()
        known = self._shown.setdefault(mode, {})
        for key, buffer in hub.log_scalars.items():
            if key not in known:
                known[key] = self._shown_as(key, prefix)
            shown = known[key]
            if shown is None:
                continue
            name, averaged = shown
            buffers[name] = buffer
            value = None
            if buffer.__class__ is HistoryBuffer:
                value = buffer.glance(window if averaged else None)
            if value is None:
                value = (
                    buffer.statistics("mean", window) if averaged else buffer.statistics("current")
                )
            tag[shown_prefix + name] = value
        for cfg in custom_cfg:
            options = dict(cfg)
            source = options.pop("data_src")
            name = options.pop("log_name", source)
            if source in buffers:
                tag[f"{shown_prefix}{name}"] = buffers[source].statistics(**options)
        return tag

    def _shown_as(self, key: Any, prefix: str) -> tuple[str, bool] | None:
        """Return the name of a number of a mode, and whether it is averaged; None for others."""
        if not (isinstance(key, str) and key.startswith(prefix)):
            return None
        name = key[len(prefix) :]
        return name, bool(self.mean_pattern.search(name))

    def _collect_non_scalars(
        self, runner: Runner, mode: str, reserve_prefix: bool = False
    ) -> OrderedDict[str, Any]:
        """Return name -> value of a mode's results that are no numbers.

        Args:
            runner: The runner.
            mode: Its results have the prefix ``<mode>/``.
            reserve_prefix: Keep the prefix.
        """
        prefix = f"{mode}/"
        return OrderedDict(
            (key if reserve_prefix else key.removeprefix(prefix), value)
            for key, value in runner.message_hub.runtime_info.items()
            if isinstance(key, str) and key.startswith(prefix)
        )

    def _remove_prefix(self, string: str, prefix: str) -> str:
        return string.removeprefix(prefix)

    # Windows ----------------------------------------------------------------------------------

    def _check_custom_cfg(self) -> None:
        """Check ``custom_cfg``.

        Raises:
            TypeError: It is no list of dicts with ``data_src``.
            ValueError: It sets a name twice, or uses ``'epoch'`` without ``by_epoch``.
        """
        cfgs = self.custom_cfg
        if isinstance(cfgs, str | Mapping) or not isinstance(cfgs, Sequence):
            raise InvalidTypeError(
                f"custom_cfg should be a list of dicts, but got {type(cfgs).__name__}"
            )
        set_by: dict[str, str] = {}
        for cfg in cfgs:
            if not isinstance(cfg, Mapping) or "data_src" not in cfg:
                raise InvalidTypeError(
                    "each item of `custom_cfg` of `log_processor` should be a dict with "
                    f"`data_src`, but got {cfg!r}"
                )
            if not self.by_epoch and cfg.get("window_size") == "epoch":
                raise InvalidValueError(
                    "window_size cannot be epoch if LogProcessor.by_epoch is False; got it for "
                    f"{cfg['data_src']!r}"
                )
            source = cfg["data_src"]
            name = str(cfg.get("log_name", source))
            if name in set_by:
                raise InvalidValueError(
                    f"Found duplicate {name} for {source}. Please check your `custom_cfg` for "
                    f"`log_processor`: it sets {name!r} twice, from {set_by[name]!r} and from "
                    f"{source!r}; give one of them another log_name"
                )
            set_by[name] = source

    def _parse_windows_size(
        self, runner: Runner, batch_idx: int, custom_cfg: CustomCfg | None = None
    ) -> CustomCfg:
        """Return a copy of ``custom_cfg`` with all window sizes as numbers.

        Raises:
            TypeError: A window size is neither an int nor ``'epoch'`` nor ``'global'``.
        """
        if custom_cfg is None:
            custom_cfg = self.custom_cfg
        parsed = [dict(cfg) for cfg in custom_cfg]
        for cfg in parsed:
            window = cfg.get("window_size")
            if window is None or (isinstance(window, int) and not isinstance(window, bool)):
                pass
            elif window == "epoch":
                cfg["window_size"] = batch_idx + 1
            elif window == "global":
                cfg["window_size"] = runner.iter + 1
            else:
                raise InvalidTypeError(
                    "window_size should be int, epoch or global, but got invalid "
                    f"{window!r} for {cfg.get('data_src')!r}"
                )
        return parsed

    def _keep_enough(self, runner: Runner, mode: str) -> None:
        """Let the hub's buffers keep as many values as the largest window needs.

        Windows over the whole run need none: hubs keep totals.
        """
        if not self.custom_cfg and self.window_size <= runner.message_hub.max_length:
            return
        windows = [self.window_size]
        for cfg in self.custom_cfg:
            window = cfg.get("window_size")
            if isinstance(window, int):
                windows.append(window)
            elif window == "epoch":
                windows.append(self._get_dataloader_size(runner, mode))
        if max(windows) > runner.message_hub.max_length:
            runner.message_hub.keep_at_least(max(windows))

    # What the run says ------------------------------------------------------------------------

    def _counts_memory(self) -> bool:
        """Tell whether the accelerator, if there is one, knows how much memory tensors took.

        Asked once: the driver takes its time to answer.
        """
        asked = (is_cuda_available, torch.cuda.is_available)
        if self._memory_asked != asked:
            self._memory_asked = asked
            self._has_memory = is_cuda_available() or _other_accelerator_counts_memory()
        return self._has_memory

    def _get_max_memory(self, runner: Runner) -> int:
        """Return the most memory, in MB, that tensors took on any rank since the last line."""
        device = getattr(runner.model, "output_device", None)
        accelerator = torch.accelerator.current_accelerator()
        is_cuda = accelerator is None or accelerator.type == "cuda"
        memory = int(get_max_cuda_memory(device) if is_cuda else get_max_memory(device))
        if getattr(runner, "world_size", 1) > 1:
            from mmx.dist import all_reduce, get_comm_device

            peak = torch.tensor([memory], dtype=torch.int64, device=get_comm_device())
            all_reduce(peak, op="max")
            memory = int(peak.item())
        return memory

    def _get_iter(self, runner: Runner, batch_idx: int) -> int:
        """Return the 1-based number of the iteration: of the epoch, or of the run."""
        if self.by_epoch and batch_idx is not None:
            return batch_idx + 1
        return runner.iter + 1

    def _get_epoch(self, runner: Runner, mode: str) -> int:
        """Return the 1-based number of the epoch that runs, or that validation follows.

        Raises:
            ValueError: ``mode`` is neither ``train`` nor ``val``.
        """
        if mode == "train":
            return runner.epoch + 1
        if mode == "val":
            return runner.epoch
        raise InvalidValueError(f"runner mode should be 'train' or 'val', but got {mode}")

    def _get_cur_loop(self, runner: Runner, mode: str) -> Any:
        """Return the loop of a mode."""
        return getattr(runner, f"{mode if mode in _MODES[:2] else 'test'}_loop")

    def _get_dataloader_size(self, runner: Runner, mode: str) -> int:
        """Return how many batches the data loader of a mode has."""
        return len(self._get_cur_loop(runner, mode).dataloader)


# As they were defined, whatever is put in their place later.
_OWN_METHODS = {"get_log_after_iter": LogProcessor.get_log_after_iter}


def _check_mode(mode: str, modes: Sequence[str]) -> None:
    if mode not in modes:
        raise InvalidValueError(f"mode should be one of {', '.join(modes)}, but got {mode!r}")


@functools.cache
def _other_accelerator_counts_memory() -> bool:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator is not None and accelerator.type not in ("cuda", "mps")


def _is_training_built(runner: Runner) -> bool:
    """Tell whether the runner's training loop exists; asking for it would build it."""
    loop = runner._train_loop
    return loop is not None and not isinstance(loop, dict)
