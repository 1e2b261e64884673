"""Fixtures and options of the whole suite."""

import os
from collections.abc import Iterator

# Two workers share two cores: one thread each. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture", type=int, default=0, metavar="N", help="kill and resume runs N times"
    )


@pytest.fixture(autouse=True)
def _isolate() -> Iterator[None]:
    """Undo what a test does to registries, plugins, scopes, named instances and back ends."""
    from mmx.testing.isolation import isolate

    with isolate():
        yield


@pytest.fixture(autouse=True)
def _engine_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call the engine by its own name, whatever other tests of this process have imported."""
    monkeypatch.setattr("mmx._engine_name._name", "mmx")
    monkeypatch.setattr("mmx_registry.scope._shown", {})


@pytest.fixture
def isolated() -> Iterator[None]:
    """Undo what a test does to random state and torch's settings."""
    import random

    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    torch.use_deterministic_algorithms(False)
