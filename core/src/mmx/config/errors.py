"""What can be wrong with a config."""

from __future__ import annotations


class ConfigError(ValueError):
    """A config cannot be read; ``filename`` and ``line`` say where."""

    def __init__(self, message: str, *, filename: str = "", line: int | None = None) -> None:
        place = f"{filename}:{line}: " if line else f"{filename}: " if filename else ""
        super().__init__(place + message)
        self.filename = filename
        self.line = line


class ConfigParsingError(ConfigError, RuntimeError):
    """A config file is no valid config."""
