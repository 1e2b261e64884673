"""Every config file that the released packages ship is read as MMEngine 0.10.7 reads it."""

import gzip
import json
import multiprocessing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

# Read differently on purpose; the reason stands beside each.
DIFFERENT = {
    # A script that lies among the configs: its functions are no settings.
    "mmdet/glip/odinw/override_category.py",
    "mmdet/grounding_dino/odinw/override_category.py",
    "mmdet/mm_grounding_dino/odinw/override_category.py",
    # `_delete_` with nothing below it to delete is an instruction, not a setting.
    "mmdet/guided_anchoring/ga-fast-rcnn_r50-caffe_fpn_1x_coco.py",
}


@pytest.fixture
def recorded(contract_folder: Path) -> dict[str, dict[str, dict[str, str]]]:
    return json.loads(gzip.decompress((contract_folder / "configs.json.gz").read_bytes()))


@pytest.mark.parametrize("package", ["mmpretrain", "mmdet", "mmseg"])
def test_every_shipped_config_reads_and_reloads_as_under_mmengine(
    package: str, recorded: dict[str, Any], configs: ModuleType, tmp_path: Path
) -> None:
    names = configs.config_files(package)
    assert sorted(recorded[package]) == names

    with multiprocessing.get_context("spawn").Pool(2, configs.prepare) as pool:
        read = pool.map(
            configs.read_and_reload, [(package, name, str(tmp_path)) for name in names], 16
        )

    wrong = []
    for name, (found, lost) in zip(names, read, strict=True):
        expected = recorded[package][name]
        if lost is not None:
            wrong.append(f"{name}: {lost}")
        elif "error" in found and "error" not in expected:
            wrong.append(f"{name}: {found['error']}")
        elif "error" not in expected and expected != found and f"{package}/{name}" not in DIFFERENT:
            wrong.append(f"{name}: other settings than under MMEngine")
    assert [] == wrong
