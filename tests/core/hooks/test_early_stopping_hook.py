"""Training ends when a metric has stopped to improve."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from mmx.hooks import EarlyStoppingHook


def _validated(hook: EarlyStoppingHook, scores: list[Any]) -> list[bool]:
    stops = []
    for score in scores:
        runner = SimpleNamespace(train_loop=SimpleNamespace(stop_training=False), logger=Mock())
        hook.before_run(runner)  # type: ignore[arg-type]  # all that the hook asks for
        hook.after_val_epoch(runner, {hook.monitor: score})  # type: ignore[arg-type]
        stops.append(runner.train_loop.stop_training)
    return stops


def test_what_is_exactly_min_delta_better_is_an_improvement() -> None:
    hook = EarlyStoppingHook("acc", min_delta=0.125, patience=1)
    assert [False, False, True, False] == _validated(hook, [0.25, 0.375, 0.4, 0.5])
    assert 0.5 == hook.best_score
    lower = EarlyStoppingHook("loss", min_delta=0.125, patience=1)
    assert [False, False, True] == _validated(lower, [0.5, 0.375, 0.3])


def test_an_equal_score_counts_where_no_change_is_too_small() -> None:
    hook = EarlyStoppingHook("acc", min_delta=0, patience=1)
    assert [False, False, True] == _validated(hook, [0.25, 0.25, 0.2])


def test_what_is_not_a_number_is_no_improvement() -> None:
    hook = EarlyStoppingHook("acc", check_finite=False, patience=2)
    assert [False, False, True] == _validated(hook, [0.5, float("nan"), float("nan")])
    assert 0.5 == hook.best_score


def test_wrong_arguments_and_scores_are_told() -> None:
    with pytest.raises(ValueError, match='`rule` should be either "greater" or "less"'):
        EarlyStoppingHook("acc", rule="world")
    with pytest.raises(TypeError, match="acc must be a number, but got 'high'"):
        _validated(EarlyStoppingHook("acc"), ["high"])
