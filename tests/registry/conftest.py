"""Fixtures of the registry's tests: every test leaves the trees as it found them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmx_registry import Registry
from mmx_registry.isolation import Site, isolated


@pytest.fixture(autouse=True)
def _isolated(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    for name in ("MMX_PLUGINS", "MMX_PLUGINS_STRICT", "MMX_TRUST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MMX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    with isolated():
        yield


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A folder on `sys.path` to write packages and plugins into."""
    folder = tmp_path / "site"
    folder.mkdir()
    with Site(folder) as site:
        yield site


@pytest.fixture
def root(site: Site) -> Registry:
    """A root registry that packages of the site import as ``rootpkg.registry.MODELS``."""
    site.package(
        "rootpkg",
        {
            "registry.py": """
            from mmx_registry import Registry
            MODELS = Registry("model", scope="rootpkg", locations=["rootpkg.parts"])
            HOOKS = Registry("hook", scope="rootpkg", locations=["rootpkg.parts"])
            """,
            "parts/__init__.py": "",
            "parts/base.py": """
            from rootpkg.registry import MODELS

            @MODELS.register_module()
            class Base:
                def __init__(self, width=1):
                    self.width = width
            """,
        },
    )
    from rootpkg.registry import MODELS

    return MODELS
