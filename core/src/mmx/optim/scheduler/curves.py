"""The curves of parameter schedules, as pure functions of the step.

Each family has its value in closed form, as a factor of the first value or as the value itself,
and where schedules are chained, the ratio of two successive values. Schedulers multiply by the
ratio, so that those which overlap compose: each scales what the others left.

Steps are 0-based and count from where the schedule begins.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

# Closed forms ---------------------------------------------------------------------------------


def constant(step: int, total: int, factor: float) -> float:
    """Return ``factor`` until step ``total``, then 1; always ``factor`` if ``total`` is 0."""
    return factor if step < total or total == 0 else 1.0


def linear(step: int, total: int, start: float, end: float) -> float:
    """Return the factor that goes from ``start`` to ``end`` in ``total`` steps and stays there."""
    if total <= 0:
        return start
    return start + (end - start) * min(step, total) / total


def exponential(step: int, gamma: float) -> float:
    """Return ``gamma`` to the power of ``step``."""
    return math.pow(gamma, step)


def staircase(step: int, step_size: int, gamma: float) -> float:
    """Return ``gamma`` to the number of whole stairs of ``step_size`` steps."""
    return math.pow(gamma, step // step_size)


def multi_step(step: int, milestones: Mapping[int, int], gamma: float) -> float:
    """Return ``gamma`` to the number of milestones reached; one may count several times."""
    reached = sum(times for milestone, times in milestones.items() if milestone <= step)
    return math.pow(gamma, reached)


def cosine(step: int, half_period: int, first: float, low: float) -> float:
    """Return the value of a cosine from ``first`` to ``low`` in ``half_period`` steps, and back.

    SGDR (Loshchilov and Hutter, 2017), equation 5, without restarts.
    """
    return low + (first - low) * (1 + math.cos(math.pi * step / half_period)) / 2


def polynomial(step: int, total: int, first: float, low: float, power: float) -> float:
    """Return the value that falls from ``first`` to ``low`` in ``total`` steps and stays there."""
    if total <= 0:
        return first
    return low + (first - low) * math.pow(1 - min(step, total) / total, power)


def cosine_between(start: float, end: float, progress: float) -> float:
    """Return the point of the half cosine from ``start`` to ``end``; ``progress`` in [0, 1]."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * progress) + 1)


def line_between(start: float, end: float, progress: float) -> float:
    """Return the point of the line from ``start`` to ``end``; ``progress`` in [0, 1]."""
    return (end - start) * progress + start


def one_cycle_phases(
    total: int, rise: float, three_phase: bool
) -> list[tuple[float, tuple[str, str]]]:
    """Return the phases of one cycle: last step and ends, of ``initial``, ``max`` and ``min``.

    Super-Convergence (Smith and Topin, 2018); two phases as fast.ai has it.

    Args:
        total: Steps of the cycle.
        rise: Share of them in which the value rises.
        three_phase: Fall symmetrically to the rise first, then to ``min``.
    """
    top = float(rise * total) - 1
    if three_phase:
        back = float(2 * rise * total) - 2
        return [
            (top, ("initial", "max")),
            (back, ("max", "initial")),
            (total - 1, ("initial", "min")),
        ]
    return [(top, ("initial", "max")), (total - 1, ("max", "min"))]


def one_cycle_position(step: int, ends: Sequence[float]) -> tuple[int, float]:
    """Return the phase that a step belongs to and its progress in it.

    Args:
        step: The step; beyond the last phase the progress is greater than 1.
        ends: Last step of each phase.
    """
    phase = next((i for i, end in enumerate(ends) if step <= end), len(ends) - 1)
    start = ends[phase - 1] if phase else 0.0
    length = ends[phase] - start
    # A phase without length is over at once.
    return phase, (step - start) / length if length else 1.0


def restart_position(step: int, ends: Sequence[int]) -> tuple[int, int]:
    """Return the period that a step belongs to, and the steps done in it.

    Args:
        step: The step, before the end of the last period.
        ends: Sums of the lengths of the periods so far.
    """
    period = bisect_right(ends, step)
    return period, step - (ends[period - 1] if period else 0)


def cosine_restart(
    step: int, ends: Sequence[int], weights: Sequence[float], first: float, low: float
) -> float:
    """Return the value of cosines that go from ``first`` times their weight to ``low``.

    Args:
        step: The step, before the end of the last period.
        ends: Sums of the lengths of the periods so far.
        weights: One for each period.
        first: First value.
        low: The low of all.
    """
    period, done = restart_position(step, ends)
    length = ends[period] - (ends[period - 1] if period else 0)
    return cosine(done, length, first * weights[period], low)


# Ratios of successive values ------------------------------------------------------------------


def constant_ratio(step: int, total: int, factor: float) -> float:
    """Return what :func:`constant` changes by at a step; at step 0 from 1."""
    if step == 0:
        return factor
    return 1.0 / factor if step == total else 1.0


def linear_ratio(step: int, total: int, start: float, end: float) -> float:
    """Return what :func:`linear` changes by at a step; at step 0 from 1."""
    if step == 0:
        return start
    if step > total:
        return 1.0
    return 1.0 + (end - start) / (total * start + (step - 1) * (end - start))


def multi_step_ratio(step: int, milestones: Mapping[int, int], gamma: float) -> float:
    """Return what :func:`multi_step` changes by at a step."""
    return math.pow(gamma, milestones[step]) if step in milestones else 1.0


def cosine_ratio(step: int, half_period: int) -> float:
    """Return what the distance of :func:`cosine` to its low changes by at a step.

    Not defined where the step before was at the low; see :func:`cosine_rise`.
    """
    return (1 + math.cos(math.pi * step / half_period)) / (
        1 + math.cos(math.pi * (step - 1) / half_period)
    )


def leaves_cosine_low(step: int, half_period: int) -> bool:
    """Tell whether the step before was at the low of :func:`cosine`."""
    return (step - 1 - half_period) % (2 * half_period) == 0


def cosine_rise(half_period: int) -> float:
    """Return the first step up from the low of :func:`cosine`, as a share of its height."""
    return (1 - math.cos(math.pi / half_period)) / 2


def polynomial_ratio(step: int, total: int, power: float) -> float:
    """Return what the distance of :func:`polynomial` to its low changes by at a step."""
    if step == 0 or step > total:
        return 1.0
    # So written, and by this operator, results equal MMEngine's to the last bit.
    return float((1 - 1 / (total - step + 1)) ** power)
