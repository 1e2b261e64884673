"""What was found, and where."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Errors stop the code, or change what it does in silence; warnings may concern it.
ERROR, WARNING = "error", "warning"


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that does not run, or runs otherwise.

    Attributes:
        file: The file.
        line: The line, 1-based; 0 where it is not known.
        level: ``"error"`` or ``"warning"``.
        kind: ``"import"``, ``"argument"``, ``"override"``, ``"config"``, ``"scope"``, ``"mmcv"`` or
            ``"syntax"``.
        name: The name in question.
        text: What is wrong.
        replacement: What to write or do.
    """

    file: str
    line: int
    level: str
    kind: str
    name: str
    text: str
    replacement: str = ""

    def facts(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        text = f"{place}: {self.level}: {self.text}"
        return f"{text}. {self.replacement}" if self.replacement else text


@dataclass
class Report:
    """All findings of a run.

    Attributes:
        findings: Without repetition, by file and line once `sort` has been called.
        num_files: How many files were read.
    """

    findings: list[Finding] = field(default_factory=list)
    num_files: int = 0

    def add(
        self,
        file: Path,
        line: int,
        kind: str,
        name: str,
        text: str,
        replacement: str = "",
        level: str = ERROR,
    ) -> None:
        """Add a finding."""
        self.findings.append(Finding(str(file), line, level, kind, name, text, replacement))

    def sort(self) -> None:
        """Put the findings in order and drop repetitions."""
        self.findings = sorted(set(self.findings))

    @property
    def num_errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.level == ERROR for finding in self.findings)
