"""The check of a whole config."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from mmx.config.check.findings import Finding as Finding
from mmx.config.check.findings import without_ignored
from mmx.config.check.parts import PartChecker, Place
from mmx.config.check.runs import check_run, hook_dicts
from mmx.config.check.signatures import accepted_by
from mmx.config.errors import ConfigError
from mmx.config.origin import Origins

IGNORE_KEY = "_check_ignore_"

_LOOP_PARTS = frozenset({"runner", "dataloader", "evaluator"})
_LOADER_EXTRA = ("num_batch_per_epoch", "disable_subprocess_warning")
_PARAMWISE = (
    "custom_keys",
    "bias_lr_mult",
    "bias_decay_mult",
    "norm_decay_mult",
    "flat_decay_mult",
    "dwconv_decay_mult",
    "dcn_offset_lr_mult",
    "bypass_duplicate",
)


class ConfigCheckError(ConfigError):
    """A config has errors; ``findings`` lists all of them."""

    def __init__(self, findings: list[Finding], filename: str = "") -> None:
        super().__init__(report(findings), filename=filename)
        self.findings = findings


def report(findings: Iterable[Finding]) -> str:
    """Return findings as lines, errors first."""
    listed = sorted(findings, key=lambda finding: not finding.is_error)
    errors = sum(finding.is_error for finding in listed)
    parts = []
    if errors:
        parts.append(f"{errors} error{'' if errors == 1 else 's'}")
    if len(listed) > errors:
        rest = len(listed) - errors
        parts.append(f"{rest} warning{'' if rest == 1 else 's'}")
    lines = "".join(f"\n  {finding}" for finding in listed)
    return f"the config has {' and '.join(parts) or 'no errors'}{':' if lines else ''}{lines}"


def check_config(
    cfg: Any,
    strict: bool = False,
    ignore: Iterable[str] = (),
    checker: PartChecker | None = None,
) -> list[Finding]:
    """Return all that is wrong with a runner's config. Nothing is built and no data is read.

    Checked are the types, with the rules of scopes; the names of arguments against real signatures,
    also of nested parts and through ``**kwargs`` handed on to a parent; values against annotations;
    what belongs together for training, validation and testing; settings of hooks and schedules
    that contradict each other; and unknown top-level keys.

    What cannot be known for certain of classes that are neither ours nor torch's is a warning.

    Args:
        cfg: A Config, or a dict.
        strict: Unknown top-level keys are errors.
        ignore: Patterns of keys, such as ``"model.neck.*"``, whose findings are left out. The
            config may have a list of them too, as ``_check_ignore_``.
        checker: What checks the parts, for those who want to know more of them.
    """
    settings: dict[str, Any] = cfg._to_lazy_dict() if hasattr(cfg, "_to_lazy_dict") else dict(cfg)
    checker = checker if checker is not None else PartChecker()
    scope = settings.get("default_scope")
    scope = scope if isinstance(scope, str) and scope else "mmx"
    for finding in check_run(settings, strict=strict):
        checker.findings.append(finding)
    if _scope_exists(scope, checker):
        _check_parts(settings, scope, checker)
    own = settings.get(IGNORE_KEY) or ()
    patterns = [*ignore, *([own] if isinstance(own, str) else own)]
    origins = Origins(cfg)
    unique = dict.fromkeys(without_ignored(checker.findings, patterns))
    return [dataclasses.replace(finding, origin=origins.find(finding.path)) for finding in unique]


def raise_on_errors(cfg: Any, strict: bool = False, ignore: Iterable[str] = ()) -> list[Finding]:
    """Check a config; return the warnings.

    Raises:
        ConfigCheckError: It has errors; all are in one report.
    """
    findings = check_config(cfg, strict, ignore)
    errors = [finding for finding in findings if finding.is_error]
    if errors:
        raise ConfigCheckError(errors, filename=getattr(cfg, "filename", None) or "")
    return findings


def _scope_exists(scope: str, checker: PartChecker) -> bool:
    from mmx.registry import MODELS

    try:
        with MODELS.switch_scope_and_registry(scope):
            return True
    except Exception as error:  # noqa: BLE001 - a plugin's import may fail in any way
        checker.add("default_scope", str(error.args[0]) if error.args else str(error))
        return False


def _check_parts(settings: Mapping[str, Any], scope: str, checker: PartChecker) -> None:
    def parts(key: str, registry: str, **known: Any) -> None:
        value = settings.get(key)
        if value is not None:
            checker.parts(value, Place(key, scope, registry, **known))

    parts("model", "MODELS")
    parts("data_preprocessor", "MODELS", default="BaseDataPreprocessor")
    parts("tta_model", "MODELS", complete=False)
    parts("tta_pipeline", "TRANSFORMS")
    parts("log_processor", "LOG_PROCESSORS", default="LogProcessor")
    parts(
        "visualizer",
        "VISUALIZERS",
        default="Visualizer",
        injected=frozenset({"name", "save_dir"}),
    )
    parts("vis_backends", "VISBACKENDS", complete=False)
    parts("model_wrapper_cfg", "MODEL_WRAPPERS", complete=False)
    parts("strategy", "STRATEGIES", complete=False)
    for path, cfg in hook_dicts(settings):
        checker.part(cfg, Place(path, scope, "HOOKS", extra=frozenset({"priority"})))
    for mode in ("train", "val", "test"):
        _check_loader(settings.get(f"{mode}_dataloader"), f"{mode}_dataloader", scope, checker)
        _check_loop(settings.get(f"{mode}_cfg"), mode, scope, checker)
    for key in ("val_evaluator", "test_evaluator"):
        value = settings.get(key)
        if isinstance(value, Mapping) and "metrics" in value:
            checker.part(value, Place(key, scope, "EVALUATOR", default="Evaluator"))
        elif value is not None:
            parts(key, "METRICS")
    _check_optim_wrapper(settings.get("optim_wrapper"), scope, checker)
    _check_schedulers(settings.get("param_scheduler"), "param_scheduler", scope, checker)


def _check_loader(cfg: Any, path: str, scope: str, checker: PartChecker) -> None:
    if isinstance(cfg, (list, tuple)):
        for i, item in enumerate(cfg):
            _check_loader(item, f"{path}.{i}", scope, checker)
        return
    if not isinstance(cfg, Mapping):
        return
    if "dataset" not in cfg and cfg and all(isinstance(item, Mapping) for item in cfg.values()):
        # Several named loaders.
        for name, item in cfg.items():
            _check_loader(item, f"{path}.{name}", scope, checker)
        return
    if "dataset" not in cfg:
        checker.add(path, f"the dict needs a 'dataset'{_near('dataset', cfg)}")
    if "sampler" not in cfg and "batch_sampler" not in cfg:
        checker.add(
            path,
            "the dict needs a 'sampler', for example sampler=dict(type='DefaultSampler', "
            f"shuffle=True){_near('sampler', cfg)}",
            is_error=not cfg.get("dataset") or isinstance(cfg.get("dataset"), Mapping),
        )
    from torch.utils.data import DataLoader

    plain = {
        key: value
        for key, value in cfg.items()
        if key not in ("dataset", "sampler", "batch_sampler", "collate_fn", "worker_init_fn")
        and key not in _LOADER_EXTRA
    }
    accepted = accepted_by(DataLoader)
    if accepted is not None:
        checker._arguments(plain, accepted, DataLoader, Place(path, scope, complete=False))
    if cfg.get("sampler") is not None and cfg.get("shuffle"):
        checker.add(f"{path}.shuffle", "the sampler says whether to shuffle; leave this out")
    if cfg.get("num_workers", 0) == 0:
        for key in ("persistent_workers", "prefetch_factor"):
            if cfg.get(key):
                checker.add(f"{path}.{key}", f"{key} needs num_workers > 0")
    for key, registry in (
        ("dataset", "DATASETS"),
        ("sampler", "DATA_SAMPLERS"),
        ("batch_sampler", "DATA_SAMPLERS"),
        ("collate_fn", "FUNCTIONS"),
        ("worker_init_fn", "FUNCTIONS"),
    ):
        value = cfg.get(key)
        if isinstance(value, Mapping):
            injected = {
                "sampler": frozenset({"dataset", "seed"}),
                "batch_sampler": frozenset({"sampler", "batch_size"}),
            }.get(key, frozenset())
            functions = key in ("collate_fn", "worker_init_fn")
            checker.part(
                value,
                Place(f"{path}.{key}", scope, registry, injected=injected, complete=not functions),
            )
        elif value is not None and isinstance(value, (int, float, bool)):
            checker.add(f"{path}.{key}", f"a dict or an object is expected, but got {value!r}")
    size = cfg.get("batch_size")
    if isinstance(size, int) and not isinstance(size, bool) and size <= 0:
        checker.add(f"{path}.batch_size", f"a positive number is expected, but got {size}")


def _near(name: str, cfg: Mapping[Any, Any]) -> str:
    close = difflib.get_close_matches(name, [str(key) for key in cfg], n=1)
    return f"; is {close[0]!r} meant for it?" if close else ""


def _check_loop(cfg: Any, mode: str, scope: str, checker: PartChecker) -> None:
    if not isinstance(cfg, Mapping):
        return
    path = f"{mode}_cfg"
    extra: frozenset[str] = frozenset()
    if mode == "train":
        by_epoch = cfg.get("by_epoch")
        if "type" not in cfg and by_epoch is None:
            return  # reported already
        default = "EpochBasedTrainLoop" if by_epoch in (True, None) else "IterBasedTrainLoop"
        extra = frozenset({"by_epoch"})
        if by_epoch is not None and not isinstance(by_epoch, bool):
            checker.add(f"{path}.by_epoch", f"True or False is expected, but got {by_epoch!r}")
            return
    else:
        default = {"val": "ValLoop", "test": "TestLoop"}[mode]
    # The loop that is taken by default is the root's, whatever the scope.
    where = scope if "type" in cfg else "mmx"
    checker.part(
        cfg, Place(path, where, "LOOPS", injected=_LOOP_PARTS, extra=extra, default=default)
    )


def _check_optim_wrapper(cfg: Any, scope: str, checker: PartChecker) -> None:
    if not isinstance(cfg, Mapping):
        return
    path = "optim_wrapper"
    constructor = cfg.get("constructor")
    if constructor is not None and constructor != "DefaultOptimWrapperConstructor":
        # What it makes of the rest is its own affair.
        checker.part(
            {"type": constructor},
            Place(f"{path}.constructor", scope, "OPTIM_WRAPPER_CONSTRUCTORS", complete=False),
        )
        for key, value in cfg.items():
            if isinstance(value, Mapping) and "type" in value:
                registry = "OPTIMIZERS" if key == "optimizer" else "OPTIM_WRAPPERS"
                checker.part(
                    value,
                    Place(f"{path}.{key}", scope, registry, is_sure=False, complete=False),
                )
        return
    if "optimizer" not in cfg:
        if cfg and all(not isinstance(value, (Mapping, str, int)) for value in cfg.values()):
            return  # named wrappers that are built already
        checker.add(
            path,
            f"the dict needs an 'optimizer': optimizer=dict(type='SGD', lr=...)"
            f"{_near('optimizer', cfg)}",
        )
    inner = {key: value for key, value in cfg.items() if key != "optimizer"}
    checker.part(
        inner,
        Place(
            path,
            scope,
            "OPTIM_WRAPPERS",
            injected=frozenset({"optimizer"}),
            extra=frozenset({"constructor", "paramwise_cfg"}),
            default="OptimWrapper",
        ),
    )
    scope = cfg.get("_scope_", scope)
    optimizer = cfg.get("optimizer")
    if isinstance(optimizer, Mapping):
        checker.part(
            optimizer,
            Place(f"{path}.optimizer", scope, "OPTIMIZERS", injected=frozenset({"params"})),
        )
    elif isinstance(optimizer, (str, int, float, bool, list)):
        checker.add(f"{path}.optimizer", f"a dict is expected, but got {optimizer!r}")
    paramwise = cfg.get("paramwise_cfg")
    if isinstance(paramwise, Mapping):
        for key, value in paramwise.items():
            if key not in _PARAMWISE:
                close = difflib.get_close_matches(str(key), _PARAMWISE, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                checker.add(
                    f"{path}.paramwise_cfg.{key}",
                    f"paramwise_cfg takes {', '.join(_PARAMWISE)}, but no {key!r}{hint}",
                    is_error=bool(close),
                )
            elif key.endswith("_mult") and (
                isinstance(value, bool) or not isinstance(value, (int, float))
            ):
                checker.add(
                    f"{path}.paramwise_cfg.{key}", f"a number is expected, but got {value!r}"
                )
    elif paramwise is not None:
        checker.add(f"{path}.paramwise_cfg", f"a dict is expected, but got {paramwise!r}")
    _check_clip_grad(cfg.get("clip_grad"), f"{path}.clip_grad", checker)


def _check_clip_grad(cfg: Any, path: str, checker: PartChecker) -> None:
    if not isinstance(cfg, Mapping):
        return
    from torch.nn.utils import clip_grad_norm_, clip_grad_value_

    kind = cfg.get("type", "norm")
    if kind not in ("norm", "value"):
        checker.add(f"{path}.type", f"'norm' or 'value' is expected, but got {kind!r}")
        return
    target = clip_grad_norm_ if kind == "norm" else clip_grad_value_
    accepted = accepted_by(target)
    if accepted is not None:
        arguments = {key: value for key, value in cfg.items() if key != "type"}
        place = Place(path, "mmx", injected=frozenset({"parameters"}))
        checker._arguments(arguments, accepted, target, place)


def _check_schedulers(value: Any, path: str, scope: str, checker: PartChecker) -> None:
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_schedulers(item, f"{path}.{i}", scope, checker)
    elif isinstance(value, Mapping) and value:
        if "type" not in value and all(
            isinstance(item, (Mapping, list, tuple)) for item in value.values()
        ):
            for key, item in value.items():
                _check_schedulers(item, f"{path}.{key}", scope, checker)
            return
        checker.part(
            value,
            Place(
                path,
                scope,
                "PARAM_SCHEDULERS",
                injected=frozenset({"optimizer"}),
                extra=frozenset({"convert_to_iter_based", "epoch_length"}),
            ),
        )
        converted = value.get("convert_to_iter_based")
        if converted is not None and not isinstance(converted, bool):
            checker.add(
                f"{path}.convert_to_iter_based", f"True or False is expected, but got {converted!r}"
            )
    elif value is not None and not hasattr(value, "step") and not isinstance(value, Mapping):
        checker.add(path, f"a dict is expected, but got {value!r}")
