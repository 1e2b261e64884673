"""What pip and `importlib.metadata` see."""

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    source = ROOT / "plugins/mmx_mmengine"
    subprocess.run([*command, "-w", str(out), str(source)], check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(out)]
    subprocess.run([*command, str(wheel)], check=True)
    return out


def test_the_wheel_holds_the_metadata_of_both_names(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "mmengine-0.10.7.egg-info/PKG-INFO",
        "mmengine-0.10.7.egg-info/PROVIDED_BY",
        "mmx_mmengine-0.1.0.dist-info/METADATA",
        "mmengine/__init__.py",
        "mmengine/_compat/model_urls.json",
    } <= names


def test_the_installed_wheel_answers_to_the_old_name_and_version(site: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from importlib.metadata import distribution, version\n"
        "import mmengine\n"
        f"assert mmengine.__file__.startswith({str(site)!r}), mmengine.__file__\n"
        "assert version('mmengine') == mmengine.__version__ == '0.10.7'\n"
        "assert version('mmx-mmengine') == '0.1.0'\n"
        f"assert str(distribution('mmengine').locate_file('')).startswith({str(site)!r})\n"
        "from mmengine._compat.model_urls import get_mmcls_models\n"
        "assert get_mmcls_models()['vgg11'].startswith('https://')\n"
        "print('fine')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "fine\n" == result.stdout, result.stderr


def test_the_editable_install_answers_to_the_old_name_and_version() -> None:
    import mmengine

    assert "0.10.7" == mmengine.__version__ == metadata.version("mmengine")
    assert (0, 10, 7) == mmengine.version_info
    assert metadata.version("mmx") == mmengine.__mmx_version__


def test_pip_takes_a_requirement_on_the_old_name_as_met(site: Path) -> None:
    from packaging.requirements import Requirement

    requirement = Requirement("mmengine>=0.7.1,<1.0.0")
    found = next(iter(metadata.distributions(name=requirement.name, path=[str(site)])))
    assert found.version in requirement.specifier
    command = [sys.executable, "-m", "pip", "list", "--path", str(site), "--format", "freeze"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {"mmengine==0.10.7", "mmx-mmengine==0.1.0"} <= set(listed.split())
