"""Compiling what calls of a model do, its names and state dict staying as they are."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mmx import checkpoint as checkpoint_io


def compile_in_place(model: nn.Module, compile: dict[str, Any] | bool | None) -> bool:
    """Compile a model, or a method of it, and tell whether anything was to be compiled.

    Args:
        model: The model, in wrappers or not.
        compile: As for :meth:`mmx.strategy.BaseStrategy.compile_model`.
    """
    if isinstance(compile, bool) or compile is None:
        if not compile:
            return False
        compile = {}
    options = dict(copy.deepcopy(compile))
    disabled = options.pop("disable", False)
    target = options.pop("target", None)
    if disabled:
        return False
    module = checkpoint_io.unwrap(model)
    if target is None or target == "forward":
        _compile_calls(module, options)
    else:
        setattr(module, target, torch.compile(getattr(module, target), **options))
    return True


def _compile_calls(module: nn.Module, options: dict[str, Any]) -> None:
    """Compile what a call of the module does; its names and state dict stay as they are."""
    for name, part in module.named_modules():
        if not hasattr(part, "_get_fsdp_state"):
            if not name:
                _compile_call(part, options)
        elif _is_of_torch(part):
            # Gathering its weights is not compiled, and would be in the same function.
            part.forward = functools.partial(torch.compile(_apply, **options), part.forward)
        elif not name:
            part.compile(**options)


def _compile_call(module: nn.Module, options: dict[str, Any]) -> None:
    if not _is_of_torch(module):
        module.compile(**options)
        return

    def call(*args: Any, **kwargs: Any) -> Any:
        return module._call_impl(*args, **kwargs)

    module._compiled_call_impl = torch.compile(call, **options)


def _is_of_torch(module: nn.Module) -> bool:
    """Tell whether torch's own files hold what the module computes.

    torch compiles no function of them unless another one calls it: of a bare `nn.Sequential` it
    would compile nothing, and say nothing.
    """
    return (getattr(type(module).forward, "__module__", None) or "").startswith("torch.")


def _apply(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)
