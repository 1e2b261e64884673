"""``mmx plugins`` and ``mmx registry``."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from mmx.cli import plugins_cmd, registry_cmd
from mmx_registry.isolation import Site, isolated


@pytest.fixture(autouse=True)
def site(tmp_path, monkeypatch):
    for name in ("MMX_PLUGINS", "MMX_PLUGINS_STRICT", "MMX_TRUST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MMX_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "site").mkdir()
    with isolated(), Site(tmp_path / "site") as site:
        site.plugin(
            "zzvision",
            {
                "registry.py": """
                from mmx.registry import MODELS as ROOT, Registry
                MODELS = Registry('model', parent=ROOT, scope='zzvision', locations=['zzvision.models'])
                """,
                "models.py": '''
                from zzvision.registry import MODELS
                @MODELS.register_module()
                class ResidualThing:
                    """A residual thing.

                    More.
                    """
                    def __init__(self, depth=18, *, width: int = 2):
                        pass
                for name in ("Computed",):
                    MODELS.register_module(name, module=type(name, (), {}))
                ''',
            },
        )
        yield site


def run(command, *arguments) -> Result:
    return CliRunner().invoke(command, list(arguments), standalone_mode=False)


def test_plugins_are_listed_without_imports(site):
    result = run(plugins_cmd.command, "list")
    line = next(x for x in result.output.splitlines() if x.startswith("zzvision"))
    assert line.split() == ["zzvision", "enabled", "zzvision", "0.1", "zzvision.registry"]
    assert "zzvision" not in sys.modules
    rows = json.loads(run(plugins_cmd.command, "list", "--json").output)
    assert {"mmx", "zzvision"} <= {row["scope"] for row in rows}


def test_unknown_names_in_the_environment_are_reported(monkeypatch):
    monkeypatch.setenv("MMX_PLUGINS", "-zz-none")
    assert (
        "MMX_PLUGINS names 'zz-none', but no plugin is called so"
        in run(plugins_cmd.command, "list").stderr
    )


def test_a_plugin_is_shown():
    out = run(plugins_cmd.command, "show", "zzvision").output
    assert "state: active" in out
    assert "model registry: ResidualThing" in out
    facts = json.loads(run(plugins_cmd.command, "show", "zzvision", "--json").output)
    assert facts["registries"] == {"model": ["ResidualThing"]}
    assert facts["import_time_s"] > 0


def test_an_unknown_plugin_is_answered_with_a_near_one():
    result = run(plugins_cmd.command, "show", "zzvison")
    assert "Did you mean 'zzvision'?" in str(result.exception)


def test_a_broken_plugin_is_shown_with_its_traceback(site):
    site.plugin("zzbroken", {"registry.py": "raise ValueError('no luck')"})
    out = run(plugins_cmd.command, "show", "zzbroken").output
    assert "state: failed" in out
    assert "reason: ValueError: no luck" in out
    assert "Traceback" in out
    assert run(plugins_cmd.command, "list").exception is None


def findings(*arguments) -> tuple[int, str]:
    result = run(plugins_cmd.command, "doctor", *arguments)
    return result.return_value, result.output


def test_the_doctor_finds_what_can_be_found_without_imports(site):
    site.plugin("zzold", {"registry.py": ""}, requires=["mmx>=99"])
    site.plugin("zzgone", {}, module="zzgone.nowhere")
    site.plugin("zzsyntax", {"registry.py": "", "models.py": "x.register_module(\n"})
    status, out = findings()
    assert status == 1
    assert "error: zzold: incompatible: it requires mmx>=99" in out
    assert "error: zzgone: its entry point names the module 'zzgone.nowhere'" in out
    assert "error: zzsyntax: " in out
    assert "does not parse: SyntaxError" in out
    assert "zzvision" not in sys.modules


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_doctor_imports_when_told_to(site):
    source = """
    from zzvision.registry import MODELS
    import zz_none
    MODELS.register_module('A', module=dict)
    """
    site.write({"zzvision/models.py": source})
    assert findings()[0] == 0
    status, out = findings("--imports")
    assert status == 1
    assert (
        "error: zzvision: its 'model' registry: ModuleNotFoundError: No module named 'zz_none'"
        in out
    )
    rows = json.loads(run(plugins_cmd.command, "doctor", "--imports", "--json").output)
    assert "zzvision" in {row["scope"] for row in rows}


@pytest.mark.parametrize(
    "pattern",
    ["MODELS/*residual*", "models/ResidualThing", "zzvision.*", "*dualth*", "M?DELS/res*"],
)
def test_names_are_listed_by_pattern(pattern):
    out = run(registry_cmd.command, "list", pattern).output
    assert "zzvision.ResidualThing" in out
    assert "zzvision.models" not in sys.modules
    assert "models.py:3" in out


def test_a_pattern_that_fits_nothing_gives_close_names():
    result = run(registry_cmd.command, "list", "MODELS/*ResidulThing*")
    assert result.return_value == 1
    assert "Close names: ResidualThing" in result.stderr


def test_computed_names_are_listed_after_importing():
    assert run(registry_cmd.command, "list", "Computed").return_value == 1
    assert "zzvision.Computed" in run(registry_cmd.command, "list", "--imports", "Computed").output


def test_a_name_is_shown_with_its_signature_and_overriders(site):
    site.plugin(
        "zzchild",
        {
            "registry.py": """
            from zzvision.registry import MODELS as PARENT
            from mmx.registry import Registry
            MODELS = Registry('model', parent=PARENT, scope='zzchild', locations=['zzchild.models'])
            """,
            "models.py": "from zzchild.registry import MODELS\n@MODELS.register_module()\nclass ResidualThing: pass",
        },
    )
    out = run(registry_cmd.command, "show", "zzvision.ResidualThing").output
    assert out.splitlines()[:2] == [
        "zzvision.ResidualThing(depth=18, width=2)",
        "  A residual thing.",
    ]
    assert "overridden by: zzchild.ResidualThing" in out
    entries = json.loads(run(registry_cmd.command, "show", "ResidualThing", "--json").output)
    assert {e["scope"] for e in entries} == {"zzvision", "zzchild"}
    assert entries[0]["file"].endswith("models.py")
    assert "Close names: ResidualThing" in str(
        run(registry_cmd.command, "show", "ResidualThng").exception
    )
    assert "zzvision.Computed" in run(registry_cmd.command, "show", "Computed").output


def test_the_tree_shows_scopes_and_counts():
    out = run(registry_cmd.command, "tree", "MODELS").output.splitlines()
    assert out[0] == "MODELS"
    assert "    zzvision: 1" in out
    data = json.loads(run(registry_cmd.command, "tree", "model", "--json").output)
    children = {child["scope"]: child for child in data["MODELS"]["children"]}
    assert children["zzvision"]["locations"] == ["zzvision.models"]
    assert "there is no registry 'MODLES'" in str(
        run(registry_cmd.command, "tree", "MODLES").exception
    )


def test_the_schema_is_written(tmp_path):
    file = tmp_path / "schema.json"
    run(registry_cmd.command, "schema", "TASK_UTILS", "--output", str(file))
    assert json.loads(file.read_text())["title"] == "mmx::task util"


def test_names_are_completed():
    complete = registry_cmd.complete_names
    assert complete(None, None, "zzvision.Res") == ["zzvision.ResidualThing"]
    assert complete(None, None, "ResidualTh") == ["zzvision.ResidualThing"]
    assert "MODELS/ResidualThing" in registry_cmd.complete_patterns(None, None, "MODELS/Res")
    assert "MODELS/" in registry_cmd.complete_patterns(None, None, "MOD")
    assert "MODELS" in registry_cmd.complete_registries(None, None, "MODEL")
    assert plugins_cmd.complete_scopes(None, None, "zzv") == ["zzvision"]
    assert "zzvision.models" not in sys.modules


def test_the_shell_completes_names_without_torch(site):
    code = "import sys\nsys.modules['torch'] = None\nfrom mmx.cli.main import main\nmain()"
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": str(site.folder),
            "_MMX_COMPLETE": "bash_complete",
            "COMP_WORDS": "mmx registry show zzvision.R",
            "COMP_CWORD": "3",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.stdout.split() == ["plain,zzvision.ResidualThing"], out.stderr


def test_plugins_add_commands_and_a_broken_one_breaks_nothing(site, caplog):
    from mmx.cli.main import cli

    site.plugin(
        "zzcommand",
        {
            "registry.py": """
            import click
            from mmx.registry import hookimpl

            @click.command(help="Say hello.")
            def hello():
                click.echo("hello from a plugin")

            @hookimpl
            def mmx_cli_commands():
                return {"zz-hello": hello}
            """
        },
    )
    site.plugin(
        "zzbroken",
        {
            "registry.py": """
            from mmx.registry import hookimpl

            @hookimpl
            def mmx_cli_commands():
                raise ValueError("no luck")
            """
        },
    )
    # The line before it, where some earlier run's logger is there, says that the other one failed.
    assert CliRunner().invoke(cli, ["zz-hello"]).stdout.endswith("hello from a plugin\n")
    listed = CliRunner().invoke(cli, ["--help"])
    assert "Say hello." in listed.output
    assert "plugin 'zzbroken': mmx_cli_commands raised ValueError('no luck')" in caplog.text
    assert "zzvision" not in sys.modules


def test_plugins_are_left_out_by_an_option(monkeypatch):
    from mmx.cli.main import cli

    monkeypatch.setenv("MMX_PLUGINS", "zzvision,mmx_toy")
    out = CliRunner().invoke(cli, ["--no-plugin", "zzvision", "plugins", "list"]).output
    line = next(line for line in out.splitlines() if line.startswith("zzvision"))
    assert line.split()[1] == "disabled"
