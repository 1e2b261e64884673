"""The scope ``mmengine`` is the root scope."""

import subprocess
import sys

import pytest
from torch import nn

import mmengine.registry
import mmx.registry
from mmengine.registry import HOOKS, MODELS, DefaultScope, Registry, init_default_scope
from mmx_registry import plugins, trust


class Net(nn.Module):
    pass


class OtherNet(nn.Module):
    pass


@pytest.fixture
def child() -> Registry:
    MODELS.register_module(module=Net, name="AliasNet")
    node: Registry = Registry(
        "model", parent=mmengine.registry.MODELS, scope="mmelse", locations=["mmengine.model"]
    )
    node.register_module(module=OtherNet, name="AliasNet")
    return node


def test_prefixes_and_scopes_reach_the_root(child: Registry) -> None:
    assert isinstance(MODELS.build(dict(type="mmengine.AliasNet")), Net)
    assert isinstance(child.build(dict(type="mmengine.AliasNet")), Net)
    assert isinstance(child.build(dict(type="AliasNet")), OtherNet)
    assert isinstance(child.build(dict(type="AliasNet", _scope_="mmengine")), Net)
    assert isinstance(MODELS.build(dict(type="AliasNet", _scope_="mmelse")), OtherNet)
    assert isinstance(MODELS.build(dict(type="mmelse.AliasNet")), OtherNet)


def test_the_default_scope_reaches_the_root(child: Registry) -> None:
    DefaultScope.get_instance("alias-test", scope_name="mmengine")
    assert isinstance(child.build(dict(type="AliasNet")), Net)
    current = DefaultScope.get_current_instance()
    assert current is not None
    assert "mmengine" == current.scope_name
    init_default_scope("mmelse")
    assert isinstance(MODELS.build(dict(type="AliasNet")), OtherNet)
    init_default_scope("mmengine")
    assert isinstance(child.build(dict(type="AliasNet")), Net)
    with child.switch_scope_and_registry("mmengine") as node:
        assert node is MODELS
    with mmx.registry.MODELS.switch_scope_and_registry("mmelse") as node:
        assert node is child


def test_names_of_the_core_are_found_without_imports_of_their_modules() -> None:
    from mmx.hooks.checkpoint_hook import CheckpointHook

    assert HOOKS.get("mmengine.CheckpointHook") is CheckpointHook
    assert HOOKS.get("mmengine.hooks.CheckpointHook") is CheckpointHook
    assert HOOKS.get("mmengine.hooks.checkpoint_hook.CheckpointHook") is CheckpointHook


def test_a_new_root_in_the_scope_reads_as_written() -> None:
    cats: Registry = Registry("cat", scope="mmengine")
    cats.register_module(module=Net)
    assert "mmengine" == cats.scope
    assert cats.get("mmengine.Net") is Net


def test_the_scope_works_where_nothing_imported_the_package() -> None:
    code = (
        "import sys; from mmx.registry import HOOKS;"
        "assert 'mmengine' not in sys.modules;"
        "hook = HOOKS.build(dict(type='mmengine.IterTimerHook'));"
        "same = HOOKS.build(dict(type='IterTimerHook', _scope_='mmengine'));"
        "assert type(hook) is type(same)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "path",
    [
        "mmengine.fileio.load",
        "mmengine.utils.misc.import_modules_from_strings",
        "mmengine.config.Config.fromfile",
        "mmengine.runner.checkpoint.os.system",
        "mmengine.importlib.import_module",
        "mmengine._compat.alias.importlib.import_module",
    ],
)
def test_the_name_opens_nothing_that_is_closed_to_configs(path: str) -> None:
    verdict = trust.look_up(path)
    assert verdict.object is None
    assert verdict.reason
    assert MODELS.get(path) is None


def test_the_plugin_is_listed_as_any_other() -> None:
    assert plugins.activate("mmengine")
    plugin = next(p for p in plugins.states() if p.scope == "mmengine")
    assert ("active", "mmx-mmengine") == (plugin.state, plugin.distribution)


def test_parts_that_only_old_configs_name_are_registered() -> None:
    with pytest.raises(ImportError, match="Failed to import torch_npu"):
        HOOKS.build(dict(type="NPUProfilerHook", end=2))
    from mmengine.registry import STRATEGIES

    with pytest.raises(NotImplementedError, match="mmx does not drive ColossalAI"):
        STRATEGIES.build(dict(type="ColossalAIStrategy"))


def test_the_command_line_takes_either_name_of_the_scope() -> None:
    import json

    from click.testing import CliRunner

    from mmx.cli.registry_cmd import command

    run = CliRunner().invoke
    for scope in ("mmx", "mmengine"):
        shown = run(command, ["show", f"{scope}.EMAHook", "--json"])
        assert "EMAHook" == json.loads(shown.output)[0]["name"]
        listed = run(command, ["list", f"HOOKS/{scope}.ema*", "--json"])
        assert ["EMAHook"] == [row["name"] for row in json.loads(listed.output)]
