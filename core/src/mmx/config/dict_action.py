"""``KEY=VALUE`` on command lines."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from typing import Any

from mmx.utils.errors import InvalidValueError


class DictAction(argparse.Action):
    """An argparse action that reads ``KEY=VALUE`` pairs into a dict.

    A value is a number, ``true`` or ``false`` in any case, ``None``; several with commas are a
    list, in ``[]`` or without; in ``()`` a tuple; nested as in ``[(a,b),(c,d)]``; else text. Spaces
    and quotes at the ends are dropped.
    """

    @staticmethod
    def _parse_int_float_bool(val: str) -> int | float | bool | str | None:
        for kind in (int, float):
            try:
                return kind(val)
            except ValueError:
                pass
        if val.lower() in ("true", "false"):
            return val.lower() == "true"
        return None if val == "None" else val

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        """Return the value that a text means.

        Raises:
            ValueError: Its brackets do not match.

        Examples:
            >>> DictAction._parse_iterable("1,2,3")
            [1, 2, 3]
            >>> DictAction._parse_iterable("[a, b, c]")
            ['a', 'b', 'c']
            >>> DictAction._parse_iterable("[(1, 2, 3), [a, b], c]")
            [(1, 2, 3), ['a', 'b'], 'c']
        """
        return _iterable(val.strip("'\"").replace(" ", ""))

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add pairs to those of earlier uses of the option.

        Raises:
            ValueError: One is no ``KEY=VALUE``, or the brackets of a value do not match. As in
                MMEngine it reaches the caller instead of ending the process.
        """
        options = copy.copy(getattr(namespace, self.dest, None) or {})
        for pair in [values] if isinstance(values, str) else values or ():
            key, separator, value = pair.partition("=")
            if not separator or not key:
                raise ValueError(f"{option_string}: expected KEY=VALUE, but got {pair!r}")
            options[key] = self._parse_iterable(value)
        setattr(namespace, self.dest, options)


_PAIRS = {")": "(", "]": "["}


def _iterable(text: str) -> Any:
    enclosed = (text[:1], text[-1:]) in (("(", ")"), ("[", "]"))
    if "," not in text and not enclosed:
        return DictAction._parse_int_float_bool(text)  # brackets inside are text
    parts = _split(text)
    for start, end, kind in (("(", ")", tuple), ("[", "]", list)):
        if text.startswith(start) and text.endswith(end) and len(parts) == 1:
            inner = text[1:-1]
            if not _balanced(inner):
                break
            items = [_iterable(_unquoted(part)) for part in _split(inner)] if inner else []
            # A trailing comma makes a tuple of one: `(1,)`.
            if len(items) > 1 and items[-1] == "" and inner.endswith(","):
                items.pop()
            return kind(items)
    if len(parts) > 1:
        if parts[-1] == "":
            parts.pop()
        return [_iterable(_unquoted(part)) for part in parts]
    return DictAction._parse_int_float_bool(text)


def _unquoted(text: str) -> str:
    return text.strip("'\"")


def _balanced(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char in "([") - (char in ")]")
        if depth < 0:
            return False
    return depth == 0


def _split(text: str) -> list[str]:
    """Split at the commas that are outside of brackets.

    Raises:
        ValueError: The brackets do not match.
    """
    parts, start = [], 0
    open_brackets: list[str] = []
    for i, char in enumerate(text):
        if char in "([":
            open_brackets.append(char)
        elif char in ")]":
            if not open_brackets or open_brackets.pop() != _PAIRS[char]:
                raise InvalidValueError(f"Imbalanced brackets exist in {text}")
        elif char == "," and not open_brackets:
            parts.append(text[start:i])
            start = i + 1
    if open_brackets:
        raise InvalidValueError(f"Imbalanced brackets exist in {text}")
    parts.append(text[start:])
    return parts
