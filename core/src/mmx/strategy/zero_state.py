"""Whole weights and optimizer state of a DeepSpeed engine, whatever ZeRO has divided them into."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mmx.strategy.naming import state_by_name
from mmx.utils.errors import InvalidValueError

_VERSION = 1
# What DeepSpeed counts by, in its own words.
_COUNTS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")


class ZeroState:
    """The state of a DeepSpeed engine in the form that checkpoints have everywhere else.

    Weights are those in float32 that the optimizer steps on, where training is in lower precision.
    Every rank calls each method: parts are put together by collectives.

    Args:
        engine: What ``deepspeed.initialize`` returned.
        names: The names of the weights that the optimizer was given, by group.

    Raises:
        ValueError: The optimizer steps on one tensor of all weights, of which DeepSpeed does not
            tell the parts.
    """

    def __init__(self, engine: Any, names: list[list[str]]) -> None:
        if hasattr(engine.optimizer, "fp16_groups_flat"):
            raise InvalidValueError(
                f"DeepSpeed's {type(engine.optimizer).__name__} (a fused optimizer in half "
                "precision without ZeRO) keeps weights in a form that no checkpoint can be made "
                "of; set zero_optimization=dict(stage=1), or take an optimizer of torch"
            )
        self.engine = engine
        self.names = names
        self._parts: Any = importlib.import_module("deepspeed.utils")
        self._zero: Any = importlib.import_module("deepspeed").zero
        # Whole weights in float32, where DeepSpeed has such beside those in lower precision.
        self._copies: dict[nn.Parameter, torch.Tensor] = {}
        optimizer = engine.optimizer
        if hasattr(optimizer, "fp16_groups") and hasattr(optimizer, "fp32_groups"):
            for own, copies in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
                self._copies.update(zip(own, copies, strict=True))

    def weights(self, *, keep: bool, frozen: bool = True) -> dict[str, Any]:
        """Return weights and buffers on the CPU.

        Args:
            keep: Whether this rank wants them; otherwise it gets an empty dict.
            frozen: Also weights that are not trained.
        """
        module: nn.Module = self.engine.module
        parameters = dict(module.named_parameters(remove_duplicate=False))
        found = {}
        for name, value in module.state_dict().items():
            parameter = parameters.get(name)
            if parameter is not None:
                if not (frozen or parameter.requires_grad):
                    continue
                value = self._whole(parameter)
            if keep:
                found[name] = (
                    value.detach().to("cpu", copy=True)
                    if isinstance(value, torch.Tensor)
                    else value
                )
        return found

    def _whole(self, parameter: nn.Parameter) -> torch.Tensor:
        if parameter in self._copies:
            return self._copies[parameter]
        if parameter.requires_grad:
            whole: torch.Tensor | None = self._parts.safe_get_full_fp32_param(parameter)
            if whole is not None:
                return whole
        if hasattr(parameter, "ds_id"):
            with self._zero.GatheredParameters([parameter]):
                return parameter.detach().clone()
        return parameter.detach()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Hold all weights on all ranks; what rank 0 makes of them is divided again."""
        divided = [p for p in self.engine.module.parameters() if hasattr(p, "ds_id")]
        if not divided:
            yield
            return
        with self._zero.GatheredParameters(divided, modifier_rank=0):
            yield

    def take_weights(self, state: Mapping[str, Any] | None = None) -> None:
        """Let the optimizer step on the weights that the model has been given.

        Args:
            state: Those in full precision; what is missing or of another shape is taken from the
                model.
        """
        for name, parameter in self.engine.module.named_parameters():
            copy = self._copies.get(parameter)
            if not parameter.requires_grad or (copy is None and not _has_parts(parameter)):
                continue
            value = None if state is None else state.get(name)
            if not isinstance(value, torch.Tensor) or value.shape != _shape_of(parameter):
                value = self._model_weight(parameter)
            value = value.detach().to(parameter.device, torch.float32)
            if copy is not None:
                copy.data.copy_(value)
            else:
                self._parts.safe_set_full_fp32_param(parameter, value)

    def _model_weight(self, parameter: nn.Parameter) -> torch.Tensor:
        if not hasattr(parameter, "ds_id"):
            return parameter
        with self._zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    def optimizer(self, *, keep: bool) -> dict[str, Any]:
        """Return the optimizer's state by the names of weights, on the CPU."""
        inner = self._inner()
        state: dict[str, dict[str, Any]] = {}
        for name, parameter, flat in self._trained():
            held = inner.state.get(flat) or {}
            entry: dict[str, Any] = {}
            for key, value in held.items():
                if _has_parts(parameter) and _is_divided(key, value, flat.shape):
                    value = self._parts.safe_get_full_optimizer_state(parameter, key)
                if keep:
                    entry[key] = (
                        value.detach().to("cpu", copy=True)
                        if isinstance(value, torch.Tensor)
                        else value
                    )
            if entry:
                state[name] = entry
        groups = [
            {**{k: v for k, v in group.items() if k != "params"}, "params": list(names)}
            for group, names in zip(inner.param_groups, self.names, strict=True)
        ]
        return {"state": state, "param_groups": groups, "deepspeed": self._counts()}

    def load_optimizer(self, state: Mapping[str, Any]) -> None:
        """Load the optimizer's state, of any strategy: whole, weights named or numbered."""
        inner = self._inner()
        found = state_by_name(state, self.names)
        for group, saved in zip(inner.param_groups, found["param_groups"], strict=True):
            group.update({k: v for k, v in saved.items() if k != "params"})
        for name, parameter, flat in self._trained():
            entry = found["state"].get(name)
            if not entry:
                continue
            held = inner.state[flat]
            shape = _shape_of(parameter)
            parts = {
                key: value
                for key, value in entry.items()
                if _has_parts(parameter) and _is_divided(key, value, shape)
            }
            for key, value in entry.items():
                if key not in parts:
                    held[key] = _placed(key, value, flat)
                elif key not in held:
                    held[key] = torch.zeros_like(flat, requires_grad=False)
            fragment = getattr(parameter, "_hp_mapping", None)
            if fragment is not None:
                fragment.set_optim_state_fragment(flat, held)
            for key, value in parts.items():
                value = value.to(parameter.device, torch.float32)
                self._parts.safe_set_full_optimizer_state(parameter, value, key)
        self._take_counts(state.get("deepspeed"))

    def _inner(self) -> Any:
        """Return torch's optimizer, inside of DeepSpeed's."""
        optimizer = self.engine.optimizer
        return getattr(optimizer, "optimizer", optimizer)

    def _trained(self) -> Iterator[tuple[str, nn.Parameter, torch.Tensor]]:
        """Yield names, weights, and the flat parts that torch's optimizer holds in their place."""
        parameters = dict(self.engine.module.named_parameters())
        optimizer = self.engine.optimizer
        for index, names in enumerate(self.names):
            for name in names:
                parameter = parameters[name]
                if not parameter.requires_grad:
                    continue
                if hasattr(parameter, "ds_id"):
                    place = optimizer.grad_position[optimizer.get_param_id(parameter)]
                    yield name, parameter, optimizer.fp32_partitioned_groups_flat[place[0]]
                elif hasattr(optimizer, "single_partition_of_fp32_groups"):
                    yield name, parameter, optimizer.single_partition_of_fp32_groups[index]
                elif hasattr(optimizer, "fp32_groups_flat_partition"):
                    yield name, parameter, optimizer.fp32_groups_flat_partition[index]
                else:
                    copied = parameter in self._copies
                    yield name, parameter, self._copies[parameter] if copied else parameter

    def _scaler(self) -> Any:
        optimizer = self.engine.optimizer
        names = ("loss_scaler", "loss_scale_config")
        return next((found for name in names if (found := getattr(optimizer, name, None))), None)

    def _counts(self) -> dict[str, Any]:
        scaler = self._scaler()
        plain = {k: v for k, v in vars(scaler).items() if _is_plain(v)} if scaler else {}
        counts = {name: int(getattr(self.engine, name, 0)) for name in _COUNTS}
        return {"version": _VERSION, "loss_scaler": plain, "counts": counts}

    def _take_counts(self, saved: Mapping[str, Any] | None) -> None:
        if saved is None:
            return
        for name, value in saved["counts"].items():
            setattr(self.engine, name, value)
        scaler = self._scaler()
        if scaler is not None:
            known = vars(scaler)
            known.update({k: v for k, v in saved["loss_scaler"].items() if k in known})


def _has_parts(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _shape_of(parameter: nn.Parameter) -> torch.Size:
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _placed(key: str, value: Any, like: torch.Tensor) -> Any:
    """Return a copy where the weight is; steps are counted on the CPU."""
    if not isinstance(value, torch.Tensor):
        return value
    if key == "step":
        return value.clone()
    return value.to(like.device, like.dtype if value.is_floating_point() else None, copy=True)


def _is_divided(key: str, value: Any, shape: torch.Size) -> bool:
    return key != "step" and isinstance(value, torch.Tensor) and value.shape == shape


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)
