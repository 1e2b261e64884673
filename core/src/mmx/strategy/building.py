"""From configuration to model, optimizer wrapper and parameter schedulers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from mmx.logging import print_log
from mmx.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler, build_optim_wrapper
from mmx.optim.optimizer.base import BaseOptimWrapper
from mmx.registry import MODELS, OPTIM_WRAPPERS, PARAM_SCHEDULERS
from mmx.utils.errors import InvalidTypeError, InvalidValueError

Schedulers = list[_ParamScheduler] | dict[str, list[_ParamScheduler]]


def model_from(model: nn.Module | Mapping[str, Any]) -> nn.Module:
    """Return a model, built if it is given as a dict.

    Raises:
        TypeError: It is neither a module nor a dict, or the dict builds no module.
    """
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, Mapping):
        raise InvalidTypeError(f"model should be a nn.Module object or dict, but got {model!r}")
    built = MODELS.build(model)
    if not isinstance(built, nn.Module):
        raise InvalidTypeError(
            f"model should be a nn.Module object or dict, but the dict {dict(model)!r} built "
            f"an object of type {type(built).__name__}"
        )
    return built


def optim_wrapper_from(optim_wrapper: Any, model: nn.Module) -> BaseOptimWrapper:
    """Return an optimizer wrapper, built for ``model`` if it is given as a dict.

    A dict is one of: an optimizer wrapper's (with ``optimizer``, a dict or an optimizer, or with
    ``constructor``), or name -> built optimizer wrapper, for several optimizers.

    Raises:
        TypeError: It is neither a wrapper nor a dict.
        ValueError: The dict is none of these.
    """
    if isinstance(optim_wrapper, BaseOptimWrapper):
        return optim_wrapper
    if not isinstance(optim_wrapper, Mapping):
        raise InvalidTypeError(
            f"optimizer wrapper should be an OptimWrapper object or dict, but got {optim_wrapper!r}"
        )
    optimizer = optim_wrapper.get("optimizer")
    if isinstance(optimizer, Optimizer):
        return OPTIM_WRAPPERS.build({"type": "OptimWrapper", **optim_wrapper})
    if optimizer is not None or "constructor" in optim_wrapper:
        return build_optim_wrapper(model, copy.deepcopy(dict(optim_wrapper)))
    wrappers: dict[str, OptimWrapper] = {}
    for name, wrapper in optim_wrapper.items():
        if not isinstance(wrapper, OptimWrapper):
            raise InvalidValueError(
                'each item must be an optimizer object when "optimizer" and "constructor" are not '
                f"in optim_wrapper, but got {name}={wrapper!r}. For one optimizer give "
                "optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1))"
            )
        wrappers[name] = wrapper
    if not wrappers:
        raise InvalidValueError(
            "optim_wrapper is an empty dict; give optimizer=dict(type='SGD', lr=0.1), or drop it "
            "if you do not train"
        )
    return OptimWrapperDict(**wrappers)


def check_param_scheduler(scheduler: Any) -> None:
    """Check the form of a ``param_scheduler`` argument without building anything.

    Raises:
        TypeError: It is no scheduler, dict or list, or a part of it is not.
        ValueError: A dict that should describe a scheduler has no ``type``.
    """
    if scheduler is None or isinstance(scheduler, _ParamScheduler):
        return
    if isinstance(scheduler, Mapping):
        if "type" in scheduler or not scheduler:
            return
        for name, value in scheduler.items():
            if not isinstance(value, Mapping | Sequence | _ParamScheduler) or isinstance(
                value, str
            ):
                raise InvalidTypeError(
                    "Each value of `param_scheduler` should be a dict or a list, but got "
                    f"{name}={value!r} of type {type(value).__name__}. A dict without the key "
                    "'type' maps the names of optimizers to their schedulers; for a scheduler "
                    "itself give its type"
                )
            _check_list(value if isinstance(value, Sequence) else [value])
        return
    if isinstance(scheduler, Sequence) and not isinstance(scheduler, str):
        _check_list(scheduler)
        return
    raise InvalidTypeError(
        "`param_scheduler` should be a `_ParamScheduler`, `dict`, list or a tuple, but got "
        f"{type(scheduler).__name__}. If `param_scheduler` is a list of dict, it means a list of "
        "scheduler configs for single optimizer. If it is a dict and contains key `type`, it means "
        "a scheduler config for a single optimizer. If it does not contain key `type`, it means "
        "multiple lists of schedulers for multiple optimizers."
    )


def _check_list(schedulers: Sequence[Any]) -> None:
    for scheduler in schedulers:
        if isinstance(scheduler, _ParamScheduler):
            continue
        if not isinstance(scheduler, Mapping):
            raise InvalidTypeError(
                "each parameter scheduler should be a _ParamScheduler or a dict, "
                f"but got {scheduler!r}"
            )
        if "type" not in scheduler:
            raise InvalidValueError(
                f"Each parameter scheduler should contain the key type, but got {dict(scheduler)!r}"
            )


def param_schedulers_from(
    scheduler: Any,
    optim_wrapper: BaseOptimWrapper,
    default_args: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
) -> Schedulers:
    """Return the parameter schedulers of an optimizer wrapper.

    Args:
        scheduler: A scheduler, a dict to build one from, or a list of these; for several
            optimizers also a dict name -> one of these. With several optimizers and no names,
            each optimizer gets all schedulers.
        optim_wrapper: What they schedule.
        default_args: ``epoch_length``, ``max_epochs`` and ``max_iters`` of the training, or a
            function that returns them, called only if a scheduler has to be built.

    Returns:
        A list, or for several optimizers a dict name -> list.

    Raises:
        TypeError: As :func:`check_param_scheduler`.
        ValueError: A scheduler that is not by epoch is to be converted to iterations.
    """
    check_param_scheduler(scheduler)
    if not isinstance(optim_wrapper, OptimWrapperDict):
        return _build_list(scheduler, optim_wrapper, default_args)
    if isinstance(scheduler, Mapping) and "type" not in scheduler:
        unknown = [name for name in scheduler if name not in optim_wrapper]
        if unknown:
            raise InvalidValueError(
                f"param_scheduler names the optimizers {unknown}, but optim_wrapper has "
                f"{list(optim_wrapper.keys())}"
            )
        return {
            name: _build_list(part, optim_wrapper[name], default_args)
            for name, part in scheduler.items()
        }
    return {
        name: _build_list(scheduler, wrapper, default_args)
        for name, wrapper in optim_wrapper.items()
    }


def _build_list(scheduler: Any, optim_wrapper: Any, default_args: Any) -> list[_ParamScheduler]:
    many = (
        scheduler
        if isinstance(scheduler, Sequence) and not isinstance(scheduler, str)
        else [scheduler]
    )
    built = []
    for one in many:
        if isinstance(one, _ParamScheduler):
            built.append(one)
            continue
        if callable(default_args):
            default_args = default_args()
        given = dict(default_args or {})
        config = dict(copy.deepcopy(one))
        by_epoch = config.get("by_epoch", True)
        if config.get("convert_to_iter_based") and not by_epoch:
            raise InvalidValueError(
                "only an epoch-based parameter scheduler can be converted to iter-based, "
                f"but got {config!r}"
            )
        end = given.get("max_epochs" if by_epoch else "max_iters")
        if end is not None and "end" not in config:
            config["end"] = end
            unit = "epoch" if by_epoch else "iteration"
            print_log(
                f"The `end` of {config['type']} is not set. Use the max {unit}s {end} as default.",
                logger="current",
                level=10,
            )
        arguments: dict[str, Any] = {"optimizer": optim_wrapper}
        if config.get("convert_to_iter_based"):
            arguments["epoch_length"] = given.get("epoch_length")
        built.append(PARAM_SCHEDULERS.build(config, default_args=arguments))
    return built


def scale_learning_rate(
    optim_wrapper: Any, base_batch_size: int, batch_size: int, world_size: int
) -> None:
    """Scale all learning rates by how much larger the batches are than those they were chosen for.

    Args:
        optim_wrapper: Whose groups are scaled, in place.
        base_batch_size: Samples per step, over all ranks, that the rates were chosen for.
        batch_size: Samples per step on one rank.
        world_size: Ranks; those that hold one copy of the model together count as one.
    """
    real = world_size * batch_size
    ratio = real / base_batch_size
    print_log(
        f"LR is set based on batch size of {base_batch_size} and the current batch size is {real}. "
        f"Scaling the original LR by {ratio}.",
        logger="current",
    )
    wrappers = (
        list(optim_wrapper.values())
        if isinstance(optim_wrapper, OptimWrapperDict)
        else [optim_wrapper]
    )
    for wrapper in wrappers:
        # With several groups the wrapper's own come after the optimizer's, for the logged `base_lr`.
        for group in wrapper.param_groups:
            group["lr"] = group["lr"] * ratio
