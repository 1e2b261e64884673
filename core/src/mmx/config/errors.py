"""What can be wrong with a config."""

from __future__ import annotations

import json

import yaml


class ConfigError(ValueError):
    """A config cannot be read or used; ``filename`` and ``line`` say where."""

    def __init__(self, message: str, *, filename: str = "", line: int | None = None) -> None:
        place = f"{filename}:{line}: " if line else f"{filename}: " if filename else ""
        # Not `super()`: the classes that come next in subclasses take other arguments.
        Exception.__init__(self, place + message)
        self.filename = filename
        self.line = line


class ConfigParsingError(ConfigError, RuntimeError):
    """A config file is no valid config."""


class ConfigBaseImportError(ConfigParsingError, AssertionError):
    """What ``with read_base():`` holds is no import of a base; MMEngine asserts that it is."""


class ConfigSyntaxError(ConfigParsingError, SyntaxError):  # type: ignore[misc]  # both have a file name
    """The text of a config does not parse."""

    def __init__(self, message: str, *, filename: str = "", line: int | None = None) -> None:
        super().__init__(message, filename=filename, line=line)
        self.lineno = line
        self.msg = str(self.args[0])

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigJSONError(ConfigSyntaxError, json.JSONDecodeError):  # type: ignore[misc]  # as above
    """The text of a config is no valid JSON."""

    __reduce__ = Exception.__reduce__

    @classmethod
    def of(cls, error: json.JSONDecodeError, filename: str) -> ConfigJSONError:
        """Return the error of a file that Python's own parser refuses."""
        new = cls(f"this is no valid JSON: {error.msg}", filename=filename, line=error.lineno)
        new.doc, new.pos, new.colno = error.doc, error.pos, error.colno
        return new


class ConfigYAMLError(ConfigSyntaxError, yaml.YAMLError):  # type: ignore[misc]  # as above
    """The text of a config is no valid YAML."""


class ConfigKeyError(ConfigError, KeyError):
    """A key is missing, taken twice, or reserved."""

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigTypeError(ConfigError, TypeError):
    """A setting has a wrong type."""


class ConfigMergeError(ConfigTypeError):
    """A config and its base, or an override, do not fit together."""


class ConfigFileNotFoundError(ConfigError, FileNotFoundError):
    """A config file that is named is not there."""

    def __str__(self) -> str:
        return str(self.args[0])
