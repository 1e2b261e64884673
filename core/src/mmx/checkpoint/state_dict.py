"""State dicts in and out of modules, through wrappers, with a readable report of what did not fit."""

from __future__ import annotations

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mmx.checkpoint.errors import MissingStateError
from mmx.checkpoint.load import Logger, MapLocation, _load_checkpoint
from mmx.logging import print_log
from mmx.registry import MODEL_WRAPPERS

ReviseKeys = Sequence[tuple[str, str]]


def _is_wrapper(module: nn.Module) -> bool:
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return True
    # Registered wrappers that are not imported yet cannot be the class of an existing module.
    return isinstance(
        module, tuple(c for c in MODEL_WRAPPERS.module_dict.values() if isinstance(c, type))
    )


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside any wrappers: data parallel, registered ones, ``torch.compile``."""
    while True:
        if _is_wrapper(module) and isinstance(getattr(module, "module", None), nn.Module):
            module = module.module  # type: ignore[assignment]  # checked above
        elif isinstance(inner := module._modules.get("_orig_mod"), nn.Module):
            module = inner
        else:
            return module


def get_state_dict(
    module: nn.Module,
    destination: OrderedDict[str, Any] | None = None,
    prefix: str = "",
    keep_vars: bool = False,
) -> OrderedDict[str, Any]:
    """Return the state of a module as if no part of it were wrapped.

    Like :meth:`torch.nn.Module.state_dict`, but the ``module.`` of wrappers, at any depth, does not
    appear in the keys.
    """
    module = unwrap(module)
    if destination is None:
        destination = OrderedDict()
        destination._metadata = OrderedDict()  # type: ignore[attr-defined]  # as torch does
    if not any(_is_wrapper(m) or "_orig_mod" in m._modules for m in module.modules()):
        return module.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
    local_metadata = {"version": module._version}
    destination._metadata[prefix[:-1]] = local_metadata  # type: ignore[attr-defined]  # as torch does
    for pre_hook in module._state_dict_pre_hooks.values():
        pre_hook(module, prefix, keep_vars)
    module._save_to_state_dict(destination, prefix, keep_vars)
    for name, child in module._modules.items():
        if child is not None:
            get_state_dict(child, destination, f"{prefix}{name}.", keep_vars)
    for hook in module._state_dict_hooks.values():
        changed = hook(module, destination, prefix, local_metadata)
        if changed is not None:
            destination = changed
    return destination


def weights_to_cpu(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Return a state dict with every tensor on the CPU; those there already are not copied."""
    result: OrderedDict[str, Any] = OrderedDict((k, _on_cpu(v)) for k, v in state_dict.items())
    result._metadata = getattr(state_dict, "_metadata", OrderedDict())  # type: ignore[attr-defined]  # as torch does
    return result


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return weights_to_cpu(value)
    if isinstance(value, list):
        return [_on_cpu(v) for v in value]
    if type(value) is tuple:
        return tuple(_on_cpu(v) for v in value)
    return value


def load_state_dict(
    module: nn.Module,
    state_dict: Mapping[str, Any],
    strict: bool = False,
    logger: Logger = None,
) -> None:
    """Load a state dict into a module, wrapped or not, and report what did not fit.

    Missing, unexpected and mis-shaped entries are logged together as a warning, or raised when
    ``strict``. Everything that fits is loaded in either case, as MMEngine does.

    Args:
        module: Module that receives the state.
        state_dict: Name -> tensor.
        strict: Raise instead of logging.
        logger: For the report; None is the standard logger ``mmx``.

    Raises:
        RuntimeError: ``strict`` is true and something did not fit.
    """
    loading = _Loading(state_dict)
    loading.load(module)
    missing, unexpected = loading.missing, loading.unexpected
    # Counters of batch normalisation are absent from files of old torch versions, harmlessly.
    missing = [key for key in dict.fromkeys(missing) if not key.endswith("num_batches_tracked")]
    unexpected = list(dict.fromkeys(unexpected))
    report = _report(missing, unexpected, loading.errors)
    if not report:
        return
    if strict:
        raise RuntimeError(report)
    print_log(report, logger=logger, level=logging.WARNING)


