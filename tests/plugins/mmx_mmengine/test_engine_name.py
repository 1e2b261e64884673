"""Code that imports the old package sees the old name in logs and default instances."""

import subprocess
import sys
from collections import OrderedDict

import pytest

from mmengine.logging import MessageHub, MMLogger


def test_loggers_and_hubs_go_by_the_old_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for cls in (MMLogger, MessageHub):  # as if nobody had made any yet
        monkeypatch.setattr(cls, "_instance_dict", OrderedDict())
    assert "mmengine" == MMLogger.get_current_instance().instance_name
    assert "mmengine" == MessageHub.get_current_instance().instance_name
    logger = MMLogger.get_instance("alias-name-test")
    assert ("mmengine", "alias-name-test") == (logger.name, logger.instance_name)
    logger.info("hello")
    assert " - mmengine - INFO - hello" in capsys.readouterr().out
    assert "shown" == MMLogger("other", logger_name="shown").name


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("import mmx.logging", "mmx"),
        ("import mmengine", "mmx"),
        ("import mmengine.utils", "mmengine"),
        ("from mmengine import Config", "mmengine"),
        ("from mmx.registry import HOOKS; HOOKS.get('mmengine.EMAHook')", "mmx"),
    ],
)
def test_the_name_follows_what_is_imported(statement: str, name: str) -> None:
    code = (
        f"{statement}\nfrom mmx._engine_name import engine_name\nassert engine_name() == {name!r}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_root_registries_go_by_the_old_name() -> None:
    from mmengine.registry import HOOKS, MODELS

    assert ("mmengine", "mmengine") == (HOOKS.scope, MODELS.scope)
    with pytest.raises(KeyError, match="Nothing is not in the mmengine::hook registry"):
        HOOKS.build(dict(type="Nothing"))


def test_the_environment_lists_both_versions() -> None:
    import mmx
    from mmengine.utils.dl_utils import collect_env

    env = collect_env()
    assert ("0.10.7", mmx.__version__) == (env["MMEngine"], env["MMX"])


def test_the_package_is_found_by_its_old_name() -> None:
    import mmengine
    from mmengine.utils import get_installed_path, is_installed
    from mmengine.utils.package_utils import package2module

    assert is_installed("mmengine")
    assert mmengine.__path__[0] == get_installed_path("mmengine")
    assert "mmengine" == package2module("mmengine")
