"""Small functions of the runner."""

from __future__ import annotations

from collections.abc import Sequence

from mmx.checkpoint import find_latest_checkpoint as find_latest_checkpoint
from mmx.strategy.environment import set_random_seed as set_random_seed
from mmx.utils.errors import InvalidTypeError


def calc_dynamic_intervals(
    start_interval: int, dynamic_interval_list: Sequence[tuple[int, int]] | None = None
) -> tuple[list[int], list[int]]:
    """Split ``[(milestone, interval), ...]`` into milestones and the intervals from each on.

    Args:
        start_interval: Interval from 0 on.
        dynamic_interval_list: Milestones in ascending order with the interval from each on.

    Returns:
        Milestones, beginning with 0, and their intervals.

    Raises:
        TypeError: The list holds anything but pairs.
    """
    if dynamic_interval_list is None:
        return [0], [start_interval]
    milestones, intervals = [0], [start_interval]
    for entry in dynamic_interval_list:
        if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
            raise InvalidTypeError(
                "dynamic_intervals should be a list of (milestone, interval) pairs, "
                f"but it contains {entry!r}"
            )
        milestones.append(entry[0])
        intervals.append(entry[1])
    return milestones, intervals
