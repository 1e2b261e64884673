"""Checking configs before anything is built."""

# ruff: noqa: E501  # tables
import copy
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from mmx.config import Config
from mmx.config.check import ConfigCheckError, check_config, raise_on_errors
from mmx.config.check.signatures import accepted_by
from mmx.config.check.values import describe, fits
from mmx.registry import HOOKS, MODELS, TRANSFORMS

LOADER = dict(
    dataset=dict(type="BaseDataset", pipeline=[dict(type="CheckScale", size=(1, 2))]),
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_size=2,
)
GOOD = dict(
    model=dict(type="CheckNet", depth=18, head=dict(type="CheckHead", classes=3)),
    work_dir="runs",
    train_dataloader=LOADER,
    train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1),
    optim_wrapper=dict(
        optimizer=dict(type="SGD", lr=0.1),
        clip_grad=dict(max_norm=1),
        paramwise_cfg=dict(norm_decay_mult=0.0),
    ),
    param_scheduler=[dict(type="MultiStepLR", milestones=[1, 2], by_epoch=True)],
    val_dataloader=LOADER,
    val_cfg=dict(),
    val_evaluator=dict(type="DumpResults", out_file_path="x.pkl"),
    default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, save_best="auto")),
    custom_hooks=[dict(type="EMAHook", momentum=0.01, priority="NORMAL")],
    visualizer=dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")]),
    log_processor=dict(window_size=5),
    randomness=dict(seed=0),
    env_cfg=dict(cudnn_benchmark=False),
    log_level="INFO",
    launcher="none",
)


@pytest.fixture(autouse=True)
def _parts():
    from torch import nn

    class CheckHead(nn.Module):
        def __init__(self, classes: int, loss: dict | None = None) -> None:
            super().__init__()

    class CheckNet(nn.Module):
        def __init__(self, depth: int, head: Any = None, kind: Literal["a", "b"] = "a") -> None:
            super().__init__()

    class CheckChild(CheckNet):
        def __init__(self, wide: bool = False, **kwargs: Any) -> None:
            self.extra = kwargs.pop("extra", None)
            super().__init__(depth=3, **kwargs)

    class CheckOpen(nn.Module):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__()
            self.kwargs = kwargs

    class CheckScale:
        def __init__(self, size: tuple[int, int], ratio: float = 1.0, to: str = "x") -> None: ...

    for cls in (CheckHead, CheckNet, CheckChild, CheckOpen):
        MODELS.register_module(module=cls)
        # As if it were ours: its annotations are believed.
        cls.__module__ = "mmx.check_test"
    TRANSFORMS.register_module(module=CheckScale)
    CheckScale.__module__ = "mmx.check_test"


def changed(path, value):
    """Return the good config with one setting changed; None removes it."""
    cfg = copy.deepcopy(GOOD)
    *holders, last = path.split(".")
    target = cfg
    for part in holders:
        target = target[int(part) if isinstance(target, list) else part]
    if value is None:
        del target[last]
    else:
        target[int(last) if isinstance(target, list) else last] = value
    return cfg


def findings(cfg, **options):
    return {f.path: (f.message, f.is_error) for f in check_config(cfg, **options)}


def test_a_good_config_has_no_findings():
    assert {} == findings(GOOD)
    assert {} == findings(Config(copy.deepcopy(GOOD)))


