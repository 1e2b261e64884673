"""A runner's arguments, copied and checked before anything is built."""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from mmx.config import Config
from mmx.config.keys import KNOWN_KEYS, UnknownKeyWarning
from mmx.config.origin import origin_of
from mmx.hooks.hook import Hook
from mmx.strategy.building import check_param_scheduler
from mmx.strategy.environment import check_launcher

# Part -> its three arguments, the method that needs them, and what each is usually set to.
_TRIPLETS = {
    "train": ("train_dataloader", "train_cfg", "optim_wrapper"),
    "val": ("val_dataloader", "val_cfg", "val_evaluator"),
    "test": ("test_dataloader", "test_cfg", "test_evaluator"),
}
_USUAL = {
    "train_dataloader": "train_dataloader=dict(dataset=..., sampler=..., batch_size=...)",
    "train_cfg": "train_cfg=dict(by_epoch=True, max_epochs=...)",
    "optim_wrapper": "optim_wrapper=dict(optimizer=dict(type='SGD', lr=...))",
    "val_dataloader": "val_dataloader=dict(dataset=..., sampler=..., batch_size=...)",
    "val_cfg": "val_cfg=dict()",
    "val_evaluator": "val_evaluator=dict(type=...)",
    "test_dataloader": "test_dataloader=dict(dataset=..., sampler=..., batch_size=...)",
    "test_cfg": "test_cfg=dict()",
    "test_evaluator": "test_evaluator=dict(type=...)",
}


class RunnerValueErrors(ExceptionGroup[Exception], ValueError):
    """Several arguments of a runner are wrong; each error is a member of the group."""

    def __str__(self) -> str:
        members = "".join(f"\n  - {error}" for error in self.exceptions)
        return f"{self.message}:{members}"


def copied(value: Any) -> Any:
    """Copy a configuration: containers are copied at all depths, objects in them are not."""
    if isinstance(value, Mapping):
        parts = {key: copied(part) for key, part in value.items()}
        if type(value) is dict:
            return parts
        if hasattr(value, "_like"):  # a ConfigDict, which knows where it is written
            return value._like(parts)
        try:
            return type(value)(parts)  # type: ignore[call-arg]  # ConfigDict and other dicts
        except TypeError:
            return parts
    if type(value) in (list, tuple, set):
        return type(value)(copied(part) for part in value)
    return value


def as_config(cfg: Any) -> Config:
    """Return a copy of a full config as a :class:`~mmx.config.Config`.

    Raises:
        TypeError: It is neither a config nor a dict.
    """
    if cfg is None:
        return Config({})
    if isinstance(cfg, Config):
        # With the files that it was read from, for errors that say where.
        full = copy.copy(cfg)
        full._cfg_dict = copied(cfg._cfg_dict)
        return full
    if isinstance(cfg, Mapping):
        return Config(copied(dict(cfg)))
    raise TypeError(f"cfg should be a Config, a dict or None, but got {type(cfg).__name__}")


def check(arguments: Mapping[str, Any]) -> None:
    """Check a runner's arguments; nothing is built, imported or written.

    Args:
        arguments: Name -> value of the arguments of :class:`~mmx.runner.Runner`.

    Raises:
        ValueError, TypeError: One of them is wrong.
        RunnerValueErrors: Several are; also a ValueError.
    """
    errors: list[Exception] = []
    for find in (
        _check_model,
        *(_triplet_check(part) for part in _TRIPLETS),
        _check_scheduler,
        _check_loops,
        _check_hooks,
        _check_rest,
    ):
        try:
            find(arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise RunnerValueErrors(f"{len(errors)} arguments of the runner are wrong", errors)


def _check_model(arguments: Mapping[str, Any]) -> None:
    model = arguments["model"]
    if not isinstance(model, nn.Module | Mapping):
        raise TypeError(f"model should be a nn.Module object or dict, but got {model!r}")
    if isinstance(model, Mapping) and "type" not in model:
        raise MissingTypeError(
            "model is a dict without the key 'type', which names the class to build; "
            f"its keys are {list(model)}"
        )


def _triplet_check(part: str) -> Any:
    names = _TRIPLETS[part]

    def check_triplet(arguments: Mapping[str, Any]) -> None:
        missing = [name for name in names if arguments[name] is None]
        if not missing or len(missing) == len(names):
            return
        given = [name for name in names if name not in missing]
        origin = _origin(arguments.get("cfg"), given)
        raise ValueError(
            f"{names[0]}, {names[1]}, and {names[2]} should be either all None or not None, but "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} None while "
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} set{origin}. Either also "
            f"give {', '.join(_USUAL[name] for name in missing)}, or set "
            f"{' = '.join(given)} = None to do without {part}"
        )

    return check_triplet


