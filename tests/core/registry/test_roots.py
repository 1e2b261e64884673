"""The root registries and the functions that build runners, models and schedulers."""

import subprocess
import sys

import pytest

import mmx.registry
from mmx.registry import (
    MODELS,
    PARAM_SCHEDULERS,
    RUNNERS,
    DefaultScope,
    Registry,
    build_model_from_cfg,
    build_runner_from_cfg,
    build_scheduler_from_cfg,
    configure_plugins,
    count_registered_modules,
    init_default_scope,
    traverse_registry_tree,
    trust_packages,
)
from mmx_registry.isolation import isolated

ROOTS = {
    "RUNNERS": "runner",
    "RUNNER_CONSTRUCTORS": "runner constructor",
    "LOOPS": "loop",
    "HOOKS": "hook",
    "STRATEGIES": "strategy",
    "DATASETS": "dataset",
    "DATA_SAMPLERS": "data sampler",
    "TRANSFORMS": "transform",
    "MODELS": "model",
    "MODEL_WRAPPERS": "model_wrapper",
    "WEIGHT_INITIALIZERS": "weight initializer",
    "OPTIMIZERS": "optimizer",
    "OPTIM_WRAPPERS": "optim_wrapper",
    "OPTIM_WRAPPER_CONSTRUCTORS": "optimizer wrapper constructor",
    "TASK_UTILS": "task util",
    "PARAM_SCHEDULERS": "parameter scheduler",
    "METRICS": "metric",
    "EVALUATOR": "evaluator",
    "VISBACKENDS": "vis_backend",
    "VISUALIZERS": "visualizer",
    "LOG_PROCESSORS": "log_processor",
    "INFERENCERS": "inferencer",
    "FUNCTIONS": "function",
}


@pytest.fixture(autouse=True)
def _isolated():
    with isolated():
        yield


@pytest.mark.parametrize("name", ROOTS)
def test_every_root_registry_exists(name):
    registry = getattr(mmx.registry, name)
    assert isinstance(registry, Registry)
    assert (registry.name, registry.scope, registry.parent) == (ROOTS[name], "mmx", None)
    assert registry.locations
    assert name in mmx.registry.__all__


