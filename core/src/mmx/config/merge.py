"""Merging configs: what inheritance and overrides do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from mmx.config.config_dict import (
    DELETE_KEY,
    ConfigDict,
    put_override,
    raw_items,
    without_delete_keys,
)
from mmx.config.errors import ConfigError, ConfigKeyError, ConfigMergeError


def merge(
    child: Mapping[Any, Any],
    base: Any,
    allow_list_keys: bool = False,
    may_delete: bool = True,
) -> Any:
    """Return ``base`` with the settings of ``child``; neither is changed.

    Dicts are merged key by key; anything else is replaced. ``_delete_=True`` in a child's dict
    replaces the base's dict whole, and is itself left out.

    Args:
        child: Settings.
        base: What they go on top of: a dict, or a list if ``allow_list_keys``.
        allow_list_keys: Where the base has a list, a child's dict with numbers as keys changes
            those of its elements.
        may_delete: False promises that no dict of the child has a ``_delete_``.

    Raises:
        ConfigMergeError: A child has a dict where the base has something else. It is a TypeError.
        ConfigKeyError: An index is outside of the base's list. It is a KeyError.
    """
    return _merge(child, base, allow_list_keys, "", _owned if may_delete else _wrapped)


def _merge(
    child: Mapping[Any, Any],
    base: Any,
    allow_list_keys: bool,
    path: str,
    owned: Callable[[Any], Any],
) -> Any:
    merged = copy.copy(base)
    for key, value in raw_items(child):
        here = f"{path}.{key}" if path else str(key)
        if isinstance(base, list):
            index = _index(key, base, child, here)
            merged[index] = (
                _merge(value, base[index], allow_list_keys, here, owned)
                if isinstance(value, Mapping)
                and isinstance(base[index], (dict, list))
                and not value.get(DELETE_KEY, False)
                else owned(value)
            )
        elif key == DELETE_KEY:
            continue
        elif isinstance(value, Mapping) and key in base and not value.get(DELETE_KEY, False):
            old = dict.__getitem__(base, key)
            if not isinstance(old, (dict, list) if allow_list_keys else dict):
                raise ConfigMergeError(
                    f"{key}={dict(raw_items(value))} in child config cannot inherit from base "
                    f"because {key} is a dict in the child config but is of type {type(old)} in "
                    f"base config. You may set `{DELETE_KEY}=True` to ignore the base config."
                    + (f" (At {here}.)" if path else "")
                )
            new = _merge(value, old, allow_list_keys, here, owned)
            put_override(merged, key, new, part=True)
        else:
            put_override(merged, key, owned(value))
    return merged


def _index(key: Any, base: list[Any], child: Mapping[Any, Any], here: str) -> int:
    text = str(key)
    if not text.lstrip("-").isdigit():
        raise ConfigMergeError(
            f"{here}: the base config has a list here, so a dict in its place names elements by "
            f"their index ('0', '1'…), but it has the key {key!r}: {dict(raw_items(child))}"
        )
    index = int(text)
    if not -len(base) <= index < len(base):
        raise ConfigKeyError(f"Index {index} exceeds the length of list {base} (at {here})")
    return index


def _owned(value: Any) -> Any:
    if isinstance(value, (dict, list, tuple)):
        value = without_delete_keys(value)
    return _wrapped(value)


def _wrapped(value: Any) -> Any:
    if isinstance(value, dict) and not isinstance(value, ConfigDict):
        return ConfigDict(value)
    return value


def from_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"a.b": 1}`` as ``{"a": {"b": 1}}``.

    Raises:
        ConfigMergeError: One option goes into what another sets to a value.
    """
    result: dict[str, Any] = {}
    for full, value in options.items():
        target = result
        *path, last = full.split(".") if isinstance(full, str) else [full]
        for part in path:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigMergeError(
                    f"{full!r} goes into {part!r}, which another option sets to {target!r}"
                )
        target[last] = value
    return result


def merge_options(options: Mapping[str, Any], config: Any, allow_list_keys: bool = True) -> Any:
    """Return a config with ``{"model.depth": 50}`` merged into it.

    Raises:
        ConfigError: As `merge`.
    """
    try:
        return merge(from_options(options), config, allow_list_keys)
    except ConfigError as error:
        error.add_note(f"while overriding {', '.join(map(str, options))}")
        raise
