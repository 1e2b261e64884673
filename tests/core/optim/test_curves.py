"""Curves: ratios multiply to closed forms, and schedulers follow both."""

from __future__ import annotations

import math
from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmx.optim.scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineRestartLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolyLR,
    StepLR,
    curves,
)

FIRST = 0.3
factors = st.floats(0.05, 1.0)
lengths = st.integers(1, 40)


def trace(cls, number=45, **kwargs):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=FIRST)
    scheduler = cls(optimizer, **kwargs)
    values = [optimizer.param_groups[0]["lr"]]
    for _ in range(number):
        optimizer.step()
        scheduler.step()
        values.append(optimizer.param_groups[0]["lr"])
    return values


def assert_close(values, curve, tolerance=1e-9):
    for step, value in enumerate(values):
        expected = curve(step)
        assert math.isclose(expected, value, rel_tol=tolerance, abs_tol=1e-12), (step, expected)


@settings(deadline=None, max_examples=25)
@given(lengths, factors)
def test_constant(end, factor):
    assert_close(
        trace(ConstantLR, end=end, factor=factor),
        lambda step: FIRST * curves.constant(step, end - 1, factor),
    )


@settings(deadline=None, max_examples=25)
@given(lengths, factors, factors)
def test_linear(end, start, stop):
    assert_close(
        trace(LinearLR, end=end, start_factor=start, end_factor=stop),
        lambda step: FIRST * curves.linear(step, end - 1, start, stop),
    )


@settings(deadline=None, max_examples=25)
@given(st.floats(0.5, 1.1))
def test_exponential(gamma):
    assert_close(
        trace(ExponentialLR, gamma=gamma), lambda step: FIRST * curves.exponential(step, gamma)
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 20), st.floats(0.5, 1.1))
def test_staircase(step_size, gamma):
    assert_close(
        trace(StepLR, step_size=step_size, gamma=gamma),
        lambda step: FIRST * curves.staircase(step, step_size, gamma),
    )


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 50), max_size=6), st.floats(0.3, 1.1))
def test_multi_step(milestones, gamma):
    assert_close(
        trace(MultiStepLR, milestones=milestones, gamma=gamma),
        lambda step: FIRST * curves.multi_step(step, Counter(milestones), gamma),
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.floats(0.0, 0.2))
def test_cosine_and_back(half_period, low):
    assert_close(
        trace(CosineAnnealingLR, T_max=half_period, eta_min=low),
        lambda step: curves.cosine(step, half_period, FIRST, low),
    )


@settings(deadline=None, max_examples=25)
@given(lengths, st.floats(0.0, 0.2), st.floats(0.3, 3.0))
def test_polynomial(end, low, power):
    assert_close(
        trace(PolyLR, end=end, eta_min=low, power=power),
        lambda step: curves.polynomial(step, end - 1, FIRST, low, power),
    )


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0.1, 2.0)), min_size=1, max_size=4))
def test_cosine_restart(parts):
    periods, weights = [p for p, _ in parts], [w for _, w in parts]
    ends = [sum(periods[: i + 1]) for i in range(len(periods))]
    values = trace(
        CosineRestartLR,
        number=ends[-1] - 1,
        periods=periods,
        restart_weights=weights,
        eta_min=0.01,
    )
    # The first period begins at its weight too.
    assert_close(values, lambda step: curves.cosine_restart(step, ends, weights, FIRST, 0.01))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.floats(0.0, 0.9), st.booleans(), st.sampled_from(["cos", "linear"]))
def test_one_cycle_stays_between_its_ends(total, rise, three_phase, strategy):
    values = trace(
        OneCycleLR,
        number=total - 1,
        eta_max=0.8,
        total_steps=total,
        pct_start=rise,
        three_phase=three_phase,
        anneal_strategy=strategy,
    )
    assert max(values) <= 0.8 + 1e-9
    assert math.isclose(values[-1], 0.8 / 25 / 1e4, rel_tol=1e-6) or three_phase


def test_closed_forms_match_torch():
    pairs = [
        (
            torch.optim.lr_scheduler.CosineAnnealingLR,
            dict(T_max=17, eta_min=0.02),
            lambda step: curves.cosine(step, 17, FIRST, 0.02),
        ),
        (
            torch.optim.lr_scheduler.LinearLR,
            dict(start_factor=0.1, end_factor=0.9, total_iters=11),
            lambda step: FIRST * curves.linear(step, 11, 0.1, 0.9),
        ),
        (
            torch.optim.lr_scheduler.PolynomialLR,
            dict(total_iters=13, power=0.9),
            lambda step: curves.polynomial(step, 13, FIRST, 0.0, 0.9),
        ),
        (
            torch.optim.lr_scheduler.ConstantLR,
            dict(factor=0.4, total_iters=5),
            lambda step: FIRST * curves.constant(step, 5, 0.4),
        ),
        (
            torch.optim.lr_scheduler.StepLR,
            dict(step_size=4, gamma=0.3),
            lambda step: FIRST * curves.staircase(step, 4, 0.3),
        ),
        (
            torch.optim.lr_scheduler.MultiStepLR,
            dict(milestones=[3, 3, 9], gamma=0.3),
            lambda step: FIRST * curves.multi_step(step, {3: 2, 9: 1}, 0.3),
        ),
        (
            torch.optim.lr_scheduler.ExponentialLR,
            dict(gamma=0.97),
            lambda step: FIRST * curves.exponential(step, 0.97),
        ),
    ]
    for cls, kwargs, curve in pairs:
        assert_close(trace(cls, number=17, **kwargs), curve, tolerance=1e-12)


def test_one_cycle_matches_torch():
    for three_phase in (False, True):
        kwargs = dict(total_steps=30, pct_start=0.4, three_phase=three_phase)
        theirs = trace(
            torch.optim.lr_scheduler.OneCycleLR,
            number=29,
            max_lr=0.8,
            cycle_momentum=False,
            **kwargs,
        )
        ours = trace(OneCycleLR, number=29, eta_max=0.8, **kwargs)
        assert_close(ours, theirs.__getitem__, tolerance=1e-12)
