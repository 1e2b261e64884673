"""``mmx doctor --mmengine``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mmx.cli.doctor import names
from mmx.cli.doctor.examine import examine
from mmx.cli.doctor.findings import Report
from mmx.cli.doctor.tables import MMCV, NOT_CALLED, REFUSED_ARGUMENTS, REPLACED
from mmx.cli.doctor_cmd import command
from mmx.config.steps import Steps

GOOD = {
    "project/__init__.py": "",
    "project/registry.py": """
        from mmengine.registry import MODELS as ROOT, Registry
        MODELS = Registry('model', parent=ROOT, scope='project', locations=['project.models'])
    """,
    "project/models.py": """
        import torch
        import mmengine
        import mmengine.fileio as fileio
        from mmengine.hooks import CheckpointHook, Hook
        from mmengine.model import BaseModule
        from mmengine.runner import Runner, load_checkpoint
        from mmengine.runner.checkpoint import _load_checkpoint, get_mmcls_models
        from mmengine.utils import track_progress
        from .registry import MODELS

        @MODELS.register_module()
        class Net(BaseModule):
            def __init__(self, depth, init_cfg=None):
                super().__init__(init_cfg=init_cfg)

        # A name that the core has too, with arguments of its own.
        @MODELS.register_module(name='Sequential')
        class Other(BaseModule):
            pass

        class MyHook(Hook):
            def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
                runner.logger.info(mmengine.__version__.split('.')[0])

        def main(load):
            options = dict(interval=1)
            hook = CheckpointHook(by_epoch=False, **options)
            cfg = mmengine.Config.fromfile('a.py', import_custom_modules=False)
            runner = Runner.from_cfg(cfg)
            load_checkpoint(runner.model, 'x.pth', map_location='cpu', strict=False)
            load(anything='goes')
            return fileio.get_file_backend('a').join_path('a', 'b')
    """,
    "project/apis.py": """
        def inference(model): ...
    """,
    "configs/base.py": """
        default_scope = 'project'
        optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
        optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer, clip_grad=None,
                             paramwise_cfg=dict(norm_decay_mult=0.))
        param_scheduler = [
            dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=5, convert_to_iter_based=True),
            dict(type='mmengine.MultiStepLR', milestones=[1, 2], gamma=0.1)]
        default_hooks = dict(
            checkpoint=dict(type='CheckpointHook', interval=1, save_best='auto', priority='LOW'),
            logger=dict(type='LoggerHook', interval=50))
        custom_hooks = [dict(type='EMAHook', momentum=1e-4, ema_type='ExponentialMovingAverage')]
        model = dict(type='Net', depth=50, anything=1,
                     neck=dict(type='Sequential', whatever=2),
                     init_cfg=dict(type='Normal', layer='Conv2d', std=0.01,
                                   override=dict(type='Normal', name='head', bias_prob=0.1)))
        train_dataloader = dict(sampler=dict(type='DefaultSampler', shuffle=True))
        train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=10, val_interval=1)
        visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
        env_cfg = dict(dist_cfg=dict(backend='nccl'))
    """,
    "configs/lazy.py": """
        from mmengine.config import read_base
        from mmengine.hooks import LoggerHook
        from mmengine.optim import AmpOptimWrapper
        from torch.optim import AdamW
        with read_base():
            from .base import *
        optim_wrapper.update(dict(type=AmpOptimWrapper, dtype='bfloat16'))
        default_hooks.update(dict(logger=dict(type=LoggerHook, interval=10, priority=1)))
    """,
    "configs/.hidden/bad.py": "import mmengine.nothing",
    "configs/data.yaml": """
        default_scope: project
        custom_hooks:
          - type: EMAHook
            momentum: 0.001
    """,
    "annotations.json": '{"images": [{"type": "CheckpointHook", "nonsense": 1}]}',
}


def write(folder: Path, files: dict[str, str]) -> Path:
    from textwrap import dedent

    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
    return folder


def found(report: Report, folder: Path) -> list[tuple[str, int, str, str]]:
    return [
        (str(Path(f.file).relative_to(folder)), f.line, f.level, f.name) for f in report.findings
    ]


def test_a_project_that_runs_gives_no_findings(tmp_path: Path) -> None:
    report = examine(write(tmp_path, GOOD))
    assert [] == report.findings
    assert 7 == report.num_files


BAD = {
    "tools.py": """
        import mmengine
        import mmengine.nothing
        from mmengine.runner import Runner, LogProcesor, get_mmcls_models
        from mmengine.config.utils import ImportTransformer
        from mmengine.utils.dl_utils import load_url
        try:
            from mmengine.hooks import FutureHook
        except ImportError:
            FutureHook = None
        from mmcv import Config
        from mmcv.runner import build_optimizer, load_checkpoint, OptimizerHook
        import mmcv.parallel as parallel
        from mmcv.cnn import ConvModule

        class MyRunner(Runner):
            def _check_scheduler_cfg(self, cfg):
                pass

            def build_train_loop(self, loop):
                return super().build_train_loop(loop)

        def main():
            mmengine.mkdir_or_exits('a')
            Runner(work_dir='a', optimizer=None)
            mmengine.Config.fromfiles('a')
            mmengine.mkdir_or_exist('a', 0o777, True)
            load_url('x', weights_only=False)
            parallel.collate([])
    """,
    "configs/old.py": """
        default_scope = 'mmabsent'
        lr_config = dict(policy='step')
        train_cfg = dict(by_epoch=True, max_epoch=3)
        optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentun=0.9))
        default_hooks = dict(logger=dict(type='mmengine.LoggerHook', intervall=1))
        custom_hooks = [{'type': 'EarlyStoppingHook', 'monitors': 1}]
        model = dict(type='mmabsent.Net', transform=dict(type='json.decoder.JSONDecoder'))
    """,
    "configs/lazy.py": """
        from mmengine.hooks import LoggerHook
        default_hooks = dict(logger=dict(type=LoggerHook, by_epochs=True))
    """,
    ".mim/tools/train.py": "from mmcv.runner import init_dist",
    "configs/old.yaml": """
        custom_imports:
          imports: [my_package.models]
        total_epochs: 3
        randomness: {seed: 1, deterministics: true}
        custom_hooks:
          - type: LoggerHook
            intervals: 3
    """,
    "configs/old.json": '{"train_cfg": {\n\t"type": "EpochBasedTrainLoop",\n\t"max_epoch": 3}}',
    "broken.py": "def (:\n",
}

EXPECTED = [
    (".mim/tools/train.py", 1, "error", "mmcv.runner.init_dist"),
    ("broken.py", 1, "warning", "broken.py"),
    ("configs/lazy.py", 2, "error", "LoggerHook.by_epochs"),
    ("configs/old.json", 3, "error", "EpochBasedTrainLoop.max_epoch"),
    ("configs/old.py", 1, "warning", "mmabsent"),
    ("configs/old.py", 2, "error", "lr_config"),
    ("configs/old.py", 3, "error", "train_cfg.max_epoch"),
    ("configs/old.py", 4, "error", "SGD.momentun"),
    ("configs/old.py", 5, "error", "LoggerHook.intervall"),
    ("configs/old.py", 6, "error", "EarlyStoppingHook.monitors"),
    ("configs/old.py", 7, "warning", "json.decoder.JSONDecoder"),
    ("configs/old.py", 7, "warning", "mmabsent"),
    ("configs/old.yaml", 2, "warning", "custom_imports"),
    ("configs/old.yaml", 3, "error", "total_epochs"),
    ("configs/old.yaml", 4, "error", "randomness.deterministics"),
    ("configs/old.yaml", 7, "error", "LoggerHook.intervals"),
    ("tools.py", 2, "error", "mmengine.nothing"),
    ("tools.py", 3, "error", "mmengine.runner.LogProcesor"),
    ("tools.py", 4, "error", "mmengine.config.utils.ImportTransformer"),
    ("tools.py", 7, "warning", "mmengine.hooks.FutureHook"),
    ("tools.py", 10, "error", "mmcv.Config"),
    ("tools.py", 11, "error", "mmcv.runner.OptimizerHook"),
    ("tools.py", 11, "error", "mmcv.runner.build_optimizer"),
    ("tools.py", 11, "error", "mmcv.runner.load_checkpoint"),
    ("tools.py", 12, "error", "mmcv.parallel"),
    ("tools.py", 16, "error", "MyRunner._check_scheduler_cfg"),
    ("tools.py", 23, "error", "mmengine.mkdir_or_exits"),
    ("tools.py", 24, "error", "mmengine.runner.Runner(optimizer)"),
    ("tools.py", 25, "error", "mmengine.Config.fromfiles"),
    ("tools.py", 26, "error", "mmengine.mkdir_or_exist"),
    ("tools.py", 27, "error", "weights_only"),
    ("tools.py", 28, "error", "mmcv.parallel.collate"),
]


def test_what_does_not_run_is_found_with_its_place(tmp_path: Path) -> None:
    report = examine(write(tmp_path, BAD))
    assert [] == sorted(set(EXPECTED) ^ set(found(report, tmp_path)))


def test_findings_name_what_to_write_instead(tmp_path: Path) -> None:
    write(tmp_path, BAD)
    lines = CliRunner().invoke(command, ["--mmengine", str(tmp_path)]).output.splitlines()
    for text in (
        f"{tmp_path}/tools.py:3: error: from mmengine.runner import LogProcesor: mmengine.runner has "
        "no 'LogProcesor' in mmx. Did you mean 'LogProcessor'?",
        f"{tmp_path}/tools.py:11: error: from mmcv.runner import build_optimizer: mmcv 2 has no "
        "'mmcv.runner.build_optimizer', which moved. Use mmengine.optim.build_optim_wrapper",
        f"{tmp_path}/tools.py:16: error: MyRunner overrides _check_scheduler_cfg, which Runner of mmx "
        "does not call. Instead: override build_param_scheduler",
        f"{tmp_path}/tools.py:26: error: mkdir_or_exist() takes 2 arguments by place in mmx, and 3 "
        "are given. Give the further ones by name",
        f"{tmp_path}/configs/old.py:4: error: SGD takes no argument 'momentun' in mmx. Did you mean "
        "'momentum'?",
        f"{tmp_path}/configs/old.py:2: error: 'lr_config' is a key of configs for mmcv 1.x, which "
        "nothing reads. Use param_scheduler",
        "7 files read: 26 errors, 6 warnings",
    ):
        assert text in lines


def test_the_exit_status_tells_whether_something_does_not_run(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good", GOOD), write(tmp_path / "bad", BAD)
    run = CliRunner().invoke
    assert 0 == run(command, ["--mmengine", str(good)], standalone_mode=False).return_value
    assert 1 == run(command, ["--mmengine", str(bad)], standalone_mode=False).return_value
    one = str(bad / "configs/old.yaml")
    result = run(command, ["--mmengine", one, "--json"], standalone_mode=False)
    facts = json.loads(result.stdout)
    assert (1, 3) == (facts["files"], facts["errors"])
    assert {
        "file": one,
        "line": 3,
        "level": "error",
        "kind": "config",
        "name": "total_epochs",
        "text": "'total_epochs' is a key of configs for mmcv 1.x, which nothing reads",
        "replacement": "Use train_cfg.max_epochs",
    } in facts["findings"]


def test_nothing_of_the_code_base_is_imported(tmp_path: Path) -> None:
    write(tmp_path, {"evil.py": "raise SystemExit('it ran')\n", "pkg/__init__.py": "1 / 0\n"})
    code = f"import sys; from mmx.cli.main import main; main(['doctor', '--mmengine', {str(tmp_path)!r}])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "2 files read: 0 errors, 0 warnings\n" == result.stdout


def test_a_path_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--mmengine", str(tmp_path / "nothing")])
    assert 2 == result.exit_code
    assert "does not exist" in result.output


def test_without_the_package_of_old_names_the_doctor_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(names, "PACKAGE", "no_such_package")
    result = CliRunner().invoke(command, ["--mmengine", str(tmp_path)])
    assert 1 == result.exit_code
    assert "pip install mmx-mmengine" in result.output
    monkeypatch.setattr(names, "PACKAGE", "json")
    result = CliRunner().invoke(command, ["--mmengine", str(tmp_path)])
    assert "the real mmengine is installed" in result.output


def test_the_tables_lead_to_what_exists() -> None:
    for old, new in MMCV.items():
        path = new.partition(" ")[0].partition(",")[0].partition("(")[0]
        if path.startswith("mmengine"):
            assert names.look_up(path).is_known, (old, new)
    for home, methods in NOT_CALLED.items():
        cls = names.look_up(home.replace("mmx.", "mmengine.", 1)).value
        assert names.home_of(cls) == home
        # Those of `Steps` are there for callers; nothing of ours calls them.
        ours = [method for method in methods if hasattr(cls, method)]
        assert not [method for method in ours if method not in vars(Steps)]
    for path in REFUSED_ARGUMENTS:
        assert names.home_of(names.look_up(path.replace("mmx.", "mmengine.", 1)).value) == path
    for place in REPLACED:
        assert names.look_up(place).is_known or place.endswith("visualize")
