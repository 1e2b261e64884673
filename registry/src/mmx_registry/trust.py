"""Which dotted paths may be looked into: those of trusted packages, judged by what they lead to."""

from __future__ import annotations

import importlib
import os
from typing import Any

_trusted: set[str] = set()


def add(*packages: str) -> None:
    """Trust top-level packages for the rest of the process."""
    _trusted.update(packages)


def trusted_packages() -> frozenset[str]:
    """Return the top-level packages that dotted paths may lead into."""
    environment = os.environ.get("MMX_TRUST", "")
    return frozenset(_trusted) | {p.strip() for p in environment.split(",") if p.strip()}


def resolve(path: str) -> Any:
    """Return the object of a dotted path in a trusted package, or None."""
    parts = path.split(".")
    trusted = trusted_packages()
    if parts[0] not in trusted or not all(part.isidentifier() for part in parts):
        return None
    obj: Any = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], start=1):
        if hasattr(obj, part):
            obj = getattr(obj, part)
            continue
        name = ".".join(parts[: i + 1])
        try:
            obj = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                return None
            raise
    module = getattr(obj, "__module__", None) or getattr(obj, "__name__", None) or ""
    if str(module).partition(".")[0] not in trusted:
        return None
    return obj
