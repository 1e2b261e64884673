"""Loaders of checkpoint addresses that plugins announce without importing torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

_announced: dict[str, str] = {}


def announce_scheme(prefix: str, loader: str) -> None:
    """Say what loads addresses with a prefix; it is imported when the first such address is loaded.

    A loader registered with `CheckpointLoader.register_scheme` goes before.

    Args:
        prefix: Such as ``"zoo://"``; a regular expression matched at the start of the address.
        loader: ``"module:function"``, called with ``(filename, map_location)``.

    Raises:
        ValueError: ``loader`` names no function of a module.
    """
    module, colon, name = loader.partition(":")
    if not (module and colon and name):
        raise ValueError(f"loader must be 'module:function', but got {loader!r}")
    _announced[prefix] = loader


def announced() -> dict[str, str]:
    """Return what has been announced: prefix -> ``"module:function"``."""
    return dict(_announced)


def imported_on_use(loader: str) -> Callable[..., Any]:
    """Return a function that imports a loader and calls it."""
    module, _, name = loader.partition(":")

    def load(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    # The log says which loader reads a file.
    load.__name__ = load.__qualname__ = name
    return load
