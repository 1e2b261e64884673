"""Errors of arguments that old code may expect as failed assertions.

MMEngine checks many arguments with ``assert``. What is raised here says what is wrong as a
TypeError or ValueError does, and ``except AssertionError`` goes on catching it.
"""

from __future__ import annotations


class InvalidTypeError(TypeError, AssertionError):
    """An argument of a wrong type."""


class InvalidValueError(ValueError, AssertionError):
    """An argument of the right type with a value that cannot be meant."""


class InvalidIndexError(TypeError, IndexError, AssertionError):
    """An index of a type that cannot index."""
