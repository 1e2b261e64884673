"""Checking the settings of a run: what belongs together, and what contradicts itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from mmx.config.check.findings import Finding
from mmx.config.keys import KNOWN_KEYS

_TRIPLETS = {
    "train": ("train_dataloader", "train_cfg", "optim_wrapper"),
    "val": ("val_dataloader", "val_cfg", "val_evaluator"),
    "test": ("test_dataloader", "test_cfg", "test_evaluator"),
}
_USUAL = {
    "optim_wrapper": "optim_wrapper=dict(optimizer=dict(type='SGD', lr=...))",
    "train_cfg": "train_cfg=dict(by_epoch=True, max_epochs=...)",
    "val_cfg": "val_cfg=dict()",
    "test_cfg": "test_cfg=dict()",
    "val_evaluator": "val_evaluator=dict(type=...)",
    "test_evaluator": "test_evaluator=dict(type=...)",
}
_DICTS = (
    "model",
    "train_cfg",
    "val_cfg",
    "test_cfg",
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "optim_wrapper",
    "default_hooks",
    "env_cfg",
    "randomness",
    "auto_scale_lr",
    "data_preprocessor",
    "log_processor",
    "visualizer",
)
_INNER_KEYS = {
    "randomness": ("seed", "diff_rank_seed", "deterministic"),
    "auto_scale_lr": ("enable", "base_batch_size"),
    "plugins": ("only", "disable", "prefer", "strict"),
    "env_cfg": ("cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"),
}
_LEVELS = ("CRITICAL", "FATAL", "ERROR", "WARNING", "WARN", "INFO", "DEBUG", "NOTSET")
_LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


def check_run(settings: Mapping[str, Any], *, strict: bool) -> Iterator[Finding]:
    """Yield what is wrong with the settings of a run, apart from what is built from them."""
    yield from _required(settings)
    yield from _unknown(settings, strict)
    yield from _kinds(settings)
    yield from _triplets(settings)
    yield from _inner(settings)
    yield from _train_cfg(settings)
    yield from _schedules(settings)
    yield from _hooks(settings)


def _required(settings: Mapping[str, Any]) -> Iterator[Finding]:
    if settings.get("model") is None:
        hint = _meant_for("model", settings)
        yield Finding("model", f"a run needs a model: model=dict(type=...){hint}")


def _meant_for(part: str, settings: Mapping[str, Any]) -> str:
    """Ask whether a key that means nothing to a run is a misspelled one of a part that is not set."""
    unknown = [key for key in settings if isinstance(key, str) and key not in KNOWN_KEYS]
    near = difflib.get_close_matches(part, unknown, n=1, cutoff=0.8)
    return f"; is {near[0]!r} meant for {part}?" if near else ""


def _unknown(settings: Mapping[str, Any], strict: bool) -> Iterator[Finding]:
    for key in settings:
        if not isinstance(key, str) or key in KNOWN_KEYS or key.startswith("_"):
            continue
        close = difflib.get_close_matches(key, KNOWN_KEYS, n=1, cutoff=0.6 if strict else 0.85)
        # A config may have variables of its own: only what looks like a slip is worth a word.
        absent = [name for name in close if settings.get(name) is None]
        if absent:
            yield Finding(
                key, f"this key means nothing to a run; did you mean {absent[0]!r}?", strict
            )
        elif strict:
            yield Finding(
                key,
                "this key means nothing to a run (strict). A name of the config's own begins with "
                "an underscore",
            )


def _kinds(settings: Mapping[str, Any]) -> Iterator[Finding]:
    for key in _DICTS:
        value = settings.get(key)
        plain = isinstance(value, (str, int, float, bool, list, tuple))
        if plain:
            yield Finding(key, f"a dict is expected here, but got {value!r}")
    hooks = settings.get("custom_hooks")
    if isinstance(hooks, (Mapping, str, int, float)):
        yield Finding("custom_hooks", f"a list of hooks is expected here, but got {hooks!r}")
    level = settings.get("log_level")
    if level is not None and not (isinstance(level, int) or str(level).upper() in _LEVELS):
        yield _choice("log_level", level, _LEVELS)
    launcher = settings.get("launcher")
    if launcher is not None and launcher not in _LAUNCHERS:
        yield _choice("launcher", launcher, _LAUNCHERS)
    for key, kinds, expected in (
        ("work_dir", (str,), "a path"),
        ("load_from", (str,), "a path or an address"),
        ("experiment_name", (str,), "a name"),
        ("default_scope", (str,), "the name of a scope"),
        ("resume", (bool, str), "True or False"),
    ):
        value = settings.get(key)
        if value is not None and not isinstance(value, kinds) and not hasattr(value, "__fspath__"):
            yield Finding(key, f"{expected} is expected here, but got {value!r}")


def _choice(path: str, value: Any, choices: tuple[str, ...]) -> Finding:
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return Finding(path, f"{value!r} is none of {', '.join(choices)}{hint}")


def _triplets(settings: Mapping[str, Any]) -> Iterator[Finding]:
    for mode, parts in _TRIPLETS.items():
        absent = [part for part in parts if settings.get(part) is None]
        present = [part for part in parts if part not in absent]
        # A single `optim_wrapper` or evaluator is left over when another run is built on a config.
        if absent and present:
            usual = ", ".join(_USUAL.get(part, f"{part}=dict(...)") for part in absent)
            yield Finding(
                present[0],
                f"{parts[0]}, {parts[1]} and {parts[2]} should be either all None or not None, but "
                f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not set. Set all "
                f"three to run {mode} ({usual}), or {' and '.join(present)} to None"
                + "".join(_meant_for(part, settings) for part in absent),
            )


def _inner(settings: Mapping[str, Any]) -> Iterator[Finding]:
    for key, known in _INNER_KEYS.items():
        value = settings.get(key)
        if not isinstance(value, Mapping):
            continue
        for name in value:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                yield Finding(
                    f"{key}.{name}", f"{key} takes {', '.join(known)}, but no {name!r}{hint}"
                )
    seed = (
        (settings.get("randomness") or {})
        if isinstance(settings.get("randomness"), Mapping)
        else {}
    )
    if seed.get("seed") is not None and not _is_int(seed["seed"]):
        yield Finding("randomness.seed", f"a whole number is expected, but got {seed['seed']!r}")
    for name in ("diff_rank_seed", "deterministic"):
        if name in seed and not isinstance(seed[name], bool):
            yield Finding(
                f"randomness.{name}", f"True or False is expected, but got {seed[name]!r}"
            )
    scale = settings.get("auto_scale_lr")
    if isinstance(scale, Mapping):
        if scale.get("enable", False) and "base_batch_size" not in scale:
            yield Finding("auto_scale_lr", "Lack of `base_batch_size` in `auto_scale_lr`")
        size = scale.get("base_batch_size")
        if size is not None and not _is_int(size):
            yield Finding(
                "auto_scale_lr.base_batch_size", f"a whole number is expected, but got {size!r}"
            )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# --------------------------------------------------------------------------- lengths and units


def _train_cfg(settings: Mapping[str, Any]) -> Iterator[Finding]:
    cfg = settings.get("train_cfg")
    if not isinstance(cfg, Mapping):
        return
    if "type" in cfg and "by_epoch" in cfg:
        yield Finding(
            "train_cfg.by_epoch", "Only one of `type` or `by_epoch` can exist in train_cfg"
        )
    elif "type" not in cfg and "by_epoch" not in cfg:
        close = difflib.get_close_matches("by_epoch", [str(key) for key in cfg], n=1)
        hint = f"; is {close[0]!r} meant for it?" if close else ""
        yield Finding(
            "train_cfg",
            "train_cfg needs 'by_epoch' (True, with max_epochs; False, with max_iters) or the "
            f"'type' of a loop{hint}",
        )
    for key in ("max_epochs", "max_iters", "val_interval"):
        value = cfg.get(key)
        if _is_number(value) and value <= 0:
            yield Finding(f"train_cfg.{key}", f"a positive number is expected, but got {value!r}")
    length, unit = _length(settings)
    begin = cfg.get("val_begin")
    if length is not None and _is_number(begin) and begin > length:
        yield Finding(
            "train_cfg.val_begin",
            f"training ends after {_count(length, unit)}, so that it never validates",
            False,
        )


def _length(settings: Mapping[str, Any]) -> tuple[float | None, str]:
    """Return how long training is, and in what: ``"epoch"``, ``"iter"`` or "" if unknown."""
    cfg = settings.get("train_cfg")
    if not isinstance(cfg, Mapping):
        return None, ""
    name = cfg.get("type")
    by_epoch = cfg.get("by_epoch")
    if by_epoch is None and isinstance(name, str):
        if "max_epochs" in cfg:
            by_epoch = True
        elif "max_iters" in cfg:
            by_epoch = False
    if by_epoch is None:
        return None, ""
    value = cfg.get("max_epochs" if by_epoch else "max_iters")
    return (value if _is_number(value) else None), "epoch" if by_epoch else "iter"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _count(number: Any, unit: str) -> str:
    word = "epoch" if unit == "epoch" else "iteration"
    return f"{number} {word}{'' if number == 1 else 's'}"


def _schedules(settings: Mapping[str, Any]) -> Iterator[Finding]:
    value = settings.get("param_scheduler")
    if not value:
        return
    if settings.get("optim_wrapper") is None:
        yield Finding(
            "param_scheduler",
            "param_scheduler should be None when optim_wrapper is None: there is no optimizer "
            "to schedule",
        )
    hooks = settings.get("default_hooks")
    if (
        isinstance(hooks, Mapping)
        and "param_scheduler" in hooks
        and hooks["param_scheduler"] is None
    ):
        yield Finding(
            "default_hooks.param_scheduler",
            "it is None, so that nothing steps the param_scheduler",
            False,
        )
    length, unit = _length(settings)
    for path, cfg in _scheduler_dicts(value, "param_scheduler"):
        begin, end = cfg.get("begin", 0), cfg.get("end")
        if _is_number(begin) and _is_number(end) and begin >= end:
            yield Finding(f"{path}.end", f"end ({end}) is not after begin ({begin})")
            continue
        by_epoch = cfg.get("by_epoch", True)
        converted = cfg.get("convert_to_iter_based", False)
        if converted and by_epoch is False:
            yield Finding(
                f"{path}.convert_to_iter_based", "what counts iterations already is not converted"
            )
        own = "epoch" if by_epoch else "iter"
        if unit == "iter" and own == "epoch" and not converted:
            yield Finding(
                f"{path}.by_epoch",
                "training counts iterations, but this scheduler epochs (by_epoch=True is the "
                "default): it would step once, at the end. Set by_epoch=False",
                False,
            )
        elif own == unit and length is not None and _is_number(begin) and begin >= length:
            yield Finding(
                f"{path}.begin",
                f"training ends after {_count(length, unit)}, so that it is never reached",
                False,
            )


def _scheduler_dicts(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        if "type" in value:
            yield path, value
        else:
            for key, item in value.items():
                yield from _scheduler_dicts(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _scheduler_dicts(item, f"{path}.{i}")


def _hooks(settings: Mapping[str, Any]) -> Iterator[Finding]:
    length, unit = _length(settings)
    validates = settings.get("val_cfg") is not None
    for path, cfg in hook_dicts(settings):
        kind = cfg.get("type")
        name = str(kind).rpartition(".")[2]
        if name == "CheckpointHook":
            by_epoch = cfg.get("by_epoch", True)
            interval = cfg.get("interval")
            own = "epoch" if by_epoch else "iter"
            if unit == "iter" and own == "epoch" and _is_number(interval) and interval > 0:
                yield Finding(
                    f"{path}.by_epoch",
                    "training counts iterations, but this hook epochs (by_epoch=True is the "
                    "default): its interval is never reached. Set by_epoch=False",
                    False,
                )
            elif own == unit and length is not None and _is_number(interval) and interval > length:
                yield Finding(
                    f"{path}.interval",
                    f"training ends after {_count(length, unit)}, so that it is never reached",
                    False,
                )
            if cfg.get("save_best") and not validates and settings.get("train_cfg") is not None:
                yield Finding(
                    f"{path}.save_best",
                    "nothing validates (val_cfg is not set), so none is best",
                    False,
                )
        elif name == "EarlyStoppingHook" and not validates:
            yield Finding(path, "nothing validates (val_cfg is not set), so it never stops", False)
        elif name == "EMAHook":
            for key, own in (("begin_epoch", "epoch"), ("begin_iter", "iter")):
                begin = cfg.get(key)
                if own == unit and length is not None and _is_number(begin) and begin >= length:
                    yield Finding(
                        f"{path}.{key}",
                        f"training ends after {_count(length, unit)}, so that it is never reached",
                        False,
                    )


def hook_dicts(settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield path and dict of each hook."""
    hooks = settings.get("default_hooks")
    if isinstance(hooks, Mapping):
        for name, cfg in hooks.items():
            if isinstance(cfg, Mapping):
                yield f"default_hooks.{name}", cfg
    custom = settings.get("custom_hooks")
    if isinstance(custom, (list, tuple)):
        for i, cfg in enumerate(custom):
            if isinstance(cfg, Mapping):
                yield f"custom_hooks.{i}", cfg
