"""In these tests the engine goes by the old name, as where code imports the old package."""

import pytest


@pytest.fixture(autouse=True)
def _engine_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmx._engine_name._name", "mmengine")
    monkeypatch.setattr("mmx_registry.scope._shown", {"mmx": "mmengine"})