def test_importing_the_registries_imports_no_torch():
    code = (
        "import sys, mmx.registry\n"
        "mmx.registry.count_registered_modules(verbose=False)\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_importing_the_registries_in_isolation_lasts():
    code = (
        "from mmx_registry.isolation import isolated\n"
        "with isolated():\n    import mmx.registry as r\n"
        "print(r.MODELS.get('torch.nn.Linear').__name__, r.MODELS.get('torch.load'))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["Linear", "None"]


def test_module_names_that_projects_import_exist():
    from mmx.registry.build_functions import build_from_cfg
    from mmx.registry.default_scope import DefaultScope as Scope
    from mmx.registry.registry import Registry as Same
    from mmx.registry.root import MODELS as SAME_MODELS
    from mmx.registry.utils import init_default_scope as init

    assert (Scope, Same, SAME_MODELS, init) == (DefaultScope, Registry, MODELS, init_default_scope)
    assert build_from_cfg is mmx.registry.build_from_cfg


def test_counting_lists_every_root(tmp_path):
    result = count_registered_modules(str(tmp_path), verbose=False)
    assert set(result["registries"]) == set(ROOTS)
    assert (tmp_path / "modules_statistic_results.json").exists()
    hooks = traverse_registry_tree(mmx.registry.HOOKS, verbose=False)
    assert "CheckpointHook" in hooks[0]["mmx/hooks"]


# --------------------------------------------------------------------------- build functions


def test_a_list_of_models_is_built_as_a_sequence():
    from torch import nn

    model = build_model_from_cfg(
        [
            dict(type=nn.Linear, in_features=2, out_features=3),
            dict(type="torch.nn.ReLU"),
        ],
        MODELS,
    )
    assert isinstance(model, nn.Sequential)
    assert [nn.Linear, nn.ReLU] == [type(m) for m in model]
    assert type(model[1]) is type(MODELS.build(dict(type="torch.nn.ReLU")))


@pytest.fixture
def runner_class():
    @RUNNERS.register_module("ZzRunner")
    class ZzRunner:
        @classmethod
        def from_cfg(cls, cfg):
            runner = cls()
            runner.cfg = cfg
            bound = DefaultScope.get_current_instance()
            runner.scope = None if bound is None else bound.scope_name
            return runner

    return ZzRunner


def test_runners_are_built_by_their_from_cfg(runner_class):
    cfg = dict(runner_type="ZzRunner", a=1, _scope_="mmx")
    runner = RUNNERS.build(cfg)
    assert runner.cfg == dict(runner_type="ZzRunner", a=1)
    assert runner.scope == "mmx"
    assert cfg == dict(runner_type="ZzRunner", a=1, _scope_="mmx")
    assert type(build_runner_from_cfg(dict(runner_type=runner_class), RUNNERS)) is runner_class


def test_wrong_runner_configs_are_rejected():
    with pytest.raises(TypeError, match="cfg should be a dict, ConfigDict or Config"):
        build_runner_from_cfg(1, RUNNERS)
    with pytest.raises(TypeError, match=r"registry should be a mmx\.Registry object"):
        build_runner_from_cfg({}, 1)
    with pytest.raises(TypeError, match="type must be a str or valid type"):
        build_runner_from_cfg(dict(runner_type=1), RUNNERS)
    with pytest.raises(KeyError, match="Zz_None is not in the mmx::runner registry"):
        build_runner_from_cfg(dict(runner_type="Zz_None"), RUNNERS)


@pytest.fixture
def scheduler_class():
    @PARAM_SCHEDULERS.register_module("ZzLR")
    class ZzLR:
        def __init__(self, optimizer, gamma=0.1, by_epoch=True):
            self.facts = (optimizer, gamma, by_epoch)

        @classmethod
        def build_iter_from_epoch(cls, *args, epoch_length=None, **kwargs):
            scheduler = cls(*args, by_epoch=False, **kwargs)
            scheduler.epoch_length = epoch_length
            return scheduler

        def step(self):
            pass

    return ZzLR


def test_schedulers_may_count_iterations_from_epochs(scheduler_class):
    cfg = dict(type="ZzLR", gamma=0.5)
    assert PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer="opt")).facts == (
        "opt",
        0.5,
        True,
    )
    cfg["convert_to_iter_based"] = True
    built = PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer="opt", epoch_length=7))
    assert (built.facts, built.epoch_length) == (("opt", 0.5, False), 7)
    assert cfg == dict(type="ZzLR", gamma=0.5, convert_to_iter_based=True)
    assert built is build_scheduler_from_cfg(built, PARAM_SCHEDULERS)
    cfg["convert_to_iter_based"] = False
    plain = PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer="opt", epoch_length=7))
    assert plain.facts == ("opt", 0.5, True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "`epoch_length` should be set"),
        (dict(epoch_length=7, by_epoch=False), "but by_epoch is False"),
    ],
)
def test_schedulers_that_cannot_be_converted_are_rejected(scheduler_class, kwargs, message):
    cfg = dict(type="ZzLR", optimizer="opt", convert_to_iter_based=True, **kwargs)
    with pytest.raises(ValueError, match=message) as caught:
        PARAM_SCHEDULERS.build(cfg)
    assert isinstance(caught.value, AssertionError)


# --------------------------------------------------------------------------- trust


