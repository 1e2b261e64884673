"""The accelerator's cache is emptied where it is asked for."""

from typing import Any

import pytest
import torch

from mmx.hooks import EmptyCacheHook


@pytest.fixture
def emptied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: calls.append(1))
    return calls


@pytest.mark.parametrize("mode", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (0, 0, 1)),
        ({"before_epoch": True}, (1, 0, 1)),
        ({"after_epoch": False, "after_iter": True}, (0, 1, 0)),
    ],
)
def test_the_cache_is_emptied_at_the_chosen_points(
    mode: str, arguments: dict[str, bool], expected: tuple[int, ...], emptied: list[int]
) -> None:
    hook, runner = EmptyCacheHook(**arguments), None
    counts = []
    for stage, args in (("before_{}_epoch", ()), ("after_{}_iter", (0,)), ("after_{}_epoch", ())):
        emptied.clear()
        call: Any = getattr(hook, stage.format(mode))
        call(runner, *args)
        counts.append(len(emptied))
    assert expected == tuple(counts)


def test_without_an_accelerator_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: pytest.fail("called"))
    EmptyCacheHook().after_train_epoch(None)  # type: ignore[arg-type]  # it is not used


def test_a_gpu_is_asked_the_way_that_projects_know(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("mmx.hooks.empty_cache_hook.is_cuda_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(1))
    EmptyCacheHook(after_iter=True).after_train_iter(None, 0)  # type: ignore[arg-type]  # unused
    assert [1] == calls
