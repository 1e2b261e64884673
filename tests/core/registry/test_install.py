"""Sibling plugins as people have them: wheels, installed by pip into an environment of their own."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "{version}"
dependencies = {requires}
[project.entry-points."mmx.plugins"]
{name} = "{name}.registry"
[tool.hatch.build.targets.wheel]
packages = ["{name}"]
"""

REGISTRY = """
from mmx.registry import MODELS as ROOT, Registry
MODELS = Registry("model", parent=ROOT, scope="{name}", locations=["{name}.models"])
"""

# No torch: these plugins run where only the registries are installed.
MODEL = """
from {name}.registry import MODELS

@MODELS.register_module()
class {cls}:
    '''A part of {name}.'''
    def __init__(self, inner=None):
        self.inner = None if inner is None else MODELS.build(inner)
"""

PACKAGES = {
    "mmalpha": ("1.2", ["mmx>=0.1"], REGISTRY, MODEL.format(name="mmalpha", cls="LogSoftmax")),
    "mmbeta": ("0.3", ["mmx>=0.1", "mmalpha>=1"], REGISTRY, MODEL.format(name="mmbeta", cls="Net")),
    "mmbroken": (
        "0.1",
        ["mmx>=0.1"],
        REGISTRY + "from mmbroken import models\n",
        MODEL.format(name="mmbroken", cls="Lost") + "import zz_missing_dependency\n",
    ),
}


def run(*command: str | Path, **options) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MMX_", "PYTHONPATH"))}
    result = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        env={**environment, **options.pop("env", {})},
        **options,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """An environment with the core and three generated plugins, all from wheels."""
    base = tmp_path_factory.mktemp("installed")
    sources = [ROOT / "registry", ROOT / "core"]
    for name, (version, requires, registry, models) in PACKAGES.items():
        folder = base / "src" / name
        (folder / name).mkdir(parents=True)
        (folder / "pyproject.toml").write_text(
            PYPROJECT.format(name=name, version=version, requires=json.dumps(requires))
        )
        (folder / name / "__init__.py").touch()
        (folder / name / "registry.py").write_text(registry.format(name=name))
        (folder / name / "models.py").write_text(models)
        sources.append(folder)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheels = base / "wheels"
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", wheels, *sources)
    venv.create(base / "env", with_pip=False)
    python = base / "env" / "bin" / "python"
    # The registries need no torch; click is what the command line needs.
    run(
        *pip, "--python", python, "install", "-q", "--no-deps",
        *sorted(wheels.glob("*.whl")),
    )  # fmt: skip
    run(
        *pip, "--python", python, "install", "-q",
        "click>=8.1", "packaging>=24", "pluggy>=1.5", "importlib-metadata>=8",
    )  # fmt: skip
    return python


@pytest.mark.slow
@pytest.mark.network
def test_installed_siblings_use_each_others_parts(environment, tmp_path):
    code = """
import sys
from mmx.registry import MODELS, DefaultScope, init_default_scope
assert "mmalpha" not in sys.modules
built = MODELS.build(dict(type="Net", _scope_="mmbeta", inner=dict(type="mmalpha.LogSoftmax")))
print(type(built).__module__, type(built.inner).__module__)
beta = MODELS.children["mmbeta"]
print(type(beta.build(dict(type="LogSoftmax", _scope_="mmalpha"))).__name__)
init_default_scope("mmalpha")
print(type(MODELS.build(dict(type="LogSoftmax"))).__name__)
try:
    MODELS.build(dict(type="mmbroken.Lost"))
except KeyError as error:
    print(type(error).__name__, type(error.__cause__).__name__, error)
print("mmbroken" in MODELS.children, "torch" in sys.modules)
"""
    lines = run(environment, "-c", code, cwd=tmp_path).splitlines()
    assert lines[:3] == ["mmbeta.models mmalpha.models", "LogSoftmax", "LogSoftmax"]
    assert lines[3].startswith(
        "PluginError ModuleNotFoundError the plugin 'mmbroken' (mmbroken 0.1) failed to import: "
        "ModuleNotFoundError: No module named 'zz_missing_dependency'"
    )
    assert lines[4] == "False False"


@pytest.mark.slow
@pytest.mark.network
def test_the_command_line_lives_with_a_broken_plugin(environment, tmp_path):
    rows = json.loads(run(environment, "-m", "mmx", "plugins", "list", "--json", cwd=tmp_path))
    assert {row["scope"]: row["version"] for row in rows} == {
        "mmx": "0.1.0",
        "mmalpha": "1.2",
        "mmbeta": "0.3",
        "mmbroken": "0.1",
    }
    out = run(environment, "-m", "mmx", "registry", "list", "MODELS/mm*", cwd=tmp_path)
    assert "mmalpha.LogSoftmax" in out
    assert "mmbeta.Net" in out
    count = environment.parent / "count-registered-modules"
    assert "Find 1 modules in mmalpha's 'model' registry" in run(count, cwd=tmp_path)
    assert (
        run(
            environment,
            "-m",
            "mmx",
            "plugins",
            "list",
            "--json",
            cwd=tmp_path,
            env={"MMX_PLUGINS": ""},
        ).count('"disabled"')
        == 3
    )
