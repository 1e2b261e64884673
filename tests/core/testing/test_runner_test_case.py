"""The base case of tests that need a runner."""

import os
from typing import Any

import pytest

from mmx.dist import is_distributed
from mmx.logging import MMLogger
from mmx.registry import MODELS
from mmx.testing import RunnerTestCase, isolate


class Case(RunnerTestCase):
    def test_nothing(self) -> None: ...


@pytest.fixture
def case() -> Any:
    with isolate():
        case = Case("test_nothing")
        case.setUp()
        yield case
        case.tearDown()


def test_epochs_run(case: Case) -> None:
    runner = case.build_runner(case.epoch_based_cfg)
    runner.train()
    assert (2, 8) == (runner.epoch, runner.iter)
    assert {"acc": 1} == runner.test()
    assert os.path.exists(os.path.join(runner.work_dir, "epoch_2.pth"))
    case.clear_work_dir()
    assert [] == os.listdir(runner.work_dir)


def test_iterations_run(case: Case) -> None:
    runner = case.build_runner(case.iter_based_cfg)
    runner.train()
    assert 12 == runner.iter
    assert os.path.exists(os.path.join(runner.work_dir, "iter_12.pth"))


def test_names_are_new_each_time(case: Case) -> None:
    assert case.experiment_name != case.experiment_name
    assert case.experiment_name.startswith("test_nothing_")


def test_the_end_leaves_nothing_behind() -> None:
    with isolate():
        case = Case("test_nothing")
        case.setUp()
        case.setup_dist_env()
        assert "0" == os.environ["RANK"]
        cfg = case.epoch_based_cfg
        cfg.launcher = "pytorch"
        case.build_runner(cfg)
        assert is_distributed()
        folder = case.temp_dir.name
        case.tearDown()
        assert not is_distributed()
        assert "RANK" not in os.environ
        assert not os.path.exists(folder)
        assert "ToyModel" not in MODELS.module_dict
        assert not MMLogger._instance_dict
