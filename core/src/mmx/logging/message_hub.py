"""The message hub: where the parts of a run leave numbers and facts for each other."""

from __future__ import annotations

import copy
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmx._engine_name import engine_name
from mmx.logging._rows import (
    FAST,
    FLOATS,
    KNOWN,
    READERS,
    TENSOR,
    TENSORS,
    RowGroup,
    kept,
    learn_tensor_types,
)
from mmx.logging._scalars import as_number, is_tensor, tensors_live_on_cpu
from mmx.logging.history_buffer import HistoryBuffer, read_together
from mmx.logging.logger import print_log
from mmx.utils.errors import InvalidKeyError, InvalidTypeError, InvalidValueError
from mmx.utils.manager import ManagerMixin

if TYPE_CHECKING:
    import numpy as np
    import torch

# Rows wait here before they are handed to their buffers.
_MAX_ROWS = 512
_PLAIN = (str, bytes, int, float, complex, bool, type(None))


class MessageHub(ManagerMixin):
    """Holds what the parts of a run tell each other, found by name or as the current one.

    There are two kinds: numbers with a history (losses, learning rates), each in a
    :class:`~mmx.logging.HistoryBuffer`, and facts of which the latest counts (the epoch, the path
    of the last checkpoint).

    Each buffer keeps the latest :attr:`max_length` values, so that memory does not grow with the
    run; statistics over everything ever logged stay exact.

    Args:
        name: Name of the instance.
        log_scalars: First buffers, by name.
        runtime_info: First facts, by name.
        resumed_keys: Which of them are saved in checkpoints, name -> bool.

    Raises:
        TypeError: An argument is no dict, or a value of ``log_scalars`` no buffer.
        ValueError: ``resumed_keys`` has a name that the others lack.
    """

    #: How many values each buffer of a hub keeps.
    max_length = 10_000

    def __init__(
        self,
        name: str,
        log_scalars: dict[str, HistoryBuffer] | None = None,
        runtime_info: dict[str, Any] | None = None,
        resumed_keys: dict[str, bool] | None = None,
    ) -> None:
        super().__init__(name)
        for argument, value in (
            ("log_scalars", log_scalars),
            ("runtime_info", runtime_info),
            ("resumed_keys", resumed_keys),
        ):
            if value is not None and not isinstance(value, Mapping):
                raise InvalidTypeError(
                    f"{argument} should be a dict or `None`, but got {type(value).__name__}"
                )
        self._log_scalars: OrderedDict[str, HistoryBuffer] = OrderedDict(log_scalars or {})
        self._runtime_info: OrderedDict[str, Any] = OrderedDict(runtime_info or {})
        self._resumed_keys: OrderedDict[str, bool] = OrderedDict(resumed_keys or {})
        for key, buffer in self._log_scalars.items():
            if not isinstance(buffer, HistoryBuffer):
                raise InvalidTypeError(
                    "The values of log_scalars must be HistoryBuffer, but "
                    f"{key!r} is {type(buffer).__name__}"
                )
        for key in self._resumed_keys:
            if key not in self._log_scalars and key not in self._runtime_info:
                raise InvalidValueError(
                    "Keys of `resumed_keys` must be contained in `log_scalars` or "
                    f"`runtime_info`, but got {key}"
                )
        # One group per set of names that are logged together.
        self._groups: dict[Any, RowGroup] = {}
        # Which groups a buffer is a column of.
        self._groups_of: dict[str, list[RowGroup]] = {}
        # The short way into buffers that belong to no group and are saved in checkpoints.
        self._direct: dict[str, Callable[[float], None]] = {}
        # Floats that wait for their buffers, see `lane`. The lists are never replaced.
        self._lanes: dict[str, list[float]] = {}
        # The lists of lanes and groups, in the order in which they came.
        self._lists: list[list[Any]] = []
        # Who wants to look before something changes, and in which thread, see `before_change`.
        self._looker: tuple[int, Callable[[], None]] | None = None
        # What knows newer facts than those below, see `defer_facts`.
        self._late_facts: list[Callable[[dict[str, Any]], None]] = []

    @classmethod
    def get_current_instance(cls) -> MessageHub:
        """Return the hub that is bound in this context, or else the latest created.

        Before any has been created, one with the engine's name, ``mmx``, is.
        """
        if not cls._instance_dict:
            cls.get_instance(engine_name())
        return super().get_current_instance()  # type: ignore[no-any-return,unused-ignore]

    # Numbers ----------------------------------------------------------------------------------

    def update_scalar(
        self,
        key: str,
        value: int | float | np.ndarray[Any, Any] | torch.Tensor,
        count: int | float = 1,
        resumed: bool = True,
    ) -> None:
        """Append a number to the history of ``key``.

        Args:
            key: Name, in a run with the prefix ``train/``, ``val/`` or ``test/``.
            value: A number, or an array or tensor of one element. A tensor on an accelerator is
                read when somebody needs the number.
            count: What the value is a sum of; the mean divides by counts.
            resumed: Whether checkpoints save the history. The same for all calls of a name.

        Raises:
            TypeError: ``value`` is no number.
            ValueError: ``value`` has more than one element, or ``resumed`` differs from before.
        """
        if self._looker is not None:
            self._let_look()
        kind = type(value)
        if kind is not float and not (kind in TENSORS and tensors_live_on_cpu()):
            value = self._check_value(key, value)
        elif kind is not float:
            try:
                value = value.item()  # type: ignore[union-attr]  # a tensor
            except RuntimeError:
                self._check_value(key, value)  # says what is wrong with it
                raise
        if count == 1 and resumed is True and type(value) is float:
            push = self._direct.get(key)
            if push is not None:
                push(value)
                return
        if not isinstance(count, int | float):
            count = self._check_value(key, count)
        buffer = self._buffer(key, resumed)
        self._clear_lane(key)
        for rows in self._groups_of[key]:
            rows.hand_over()
        buffer._append(value, count)

    def update_scalars(self, log_dict: dict[str, Any], resumed: bool = True) -> None:
        """Append several numbers.

        Args:
            log_dict: Name -> number as in :meth:`update_scalar`, or ``dict(value=..., count=...)``.
            resumed: As in :meth:`update_scalar`, for all of them.

        Raises:
            TypeError: ``log_dict`` is no dict, or has a value that is no number.
            ValueError: A dict in it has no ``value``, or the reasons of :meth:`update_scalar`.
        """
        if not isinstance(log_dict, dict):
            raise InvalidTypeError(f"`log_dict` must be a dict!, but got {type(log_dict).__name__}")
        self._let_look()
        self.update_row("", log_dict, resumed)

    def update_row(self, prefix: str, log_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Append several numbers under a common prefix, at the cost of one.

        Training calls it once per iteration with all losses.

        Args:
            prefix: Put before each name, for example ``'train/'``.
            log_dict: As in :meth:`update_scalars`.
            resumed: As in :meth:`update_scalar`.
        """
        names = (prefix, resumed, *log_dict)
        group = self._groups.get(names)
        if group is not None and group.all_tensors:
            try:
                values: Sequence[Any] = list(map(READERS[0], log_dict.values()))
            except (RuntimeError, TypeError):  # not so this time
                group.all_tensors = False
                group.close()
            else:
                self._append_row(group, values)
                return
        values = list(log_dict.values())
        kinds = set(map(type, values))
        has_tensors = all_tensors = False
        if kinds == FLOATS:
            pass
        elif kinds == TENSOR and tensors_live_on_cpu():
            all_tensors = True
            try:
                values = list(map(READERS[0], values))
            except RuntimeError:
                self._explain_row(prefix, log_dict)
                raise
        elif not kinds <= FAST:
            if not kinds <= KNOWN and not learn_tensor_types(kinds):
                for key, value in log_dict.items():
                    self._update_item(f"{prefix}{key}", value, resumed)
                return
            has_tensors = not tensors_live_on_cpu()
            try:
                if has_tensors:
                    values = [v if v.__class__ in FAST else kept(v) for v in values]
                else:
                    values = [v if v.__class__ in FAST else v.item() for v in values]
            except (RuntimeError, ValueError):
                self._explain_row(prefix, log_dict)
                raise
        if group is None:
            group = self._group(names, [f"{prefix}{key}" for key in log_dict], resumed)
        group.all_tensors = all_tensors
        is_open = all_tensors and resumed and not group.rivals and not group.lanes
        group.open_for = tuple(log_dict) if is_open else None
        if has_tensors:
            group.has_tensors = True
        self._append_row(group, values)

    def _append_row(self, group: RowGroup, values: Sequence[Any]) -> None:
        for rival in group.rivals:
            rival.hand_over()
        for key in group.lanes:
            self._clear_lane(key)
        group.values.extend(values)
        if len(group.values) >= _MAX_ROWS * len(values) or group.lanes:
            self.flush()

    def row_lane(self, prefix: str) -> Callable[[Mapping[str, Any]], None]:
        """Return a function that is :meth:`update_row` with ``prefix``, for one caller.

        It is quick for as long as the names stay the same and the values tensors on the CPU.
        """
        group: RowGroup | None = None

        def log(log_dict: Mapping[str, Any]) -> None:
            nonlocal group
            if group is not None and tuple(log_dict) == group.open_for and group.append(log_dict):
                if len(group.values) >= _MAX_ROWS * len(log_dict):
                    self.flush()
                return
            self.update_row(prefix, log_dict)
            group = self.row_group(prefix, log_dict)

        return log

    def row_group(self, prefix: str, names: Iterable[str]) -> RowGroup | None:
        """Return what :meth:`update_row` collects the rows of these names in, if it does so.

        For a caller that appends to it on its own while it is open for that, and that calls
        :meth:`flush` now and then.
        """
        return self._groups.get((prefix, True, *names))

    def lane(self, key: str) -> Callable[[float], None]:
        """Return a function that appends a float to the history of ``key`` at the least cost.

        For those who log a number in each iteration. Checkpoints save the history. The numbers
        wait until somebody reads them or :meth:`flush` is called; whoever holds on to the function
        calls the latter now and then.

        Args:
            key: Name.

        Raises:
            ValueError: ``key`` is logged with ``resumed=False`` elsewhere.
        """
        return self.lane_values(key).append

    def lane_values(self, key: str) -> list[float]:
        """Return where the numbers of :meth:`lane` wait, for those who log many at a time."""
        self._buffer(key, resumed=True)
        self._direct.pop(key, None)
        if key not in self._lanes:
            self._lanes[key] = []
            self._lists.append(self._lanes[key])
            for rows in self._groups_of[key]:
                rows.hand_over()
                rows.close()
                rows.lanes.append(key)
        return self._lanes[key]

    def _clear_lane(self, key: str) -> None:
        """Move what waits in a lane into its buffer."""
        values = self._lanes.get(key)
        if values:
            waiting = values[:]
            # Cleared first: a buffer that is asked for its values flushes its source.
            values.clear()
            self._log_scalars[key]._extend(waiting)

    def _explain_row(self, prefix: str, log_dict: Mapping[str, Any]) -> None:
        """Raise an error that says which value of a row has more than one element."""
        for key, value in log_dict.items():
            self._check_value(f"{prefix}{key}", value)

    def _update_item(self, key: str, value: Any, resumed: bool) -> None:
        if isinstance(value, Mapping):
            if "value" not in value:
                raise InvalidValueError(
                    f"value must be defined in {dict(value)}, the entry of {key!r}"
                )
            self.update_scalar(key, value["value"], value.get("count", 1), resumed)
        else:
            self.update_scalar(key, value, 1, resumed)

    def _check_value(self, key: str, value: Any) -> Any:
        try:
            if type(value) not in KNOWN:
                learn_tensor_types({type(value)})
            return as_number(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{key!r}: {error}") from None

    def _group(self, names: Any, keys: list[str], resumed: bool) -> RowGroup:
        if len(self._groups) >= 256:  # names that change all the time
            self.flush()
            self._forget_groups()
        group = RowGroup([self._buffer(key, resumed) for key in keys])
        self._groups[names] = group
        self._lists.append(group.values)
        for key in keys:
            for rival in self._groups_of[key]:
                if rival not in group.rivals:
                    group.rivals.append(rival)
                    rival.rivals.append(group)
                    rival.close()
            self._groups_of[key].append(group)
            self._direct.pop(key, None)
            if key in self._lanes:
                group.lanes.append(key)
        return group

    def _forget_groups(self) -> None:
        for group in self._groups.values():
            group.close()  # nobody goes on appending to it
        self._groups.clear()
        self._lists = [*self._lanes.values()]
        self._groups_of = {key: [] for key in self._log_scalars}
        self._direct.clear()

    def _buffer(self, key: str, resumed: bool) -> HistoryBuffer:
        self._set_resumed_keys(key, resumed)
        buffer = self._log_scalars.get(key)
        if buffer is None:
            self._let_look()
            buffer = HistoryBuffer(max_length=self.max_length)
            buffer.keep_ints()
            buffer.keep_totals()
            self._log_scalars[key] = buffer
        buffer._source = self
        if not self._groups_of.setdefault(key, []) and resumed and key not in self._lanes:
            self._direct[key] = buffer.push
        return buffer

    def read(self) -> None:
        """Read all numbers that wait on an accelerator, at the cost of waiting for it once.

        For those who are about to read many of them; each buffer would do it for itself.
        """
        self.flush()
        waiting = [buffer for buffer in self._log_scalars.values() if buffer._has_tensors]
        if waiting:
            read_together(waiting)

    def flush(self) -> None:
        """Hand the waiting rows to their buffers. Whoever reads a buffer gets this done for them.

        It does not wait for an accelerator: its tensors are read when somebody needs the numbers,
        or when a buffer holds 2,048 of them.
        """
        self._let_look()
        for group in self._groups.values():
            if group.values:
                group.hand_over()
        for key, values in self._lanes.items():
            if values:
                self._clear_lane(key)

    # The past --------------------------------------------------------------------------------

    def mark(self) -> tuple[int, ...]:
        """Return what :meth:`replay` wants to know of this moment."""
        return tuple(map(len, self._lists))

    def replay(self, marks: Sequence[tuple[int, ...]], look: Callable[[int], None]) -> None:
        """Let somebody look at the numbers as they were.

        That is possible for as long as none has been handed over and nothing else has changed,
        which :meth:`before_change` tells.

        Args:
            marks: What :meth:`mark` returned, in order.
            look: Called with the index of each mark when no more had been logged than at it.
        """
        for group in self._groups.values():
            group.read()
        waiting = [values[:] for values in self._lists]
        if any(len(values) < end for values, end in zip(waiting, marks[-1], strict=False)):
            for number in range(len(marks)):  # another thread has taken them: as they are now
                look(number)
            return
        shown = [0] * len(waiting)
        for values in self._lists:
            values.clear()
        try:
            for number, mark in enumerate(marks):
                for i, end in enumerate(mark):
                    self._lists[i].extend(waiting[i][shown[i] : end])
                    shown[i] = end
                look(number)
        finally:
            for values, all_values, begin in zip(self._lists, waiting, shown, strict=True):
                values.extend(all_values[begin:])

    def before_change(self, look: Callable[[], None] | None) -> None:
        """Let somebody look at what waits before it is handed over, or anything else changes.

        Lanes and rows of names that there are already only add to it, which is no change.

        Args:
            look: Called once, and only in this thread; None calls nobody any more.
        """
        self._looker = None if look is None else (threading.get_ident(), look)

    def _let_look(self) -> None:
        if self._looker is not None and self._looker[0] == threading.get_ident():
            _, look = self._looker
            self._looker = None
            look()

    # Reading ----------------------------------------------------------------------------------

    def get_scalar(self, key: str) -> HistoryBuffer:
        """Return the history of ``key``; not a copy, it goes on growing.

        Raises:
            KeyError: Nothing was logged under that name.
        """
        if key not in self._log_scalars:
            raise KeyError(
                f"{key} is not found in the log_scalars of the message hub "
                f"{self.instance_name!r}; there are {', '.join(map(str, self._log_scalars)) or 'none'}"
            )
        return self._log_scalars[key]

    def peek(self, key: str, window_size: int) -> float | None:
        """Return the mean of the latest numbers that have been read already, None without any.

        Nothing is waited for and nothing is changed, so that another thread may ask.
        """
        buffer = self._log_scalars.get(key)
        return None if buffer is None else buffer.peek(window_size)

    @property
    def log_scalars(self) -> OrderedDict[str, HistoryBuffer]:
        """All histories, by name."""
        return self._log_scalars

    def keep_at_least(self, max_length: int) -> None:
        """Let all buffers, also those to come, keep at least ``max_length`` values."""
        if max_length > self.max_length:
            self.max_length = max_length
            for buffer in self._log_scalars.values():
                buffer.set_max_length(max_length)

    # Facts ------------------------------------------------------------------------------------

    def update_info(self, key: str, value: Any, resumed: bool = True) -> None:
        """Set a fact.

        Args:
            key: Name.
            value: Any object; in checkpoints only tensors and plain data are saved.
            resumed: Whether checkpoints save it. The same for all calls of a name.

        Raises:
            ValueError: ``resumed`` differs from before.
        """
        if self._looker is not None:
            self._let_look()
        if self._resumed_keys.get(key) is not resumed:
            self._set_resumed_keys(key, resumed)
        if self._late_facts:
            self._take_late_facts()
        self._runtime_info[key] = value

    def update_info_dict(self, info_dict: dict[str, Any], resumed: bool = True) -> None:
        """Set several facts.

        Raises:
            TypeError: ``info_dict`` is no dict.
            ValueError: ``resumed`` differs from before for one of the names.
        """
        if not isinstance(info_dict, dict):
            raise InvalidTypeError(
                f"`info_dict` must be a dict!, but got {type(info_dict).__name__}"
            )
        for key, value in info_dict.items():
            self.update_info(key, value, resumed)

    def pop_info(self, key: str, default: Any = None) -> Any:
        """Remove a fact and return it, or ``default``."""
        self._let_look()
        self._take_late_facts()
        return self._runtime_info.pop(key, default)

    def get_info(self, key: str, default: Any = None) -> Any:
        """Return a fact (the object itself, no copy), or ``default``."""
        if self._late_facts:
            self._take_late_facts()
        return self._runtime_info.get(key, default)

    @property
    def runtime_info(self) -> OrderedDict[str, Any]:
        """All facts, by name."""
        self._take_late_facts()
        return self._runtime_info

    def defer_facts(self, source: Callable[[dict[str, Any]], None]) -> None:
        """Let somebody who knows new facts in each iteration tell them only when they are asked for.

        Args:
            source: Called with :attr:`runtime_info` before anybody reads or changes it, in which
                it sets facts that :meth:`update_info` has set before.
        """
        self._late_facts.append(source)

    def end_deferring(self, source: Callable[[dict[str, Any]], None]) -> None:
        """Take the latest facts of ``source``, and do not ask it any more."""
        if source in self._late_facts:
            self._take_late_facts()
            self._late_facts.remove(source)

    def _take_late_facts(self) -> None:
        for source in self._late_facts:
            source(self._runtime_info)

    def _set_resumed_keys(self, key: str, resumed: bool) -> None:
        before = self._resumed_keys.setdefault(key, resumed)
        if before != resumed:
            raise InvalidValueError(
                f"{key} used to be resumed={before}, but got {resumed} now. resumed keys cannot be "
                "modified repeatedly."
            )

    # State ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what checkpoints save: plain data and arrays, of the names with ``resumed=True``.

        A fact that is no plain data is left out with a warning.

        Returns:
            ``version``; ``log_scalars``: name -> dict of the buffer's values; ``runtime_info``;
            ``resumed_keys``.
        """
        self._take_late_facts()
        scalars: dict[str, Any] = {}
        info: dict[str, Any] = {}
        keys: dict[str, bool] = {}
        for key, resumed in self._resumed_keys.items():
            if not resumed:
                continue
            if key in self._log_scalars:
                scalars[key] = self._log_scalars[key].state_dict()
                keys[key] = True
            if key in self._runtime_info:
                value = self._runtime_info[key]
                if _is_plain(value):
                    info[key] = copy.deepcopy(value)
                    keys[key] = True
                else:
                    print_log(
                        f"{key} in message_hub is no plain data but {type(value).__name__}; "
                        "checkpoints do not save it. Set it with resumed=False to say so",
                        logger="current",
                        level=logging.WARNING,
                    )
        return {"version": 1, "log_scalars": scalars, "runtime_info": info, "resumed_keys": keys}

    def load_state_dict(self, state_dict: MessageHub | dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, here or in MMEngine, or another hub's content.

        What the hub held before under other names stays if a dict is given, as in MMEngine, and is
        forgotten if it is a hub. Entries that cannot be used are skipped with a warning.

        Raises:
            TypeError: ``state_dict`` is neither a dict nor a hub.
            KeyError: It lacks one of its three keys.
        """
        self.flush()
        self._take_late_facts()
        forget = isinstance(state_dict, MessageHub)
        if isinstance(state_dict, MessageHub):
            other = state_dict
            other.flush()
            state_dict = {
                "log_scalars": other._log_scalars,
                "runtime_info": dict(other.runtime_info),
                "resumed_keys": other._resumed_keys,
            }
        if not isinstance(state_dict, Mapping):
            raise InvalidTypeError(
                f"state_dict should be a dict or a MessageHub, but got {type(state_dict).__name__}"
            )
        for key in ("log_scalars", "runtime_info", "resumed_keys"):
            if key not in state_dict:
                raise InvalidKeyError(
                    f"The loaded `state_dict` of `MessageHub` must contain key: `{key}`"
                )
        if forget:
            self._log_scalars = OrderedDict()
            # In place: parts of the run may hold on to it.
            self._runtime_info.clear()
            self._resumed_keys = OrderedDict()
        self._forget_groups()
        for values in self._lanes.values():
            values.clear()
        for key, value in state_dict["log_scalars"].items():
            buffer = _restored(value)
            if buffer is None:
                _warn(f"{key} in message_hub is not HistoryBuffer, just skip resuming it.")
                continue
            buffer.set_max_length(self.max_length)
            buffer._source = self
            self._log_scalars[key] = buffer
            self._groups_of[key] = []
        for key, value in state_dict["runtime_info"].items():
            try:
                self._runtime_info[key] = copy.deepcopy(value)
            except Exception:  # noqa: BLE001 whatever an object raises when it is copied
                _warn(f"{key} in message_hub cannot be copied, just return its reference.")
                self._runtime_info[key] = value
        for key, value in state_dict["resumed_keys"].items():
            if key in self._log_scalars or key in self._runtime_info:
                self._resumed_keys[key] = bool(value)
            else:
                _warn(
                    f"resumed key: {key} is not defined in message_hub, just skip resuming this "
                    "key."
                )


def _warn(message: str) -> None:
    print_log(message, logger="current", level=logging.WARNING)


def _restored(value: Any) -> HistoryBuffer | None:
    if isinstance(value, HistoryBuffer):
        return copy.deepcopy(value)
    if isinstance(value, Mapping) and "log_history" in value and "count_history" in value:
        buffer = HistoryBuffer.__new__(HistoryBuffer)
        buffer.load_state_dict(value)
        return buffer
    return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, _PLAIN) or is_tensor(value):
        return True
    if isinstance(value, Mapping):
        return _are_plain(value.keys()) and _are_plain(value.values())
    if isinstance(value, Sequence | set | frozenset):
        return _are_plain(value)
    dtype = getattr(value, "dtype", None)
    return type(value).__module__ == "numpy" and dtype is not None and not dtype.hasobject


def _are_plain(values: Iterable[Any]) -> bool:
    return all(map(_is_plain, values))
