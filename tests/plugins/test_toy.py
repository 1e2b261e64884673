from pathlib import Path

import pytest
import torch

from mmx.config import Config
from mmx.registry import DATASETS, MODELS
from mmx.runner import Runner

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "plugins/mmx_toy/src/mmx_toy/configs/two_rings.py"

pytestmark = pytest.mark.usefixtures("isolated")


def test_the_plugin_is_about_a_hundred_lines() -> None:
    """Promised to people who copy it: code lines, without blanks, docstrings and comments."""
    import ast

    lines = 0
    for path in (ROOT / "plugins/mmx_toy/src/mmx_toy").glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
                node
            ):
                node.body.pop(0)
        lines += len([line for line in ast.unparse(tree).splitlines() if line.strip()])
    assert 80 <= lines <= 140


def test_two_rings_of_one_seed_are_equal_and_lie_where_they_should() -> None:
    data, same = (
        DATASETS.build(dict(type="mmx_toy.TwoRings", size=2000, seed=3)) for _ in range(2)
    )
    assert torch.equal(data.points, same.points)
    radius = data.points.norm(dim=1)
    assert radius[data.labels == 0].mean().item() == pytest.approx(3, abs=0.1)
    assert radius[data.labels == 1].mean().item() == pytest.approx(6, abs=0.1)


def test_a_wrong_activation_is_named() -> None:
    with pytest.raises(ValueError, match="activation must be one of relu, silu, none, got 'gelu'"):
        MODELS.build(dict(type="mmx_toy.MLP", activation="gelu"))


def test_the_config_trains(tmp_path: Path) -> None:
    config = Config.fromfile(CONFIG)
    config.work_dir = str(tmp_path)
    config.train_cfg.max_epochs = 2
    config.train_dataloader.dataset.size = 3000
    runner = Runner.from_cfg(config)
    runner.train()
    assert type(runner.train_loop).__name__ == "TimeLimitTrainLoop"
    assert runner.message_hub.get_scalar("val/accuracy").current() > 95
    log = next(tmp_path.rglob("*.log")).read_text()
    assert "weight_norm: " in log


def test_the_time_limit_ends_training(tmp_path: Path) -> None:
    config = Config.fromfile(CONFIG)
    config.work_dir = str(tmp_path)
    config.train_cfg.update(max_epochs=5, max_minutes=0)
    config.train_dataloader.dataset.size = 200
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.epoch == 1
