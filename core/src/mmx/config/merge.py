"""Merging configs: what inheritance and overrides do."""

from __future__ import annotations

import copy
from typing import Any

from mmx.config.config_dict import ConfigDict

DELETE_KEY = "_delete_"


def merge(child: dict[str, Any], base: Any, allow_list_keys: bool = False) -> Any:
    """Return ``base`` with the settings of ``child``; neither is changed.

    Dicts are merged key by key; anything else is replaced. ``_delete_=True`` in a child's dict
    replaces the base's dict whole. Where a base has a list and ``allow_list_keys`` is true, a
    child's dict with numbers as keys changes those of its elements.

    Raises:
        TypeError: A child has a dict where the base has something else.
        KeyError: An index is outside of the base's list.
    """
    merged = copy.copy(base)
    for key, value in child.items():
        if key == DELETE_KEY:
            continue
        if allow_list_keys and isinstance(merged, list) and str(key).lstrip("-").isdigit():
            index = int(key)
            if not -len(merged) <= index < len(merged):
                raise KeyError(f"Index {index} exceeds the length of list {merged}")
            old = merged[index]
            nested = isinstance(value, dict) and isinstance(old, (dict, list))
            merged[index] = merge(value, old, allow_list_keys) if nested else copy.deepcopy(value)
            continue
        if isinstance(value, dict):
            old = merged.get(key) if isinstance(merged, dict) else None
            deleted = value.get(DELETE_KEY, False)
            if isinstance(merged, dict) and key in merged and not deleted:
                allowed = (dict, list) if allow_list_keys else (dict,)
                if not isinstance(old, allowed):
                    raise TypeError(
                        f"{key}={without_delete(value)} in child config cannot inherit from base because {key} is "
                        f"a dict in the child config but is of type {type(old)} in base config. You may set `{DELETE_KEY}=True` to "
                        "ignore the base config."
                    )
                merged[key] = merge(value, old, allow_list_keys)
                continue
            merged[key] = ConfigDict(without_delete(value))
            continue
        merged[key] = copy.deepcopy(value)
    return merged


def without_delete(value: Any) -> Any:
    """Return nested data without ``_delete_`` keys, which mean nothing where there is no base."""
    if isinstance(value, dict):
        return {k: without_delete(v) for k, v in value.items() if k != DELETE_KEY}
    if type(value) in (list, tuple):
        return type(value)(without_delete(item) for item in value)
    return value


def from_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return ``{'a.b': 1}`` as ``{'a': {'b': 1}}``."""
    result: dict[str, Any] = {}
    for full, value in options.items():
        target = result
        *path, last = full.split(".")
        for part in path:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise TypeError(
                    f"{full!r} goes into {part!r}, which another option sets to a value"
                )
        target[last] = value
    return result
