"""Sharded data parallelism by torch's first implementation, for configs that name it.

New configs use :class:`mmx.strategy.FSDPStrategy`, which stands on ``fully_shard``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import (
    BackwardPrefetch,
    CPUOffload,
    FullyShardedDataParallel,
    MixedPrecision,
    ShardingStrategy,
)

from mmx.registry import FUNCTIONS, MODEL_WRAPPERS


def _enum(kind: Any, value: Any, name: str) -> Any:
    if value is None or isinstance(value, kind):
        return value
    if isinstance(value, str):
        if value not in kind.__members__:
            raise ValueError(
                f"`{name}` should be one of {', '.join(kind.__members__)}, but got {value}"
            )
        return kind[value]
    raise TypeError(
        f"`{name}` should be `None`, a name of `{kind.__name__}` or a member of it, "
        f"but has type {type(value)}"
    )


def _function(value: Any, name: str) -> Any:
    """Return a function from itself, its registered name, or a dict with its arguments."""
    if value is None or callable(value):
        return value
    arguments: dict[str, Any] = {}
    if isinstance(value, dict):
        if "type" not in value:
            raise ValueError(f'`{name}` as a dict should have the key "type", but got {value}')
        arguments = dict(value)
        value = arguments.pop("type")
    if isinstance(value, str):
        function = FUNCTIONS.get(value)
        if function is None:
            raise ValueError(f"`{name}` is {value!r}, which is not registered in FUNCTIONS")
        value = function
    if not callable(value):
        raise TypeError(
            f"`{name}` should be a str, a callable, a dict or None, but has type {type(value)}"
        )
    return partial(value, **arguments) if arguments else value


def _mixed_precision(value: Any) -> MixedPrecision | None:
    if value is None or isinstance(value, MixedPrecision):
        return value
    if not isinstance(value, dict):
        raise TypeError(
            f"`mixed_precision` should be `None`, `dict` or `MixedPrecision`, but has type {type(value)}"
        )
    return MixedPrecision(**{key: _dtype(key, item) for key, item in value.items()})


def _dtype(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    dtype = getattr(torch, value.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"`mixed_precision` has {key}={value!r}, which is no dtype of torch")
    return dtype


def _process_group(value: Any) -> Any:
    if isinstance(value, dict):
        return dist.new_group(**value)
    if value is None or isinstance(value, (ProcessGroup, tuple)):
        return value
    raise TypeError(
        "`process_group` should be `None`, a dict of arguments of `torch.distributed.new_group`, or "
        f"`ProcessGroup`, but has type {type(value)}"
    )


def _parts(module: nn.Module, value: Any, name: str, find: Any, kind: type) -> list[Any] | None:
    """Return parts of a module that are given as such or by their names."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(
            f"`{name}` should be `None`, `Iterable[str]` or `Iterable[nn.{kind.__name__}]`, "
            f"but has type {type(value)}"
        )
    return [find(module, part) if isinstance(part, str) else part for part in value]


@MODEL_WRAPPERS.register_module()
class MMFullyShardedDataParallel(FullyShardedDataParallel):
    """:class:`torch.distributed.fsdp.FullyShardedDataParallel` with the steps of :class:`BaseModel`.

    Args:
        module: Model.
        process_group: Group to shard over; None is all processes.
        sharding_strategy: Member of ``ShardingStrategy`` or its name.
        cpu_offload: ``CPUOffload`` or whether to keep parameters on the CPU.
        auto_wrap_policy: What says which parts to wrap: a function or policy, its name in
            ``FUNCTIONS``, or a dict with ``type`` and its arguments.
        backward_prefetch: Member of ``BackwardPrefetch`` or its name.
        mixed_precision: ``MixedPrecision`` or a dict of its arguments.
        param_init_fn: Function, or its config, that initialises parts on the meta device.
        use_orig_params: Keep the model's own parameters, as optimizers by name need.
        ignored_modules: Parts that are not sharded, or their names.
        ignored_parameters: Parameters that are not sharded, or their names; not with
            ``ignored_modules``.
        **kwargs: As for torch's class. Without an accelerator ``device_id`` is the CPU.

    Raises:
        TypeError: An argument is of another type.
        ValueError: A name is unknown.
    """

    def __init__(
        self,
        module: nn.Module,
        process_group: dict[str, Any] | ProcessGroup | None = None,
        sharding_strategy: str | ShardingStrategy | None = None,
        cpu_offload: bool | CPUOffload | None = None,
        auto_wrap_policy: Any = None,
        backward_prefetch: str | BackwardPrefetch | None = None,
        mixed_precision: dict[str, Any] | MixedPrecision | None = None,
        param_init_fn: Any = None,
        use_orig_params: bool = True,
        *,
        ignored_modules: Iterable[str] | Iterable[nn.Module] | None = None,
        ignored_parameters: Iterable[str] | Iterable[nn.Parameter] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(cpu_offload, bool):
            cpu_offload = CPUOffload(offload_params=cpu_offload)
        elif cpu_offload is not None and not isinstance(cpu_offload, CPUOffload):
            raise TypeError(
                f"`cpu_offload` should be `None`, `bool` or `CPUOffload`, but has type {type(cpu_offload)}"
            )
        if not torch.accelerator.is_available():
            kwargs.setdefault("device_id", torch.device("cpu"))
        parameters = _parts(
            module, ignored_parameters, "ignored_parameters", nn.Module.get_parameter, nn.Parameter
        )
        if parameters is not None:
            kwargs["ignored_states"] = parameters
        super().__init__(
            module=module,
            process_group=_process_group(process_group),
            sharding_strategy=_enum(ShardingStrategy, sharding_strategy, "sharding_strategy"),
            auto_wrap_policy=_function(auto_wrap_policy, "auto_wrap_policy"),
            cpu_offload=cpu_offload,
            backward_prefetch=_enum(BackwardPrefetch, backward_prefetch, "backward_prefetch"),
            mixed_precision=_mixed_precision(mixed_precision),
            param_init_fn=_function(param_init_fn, "param_init_fn"),
            use_orig_params=use_orig_params,
            ignored_modules=_parts(
                module, ignored_modules, "ignored_modules", nn.Module.get_submodule, nn.Module
            ),
            **kwargs,
        )

    @property
    def _model(self) -> Any:
        return self.module

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Learn from one batch; see :meth:`mmx.model.BaseModel.train_step`."""
        with optim_wrapper.optim_context(self):
            data = self._model.data_preprocessor(data, training=True)
            losses = self._run_forward(data, mode="loss")
        parsed_loss, log_vars = self._model.parse_losses(losses)
        optim_wrapper.update_params(parsed_loss)
        return log_vars

    def val_step(self, data: Any) -> Any:
        """Return predictions."""
        return self._run_forward(self._model.data_preprocessor(data, False), mode="predict")

    def test_step(self, data: Any) -> Any:
        """Return predictions."""
        return self._run_forward(self._model.data_preprocessor(data, False), mode="predict")

    def _run_forward(self, data: dict[str, Any] | tuple[Any, ...] | list[Any], mode: str) -> Any:
        if isinstance(data, dict):
            return self(**data, mode=mode)
        if isinstance(data, (list, tuple)):
            return self(*data, mode=mode)
        raise TypeError(
            f"Output of `data_preprocessor` should be list, tuple or dict, but got {type(data)}"
        )