def _origin(cfg: Any, names: list[str]) -> str:
    """Say which file sets these keys of a config, and in which line."""
    places = {name: origin_of(cfg, name) for name in names if cfg is not None and name in cfg}
    said = [f"{name} by {place}" for name, place in places.items() if place is not None]
    return f" ({', '.join(said)})" if said else ""


def _check_scheduler(arguments: Mapping[str, Any]) -> None:
    scheduler = arguments["param_scheduler"]
    if scheduler is not None and arguments["optim_wrapper"] is None:
        raise ValueError(
            "param_scheduler should be None when optim_wrapper is None, but got "
            f"{scheduler!r}. A scheduler without an optimizer has nothing to schedule"
        )
    check_param_scheduler(scheduler)


def _check_loops(arguments: Mapping[str, Any]) -> None:
    for name in ("train_cfg", "val_cfg", "test_cfg"):
        config = arguments[name]
        if not isinstance(config, Mapping):
            continue
        if "type" in config and "by_epoch" in config:
            raise LoopConfigError(
                f"Only one of `type` or `by_epoch` can exist in `loop_cfg`, but {name} has both: "
                f"{dict(config)!r}"
            )
        if name == "train_cfg" and "type" not in config and "by_epoch" not in config:
            raise MissingLoopKindError(
                f"train_cfg needs 'by_epoch' (True to count epochs, with max_epochs; False to "
                f"count iterations, with max_iters) or the 'type' of a loop, but got "
                f"{dict(config)!r}"
            )


class LoopConfigError(RuntimeError, ValueError):
    """A loop's config contradicts itself."""


class MissingTypeError(KeyError, ValueError):
    """A part's config does not say which class it is for."""

    def __str__(self) -> str:
        return str(self.args[0])


class MissingLoopKindError(KeyError, ValueError):
    """A training loop's config does not say which loop it is for."""

    def __str__(self) -> str:
        return str(self.args[0])


def _check_hooks(arguments: Mapping[str, Any]) -> None:
    defaults, custom = arguments["default_hooks"], arguments["custom_hooks"]
    if defaults is not None and not isinstance(defaults, Mapping):
        raise TypeError(
            "default_hooks should be a dict name -> hook (or None to leave a hook out), but got "
            f"{type(defaults).__name__}; hooks of your own belong into custom_hooks"
        )
    if custom is not None and (isinstance(custom, Mapping | str | Hook)):
        raise TypeError(
            "custom_hooks should be a list of hooks or dicts: each hook should be an instance of "
            f"Hook or dict, but got {custom!r}"
        )
    for hook in [*(defaults or {}).values(), *(custom or [])]:
        if hook is not None and not isinstance(hook, Hook | Mapping):
            raise TypeError(f"hook should be an instance of Hook or dict, but got {hook!r}")


def _check_rest(arguments: Mapping[str, Any]) -> None:
    check_launcher(arguments["launcher"])
    randomness = arguments["randomness"]
    unknown = set(randomness) - {"seed", "diff_rank_seed", "deterministic"}
    if unknown:
        raise TypeError(
            "randomness takes seed, diff_rank_seed and deterministic, but it has "
            f"{', '.join(sorted(unknown))}"
        )
    scale = arguments["auto_scale_lr"]
    if scale and scale.get("enable", False) and "base_batch_size" not in scale:
        raise ValueError(
            "Lack of `base_batch_size` in `auto_scale_lr`: give the samples per step, over all "
            "ranks, that the learning rate was chosen for"
        )


def warn_of_unknown_keys(cfg: Mapping[str, Any]) -> None:
    """Warn about top-level keys that look like a misspelled argument of the runner.

    Other unknown keys are left alone: configs keep variables of their own beside the arguments.
    """
    keys = [key for key in cfg if isinstance(key, str)]
    absent = KNOWN_KEYS - set(keys)
    for key in keys:
        if key in KNOWN_KEYS or key.startswith("_"):
            continue
        near = difflib.get_close_matches(key, absent, n=1, cutoff=0.85)
        if near:
            warnings.warn(
                f"the config's key {key!r} is not used by the runner; did you mean {near[0]!r}?",
                UnknownKeyWarning,
                stacklevel=3,
            )
