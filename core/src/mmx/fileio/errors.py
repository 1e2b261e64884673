"""Errors of file access. Each is also the built-in error that one would expect in its place."""

from __future__ import annotations


class UnknownBackendError(KeyError, ValueError):
    """No back end of this name, or for paths of this prefix.

    Attributes:
        name: The name or prefix that was asked for.
    """

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.message = message
        self.name = name

    def __str__(self) -> str:
        # KeyError would print the repr, with quotes and escaped newlines.
        return self.message


class UnsafePathError(ValueError):
    """A path leads out of the directory that it must stay in.

    Attributes:
        path: The path.
        root: The directory.
    """

    def __init__(self, message: str, path: str, root: str) -> None:
        super().__init__(message)
        self.path = path
        self.root = root


class HashMismatchError(ValueError):
    """A file's content is not the expected one.

    Attributes:
        path: The file.
        expected: The expected SHA-256 in hexadecimal digits, or its beginning.
        actual: The SHA-256 of what was read.
    """

    def __init__(self, path: str, expected: str, actual: str) -> None:
        super().__init__(
            f"the SHA-256 of {path} is {actual}, but {expected} was expected; the file is damaged or not the one "
            "that was meant, and has not been used"
        )
        self.path = path
        self.expected = expected
        self.actual = actual


class UntrustedPickleError(ValueError):
    """A pickle asks for something that is not plain data, and the caller did not trust the file.

    Attributes:
        wanted: Dotted name of what the pickle asked for.
    """

    def __init__(self, message: str, wanted: str) -> None:
        super().__init__(message)
        self.wanted = wanted


def missing_extra(extra: str, package: str, what: str) -> ImportError:
    """Return the error for a package that only an extra of mmx installs."""
    return ImportError(
        f"{what} needs the package {package!r}; install it with: pip install 'mmx[{extra}]'",
        name=package,
    )