class _Loading:
    """Loads a state dict into one module after the other, and notes what does not fit."""

    def __init__(self, state_dict: Mapping[str, Any]) -> None:
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.errors: list[str] = []
        self.metadata = getattr(state_dict, "_metadata", None)
        self.state: OrderedDict[str, Any] = OrderedDict(state_dict)
        if self.metadata is not None:
            self.state._metadata = self.metadata  # type: ignore[attr-defined]  # as torch does

    def load(self, part: nn.Module, prefix: str = "") -> None:
        part = unwrap(part)
        while getattr(type(part), "loads_into_module", False):
            # Not a wrapper, but weights are saved without it: a model for test-time augmentation.
            part = unwrap(part.module)  # type: ignore[arg-type]  # such classes have it
        local_metadata = {} if self.metadata is None else self.metadata.get(prefix[:-1], {})
        local_missing: list[str] = []
        part._load_from_state_dict(
            self.state, prefix, local_metadata, True, local_missing, self.unexpected, self.errors
        )
        self.missing.extend(local_missing)
        for name, child in part._modules.items():
            if child is not None:
                self.load(child, f"{prefix}{name}.")
        # Modules may take keys back out of `missing` here; the attribute is torch's own protocol.
        incompatible = nn.modules.module._IncompatibleKeys(self.missing, self.unexpected)
        for hook in part._load_state_dict_post_hooks.values():
            hook(part, incompatible)


def _report(missing: list[str], unexpected: list[str], errors: list[str]) -> str:
    lines = []
    if unexpected:
        lines.append(f"unexpected key in source state_dict: {', '.join(unexpected)}\n")
    if missing:
        lines.append(f"missing keys in source state_dict: {', '.join(missing)}\n")
    lines.extend(errors)
    if not lines:
        return ""
    return "\n".join(["The model and loaded state dict do not match exactly\n", *lines])


def _load_checkpoint_to_model(
    model: nn.Module,
    checkpoint: dict[str, Any],
    strict: bool = False,
    logger: Logger = None,
    revise_keys: ReviseKeys = ((r"^module\.", ""),),
) -> dict[str, Any]:
    """Load the weights of a checkpoint that is in memory; return the checkpoint."""
    state_dict: Any = checkpoint.get("state_dict", checkpoint)
    metadata = getattr(state_dict, "_metadata", OrderedDict())
    for pattern, replacement in revise_keys:
        state_dict = OrderedDict(
            (re.sub(pattern, replacement, k), v) for k, v in state_dict.items()
        )
    state_dict._metadata = metadata
    load_state_dict(model, state_dict, strict, logger)
    return checkpoint


def load_checkpoint(
    model: nn.Module,
    filename: str | os.PathLike[str],
    map_location: MapLocation = None,
    strict: bool = False,
    logger: Logger = None,
    revise_keys: ReviseKeys = ((r"^module\.", ""),),
    verify: bool = False,
) -> dict[str, Any]:
    """Load the weights of a checkpoint file into a model.

    Args:
        model: Module, wrapped or not.
        filename: Local path, URL, or address like ``torchvision://resnet50``.
        map_location: As for ``torch.load``.
        strict: Raise if keys or shapes do not match; otherwise they are logged.
        logger: For messages.
        revise_keys: ``(pattern, replacement)`` pairs for :func:`re.sub` on each key, in order. The
            default strips the prefix that data-parallel wrappers leave.
        verify: Check each checksum first, those of the tensors as well, which reads all of the file;
            see :meth:`CheckpointLoader.load_checkpoint`.

    Returns:
        The checkpoint.

    Raises:
        ValueError: The file holds no state dict, or is damaged.
    """
    checkpoint = _load_checkpoint(filename, map_location, logger, verify)
    if not isinstance(checkpoint, dict):
        raise MissingStateError(f"No state_dict found in checkpoint file {filename}")
    return _load_checkpoint_to_model(model, checkpoint, strict, logger, revise_keys)
