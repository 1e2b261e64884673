"""``KEY=VALUE`` on command lines."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any


class DictAction(Action):
    """An argparse action that reads ``KEY=VALUE`` pairs into a dict.

    A value is a number, ``true``, ``false`` or ``None``; several with commas are a list, in ``[]``
    or without; in ``()`` a tuple; nested as in ``[(a,b),(c,d)]``; else text.
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
        """Return the value that a text means."""
        val = val.strip("'\"").replace(" ", "")
        if val.startswith("(") and val.endswith(")") and _closes(val):
            is_tuple, inner = True, val[1:-1]
        elif val.startswith("[") and val.endswith("]") and _closes(val):
            is_tuple, inner = False, val[1:-1]
        elif "," not in val or len(_split(val)) == 1:
            return DictAction._parse_int_float_bool(val)
        else:
            is_tuple, inner = False, val
        parts = [DictAction._parse_iterable(part) for part in _split(inner)]
        return tuple(parts) if is_tuple else parts

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the pairs to what the option has so far."""
        options = dict(getattr(namespace, self.dest) or {})
        for pair in values or ():
            key, separator, value = str(pair).partition("=")
            if not separator:
                parser.error(f"{option_string} takes KEY=VALUE, got {pair!r}")
            options[key] = self._parse_iterable(value)
        setattr(namespace, self.dest, options)


def _closes(text: str) -> bool:
    """Tell whether the bracket that opens a text is closed by its last character."""
    depth = 0
    for index, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if depth == 0:
            return index == len(text) - 1
    return False


def _split(text: str) -> list[str]:
    """Split at commas outside of brackets.

    Raises:
        ValueError: Brackets do not match.
    """
    parts, start, depth = [], 0, 0
    for index, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if depth < 0:
            break
        if char == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    if depth:
        raise ValueError(f"Imbalanced brackets exist in {text}")
    last = text[start:]
    return [*parts, last] if last or not parts else parts
