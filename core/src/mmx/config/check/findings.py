"""What is wrong with a config, as data."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

from mmx.config.origin import Origin


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a config.

    Attributes:
        path: Dotted key.
        message: What is wrong, what was expected, and what to try.
        is_error: Whether a run would fail; else a warning.
        origin: Where it is written, if that is known.
    """

    path: str
    message: str
    is_error: bool = True
    origin: Origin | None = None

    def __str__(self) -> str:
        place = f" ({self.origin})" if self.origin is not None else ""
        return f"{'error' if self.is_error else 'warning'}: {self.path}{place}: {self.message}"


def without_ignored(findings: Iterable[Finding], patterns: Iterable[str]) -> list[Finding]:
    """Return the findings whose path matches none of some patterns, such as ``"model.neck.*"``."""
    wanted = list(patterns)
    return [
        finding
        for finding in findings
        if not any(fnmatch.fnmatchcase(finding.path, pattern) for pattern in wanted)
    ]
