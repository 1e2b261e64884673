"""In what two configs differ, value by value, and how to make one into the other."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mmx.config.config import Config
from mmx.config.config_dict import ConfigDict
from mmx.config.format import to_python
from mmx.config.lazy import LAZY_TYPES

_ABSENT = type("_Absent", (), {"__repr__": lambda self: "<absent>"})()


@dataclass(frozen=True)
class Change:
    """One value in which two configs differ.

    Attributes:
        path: The keys that lead to it.
        old: The value in the first, or `ABSENT`.
        new: The value in the second, or `ABSENT`.
    """

    path: tuple[Any, ...]
    old: Any
    new: Any

    @property
    def key(self) -> str:
        """The dotted key."""
        return ".".join(str(part) for part in self.path)

    def __str__(self) -> str:
        if self.old is ABSENT:
            return f"+ {self.key} = {self.new!r}"
        if self.new is ABSENT:
            return f"- {self.key} = {self.old!r}"
        return f"~ {self.key} = {self.old!r} -> {self.new!r}"


# Stands for a value that one of the configs does not have.
ABSENT = _ABSENT


def diff(first: Any, second: Any) -> list[Change]:
    """Return in what two configs differ; `apply` makes the first into the second.

    Dicts are compared key by key and lists of one length item by item; anything else is one value.
    """
    changes: list[Change] = []
    _compare(_raw(first), _raw(second), (), changes)
    return changes


def _raw(config: Any) -> Any:
    return config._to_lazy_dict() if isinstance(config, (Config, ConfigDict)) else config


def _compare(old: Any, new: Any, path: tuple[Any, ...], changes: list[Change]) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old:
            if key not in new:
                changes.append(Change((*path, key), old[key], ABSENT))
            else:
                _compare(old[key], new[key], (*path, key), changes)
        for key in new:
            if key not in old:
                changes.append(Change((*path, key), ABSENT, new[key]))
    elif type(old) is type(new) is list and len(old) == len(new):
        for i, (left, right) in enumerate(zip(old, new, strict=True)):
            _compare(left, right, (*path, i), changes)
    elif not _equal(old, new):
        changes.append(Change(path, old, new))


def _equal(old: Any, new: Any) -> bool:
    if type(old) is not type(new):
        # 1 and True, 1 and 1.0, (1,) and [1] are settings of different kinds.
        return False
    if isinstance(old, LAZY_TYPES):
        return bool(old == new)
    if isinstance(old, (list, tuple)):
        return len(old) == len(new) and all(map(_equal, old, new))
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_equal(old[key], new[key]) for key in old)
    try:
        return bool(old == new) or (old != old and new != new)
    except Exception:  # noqa: BLE001 - arrays and other values without a truth
        return old is new


def apply(config: Any, changes: Iterable[Change]) -> Any:
    """Return a copy of a config with changes made.

    Args:
        config: A Config, a ConfigDict or a dict.
        changes: What `diff` returned.

    Raises:
        KeyError: The config has not what a change goes into.
    """
    result = copy.deepcopy(config)
    for change in changes:
        if not change.path:
            return copy.deepcopy(change.new)
        target = result._cfg_dict if isinstance(result, Config) else result
        for part in change.path[:-1]:
            target = dict.__getitem__(target, part) if isinstance(target, dict) else target[part]
        if change.new is ABSENT:
            del target[change.path[-1]]
        else:
            value = copy.deepcopy(change.new)
            if isinstance(config, (Config, ConfigDict)) and isinstance(target, list):
                value = ConfigDict._hook(value)
            target[change.path[-1]] = value
    return result


def content_hash(config: Any) -> str:
    """Return a hash (SHA-256, in hexadecimal) of a config's settings.

    It is the same for equal settings, in whatever order and from whatever files, in every process.
    """
    from mmx.config.config import _settings, _sorted

    value = config._cfg_dict if isinstance(config, Config) else ConfigDict(config)
    text = to_python(_sorted(_settings(value)))
    return hashlib.sha256(text.encode()).hexdigest()
