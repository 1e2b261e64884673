"""Rules about the sources themselves."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    p for base in ("registry/src", "core/src", "plugins") for p in (ROOT / base).rglob("*.py")
)
PACKAGES = sorted(p for p in (ROOT / "core/src/mmx").rglob("__init__.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def exported_for_type_checkers(tree: ast.Module) -> dict[str, str] | None:
    """Name -> sub-module of the `if TYPE_CHECKING:` block of a lazy package; None if it is not lazy."""
    for node in tree.body:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return {
                alias.asname or alias.name: statement.module or ""
                for statement in node.body
                if isinstance(statement, ast.ImportFrom)
                for alias in statement.names
            }
    return None


def exported_lazily(tree: ast.Module) -> dict[str, str] | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lazy_exports":
            table = ast.literal_eval(node.args[1])
            return {name: module for module, names in table.items() for name in names}
    return None


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_lazy_names_are_the_names_that_type_checkers_see(path: Path) -> None:
    tree = ast.parse(path.read_text())
    lazy = exported_lazily(tree)
    if lazy is None:
        return
    package = ".".join(path.parent.relative_to(ROOT / "core/src").parts)
    typed = exported_for_type_checkers(tree) or {}
    expected = {n: f"{package}.{module}" if module else package for n, module in lazy.items()}
    assert {n: m for n, m in typed.items() if n in expected or m.startswith(package)} == expected


def test_every_lazy_name_exists() -> None:
    packages = [".".join(p.parent.relative_to(ROOT / "core/src").parts) for p in PACKAGES]
    code = f"""
import importlib, warnings
warnings.simplefilter("ignore")
for package in {packages}:
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        getattr(module, name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "statement",
    [
        "import mmx",
        "import mmx_registry",
        "import mmx.registry",
        "import mmx.config",
        "import mmx.fileio",
        "import mmx.logging",
        "import mmx.utils",
        "import mmx.cli.main",
        "import mmx_toy, mmx_vision",
    ],
)
def test_this_import_does_not_import_torch(statement: str) -> None:
    code = (
        f"import sys; {statement}; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from mmx.cli.main import cli;"
        "result = CliRunner().invoke(cli, ['--help']); assert result.exit_code == 0, result.output;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def calls(tree: ast.Module, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name
    ]


def test_torch_load_is_called_with_weights_only_alone() -> None:
    found = 0
    for path in SOURCES:
        for node in calls(ast.parse(path.read_text()), "load"):
            if ast.unparse(node.func) != "torch.load":
                continue
            found += 1
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get("weights_only") == "True", f"{name_of(path)}:{node.lineno}"
    assert found >= 1


def test_no_source_turns_weights_only_off() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "weights_only":
                assert ast.unparse(node.value) != "False", f"{name_of(path)}:{node.value.lineno}"


def test_no_file_names_a_machine_path() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    home = ["/" + "work/", "/" + "root/", "/" + "home/"]
    for file in tracked:
        path = ROOT / file
        if (
            path == Path(__file__)
            or not path.is_file()
            or path.suffix in (".png", ".pth", ".pt", ".pkl", ".npz", ".gz")
        ):
            continue
        text = path.read_text(errors="ignore")
        for start in home:
            assert f'"{start}' not in text, f"{file} names {start}"
            assert f" {start}" not in text, f"{file} names {start}"


def test_the_sources_have_no_stray_prints() -> None:
    for path in SOURCES:
        if "/cli/" in str(path) or "utils" in path.parts or path.name in ("count.py", "demo.py"):
            continue
        for node in calls(ast.parse(path.read_text()), "print"):
            if ast.unparse(node.func) == "print":
                pytest.fail(f"{name_of(path)}:{node.lineno} prints; use print_log")


def test_the_distributions_have_one_version() -> None:
    import tomllib

    versions = {
        tomllib.loads(p.read_text())["project"]["version"]
        for p in [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")]
    }
    import mmx

    assert versions == {mmx.__version__}
    assert os.path.isdir(ROOT / "plugins")