@pytest.mark.parametrize(
    ("path", "value", "where", "message"),
    [
        ("model.type", "CheckNett", "model.type", "CheckNett is not in the mmx::model registry"),
        ("model.type", "mmx_vison.ResNet", "model.type", "mmx_vison"),
        ("model.type", "os.system", "model.type", "os.system"),
        ("model.type", 3, "model.type", "is a name, a class or a function, but got 3"),
        ("model.depth", "18", "model.depth", "CheckNet expects int, but got '18' (str); in quotes it is text"),
        ("model.depth", None, "model", "CheckNet needs 'depth', which is not given"),
        ("model.kind", "c", "model.kind", "CheckNet expects Literal['a', 'b'], but got 'c' (str)"),
        ("model.dpth", 1, "model.dpth", "CheckNet takes no argument 'dpth'; did you mean 'depth'?"),
        ("model.head.type", "CheckHed", "model.head.type", "did you mean 'CheckHead'"),
        ("model.head.clases", 3, "model.head.clases", "did you mean 'classes'?"),
        ("model.head.classes", [1], "model.head.classes", "CheckHead expects int, but got [1] (list)"),
        ("model", None, "model", "a run needs a model"),
        ("model", 3, "model", "a dict is expected here, but got 3"),
        ("train_dataloader.batch_sise", 1, "train_dataloader.batch_sise", "did you mean 'batch_size'?"),
        ("train_dataloader.num_workers", "2", "train_dataloader.num_workers", "expects int"),
        ("train_dataloader.sampler", None, "train_dataloader", "needs a 'sampler'"),
        ("train_dataloader.dataset", None, "train_dataloader", "needs a 'dataset'"),
        ("train_dataloader.shuffle", True, "train_dataloader.shuffle", "the sampler says whether"),
        ("train_dataloader.persistent_workers", True, "train_dataloader.persistent_workers", "num_workers > 0"),
        ("train_dataloader.sampler.type", "DefaultSamplr", "train_dataloader.sampler.type", "DefaultSampler"),
        ("train_dataloader.dataset.pipeline.0.size", (1, 2, 3), "train_dataloader.dataset.pipeline.0.size", "tuple[int, int]"),
        ("train_dataloader.dataset.pipeline.0.type", "Scal", "train_dataloader.dataset.pipeline.0.type", "Scal is not in"),
        ("train_dataloader.dataset.pipelin", [], "train_dataloader.dataset.pipelin", "did you mean 'pipeline'?"),
        ("train_cfg", None, "train_dataloader", "train_cfg is not set. Set all three to run train"),
        ("val_evaluator", None, "val_dataloader", "val_evaluator is not set"),
        ("train_cfg.max_epochs", "3", "train_cfg.max_epochs", "EpochBasedTrainLoop expects int"),
        ("train_cfg.max_epoch", 3, "train_cfg.max_epoch", "did you mean 'max_epochs'?"),
        ("train_cfg.max_epochs", None, "train_cfg", "EpochBasedTrainLoop needs 'max_epochs'"),
        ("train_cfg.max_epochs", -3, "train_cfg.max_epochs", "a positive number is expected"),
        ("train_cfg.by_epoch", None, "train_cfg", "train_cfg needs 'by_epoch'"),
        ("train_cfg.by_epoch", "yes", "train_cfg.by_epoch", "True or False is expected"),
        ("train_cfg.type", "EpochBasedTrainLoop", "train_cfg.by_epoch", "Only one of `type` or `by_epoch`"),
        ("val_cfg.fp17", True, "val_cfg.fp17", "did you mean 'fp16'?"),
        ("optim_wrapper.optimizer", None, "optim_wrapper", "the dict needs an 'optimizer'"),
        ("optim_wrapper.optimizer.type", "SDG", "optim_wrapper.optimizer.type", "SGD"),
        ("optim_wrapper.optimizer.lr", "0.1", "optim_wrapper.optimizer.lr", "SGD expects float"),
        ("optim_wrapper.optimizer.momentun", 0.9, "optim_wrapper.optimizer.momentun", "did you mean 'momentum'?"),
        ("optim_wrapper.clip_grad.max_nrm", 1, "optim_wrapper.clip_grad.max_nrm", "did you mean 'max_norm'?"),
        ("optim_wrapper.paramwise_cfg.norm_decay_mul", 1, "optim_wrapper.paramwise_cfg.norm_decay_mul", "did you mean 'norm_decay_mult'?"),
        ("optim_wrapper", None, "param_scheduler", "param_scheduler should be None when optim_wrapper is None"),
        ("param_scheduler.0.type", "MultiStep", "param_scheduler.0.type", "MultiStepLR"),
        ("param_scheduler.0.milestone", [1], "param_scheduler.0.milestone", "did you mean 'milestones'?"),
        ("param_scheduler.0.milestones", 3, "param_scheduler.0.milestones", "but got 3 (int)"),
        ("param_scheduler.0.end", 0, "param_scheduler.0.end", "end (0) is not after begin (0)"),
        ("default_hooks.checkpoint.type", "CheckpontHook", "default_hooks.checkpoint.type", "CheckpointHook"),
        ("default_hooks.checkpoint.max_keep_ckpts", "3", "default_hooks.checkpoint.max_keep_ckpts", "expects int"),
        ("custom_hooks", dict(type="EMAHook"), "custom_hooks", "a list of hooks is expected here"),
        ("model.head", dict(tye="CheckHead", classes=1), "model.head.tye", "is 'type' meant by 'tye'?"),
        ("train_dataloader.dataset.pipeline.0", dict(x=1), "train_dataloader.dataset.pipeline.0", "names no 'type'"),
        ("visualizer.vis_backends.0.type", "LocalVisBackens", "visualizer.vis_backends.0.type", "LocalVisBackend"),
        ("log_processor.window_sise", 5, "log_processor.window_sise", "did you mean 'window_size'?"),
        ("randomness.sed", 1, "randomness.sed", "did you mean 'seed'?"),
        ("randomness.seed", "x", "randomness.seed", "a whole number is expected"),
        ("env_cfg.cudnn_benchmrk", 1, "env_cfg.cudnn_benchmrk", "did you mean 'cudnn_benchmark'?"),
        ("log_level", "INF", "log_level", "did you mean 'INFO'?"),
        ("launcher", "pytorc", "launcher", "did you mean 'pytorch'?"),
        ("default_scope", "no_such_scope", "default_scope", "no_such_scope"),
        ("work_dir", 3, "work_dir", "a path is expected here"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_where_it_is(path, value, where, message):
    cfg = changed(path, value)
    found = findings(cfg)
    assert where in found, found
    text, is_error = found[where]
    assert message in text
    assert is_error


@pytest.mark.parametrize(
    ("path", "value", "where", "message"),
    [
        ("default_hooks.checkpoint.interval", 9, "default_hooks.checkpoint.interval", "training ends after 3 epochs"),
        ("param_scheduler.0.begin", 7, "param_scheduler.0.begin", "training ends after 3 epochs"),
        ("train_cfg.val_begin", 5, "train_cfg.val_begin", "it never validates"),
        ("train_cfg", dict(by_epoch=False, max_iters=9), "param_scheduler.0.by_epoch", "training counts iterations"),
        ("train_cfg", dict(by_epoch=False, max_iters=9), "default_hooks.checkpoint.by_epoch", "training counts iterations"),
        ("default_hooks.checkpoint.max_keep_ckpt", 1, "default_hooks.checkpoint.max_keep_ckpt", "looks like 'max_keep_ckpts'"),
        ("custom_hooks.0.begin_epoch", 3, "custom_hooks.0.begin_epoch", "training ends after 3 epochs"),
        ("default_hooks.param_scheduler", False, "", ""),
        ("param_schedule", 1, "", ""),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_a_warning(path, value, where, message):
    found = findings(changed(path, value))
    if where:
        assert message in found[where][0]
        assert not found[where][1]


def test_a_best_checkpoint_needs_validation():
    cfg = copy.deepcopy(GOOD)
    for key in ("val_cfg", "val_dataloader", "val_evaluator"):
        del cfg[key]
    cfg["custom_hooks"] = [dict(type="EarlyStoppingHook", monitor="acc")]
    found = findings(cfg)
    assert "nothing validates" in found["default_hooks.checkpoint.save_best"][0]
    assert "nothing validates" in found["custom_hooks.0"][0]


def test_unknown_top_level_keys_warn_if_they_look_like_a_slip():
    cfg = {**GOOD, "custom_hook": [], "load_fron": "x", "my_variable": 3, "_private": 4}
    found = findings(cfg)
    assert {"load_fron": False} == {path: error for path, (_, error) in found.items()}
    assert "did you mean 'load_from'?" in found["load_fron"][0]
    found = findings(cfg, strict=True)
    assert {"load_fron", "my_variable", "custom_hook"} == set(found)
    assert all(error for _, error in found.values())


def test_all_errors_come_in_one_report():
    cfg = changed("model.dpth", 1)
    cfg["train_cfg"]["max_epoch"] = 3
    cfg["log_level"] = "x"
    with pytest.raises(ConfigCheckError) as caught:
        raise_on_errors(Config(cfg))
    assert {"model.dpth", "train_cfg.max_epoch", "log_level"} <= {
        finding.path for finding in caught.value.findings
    }
    text = str(caught.value)
    assert "the config has 3 errors:" in text
    assert all(word in text for word in ("model.dpth", "train_cfg.max_epoch", "log_level"))
    assert [] == raise_on_errors(GOOD)


def test_findings_can_be_silenced():
    cfg = changed("model.dpth", 1)
    assert {} == findings(cfg, ignore=["model.*"])
    assert {} == findings({**cfg, "_check_ignore_": ["model.dp*"]})


def test_arguments_that_are_handed_to_a_parent_are_known():
    model = dict(type="CheckChild", wide=True, kind="b", extra=1, head=None)
    assert {} == findings({**GOOD, "model": model})
    found = findings({**GOOD, "model": dict(model, kindd="b", depth=4)})
    assert {"model.kindd", "model.depth"} == set(found)
    assert {} == findings({**GOOD, "model": dict(type="CheckOpen", anything=1)})


def test_classes_of_others_get_warnings_where_it_is_a_guess():
    @MODELS.register_module()
    class ForeignNet:
        def __init__(self, size: int = 1, part: Any = None) -> None: ...

    ForeignNet.__module__ = "some_project.models"
    model = dict(type="ForeignNet", size="big", part=dict(type="ForeignNet", siz=1))
    found = findings({**GOOD, "model": model})
    assert {"model.size": False, "model.part.siz": False} == {p: e for p, (_, e) in found.items()}
    # Its builder is known: the argument is refused for certain.
    assert findings({**GOOD, "model": dict(type="ForeignNet", siz=1)})["model.siz"][1]


def test_a_nested_type_that_nothing_registers_is_a_warning_unless_it_is_near_one():
    found = findings(changed("model.head.loss", dict(type="somethingelse")))
    assert {"model.head.loss.type": False} == {p: e for p, (_, e) in found.items()}
    assert findings(changed("model.head.loss", dict(type="CheckHeadd")))["model.head.loss.type"][1]


def test_classes_and_lazy_types_are_checked(tmp_path):
    from torch.optim import SGD

    cfg = changed("optim_wrapper.optimizer", dict(type=SGD, lr=0.1, momentm=1))
    assert {"optim_wrapper.optimizer.momentm"} == set(findings(cfg))
    path = tmp_path / "c.py"
    path.write_text(
        "from torch.optim import SGD, Nothing\n"
        "optim_wrapper = dict(optimizer=dict(type=SGD, lrr=1))\n"
        "model = dict(type=Nothing)\n"
    )
    found = findings(Config.fromfile(path))
    assert "did you mean 'lr'?" in found["optim_wrapper.optimizer.lrr"][0]
    assert "Failed to import Nothing from torch.optim" in found["model.type"][0]


def test_scopes_are_followed():
    pytest.importorskip("mmx_vision")
    net = dict(type="ResNet", depth=[1, 1, 1])
    model = dict(
        type="ImageClassifier",
        backbone=net,
        head=dict(type="LinearHead", in_channels=1, num_classes=1),
    )
    assert "model.type" in findings({**GOOD, "model": model})
    for changes in (
        dict(default_scope="mmx_vision", model=model),
        dict(model=dict(model, _scope_="mmx_vision")),
        dict(model=dict(model, type="mmx_vision.ImageClassifier", _scope_="mmx_vision")),
    ):
        assert {} == findings({**GOOD, **changes})


def test_several_named_schedulers_loaders_and_evaluators_are_gone_into():
    cfg = copy.deepcopy(GOOD)
    cfg["param_scheduler"] = dict(
        a=[dict(type="StepLR", step_sise=1)], b=dict(type="StepLR", step_size=1)
    )
    cfg["val_evaluator"] = dict(
        type="Evaluator", metrics=[dict(type="DumpResult", out_file_path="x")]
    )
    found = findings(cfg)
    assert {
        "param_scheduler.a.0.step_sise",
        "param_scheduler.a.0",
        "val_evaluator.metrics.0.type",
    } == set(found)


def test_nothing_is_built(monkeypatch):
    @MODELS.register_module()
    class CheckBomb:
        def __init__(self, n: int = 1) -> None:
            raise AssertionError("built")

    assert {} == findings({**GOOD, "model": dict(type="CheckBomb", n=2)})


def test_a_file_that_fails_to_import_is_a_finding(tmp_path, monkeypatch):
    (tmp_path / "check_broken_zz.py").write_text("import no_such_module_zzz\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MMX_TRUST", "check_broken_zz")
    found = findings({**GOOD, "model": dict(type="check_broken_zz.Net")})
    assert "no_such_module_zzz" in found["model.type"][0]


def test_all_arguments_of_the_runner_are_known_keys():
    from mmx.config.keys import KNOWN_KEYS
    from mmx.runner import Runner

    assert {"cfg"} == inspect.signature(Runner).parameters.keys() - KNOWN_KEYS


def test_hooks_of_users_are_checked():
    @HOOKS.register_module()
    class CheckHook:
        def __init__(self, every: int) -> None: ...

    found = findings({**GOOD, "custom_hooks": [dict(type="CheckHook", evry=1)]})
    assert {"custom_hooks.0.evry", "custom_hooks.0"} == set(found)


# ------------------------------------------------------------------------ annotations

FITS = [
    (1, int, True), (1.0, int, True), (1.5, int, False), (True, int, False), ("1", int, False),
    (1, float, True), ("1", float, False), (True, float, False), (None, float, False),
    (True, bool, True), (1, bool, False), ("x", str, True), (1, str, False), (dict(type="A"), str, False),
    (None, None, True), (1, None, False), (None, int | None, True), ("x", int | None, False),
    ("a", Literal["a"], True), ("b", Literal["a"], False), (1, Literal[True], False),
    ([1], list[int], True), (["a"], list[int], False), ((1,), list, True), ("ab", list, False),
    ([1, 2], tuple[int, int], True), ([1], tuple[int, int], False), ((1, 2, 3), tuple[int, ...], True),
    ("ab", Sequence[str], True), (3, Sequence[int], False), ({"a": 1}, dict[str, int], True),
    ({"a": "x"}, dict[str, int], False), ([1], dict, False), ("x", Path, True), (3, Path, False),
    (dict(type="A"), Callable, True), (3, Callable, False), (print, Callable, True),
    (3, Any, True), (3, "SomeName", True), (int, str, True), (dict(type="A"), Exception, True),
    (3, Exception, False),
]  # fmt: skip


@pytest.mark.parametrize(("value", "hint", "expected"), FITS)
def test_values_are_held_against_annotations(value, hint, expected):
    assert expected == fits(value, hint)


def test_annotations_are_shown_as_one_writes_them():
    assert ["int", "list[int]", "Literal['a']", "int | None"] == [
        describe(hint) for hint in (int, list[int], Literal["a"], int | None)
    ]


def test_signatures_of_what_does_not_tell_are_unknown():
    assert accepted_by(3) is None
    assert ["a"] == list(accepted_by(lambda a, *b: 0).hints)
    from functools import partial

    assert ["b"] == accepted_by(partial(lambda a, b: 0, a=1)).required
    assert sys.modules[__name__] is not None


def test_a_misspelled_part_is_named_where_the_part_is_missing():
    cfg = copy.deepcopy(GOOD)
    cfg["optim_wraper"] = cfg.pop("optim_wrapper")
    cfg["modle"] = cfg.pop("model")
    found = findings(cfg)
    assert "is 'optim_wraper' meant for optim_wrapper?" in found["train_dataloader"][0]
    assert "is 'modle' meant for model?" in found["model"][0]
    del cfg["modle"], cfg["optim_wraper"]
    assert "meant for" not in str(findings(cfg))
