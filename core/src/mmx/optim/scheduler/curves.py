"""Factors of schedules as pure functions of the step.

Each returns what a value is multiplied by, or what it becomes, when a schedule goes from step
``t - 1`` to ``t`` (0-based within the schedule's range). Schedules are recursive so that several can
overlap: each changes the value that the others left.
"""

from __future__ import annotations

import math


def linear_factor(step: int, start: float, end: float, total: int) -> float:
    """Ratio of consecutive values of a line from ``start`` to ``end`` in ``total`` steps."""
    return 1.0 + (end - start) / (total * start + (step - 1) * (end - start))


def cosine_value(value: float, base: float, eta_min: float, step: int, t_max: int) -> float:
    """Next value of a half cosine from ``base`` to ``eta_min`` (Loshchilov & Hutter, 2017, eq. 5)."""
    if (step - 1 - t_max) % (2 * t_max) == 0:
        return value + (base - eta_min) * (1 - math.cos(math.pi / t_max)) / 2
    return (1 + math.cos(math.pi * step / t_max)) / (1 + math.cos(math.pi * (step - 1) / t_max)) * (
        value - eta_min
    ) + eta_min


def poly_value(value: float, eta_min: float, step: int, total: int, power: float) -> float:
    """Next value of a polynomial decay to ``eta_min`` in ``total`` steps."""
    return (value - eta_min) * (1 - 1 / (total - step + 1)) ** power + eta_min


def cosine_between(start: float, end: float, share: float) -> float:
    """Point of a half cosine from ``start`` to ``end``; ``share`` from 0 to 1."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)


def line_between(start: float, end: float, share: float) -> float:
    """Point of a line from ``start`` to ``end``; ``share`` from 0 to 1."""
    return (end - start) * share + start
