"""These tests need the released packages of requirements/downstream.txt: `make downstream`."""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

CONTRACT = Path(__file__).parents[1] / "contract" / "downstream"
NEEDED = {"mmcv-lite": "2.1.0", "mmpretrain": "1.2.0", "mmdet": "3.3.0", "mmsegmentation": "1.2.2"}


def _missing() -> list[str]:
    out = []
    for name, version in NEEDED.items():
        try:
            if importlib.metadata.version(name) != version:
                out.append(f"{name}=={version}")
        except importlib.metadata.PackageNotFoundError:
            out.append(f"{name}=={version}")
    return out


MISSING = _missing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MISSING:
        reason = f"run 'make downstream': {', '.join(MISSING)} not installed here"
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _released_packages_warn() -> Iterator[None]:
    """What the released packages warn about is theirs; our own tests keep warnings as errors."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _contract(name: str) -> ModuleType:
    if str(CONTRACT) not in sys.path:
        sys.path.insert(0, str(CONTRACT))
    return importlib.import_module(name)


@pytest.fixture
def configs() -> ModuleType:
    """The fingerprints of config files, as the reference was recorded with."""
    return _contract("configs")


@pytest.fixture
def training() -> ModuleType:
    """The training scenarios, as the reference was recorded with."""
    module = _contract("training")
    module.prepare()
    return module


@pytest.fixture
def contract_folder() -> Path:
    return CONTRACT
