"""Each distribution builds a wheel that installs alone and works."""

import email
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = {
    "mmx_registry": ROOT / "registry",
    "mmx": ROOT / "core",
    "mmx_toy": ROOT / "plugins/mmx_toy",
    "mmx_vision": ROOT / "plugins/mmx_vision",
    "mmx_mmengine": ROOT / "plugins/mmx_mmengine",
}
# Distribution -> import package, where they differ.
PACKAGES = {"mmx_mmengine": "mmengine"}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("wheels")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
    ]
    subprocess.run([*command, *map(str, DISTRIBUTIONS.values())], check=True)
    return {path.name.split("-")[0]: path for path in out.glob("*.whl")}


def test_every_distribution_builds_a_pure_wheel(wheels: dict[str, Path]) -> None:
    assert wheels.keys() == DISTRIBUTIONS.keys()
    assert {path.name.split("-", 2)[2] for path in wheels.values()} == {"py3-none-any.whl"}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_wheel_holds_types_configs_and_metadata(name: str, wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels[name]) as wheel:
        files = wheel.namelist()
        metadata = email.message_from_bytes(
            wheel.read(next(f for f in files if f.endswith("/METADATA")))
        )
    assert f"{PACKAGES.get(name, name)}/py.typed" in files
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    sources = {
        str(p.relative_to(DISTRIBUTIONS[name] / "src"))
        for p in (DISTRIBUTIONS[name] / "src").rglob("*.py")
    }
    assert sources <= set(files), "a source file is missing from the wheel"


def run(python: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [str(python), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("version", ["python3.11", "python3.12", "python3.13"])
def test_the_registry_installs_alone_without_torch(
    version: str, wheels: dict[str, Path], tmp_path: Path
) -> None:
    # The commands of pyenv want to be told which of its versions is meant.
    environment = {**os.environ, "PYENV_VERSION": version.removeprefix("python")}
    try:
        subprocess.run(
            [version, "-m", "venv", str(tmp_path / "env")],
            check=True,
            capture_output=True,
            env=environment,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip(f"{version} is not on this machine")
    python = tmp_path / "env/bin/python"
    run(
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        str(wheels["mmx_registry"]),
    )
    code = (
        "from mmx_registry import Registry; R = Registry('r', scope='s');"
        "R.register_module(module=dict, name='D'); print(R.build(dict(type='D', a=1)))"
    )
    assert run(python, "-c", code) == "{'a': 1}\n"
    assert "torch" not in run(python, "-m", "pip", "list")
    run(tmp_path / "env/bin/python", str(tmp_path / "env/bin/count-registered-modules"))


@pytest.mark.slow
def test_the_toy_plugin_trains_from_wheels_alone(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Wheels in an environment of their own; what they depend on is borrowed from this one."""
    venv.create(tmp_path / "env", with_pip=False)
    site = next((tmp_path / "env/lib").glob("python*/site-packages"))
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    subprocess.run(
        [*install, *(str(wheels[n]) for n in ("mmx_registry", "mmx", "mmx_toy"))], check=True
    )
    ours = next(p for p in map(Path, sys.path) if p.name == "site-packages")
    names = ["torch", "torch-*", "torchgen", "functorch"]
    for item in ours.iterdir():
        editable = item.name.startswith(("mmx", "__editable__", "_mmx", "_editable"))
        if not editable and not (site / item.name).exists():
            (site / item.name).symlink_to(item)
    assert any((site / name).exists() for name in names)
    python = tmp_path / "env/bin/python"
    where = run(python, "-c", "import mmx, mmx_toy; print(mmx.__file__, mmx_toy.__file__)")
    assert where.count(str(site)) == 2
    options = [
        "train_cfg.max_epochs=1",
        "train_dataloader.dataset.size=640",
        f"work_dir={tmp_path}/run",
    ]
    run(
        python,
        "-m",
        "mmx",
        "train",
        "mmx_toy::two_rings.py",
        "--work-dir",
        str(tmp_path / "run"),
        "--cfg-options",
        *options,
    )
    assert (tmp_path / "run" / "epoch_1.pth").is_file()
