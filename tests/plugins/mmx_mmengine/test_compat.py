"""What stands behind names that mmx does not have."""

import json
import logging
import os
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mmengine.testing._internal import MultiProcessTestCase
from mmx import dist
from mmx.checkpoint import CheckpointLoader, load, schemes

# ---------------------------------------------------------------------- weights by name


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that would have been downloaded."""
    addresses: list[str] = []

    def load_from_http(filename: str, map_location: Any = None, **kwargs: Any) -> Any:
        addresses.append(filename)
        return {"state_dict": {"backbone.a": torch.ones(1), "head.b": torch.zeros(1)}, "meta": {}}

    monkeypatch.setattr(load, "load_from_http", load_from_http)
    return addresses


def test_weights_of_a_classifier_are_those_of_its_backbone(asked: list[str]) -> None:
    loaded = CheckpointLoader.load_checkpoint("mmcls://vgg11")
    assert ["a"] == list(loaded["state_dict"])
    assert asked[0].endswith("vgg11_batch256_imagenet_20210208-4271cd6c.pth")


@pytest.mark.parametrize("prefix", ["open-mmlab", "openmmlab"])
def test_weights_are_known_by_old_and_new_names(prefix: str, asked: list[str]) -> None:
    for name in ("detectron/resnet50_caffe", "resnet50_caffe"):
        assert "meta" in CheckpointLoader.load_checkpoint(f"{prefix}://{name}")
    assert asked[0] == asked[1]
    assert asked[0].endswith("resnet50_caffe-788b5fa3.pth")


def test_the_users_own_table_and_files_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: list[str]
) -> None:
    from mmengine.runner.checkpoint import _get_mmengine_home, get_external_models

    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path / "home"))
    home = Path(_get_mmengine_home())
    assert tmp_path / "home" == home
    torch.save({"w": torch.ones(2)}, home / "own.pth")
    table = {"own": "own.pth", "vgg16_caffe": "http://elsewhere/v.pth"}
    (home / "open_mmlab.json").write_text(json.dumps(table))
    assert "http://elsewhere/v.pth" == get_external_models()["vgg16_caffe"]
    assert [1.0, 1.0] == CheckpointLoader.load_checkpoint("open-mmlab://own")["w"].tolist()
    monkeypatch.delenv("MMENGINE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert str(tmp_path / "cache/mmengine") == _get_mmengine_home()


@pytest.mark.parametrize("address", ["mmcls://vgg12", "open-mmlab://vgg16_cafe"])
def test_unknown_weights_are_a_key_error_with_near_names(address: str, asked: list[str]) -> None:
    with pytest.raises(
        KeyError, match=r"no weights are known by the name 'vgg1.*close names: .*vgg1"
    ):
        CheckpointLoader.load_checkpoint(address)


def test_old_loaders_are_functions_of_the_old_module() -> None:
    import mmengine.runner.checkpoint as module

    with pytest.raises(ValueError, match="Expected filename startswith `pavi://`"):
        module.load_from_pavi("a.pth")
    with pytest.raises(ImportError, match="the package pavi"):
        module.load_from_pavi("pavi://a.pth")
    assert module.load_from_local is load.load_from_local
    assert {"open-mmlab://", "mmcls://"} <= set(CheckpointLoader._schemes) | set(schemes._announced)


# ---------------------------------------------------------------------- Ascend's profiler


class FakeProfile:
    def __init__(self, path: str, **options: Any) -> None:
        self.calls: list[Any] = [path, options]

    def __enter__(self) -> None:
        self.calls.append("enter")

    def __exit__(self, *exc: object) -> None:
        self.calls.append("exit")


def runner(iteration: int, max_iters: int = 10) -> Any:
    logger = logging.getLogger("mmengine-compat-test")
    return types.SimpleNamespace(iter=iteration, max_iters=max_iters, logger=logger)


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("torch_npu")
    module.npu = types.SimpleNamespace(profile=FakeProfile)
    monkeypatch.setitem(__import__("sys").modules, "torch_npu", module)
    monkeypatch.setenv("GE_PROFILING_TO_STD_OUT", "")


@pytest.mark.usefixtures("npu")
def test_the_npu_profiler_profiles_its_iterations() -> None:
    from mmengine.hooks import NPUProfilerHook

    hook = NPUProfilerHook(begin=1, end=3, exit_after_profiling=False, ge_profiling_to_std_out=True)
    assert "1" == os.environ["GE_PROFILING_TO_STD_OUT"]
    hook.before_run(runner(0))
    seen = []
    for iteration in range(5):
        hook.before_train_iter(runner(iteration), iteration)
        seen.append(len(hook.profiler.calls))
        hook.after_train_iter(runner(iteration), iteration)
    assert ["cann_profiling", {"use_e2e_profiler": False}, "enter", "exit"] == hook.profiler.calls
    assert [2, 3, 3, 4, 4] == seen
    last = NPUProfilerHook(end=1)
    last.before_train_iter(runner(0), 0)
    with pytest.raises(SystemExit):
        last.after_train_iter(runner(0), 0)


@pytest.mark.usefixtures("npu")
def test_the_npu_profiler_checks_its_iterations() -> None:
    from mmengine.hooks import NPUProfilerHook

    with pytest.raises(ValueError, match="should not be greater than or equal to profile end"):
        NPUProfilerHook(begin=2, end=2)
    with pytest.raises(ValueError, match="end=11 and training has 10 iterations"):
        NPUProfilerHook(end=11).before_run(runner(0))


# ---------------------------------------------------------------------- small helpers


def test_the_batch_size_is_that_of_a_loader_or_its_config() -> None:
    from mmengine.runner.utils import _get_batch_size

    assert 3 == _get_batch_size(dict(batch_size=3))
    assert 5 == _get_batch_size(dict(batch_sampler=dict(batch_size=5)))
    assert 2 == _get_batch_size(DataLoader([1, 2], batch_size=2))
    sampler = torch.utils.data.BatchSampler(range(4), 4, drop_last=False)
    assert 4 == _get_batch_size(DataLoader([1, 2, 3, 4], batch_sampler=sampler))
    with pytest.raises(ValueError, match="Please set batch_size in `Dataloader`"):
        _get_batch_size(dict(num_workers=1))
    with pytest.raises(ValueError, match="should be a dict or a Dataloader instance"):
        _get_batch_size(3)


def test_a_sliced_data_set_is_the_beginning_of_another() -> None:
    from mmengine.runner.runner import _SlicedDataset

    class Numbers(list):
        metainfo = "meta"

    data = _SlicedDataset(Numbers(range(9)), 4)
    assert (4, 3, "meta") == (len(data), data[3], data.metainfo)


def test_modules_with_two_names_come_once_or_twice() -> None:
    from mmengine.analysis.jit_analysis import (
        _named_modules_with_dup,
        _named_modules_without_dup,
    )

    layer = nn.Linear(1, 1)
    model = nn.ModuleList([layer, layer])
    assert ["", "0", "1"] == [name for name, _ in _named_modules_with_dup(model)]
    assert ["", "0"] == [name for name, _ in _named_modules_without_dup(model)]


def test_state_and_forward_helpers_do_what_their_names_say() -> None:
    from mmengine.runner.activation_checkpointing import wrap_forward
    from mmengine.runner.checkpoint import _process_mmcls_checkpoint, _save_to_state_dict

    norm = nn.BatchNorm1d(2)
    norm.register_buffer("own", torch.ones(1), persistent=False)
    state: dict[str, Any] = {}
    _save_to_state_dict(norm, state, "n.", keep_vars=False)
    assert {"n.weight", "n.running_mean", "n.own"} <= set(state)
    assert not state["n.weight"].requires_grad
    assert {"a": 1} == _process_mmcls_checkpoint({"backbone.a": 1, "b": 2})["state_dict"]
    data = torch.ones(1, requires_grad=True)
    wrap_forward(lambda x: x.exp())(data).backward()
    assert data.grad is not None
    assert torch.e == pytest.approx(data.grad.item())


def test_helpers_without_torch_do_what_their_names_say() -> None:
    from mmengine.config.config import Config, _lazy2string
    from mmengine.logging import logger
    from mmengine.testing.compare import _any
    from mmengine.utils.manager import _accquire_lock, _release_lock
    from mmengine.utils.misc import _check_executable
    from mmengine.utils.progressbar_rich import _tasks_with_index

    assert (0, 1, 0) == (logger._get_rank(), logger._get_world_size(), logger._get_device_id())
    assert "@" in logger._get_host_info()
    assert "RotatingFileHandler" in logger._get_logging_file_handlers()
    assert [(0, 3), (1, 4, 5)] == list(_tasks_with_index([3, (4, 5)]))
    assert [True, False] == [_any([0, {"a": [1]}]), _any([[], {}])]
    assert _check_executable("sh")
    assert not _check_executable("no-such-program")
    _accquire_lock()
    _accquire_lock()
    _release_lock()
    _release_lock()
    text = "from mmengine.hooks import EMAHook\nhook = dict(type=EMAHook)\nx = [(1, 2)]\n"
    cfg = Config.fromstring(text, ".py")
    plain = _lazy2string(cfg._cfg_dict, dict)
    assert {"hook": {"type": "mmengine.hooks.EMAHook"}, "x": [(1, 2)]} == plain
    assert type(plain["hook"]) is dict


def test_groups_of_one_process_answer_the_old_helpers() -> None:
    from mmengine.dist.dist import (
        _all_gather_object,
        _broadcast_object_list,
        _collect_results_device,
        _gather_object,
    )

    items: list[Any] = [1]
    _broadcast_object_list(items)
    gathered: list[Any] = [None]
    _all_gather_object(gathered, {"a": 1})
    own: list[Any] = [None]
    _gather_object("x", own)
    assert ([1], [{"a": 1}], ["x"]) == (items, gathered, own)
    assert [1, 2] == _collect_results_device([1, 2, 3], 2)


class RanksOfATestCase(MultiProcessTestCase):
    """Collected by pytest as any test case."""

    def setUp(self) -> None:
        super().setUp()
        self._spawn_processes()

    def prepare_subprocess(self) -> None:
        self.prepared = True

    def _start(self) -> None:
        torch.distributed.init_process_group("gloo", rank=self.rank, world_size=self.world_size)

    def test_a_method_runs_in_every_rank(self) -> None:
        self._start()
        assert self.prepared
        assert (self.rank, 2) == dist.get_dist_info()
        assert [0, 1] == dist.all_gather_object(self.rank)
        assert (self.rank == 0) is self.is_master


class FailingRanks(MultiProcessTestCase):
    __test__ = False

    def runTest(self) -> None:
        assert self.rank != 1, "rank 1 is against it"


class SkippingRanks(MultiProcessTestCase):
    __test__ = False

    def runTest(self) -> None:
        self.skipTest("no rank wants it")


def test_a_skip_in_every_rank_is_a_skip() -> None:
    import unittest

    result = unittest.TestResult()
    SkippingRanks()(result)
    assert ["no rank wants it"] == [reason for _, reason in result.skipped]


def test_the_failure_of_a_rank_is_that_of_the_test() -> None:
    import unittest

    result = unittest.TestResult()
    FailingRanks()(result)
    assert 1 == len(result.errors) + len(result.failures)
    assert "rank 1 is against it" in (result.errors + result.failures)[0][1]
