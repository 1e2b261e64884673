"""Errors of arguments that old code may expect as failed assertions.

MMEngine checks many arguments with ``assert``. What is raised here says what is wrong as a
TypeError or ValueError does, and ``except AssertionError`` goes on catching it.
"""

from __future__ import annotations


class InvalidTypeError(TypeError, AssertionError):
    """An argument of a wrong type."""


class InvalidValueError(ValueError, AssertionError):
    """An argument of the right type with a value that cannot be meant."""


class InvalidIndexError(IndexError, AssertionError):
    """An index beyond the ends, or one that cannot index."""


class InvalidKeyError(KeyError, AssertionError):
    """A key that must be there and is not, or must not be there and is."""

    def __str__(self) -> str:
        # A KeyError prints the repr of its message.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class MissingPackageError(ImportError, AssertionError):
    """A package that was asked for is not installed."""
