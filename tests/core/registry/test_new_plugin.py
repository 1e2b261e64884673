"""``mmx new plugin``: what it writes works as it is."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mmx.cli.new_cmd import command, package_name, plugin_files
from mmx.testing.isolation import isolate


@pytest.fixture(autouse=True)
def _isolated():
    with isolate():
        yield


def run(*arguments):
    return CliRunner().invoke(command, list(arguments), standalone_mode=False)


def test_the_files_are_complete_and_filled_in(tmp_path):
    result = run("plugin", "my-thing", "--directory", str(tmp_path))
    assert result.exception is None
    assert "mmx train my_thing::first.py" in result.output
    folder = tmp_path / "my-thing"
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert written == {
        ".github/workflows/ci.yml",
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "src/my_thing/__init__.py",
        "src/my_thing/configs/first.py",
        "src/my_thing/dataset.py",
        "src/my_thing/loop.py",
        "src/my_thing/metric.py",
        "src/my_thing/model.py",
        "src/my_thing/py.typed",
        "src/my_thing/registry.py",
        "tests/test_my_thing.py",
    }
    text = "".join((folder / name).read_text() for name in written)
    assert "@package@" not in text
    assert "@version@" not in text
    assert "${{ matrix.python }}" in text


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "my-thing").mkdir()
    (tmp_path / "my-thing" / "notes.txt").write_text("mine")
    result = run("plugin", "my-thing", "-d", str(tmp_path))
    assert "exists already: nothing was written" in str(result.exception)
    assert [p.name for p in (tmp_path / "my-thing").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("1st", "cannot be the name of a package"),
        ("a b", "cannot be the name of a package"),
        ("../up", "cannot be the name of a package"),
        ("class", "cannot be the name of a package"),
        ("json", "is a module of Python itself"),
        ("mmx-toy", "is taken by mmx-toy, which is installed"),
        ("torch", "there is a package 'torch' in this environment"),
    ],
)
def test_names_that_cannot_work_are_refused(name, message, tmp_path):
    result = run("plugin", name, "-d", str(tmp_path))
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_names_become_packages():
    assert package_name("My-Thing") == "my_thing"
    assert 'name = "My-Thing"' in plugin_files("My-Thing", "my_thing")["pyproject.toml"]


def test_a_generated_plugin_passes_its_own_tests_and_our_style(tmp_path):
    run("plugin", "my-thing", "--directory", str(tmp_path))
    folder, site = tmp_path / "my-thing", tmp_path / "site"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--target", str(site), str(folder)),
        ],
        check=True,
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "7 passed" in result.stdout
    for action in (["check", "--select", "E,F,W,B,UP,SIM"], ["format", "--check"]):
        ruff = subprocess.run(
            [sys.executable, "-m", "ruff", *action, "--line-length", "100", "--isolated", "."],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ruff.returncode == 0, ruff.stdout
