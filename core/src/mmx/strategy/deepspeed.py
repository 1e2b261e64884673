"""Training by the DeepSpeed engine, where the package ``deepspeed`` is installed."""

from __future__ import annotations

import copy
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmx import checkpoint as checkpoint_io
from mmx.device import get_device
from mmx.dist import is_distributed, is_main_process
from mmx.optim import OptimWrapper
from mmx.registry import MODEL_WRAPPERS, STRATEGIES
from mmx.strategy.base import STRIP_WRAPPER, ReviseKeys, initialize_weights, revised
from mmx.strategy.single_device import SingleDeviceStrategy
from mmx.strategy.zero_state import ZeroState
from mmx.utils.errors import InvalidValueError


@STRATEGIES.register_module()
class DeepSpeedStrategy(SingleDeviceStrategy):
    """Train through ``deepspeed.initialize``: ZeRO, offloading, its own mixed precision.

    Needs the package ``deepspeed`` (the extra ``mmx[deepspeed]``), which is imported when a model is
    joined with its optimizer. Backward pass, gradient accumulation, clipping and loss scaling are
    then DeepSpeed's, configured here and not in ``optim_wrapper``.

    Checkpoints are whole ones: weights in float32 and optimizer state by the names of weights, put
    together on rank 0. A run goes on from them with any number of ranks, with another ZeRO stage or
    another strategy, and from theirs.

    Args:
        config: A DeepSpeed config: a dict or the path of a JSON file. What follows replaces its
            entries of the same name.
        zero_optimization: ZeRO stage and its options.
        gradient_clipping: Largest norm of the gradients.
        fp16: Options of float16 training.
        inputs_to_half: Names or positions of the inputs that are cast; None casts all floats.
        bf16: Options of bfloat16 training.
        amp: Options of Apex's mixed precision.
        activation_checkpointing: Options of DeepSpeed's activation checkpointing.
        aio: Options of asynchronous I/O.
        train_micro_batch_size_per_gpu: Batch size of one rank; by default the data loader's.
        gradient_accumulation_steps: Iterations per optimizer step.
        steps_per_print: How often DeepSpeed prints; by default practically never.
        exclude_frozen_parameters: Leave weights that are not trained out of checkpoints.
        **kwargs: As for :class:`~mmx.strategy.BaseStrategy`.

    Raises:
        ValueError: ``state_dict_cfg='sharded'``.
    """

    sharded = True
    _state: ZeroState | None = None

    def __init__(
        self,
        *,
        config: str | dict[str, Any] | None = None,
        zero_optimization: dict[str, Any] | None = None,
        gradient_clipping: float | None = None,
        fp16: dict[str, Any] | None = None,
        inputs_to_half: list[int | str] | None = None,
        bf16: dict[str, Any] | None = None,
        amp: dict[str, Any] | None = None,
        activation_checkpointing: dict[str, Any] | None = None,
        aio: dict[str, Any] | None = None,
        train_micro_batch_size_per_gpu: int | None = None,
        gradient_accumulation_steps: int | None = None,
        steps_per_print: int = 10000000000000,
        exclude_frozen_parameters: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.saves_shards:
            raise InvalidValueError(
                "checkpoints of DeepSpeedStrategy are whole, but state_dict_cfg is "
                f"{self.state_dict_cfg!r}; leave it out"
            )
        self.inputs_to_half = inputs_to_half
        self.exclude_frozen_parameters = exclude_frozen_parameters
        given = {
            "zero_optimization": zero_optimization,
            "gradient_clipping": gradient_clipping,
            "fp16": fp16,
            "bf16": bf16,
            "amp": amp,
            "activation_checkpointing": activation_checkpointing,
            "aio": aio,
            "train_micro_batch_size_per_gpu": train_micro_batch_size_per_gpu,
            "gradient_accumulation_steps": gradient_accumulation_steps,
            "steps_per_print": steps_per_print,
        }
        self.config = _read(config)
        self.config.update({key: value for key, value in given.items() if value is not None})

    def convert_model(self, model: nn.Module) -> nn.Module:
        """Return the model; synchronised batch statistics stay so where there are several ranks."""
        return model if is_distributed() else super().convert_model(model)

    def wrap_model(
        self, model: nn.Module, model_wrapper_cfg: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Place the model on this process's device, for runs that do not train.

        DeepSpeed takes over one that is trained when its optimizer is known, and has placed one that
        was built in ``deepspeed.zero.Init``.
        """
        if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            return model
        return model.to(get_device())

    def join(self, model: nn.Module, optim_wrapper: Any) -> nn.Module:
        """Hand model and optimizer over to DeepSpeed."""
        try:
            deepspeed: Any = importlib.import_module("deepspeed")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "DeepSpeedStrategy needs the package deepspeed: pip install 'mmx[deepspeed]', or pip "
                "install deepspeed"
            ) from error
        config = copy.deepcopy(self.config)
        config.setdefault("gradient_accumulation_steps", 1)
        if "train_micro_batch_size_per_gpu" not in config:
            size = self.dispatch_kwargs.get("train_micro_batch_size_per_gpu")
            if size is None and "train_batch_size" not in config:
                raise ValueError(
                    "DeepSpeedStrategy needs train_micro_batch_size_per_gpu: the batch size of "
                    "one rank"
                )
            if size is not None:
                config["train_micro_batch_size_per_gpu"] = size
        names = {parameter: name for name, parameter in model.named_parameters()}
        groups = [
            [names[parameter] for parameter in group["params"]]
            for group in optim_wrapper.optimizer.param_groups
        ]
        engine, optimizer, *_ = deepspeed.initialize(
            model=model, optimizer=optim_wrapper.optimizer, config=config
        )
        optim_wrapper.optimizer = optimizer
        _let_engine_step(optim_wrapper, engine)
        self._state = ZeroState(engine, groups)
        return DeepSpeedModel(engine, self.inputs_to_half)

    def _init_model_weights(self, model: nn.Module) -> nn.Module:
        if self._state is None or not hasattr(checkpoint_io.unwrap(model), "init_weights"):
            return super()._init_model_weights(model)
        with self._state.gathered():
            initialize_weights(model)
        self._state.take_weights()
        return model

    def model_state_dict(self) -> dict[str, Any]:
        """Return the whole weights on rank 0, an empty dict on others. Every rank must call."""
        if self._state is None:
            return super().model_state_dict()
        frozen = not self.exclude_frozen_parameters
        return self._state.weights(keep=is_main_process(), frozen=frozen)

    def load_model_state_dict(
        self,
        state_dict: dict[str, Any],
        *,
        strict: bool = False,
        revise_keys: ReviseKeys = STRIP_WRAPPER,
    ) -> None:
        """Load whole weights, which every rank holds. Every rank must call."""
        if self._state is None:
            super().load_model_state_dict(state_dict, strict=strict, revise_keys=revise_keys)
            return
        with self._state.gathered():
            super().load_model_state_dict(state_dict, strict=strict, revise_keys=revise_keys)
        self._state.take_weights(revised(state_dict, revise_keys))

    def optim_state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer by the names of weights. Every rank must call.

        It is on rank 0, and without gradients that DeepSpeed accumulates.
        """
        if self._state is None:
            return super().optim_state_dict()
        engine = self._state.engine
        every = int(engine.gradient_accumulation_steps())
        done = engine.micro_steps % every
        if done:
            self.logger.warning(
                f"saved in the middle of an accumulation: DeepSpeed keeps the gradients of the last "
                f"{done} iterations to itself, and a run that is resumed from here loses them. Save "
                f"after a multiple of gradient_accumulation_steps={every}"
            )
        state = self._state.optimizer(keep=is_main_process())
        return {**state, **self.optim_wrapper.extra_state_dict()}

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the optimizer, whole, that any strategy has saved. Every rank must call."""
        if self._state is None:
            super().load_optim_state_dict(state_dict)
            return
        self._state.load_optimizer(state_dict)
        own = ("base_param_settings",)
        self.optim_wrapper.load_extra_state_dict(
            {key: state_dict[key] for key in own if key in state_dict}
        )


@MODEL_WRAPPERS.register_module()
class DeepSpeedModel(nn.Module):
    """A DeepSpeed engine with the methods that loops call. ``module`` is the model in the engine.

    Args:
        engine: What ``deepspeed.initialize`` returned.
        inputs_to_half: Names or positions of the inputs that are cast; None casts all floats.
    """

    engine: Any

    def __init__(self, engine: Any, inputs_to_half: list[int | str] | None = None) -> None:
        super().__init__()
        self.module = engine.module
        # No part of this module: the model is there once.
        self.__dict__["engine"] = engine
        self.inputs_to_half = inputs_to_half

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the engine."""
        return self.engine(*args, **kwargs)

    def train(self, mode: bool = True) -> DeepSpeedModel:
        """Set the mode of the engine and its model."""
        self.training = mode
        self.engine.train(mode)
        return self

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, torch.Tensor]:
        """Train on one batch."""
        inner: Any = self.module
        losses = self._run_forward(inner.data_preprocessor(data, True), "loss")
        loss, log_vars = inner.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return log_vars

    def val_step(self, data: Any) -> Any:
        """Return the predictions for one batch."""
        inner: Any = self.module
        return self._run_forward(inner.data_preprocessor(data, False), "predict")

    def test_step(self, data: Any) -> Any:
        """Return the predictions for one batch."""
        return self.val_step(data)

    def _run_forward(self, data: Any, mode: str) -> Any:
        data = self._cast(data)
        if isinstance(data, dict):
            return self(**data, mode=mode)
        if isinstance(data, list | tuple):
            return self(*data, mode=mode)
        raise TypeError(
            "Output of `data_preprocessor` should be list, tuple or dict, "
            f"but got {type(data).__name__}"
        )

    def _cast(self, data: Any) -> Any:
        dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), None)
        if dtype in (None, torch.float32):
            return data
        wanted = self.inputs_to_half

        def cast(key: int | str, value: Any) -> Any:
            if wanted is not None and key not in wanted:
                return value
            is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
            return value.to(dtype) if is_float else value

        if isinstance(data, dict):
            return {key: cast(key, value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return type(data)(cast(i, value) for i, value in enumerate(data))
        return data


def _let_engine_step(optim_wrapper: Any, engine: Any) -> None:
    """Replace backward pass and step of an optimizer wrapper: the engine counts accumulation."""

    def update_params(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        engine.backward(loss)
        # Where schedulers have put what counts its calls.
        optim_wrapper.step()

    def step(**kwargs: Any) -> None:
        engine.step()

    optim_wrapper.update_params = update_params
    optim_wrapper.backward = engine.backward
    optim_wrapper.step = step
    optim_wrapper.zero_grad = engine.zero_grad


def _read(config: str | dict[str, Any] | None) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(copy.deepcopy(config))
    if not isinstance(config, str | os.PathLike):
        raise TypeError(
            f"config of DeepSpeedStrategy should be a dict or a path, but got {config!r}"
        )
    return dict(json.loads(Path(config).read_text()))
