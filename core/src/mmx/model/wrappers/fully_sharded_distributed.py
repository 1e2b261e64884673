"""Sharded data parallelism by torch's first implementation, for configs that name it.

New configs use :class:`mmx.strategy.FSDPStrategy`, which stands on ``fully_shard``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

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
                f"{name} should be one of {', '.join(kind.__members__)}, but got {value}"
            )
        return kind[value]
    raise TypeError(f"{name} should be a `str` or `{kind.__name__}`, but has type {type(value)}")


@MODEL_WRAPPERS.register_module()
class MMFullyShardedDataParallel(FullyShardedDataParallel):
    """:class:`torch.distributed.fsdp.FullyShardedDataParallel` with the steps of :class:`BaseModel`.

    Args:
        module: Model.
        process_group: Group to shard over; None is all processes.
        sharding_strategy: Member of ``ShardingStrategy`` or its name.
        cpu_offload: ``CPUOffload`` or whether to keep parameters on the CPU.
        auto_wrap_policy: Function, its name in ``FUNCTIONS``, or a dict with ``type`` and its
            arguments, that says which parts to wrap.
        backward_prefetch: Member of ``BackwardPrefetch`` or its name.
        mixed_precision: ``MixedPrecision`` or a dict of its arguments.
        param_init_fn: Function, or its config, that initialises parts on the meta device.
        use_orig_params: Keep the model's own parameters, as optimizers by name need.
        **kwargs: As for torch's class.
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
        **kwargs: Any,
    ) -> None:
        if isinstance(cpu_offload, bool):
            cpu_offload = CPUOffload(offload_params=cpu_offload)
        elif cpu_offload is not None and not isinstance(cpu_offload, CPUOffload):
            raise TypeError(
                f"`cpu_offload` should be `None`, `bool` or `CPUOffload`, but has type {type(cpu_offload)}"
            )
        if isinstance(mixed_precision, dict):
            import torch

            mixed_precision = MixedPrecision(
                **{
                    key: getattr(torch, value.removeprefix("torch."))
                    if isinstance(value, str)
                    else value
                    for key, value in mixed_precision.items()
                }
            )
        if isinstance(process_group, dict):
            import torch.distributed as torch_dist

            process_group = torch_dist.new_group(**process_group)
        group: Any = process_group
        super().__init__(
            module=module,
            process_group=group,
            sharding_strategy=_enum(ShardingStrategy, sharding_strategy, "sharding_strategy"),
            auto_wrap_policy=_function(auto_wrap_policy),
            cpu_offload=cpu_offload,
            backward_prefetch=_enum(BackwardPrefetch, backward_prefetch, "backward_prefetch"),
            mixed_precision=mixed_precision,
            param_init_fn=_function(param_init_fn),
            use_orig_params=use_orig_params,
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


def _function(value: Any) -> Any:
    """Return a function from itself, its registered name, or a dict with its arguments."""
    if isinstance(value, str):
        return FUNCTIONS.get(value)
    if isinstance(value, dict):
        arguments: dict[str, Any] = dict(value)
        kind: Any = arguments.pop("type")
        function: Any = FUNCTIONS.get(kind) if isinstance(kind, str) else kind
        return partial(function, **arguments)
    if value is None or callable(value) or isinstance(value, Iterable):
        return value
    raise TypeError(f"expected a function, its name or a dict, got {type(value).__name__}")
