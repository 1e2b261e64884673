"""How modules under the old name are imported, in every order and way."""

import importlib
import inspect
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(code: str, *, env: dict[str, str] | None = None) -> str:
    """Run code in a fresh interpreter with warnings as errors; return what it prints."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_imports_no_torch_and_no_numpy() -> None:
    run("import sys, mmengine; assert not {'torch', 'numpy', 'yaml'} & set(sys.modules)")


@pytest.mark.parametrize("first", ["mmx", "mmengine"])
def test_both_names_are_one_module_in_either_order(first: str) -> None:
    second = {"mmx": "mmengine", "mmengine": "mmx"}[first]
    run(
        f"""
        import importlib, sys
        names = ["registry", "runner", "runner.checkpoint", "model.base_module", "hooks.hook",
                 "utils.dl_utils.collect_env", "optim.scheduler.param_scheduler"]
        for name in names:
            one = importlib.import_module("{first}." + name)
            two = importlib.import_module("{second}." + name)
            assert one is two, name
            assert sys.modules["mmx." + name] is sys.modules["mmengine." + name]
            assert one.__name__ == one.__spec__.name == "mmx." + name
            assert one.__spec__.loader.name == one.__name__
        import mmx, mmengine
        assert mmengine.runner is mmx.runner
        from mmengine.runner import Runner
        assert Runner is mmx.runner.Runner
        """
    )


STATEMENTS = [
    "import mmengine.runner.checkpoint as c; c.load_checkpoint",
    "from mmengine.runner import checkpoint; checkpoint.load_checkpoint",
    "import mmengine; mmengine.runner.checkpoint.load_checkpoint",
    "import mmengine.runner; mmengine.runner.loops.EpochBasedTrainLoop",
    "from mmengine import Config, ConfigDict, MessageHub, track_iter_progress, mkdir_or_exist",
    "from mmengine import *; Config, load, MMLogger, MODELS, is_list_of",
    "from mmengine.hooks import *; CheckpointHook, NPUProfilerHook",
    "from mmengine.runner import *; Runner, get_mmcls_models",
    "from mmengine._strategy import *; ColossalAIStrategy",
    "from mmengine.utils.dl_utils.collect_env import collect_env as a\n"
    "from mmengine.utils.dl_utils import collect_env as b; assert a is b",
    "from mmengine.dist import dist, utils; dist.all_reduce, utils.get_rank",
    "from mmengine._strategy import SingleDeviceStrategy, ColossalAIStrategy",
    "import mmengine._strategy.fsdp as f; f.FSDPStrategy",
    "from mmengine.testing._internal import MultiProcessTestCase",
    "from mmengine.runner.checkpoint import _load_checkpoint, load_from_http, get_mmcls_models",
    "from mmengine.structures.instance_data import IndexType, InstanceData",
    "from mmengine.visualization.utils import img_from_canvas",
]


def test_each_import_works_by_itself() -> None:
    """Each in a fork of its own of a process that has imported torch and nothing of ours."""
    run(
        f"""
        import os, sys, traceback
        import torch
        assert not [name for name in sys.modules if name.startswith(("mmx", "mmengine"))]
        failed = []
        for statement in {STATEMENTS!r}:
            child = os.fork()
            if child == 0:
                try:
                    exec(statement, {{}})
                except BaseException:
                    print(statement, file=sys.stderr)
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                failed.append(statement)
        assert not failed, failed
        """
    )


def test_finders_that_are_put_first_later_load_no_module_twice() -> None:
    run(
        """
        import sys
        import mmengine
        from importlib.machinery import PathFinder

        class Eager:
            # As pytest's, which rewrites modules whose names begin with "test_".
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name.rpartition(".")[2].startswith("test_"):
                    return PathFinder.find_spec(name, path)

        sys.meta_path.insert(0, Eager)
        import mmengine.hooks.test_time_aug_hook as old
        import mmx.hooks.test_time_aug_hook as new
        assert old is new
        """
    )


def test_what_is_nowhere_is_an_import_error_as_ever() -> None:
    import mmengine
    import mmengine.runner

    with pytest.raises(ModuleNotFoundError, match=r"No module named 'mmengine\.nothing'"):
        importlib.import_module("mmengine.nothing")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'mmengine\.runner\.nothing'"):
        importlib.import_module("mmengine.runner.nothing")
    with pytest.raises(ModuleNotFoundError, match="is not a package"):
        importlib.import_module("mmengine.hooks.hook.nothing")
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        from mmengine.runner import Nothing  # noqa: F401
    with pytest.raises(AttributeError, match="module 'mmengine' has no attribute 'nothing'"):
        mmengine.nothing  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'mmx\.runner' has no attribute 'nothing'"):
        mmengine.runner.nothing  # noqa: B018
    assert not hasattr(mmengine, "__nothing__")


def test_listing_the_package_shows_its_public_names() -> None:
    import mmengine

    assert {"Config", "MMLogger", "MODELS", "load", "track_progress"} <= set(dir(mmengine))
    assert set(mmengine.__all__) <= set(dir(mmengine))
    import mmengine.hooks.profiler_hook as module

    assert {"ProfilerHook", "NPUProfilerHook", "check_kineto"} <= set(dir(module))


def test_a_reload_keeps_the_module_and_its_further_names() -> None:
    run(
        """
        import importlib
        import mmengine.runner.checkpoint as old
        import mmx.runner.checkpoint as new
        assert importlib.reload(old) is old is new
        assert old.get_mmcls_models().keys()
        import mmengine.hooks
        assert importlib.reload(mmengine.hooks) is mmengine.hooks
        mmengine.hooks.NPUProfilerHook
        import sys
        assert importlib.reload(mmengine) is sys.modules["mmengine"]
        assert sum(type(f).__name__ == "AliasFinder" for f in sys.meta_path) == 1
        """
    )


def test_classes_pickle_under_either_name() -> None:
    import mmx.structures
    from mmengine.structures import InstanceData

    assert pickle.loads(pickle.dumps(InstanceData)) is mmx.structures.InstanceData
    for place in ("mmengine.structures.instance_data", "mmengine.structures"):
        old = f"c{place}\nInstanceData\n.".encode()
        assert pickle.loads(old) is mmx.structures.InstanceData
    hook = pickle.loads(b"cmmengine.hooks.checkpoint_hook\nCheckpointHook\n.")
    assert "mmx.hooks.checkpoint_hook" == hook.__module__


def test_inspection_leads_to_the_sources() -> None:
    import mmengine.runner.base_loop as module
    from mmengine.runner import BaseLoop

    assert inspect.getmodule(BaseLoop) is module
    source = inspect.getsourcefile(BaseLoop)
    assert source is not None
    assert Path(source) == Path(module.__file__ or "")
    assert "class BaseLoop" in inspect.getsource(BaseLoop)
    spec = importlib.util.find_spec("mmengine.runner.priority")
    assert spec is not None
    assert spec.origin is not None
    assert spec.origin.endswith("priority.py")


def test_a_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "mmengine.utils.dl_utils.parrots_wrapper"]
    subprocess.run(command, check=True)
    command = [sys.executable, "-m", "mmengine", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "mmx" in result.stdout


def test_threads_that_import_at_once_get_the_same_module() -> None:
    run(
        """
        import importlib, sys, threading
        import mmengine
        names = ["hooks", "hooks.checkpoint_hook", "runner", "runner.loops", "model", "dist.utils"]
        sys.setswitchinterval(1e-6)
        barrier = threading.Barrier(8)
        found, errors = [], []
        def work(number):
            barrier.wait()
            try:
                for name in names if number % 2 else names[::-1]:
                    package = "mmx" if number % 4 > 1 else "mmengine"
                    module = importlib.import_module(package + "." + name)
                    found.append((name, id(module)))
                from mmengine.runner import Runner, checkpoint
                from mmengine.hooks import CheckpointHook, NPUProfilerHook
                checkpoint.get_mmcls_models
            except BaseException as error:
                errors.append(error)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert not errors, errors
        assert len(set(found)) == len(names)
        """
    )


FAKE = {
    "METADATA": "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    "RECORD": "",
}


def fake_distribution(folder: Path, name: str, version: str) -> None:
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    for file, text in FAKE.items():
        (place / file).write_text(text.format(name=name, version=version))


@pytest.mark.parametrize("name", ["mmengine", "MMEngine", "mmengine_lite"])
def test_the_real_package_beside_this_one_is_refused(name: str, tmp_path: Path) -> None:
    fake_distribution(tmp_path, name, "0.10.4")
    code = """
        try:
            import mmengine
        except ImportError as error:
            print(error)
        """
    text = run(code, env={"PYTHONPATH": str(tmp_path)})
    called = name.lower().replace("_", "-")
    assert f"both {called} 0.10.4 (in {tmp_path}) and mmx-mmengine are installed" in text
    assert f"pip uninstall -y {called} mmx-mmengine" in text
    assert "pip install mmx-mmengine" in text


def test_packages_with_like_names_are_no_conflict(tmp_path: Path) -> None:
    for name in ("mmengine_extra", "mmx_mmengine_tools"):
        fake_distribution(tmp_path, name, "1.0")
    run("import mmengine", env={"PYTHONPATH": str(tmp_path)})
