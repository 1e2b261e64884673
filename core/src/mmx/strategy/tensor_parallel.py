"""Weights of single layers split over ranks, by a plan in the config."""

from __future__ import annotations

import difflib
import fnmatch
import logging
import re
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from mmx.logging import print_log
from mmx.strategy.replicas import numbers_of_own_part
from mmx.utils.errors import InvalidTypeError, InvalidValueError


class OwnRandomNumbers(ParallelStyle):
    """Random numbers of each rank's own for a layer, such as dropout, whose input is split.

    Without it ranks that hold one copy of the model draw the same numbers, which is right for whole
    activations, but drops each part at the same places.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        entered: list[ExitStack] = []

        def begin(module: nn.Module, args: Any) -> None:
            stack = ExitStack()
            if module.training:
                stack.enter_context(numbers_of_own_part(device_mesh))
            entered.append(stack)

        def end(module: nn.Module, args: Any, output: Any) -> None:
            if entered:  # not if a hook before the first one has failed
                entered.pop().close()

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end, always_call=True)
        module._draws_for_its_part = True  # type: ignore[assignment]  # a mark, not a module
        return module


STYLES: dict[str, type[ParallelStyle]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "sequence": SequenceParallel,
    "random": OwnRandomNumbers,
}
_LAYOUT = re.compile(r"shard\((-?\d+)\)")


def check_plan(config: Any) -> tuple[int | None, dict[str, ParallelStyle]]:
    """Return the (size, plan) of a ``tensor_parallel`` setting, its styles built.

    Raises:
        TypeError: It is no dict, or its plan is none.
        ValueError: A key, a style or a layout is unknown.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("plan"), Mapping):
        raise InvalidTypeError(
            "tensor_parallel should be dict(size=2, plan={'layers.*.up': 'colwise'}), "
            f"but got {config!r}"
        )
    unknown = set(config) - {"size", "plan"}
    if unknown:
        raise InvalidValueError(
            f"tensor_parallel takes size and plan, but it has {', '.join(sorted(unknown))}"
        )
    size = config.get("size")
    if size is not None and (not isinstance(size, int) or size < 1):
        raise InvalidValueError(f"tensor_parallel.size must be a positive int, but got {size!r}")
    plan = {pattern: _style(pattern, value) for pattern, value in config["plan"].items()}
    if not plan:
        raise InvalidValueError("tensor_parallel.plan is empty: name the layers to split")
    return size, plan


def _style(pattern: str, value: Any) -> ParallelStyle:
    if isinstance(value, ParallelStyle):
        return value
    options = dict(value) if isinstance(value, Mapping) else {"type": value}
    kind = options.pop("type", None)
    if kind not in STYLES:
        raise InvalidValueError(
            f"tensor_parallel.plan[{pattern!r}] has the style {kind!r}; known are "
            f"{', '.join(STYLES)}, or a ParallelStyle of torch.distributed.tensor.parallel"
        )
    for key, entry in options.items():
        if isinstance(entry, str):
            options[key] = _placement(pattern, key, entry)
    try:
        return STYLES[kind](**options)
    except TypeError as error:
        raise InvalidValueError(f"tensor_parallel.plan[{pattern!r}]: {error}") from error


def _placement(pattern: str, key: str, text: str) -> Shard | Replicate:
    if text == "replicate":
        return Replicate()
    found = _LAYOUT.fullmatch(text)
    if found is None:
        raise InvalidValueError(
            f"tensor_parallel.plan[{pattern!r}].{key} must be 'replicate' or 'shard(0)', "
            f"but got {text!r}"
        )
    return Shard(int(found[1]))


def parallelize(model: nn.Module, mesh: DeviceMesh, plan: Mapping[str, ParallelStyle]) -> None:
    """Split the layers that a plan's patterns name, in place.

    Args:
        model: The model, with whole weights.
        mesh: The ranks that share a layer, one axis.
        plan: Pattern -> style. In a pattern ``*`` stands for one part of a dotted name.

    Raises:
        ValueError: A pattern fits no module.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    matched = {pattern: [n for n in modules if _fits(n, pattern)] for pattern in plan}
    for pattern, names in matched.items():
        if not names:
            near = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.4)
            raise InvalidValueError(
                f"tensor_parallel.plan[{pattern!r}] fits no module of {type(model).__name__}; "
                f"near are {', '.join(near or list(modules)[:5])}"
            )
    for pattern, names in matched.items():
        for name in names:
            parallelize_module(modules[name], mesh, plan[pattern])
    _warn_of_uneven_parts(model, mesh)


def _warn_of_uneven_parts(model: nn.Module, mesh: DeviceMesh) -> None:
    """Warn if ranks hold parts of different sizes, and layers draw random numbers for them."""
    random = [
        name
        for name, module in model.named_modules()
        if "drop" in type(module).__name__.lower()
        and getattr(module, "p", None) != 0
        and not hasattr(module, "_draws_for_its_part")
    ]
    uneven = [
        f"{name} of {parameter.shape[place.dim]}"
        for name, parameter in model.named_parameters()
        if isinstance(parameter, DTensor)
        for place in parameter.placements
        if isinstance(place, Shard) and parameter.shape[place.dim] % mesh.size()
    ]
    if uneven and random:
        print_log(
            f"tensor_parallel splits {', '.join(uneven)} over {mesh.size()} ranks, which is uneven. A "
            f"random layer ({', '.join(random[:3])}) between split layers draws more numbers on some "
            "ranks than on others, and those after it then differ where they should not. Choose "
            "sizes that the ranks divide, or give random layers there the style 'random'",
            logger="current",
            level=logging.WARNING,
        )


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
