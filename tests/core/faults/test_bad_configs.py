"""A config with mistakes is rejected, with all of them, before anything of the run exists."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from mmx.cli.run_cmd import train
from mmx.config import Config
from mmx.model import BaseModel
from mmx.registry import DATASETS, MODELS
from mmx.runner import Runner

sys.path.insert(0, str(Path(__file__).parent))
import victim
from children import in_child, wait

sys.path.pop(0)

# What has been built, in a child.
BUILT: list[str] = []


class WatchedNet(BaseModel):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        BUILT.append("weights")
        self.body = nn.Linear(2, width)

    def forward(self, inputs, mode="tensor"):  # type: ignore[no-untyped-def]  # a test model
        return {"loss": self.body(inputs).square().mean()}


class WatchedData(torch.utils.data.Dataset):
    def __init__(self, size: int = 4) -> None:
        BUILT.append("data")
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": torch.ones(2)}


CONFIG = """
model = dict(type="WatchedNet", width=3)
train_dataloader = dict(
    dataset=dict(type="WatchedData", size=4), batch_size=2,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"))
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01))
env_cfg = dict(dist_cfg=dict(backend="gloo"))
launcher = "pytorch"
log_level = "ERROR"
"""
# What is wrong -> what is told of it.
MISTAKES = {
    ("width=3", "widht=3"): "error: model.widht (config.py:2): ",
    ("DefaultSampler", "DefaultSampeler"): "error: train_dataloader.sampler.type (config.py:5): ",
    ("max_epochs=1", "max_epoch=1"): "error: train_cfg.max_epoch (config.py:7): ",
    ("lr=0.01", "lr='0.01.'"): "error: optim_wrapper.optimizer.lr (config.py:8): SGD expects float",
}


@pytest.fixture(autouse=True)
def _parts() -> None:
    MODELS.register_module(module=WatchedNet)
    DATASETS.register_module(module=WatchedData)
    victim.warm_up()


def built_by(work: Callable[[], Any], folder: Path) -> dict[str, Any]:
    """Do something as the only rank under a launcher; return what it built and what was said."""

    def child() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1",
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
        os.chdir(folder)
        begin = torch.distributed.init_process_group

        def init(*args: Any, **kwargs: Any) -> None:
            BUILT.append("process group")
            begin(*args, **kwargs)

        torch.distributed.init_process_group = init
        BUILT.clear()
        said = work()
        exists = torch.distributed.is_initialized()
        found = {"built": BUILT, "said": said, "group exists": exists}
        (folder / "found.json").write_text(json.dumps(found))

    assert wait(in_child(child)) == 0
    return json.loads((folder / "found.json").read_text())


def command() -> str:
    result = CliRunner().invoke(train, ["config.py", "--work-dir", "run"])
    return f"{result.exit_code} {result.output} {result.exception!r}"


def test_all_mistakes_are_told_before_data_weights_or_a_process_group_exist(tmp_path: Path) -> None:
    text = CONFIG
    for (right, wrong), _ in MISTAKES.items():
        assert right in text
        text = text.replace(right, wrong)
    (tmp_path / "config.py").write_text(text)
    found = built_by(command, tmp_path)
    assert [] == found["built"], found
    assert not found["group exists"]
    assert found["said"].startswith("1 ")
    for part in MISTAKES.values():
        assert part in found["said"]
    assert not (tmp_path / "run").exists()


def test_wrong_arguments_of_a_runner_are_told_before_anything_exists(tmp_path: Path) -> None:
    def work() -> str:
        cfg = Config.fromstring(CONFIG, ".py")
        cfg.merge_from_dict(dict(work_dir="run", train_cfg=None, resume=3, val_cfg=dict()))
        with pytest.raises(ValueError, match="arguments of the runner are wrong") as info:
            Runner.from_cfg(cfg)
        return str(info.value)

    found = built_by(work, tmp_path)
    assert [] == found["built"], found
    assert not found["group exists"]
    for part in ("train_cfg", "val_dataloader and val_evaluator"):
        assert part in found["said"]
    assert not (tmp_path / "run").exists()


def test_a_config_without_mistakes_builds_all_three(tmp_path: Path) -> None:
    """The control: what is watched for above is seen where it happens."""
    (tmp_path / "config.py").write_text(CONFIG)
    found = built_by(command, tmp_path)
    assert found["said"].startswith("0 "), found["said"]
    assert {"process group", "weights", "data"} == set(found["built"])
    assert found["group exists"]
    assert (tmp_path / "run").is_dir()
