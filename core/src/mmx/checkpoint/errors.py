"""What can be wrong with a checkpoint file."""

from __future__ import annotations

from urllib.error import URLError


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


class DownloadError(CheckpointError, URLError):
    """A web server does not give a file; the cause says why. ``filename`` is its address."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url} could not be downloaded: {reason}", filename=url)
        self.reason = reason

    __str__ = Exception.__str__


class WrongHashError(CorruptCheckpointError, RuntimeError):
    """A downloaded file is not the one that its name states; `torch.hub` raises a RuntimeError.

    Attributes:
        expected: The beginning of the SHA-256 that the name states.
        actual: The SHA-256 of what came.
    """

    def __init__(self, url: str, expected: str, actual: str) -> None:
        super().__init__(
            f"the SHA-256 of {url} is {actual}, but its name states {expected}: it is damaged or "
            "not the file that was meant, and was not kept. If the digits in its name are no hash, "
            "download it yourself and load that file.",
            filename=url,
        )
        self.expected = expected
        self.actual = actual
