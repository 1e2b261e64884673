"""What is usual: the methods that quiet iterations do the work of, and models that have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from mmx.evaluator import Evaluator
from mmx.model import BaseDataPreprocessor, BaseModel, MMDistributedDataParallel
from mmx.optim import OptimWrapper


def _methods(cls: type, *names: str) -> dict[str, Any]:
    """Return methods as they are defined, whatever is put in their place later."""
    return {name: vars(cls)[name] for name in names}


# What is done here instead of calling it.
CALL = _methods(nn.Module, "__call__", "_wrapped_call_impl", "_call_impl")
TRAIN_STEP = _methods(BaseModel, "train_step", "parse_losses", "_run_forward")
PREDICT = {
    mode: _methods(BaseModel, f"{mode}_step", "_predict", "_run_forward")
    for mode in ("val", "test")
}
UPDATE = _methods(
    OptimWrapper,
    *("optim_context", "update_params", "scale_loss", "backward", "should_update", "step"),
    "zero_grad",
)
PROCESS = _methods(Evaluator, "process")
OF_WRAPPER = _methods(
    MMDistributedDataParallel,
    *("train_step", "val_step", "test_step", "_run_forward", "_forward_with"),
)
# Of a model's methods, those that may have been replaced on the instance.
_OF_MODEL = TRAIN_STEP.keys() | PREDICT["val"].keys() | PREDICT["test"].keys()
# Others may have put something in the place of torch's own before this module was imported.
_IS_TORCHS_CALL = all(c.__code__.co_filename == torch_module.__file__ for c in CALL.values())


def unwrapped(model: Any) -> Any:
    """Return the model in a wrapper of data parallelism, or the model itself."""
    return model._modules["module"] if type(model) is MMDistributedDataParallel else model


def plain_call(model: Any, trains: bool) -> Any:
    """Return what calls a model with its batches as they are; None if they do not stay so.

    Args:
        model: Of usual classes; it may be wrapped for data parallelism.
        trains: The call is one of training, so that it goes through the wrapper.
    """
    module = unwrapped(model)
    preprocess: Any = module._modules.get("data_preprocessor")
    if (
        preprocess.__class__ is not BaseDataPreprocessor
        or not preprocess.leaves_as_is({})  # which looks for global hooks of modules, too
        or not vars(module).keys().isdisjoint(_OF_MODEL)
    ):
        return None
    if module is model:
        return _shortest_call(model)
    if model.detect_anomalous_params or not vars(model).keys().isdisjoint(OF_WRAPPER):
        return None
    return _shortest_call(model if trains else module)


def _shortest_call(module: nn.Module) -> Any:
    """Return the ``forward`` of a module if a call of it does no more, else the module."""
    does_more = (
        module._compiled_call_impl is not None
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or not _IS_TORCHS_CALL
        or torch._C._get_tracing_state()
    )
    return module if does_more else module.forward
