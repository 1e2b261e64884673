"""What can be wrong with a checkpoint file."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; ``filename`` says which."""

    def __init__(self, message: str, *, filename: str = "") -> None:
        super().__init__(message)
        self.filename = filename


class CorruptCheckpointError(CheckpointError):
    """The file is truncated, or a checksum in it does not match its data."""


class UnsafeCheckpointError(CheckpointError):
    """The file holds pickled objects other than tensors and plain data.

    Attributes:
        global_name: The ``module.name`` that the file asked for, if torch named it.
    """

    def __init__(self, message: str, *, filename: str = "", global_name: str = "") -> None:
        super().__init__(message, filename=filename)
        self.global_name = global_name


class MissingPrefixError(CheckpointError, AssertionError):
    """No weight of a checkpoint has the prefix; MMEngine asserts that one has."""


class MissingStateError(CheckpointError, RuntimeError):
    """A file holds no state of a model; MMEngine raises a RuntimeError."""