# What torch and mmx themselves offer to somebody who can only write a text config.
GADGETS = [
    "torch.load",
    "torch.save",
    "torch.serialization.load",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "torch.jit.load",
    "torch.jit.script",
    "torch.package.PackageImporter",
    "torch.utils.cpp_extension.load",
    "torch.utils.cpp_extension.load_inline",
    "torch.utils.model_zoo.load_url",
    "torch.utils.collect_env.run",
    "torch.utils.collect_env.main",
    "torch.utils.benchmark.Timer",
    "torch.utils.data.datapipes.iter.FileOpener",
    "torch.multiprocessing.spawn",
    "torch.multiprocessing.Process",
    "torch.distributed.run.main",
    "torch.distributed.launch.main",
    "torch.distributed.rpc.rpc_sync",
    "torch.distributed.init_process_group",
    "torch.distributed.nn.RemoteModule",
    "torch.cuda.CUDAPluggableAllocator",
    "torch.cuda.memory.CUDAPluggableAllocator",
    "torch.cuda.tunable.write_file",
    "torch.from_file",
    "torch.backends.xeon.run_cpu.main",
    "torch.utils.file_baton.FileBaton",
    "torch.ops.load_library",
    "torch.classes.load_library",
    "torch.export.load",
    "torch.onnx.export",
    "torch.fx.Interpreter",
    "torch.testing.assert_close",
    "torch.compiler.load_cache_artifacts",
    "torch.os.system",
    "torch.sys.exit",
    "torch.builtins.eval",
    "torch.importlib.import_module",
    "torch.nn.functional.importlib.import_module",
    "torch.nn.modules.module.functools.partial",
    "torch.utils.data.dataloader.os.system",
    "torch.utils.data.dataloader.multiprocessing.Process",
    "torch.storage.UntypedStorage.from_file",
    "torch._C._import_dlpack",
    "torch.nn.Module.__init__.__globals__",
    "mmx.fileio.load",
    "mmx.utils.import_modules_from_strings",
    "mmx.config.Config.fromfile",
    "mmx.checkpoint.load_checkpoint",
    "mmx.registry.trust_packages",
    "mmx.cli.main.main",
    "mmx_registry.trust.add",
]


@pytest.mark.parametrize("path", GADGETS)
def test_gadgets_of_trusted_packages_are_refused(path):
    assert MODELS.get(path) is None
    with pytest.raises(KeyError):
        MODELS.build(dict(type=path))


@pytest.mark.parametrize(
    "path",
    [
        "torch.nn.Linear",
        "torch.nn.functional.relu",
        "torch.nn.functional.gelu",
        "torch.nn.functional.max_pool2d",
        "torch.relu",
        "torch.nn.init.kaiming_normal_",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.StepLR",
        "torch.utils.data.DataLoader",
        "torch.utils.data.RandomSampler",
        "torch.utils.data.default_collate",
        "torch.distributions.Normal",
        "torch.float16",
        "torch.amp.GradScaler",
    ],
)
def test_parts_of_torch_are_found_by_their_path(path):
    import torch

    expected = torch
    for name in path.split(".")[1:]:
        expected = getattr(expected, name)
    assert MODELS.get(path) is expected


def test_a_module_is_found_by_its_path():
    import mmx.structures

    assert MODELS.get("mmx.structures") is mmx.structures
    assert MODELS.get("mmx.zz_unknown") is None


def test_users_trust_packages_by_name():
    trust_packages("json")
    import json

    assert MODELS.get("json.JSONDecoder") is json.JSONDecoder


def test_text_configs_may_import_trusted_packages_and_usable_plugins(monkeypatch):
    from mmx.registry import is_trusted_package

    assert [
        is_trusted_package(name)
        for name in ("torch.nn", "mmx.models", "mmx_toy.model", "os", "mmx_toys")
    ] == [True, True, True, False, False]
    monkeypatch.setenv("MMX_TRUST", "mine")
    assert is_trusted_package("mine.models")


# --------------------------------------------------------------------------- plugins


def test_plugins_are_configured_by_a_mapping(caplog):
    from mmx_registry import PluginError

    configure_plugins(None)
    configure_plugins(dict(disable=["mmx_toy", "zz-none"]))
    assert "no installed plugin is called 'zz-none'" in caplog.text
    with pytest.raises(PluginError, match="is disabled: the config leaves it out"):
        from mmx_registry import plugins

        plugins._plugins = None
        plugins.activate("mmx_toy")
    with pytest.raises(ValueError, match="plugins has no 'disabled'; its keys are only, disable"):
        configure_plugins(dict(disabled=[]))
