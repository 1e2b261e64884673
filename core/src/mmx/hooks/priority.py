"""In which order hooks of one stage run."""

from __future__ import annotations

from enum import Enum


class Priority(Enum):
    """Named priorities of hooks; the lower the number, the earlier a hook runs.

    Hooks of equal priority run in the order of their registration.
    """

    HIGHEST = 0
    VERY_HIGH = 10
    HIGH = 30
    ABOVE_NORMAL = 40
    NORMAL = 50
    BELOW_NORMAL = 60
    LOW = 70
    VERY_LOW = 90
    LOWEST = 100


class UnknownPriorityError(KeyError, ValueError):
    """A priority's name is none of :class:`Priority`'s."""

    def __str__(self) -> str:
        # KeyError would show the repr of its message.
        return str(self.args[0])


def get_priority(priority: int | str | Priority) -> int:
    """Return a priority as a number from 0 to 100.

    Args:
        priority: A number from 0 to 100, a member of :class:`Priority` or its name, in upper or
            lower case.

    Raises:
        ValueError: A number outside 0 to 100.
        UnknownPriorityError: An unknown name; both a KeyError and a ValueError.
        TypeError: Anything else.
    """
    if isinstance(priority, int):
        if not 0 <= priority <= 100:
            raise ValueError(
                f"priority must be between 0 (runs first) and 100 (runs last), got {priority}"
            )
        return priority
    if isinstance(priority, Priority):
        return priority.value
    if isinstance(priority, str):
        try:
            return Priority[priority.upper()].value
        except KeyError:
            names = ", ".join(Priority.__members__)
            raise UnknownPriorityError(
                f"unknown priority {priority!r}; expected one of {names} or a number from 0 to 100"
            ) from None
    raise TypeError(
        "priority must be an integer or Priority enum value or its name, "
        f"got {priority!r} of type {type(priority).__name__}"
    )
