"""Data parallelism: each process holds the whole model and a share of the batch."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel.distributed import DistributedDataParallel

from mmx.model.base_model import BaseDataPreprocessor
from mmx.model.utils import detect_anomalous_params
from mmx.registry import MODEL_WRAPPERS

# Names of ways to make gradients smaller while they travel -> where torch has them.
_COMPRESSIONS = ("fp16", "bf16", "powerSGD")


class UnusedParametersError(RuntimeError):
    """Parameters had no part in the loss, so that the ranks still wait for their gradients.

    Attributes:
        names: Names of the parameters; empty where torch does not tell which.
    """

    def __init__(self, names: list[str]) -> None:
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        super().__init__(
            f"{shown or 'some parameters'} had no part in the loss of the iteration before, but the gradients of all "
            "are averaged over ranks. Let the loss use them, set requires_grad=False, or pass "
            "find_unused_parameters=True, which looks for them in each iteration"
        )
        self.names = names


@MODEL_WRAPPERS.register_module()
class MMDistributedDataParallel(DistributedDataParallel):
    """:class:`torch.nn.parallel.DistributedDataParallel` with the steps of :class:`BaseModel`.

    Args:
        module: Model.
        detect_anomalous_params: Log the parameters that have no part in the loss, each iteration.
            Slow: for finding out why training hangs.
        gradient_compression: ``'fp16'``, ``'bf16'`` or ``'powerSGD'``: how gradients are made
            smaller while they travel; or a dict of that as ``type`` and the arguments of torch's
            ``PowerSGDState``. None sends them as they are.
        **kwargs: As for torch's class.

    Raises:
        ValueError: There is no such compression.
    """

    def __init__(
        self,
        module: nn.Module,
        detect_anomalous_params: bool = False,
        gradient_compression: str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        with _compiler_stays_unimported():
            super().__init__(module=module, **_renamed(kwargs))
        self.detect_anomalous_params = detect_anomalous_params
        if gradient_compression is not None:
            compress_gradients(self, gradient_compression)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Learn from one batch; see :meth:`mmx.model.BaseModel.train_step`."""
        # Read where modules lie: attributes of a module are found there last.
        model: Any = self._modules["module"]
        # Gradients are synchronised only in those iterations that update weights.
        context = optim_wrapper.optim_context(self)
        if context.__class__ is nullcontext:
            losses = self._run_forward(_preprocessed(model, data), mode="loss")
        else:
            with context:
                losses = self._run_forward(_preprocessed(model, data), mode="loss")
        parsed_loss, log_vars = model.parse_losses(losses)
        optim_wrapper.update_params(parsed_loss)
        if self.detect_anomalous_params:
            detect_anomalous_params(parsed_loss, model=self)
        return log_vars

    def val_step(self, data: Any) -> Any:
        """Return predictions; the model itself runs, without synchronisation."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> Any:
        """Return predictions; the model itself runs, without synchronisation."""
        return self.module.test_step(data)

    def _run_forward(self, data: dict[str, Any] | tuple[Any, ...] | list[Any], mode: str) -> Any:
        try:
            return self._forward_with(data, mode)
        except RuntimeError as error:
            better = self.explain(error)
            if better is None:
                raise
            raise better from error

    def explain(self, error: RuntimeError) -> UnusedParametersError | None:
        """Return what an error of a forward pass means, None if it speaks for itself."""
        if "Expected to have finished reduction" not in str(error):
            return None
        return UnusedParametersError(_unused(self, str(error)))

    def _run_ddp_forward(self, *inputs: Any, **kwargs: Any) -> Any:
        # Torch tells its compiler for the time of the call which model it is in, by an attribute of
        # the class, after which Python looks up all attributes of all such models anew. That makes
        # an iteration tens of microseconds longer, and tells nobody where nothing is compiled.
        if getattr(self, "_use_python_reducer", True) or _anything_is_compiled():
            return super()._run_ddp_forward(*inputs, **kwargs)
        return self._modules["module"](*inputs, **kwargs)  # type: ignore[misc]  # not None

    def _forward_with(self, data: dict[str, Any] | tuple[Any, ...] | list[Any], mode: str) -> Any:
        if isinstance(data, dict):
            return self(**data, mode=mode)
        if isinstance(data, (list, tuple)):
            return self(*data, mode=mode)
        raise TypeError(
            f"Output of `data_preprocessor` should be list, tuple or dict, but got {type(data)}"
        )


def _preprocessed(model: nn.Module, data: Any) -> Any:
    preprocess: Any = model._modules.get("data_preprocessor") or model.data_preprocessor
    if preprocess.__class__ is BaseDataPreprocessor and preprocess.leaves_as_is(data):
        return dict(data)
    return preprocess(data, training=True)


def _anything_is_compiled() -> bool:
    """Tell whether anything in this process is to be compiled, as far as one can see."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    if compiler is None:
        return False
    backends: Any = getattr(compiler, "cached_backends", None)
    # What torch keeps from being compiled is there as well, with None.
    return backends is None or any(backend is not None for backend in backends.values())


class _Compiler:
    """``torch._dynamo`` before its import: tells its setting for DDP, and is imported for all else."""

    def __init__(self) -> None:
        self.utils = _CompilerUtils()

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("torch._dynamo"), name)


class _CompilerUtils:
    def get_optimize_ddp_mode(self) -> str:
        if "torch._dynamo" in sys.modules:
            return str(importlib.import_module("torch._dynamo.utils").get_optimize_ddp_mode())
        # The setting has its default: only the compiler's own import makes it one that can be set.
        return "ddp_optimizer"

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("torch._dynamo.utils"), name)


@contextmanager
def _compiler_stays_unimported() -> Iterator[None]:
    """Keep torch from importing its compiler, for more than a second, to wrap a model.

    torch does so to read one of the compiler's settings. The first step of an optimizer imports it
    later, when the run has begun and checks have passed; so does compiling a model. Where the
    compiler is there already, or a torch does not read that setting, nothing is changed.
    """
    code = getattr(DistributedDataParallel.__init__, "__code__", None)
    asks = code is not None and "get_optimize_ddp_mode" in code.co_names
    if not asks or "torch._dynamo" in sys.modules or "_dynamo" in vars(torch):
        yield
        return
    compiler = _Compiler()
    vars(torch)["_dynamo"] = compiler
    try:
        yield
    finally:
        if vars(torch).get("_dynamo") is compiler:  # else imported meanwhile
            del vars(torch)["_dynamo"]


@functools.cache
def _knows_forward_sync() -> bool:
    return "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters


def _renamed(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of torch's class under the names that this version of torch wants.

    From torch 2.13 on ``broadcast_buffers`` is ``forward_sync_buffers``. Buffers of all ranks are made
    equal when the model is wrapped, then, also where they are not in each iteration.
    """
    if not _knows_forward_sync() or kwargs.get("broadcast_buffers") is None:
        return kwargs
    renamed = dict(kwargs)
    renamed.setdefault("forward_sync_buffers", renamed.pop("broadcast_buffers"))
    renamed.pop("broadcast_buffers", None)
    return renamed


def compress_gradients(model: DistributedDataParallel, compression: str | dict[str, Any]) -> None:
    """Let a wrapped model make its gradients smaller while they travel between ranks.

    Args:
        model: The model.
        compression: As for :class:`MMDistributedDataParallel`.

    Raises:
        ValueError: There is no such compression.
        TypeError: It takes no arguments.
    """
    options = {"type": compression} if isinstance(compression, str) else dict(compression)
    kind = options.pop("type", None)
    if kind not in _COMPRESSIONS:
        raise ValueError(
            f"gradient_compression should be one of {', '.join(_COMPRESSIONS)}, but got {kind!r}"
            # Its matrices are not of the shape that torch's own check wants.
            + (", torch's hook for which fails" if kind == "batched_powerSGD" else "")
        )
    if kind in ("fp16", "bf16"):
        if options:
            raise TypeError(f"gradient_compression {kind!r} takes no arguments, but got {options}")
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        hook: Any = getattr(default_hooks, f"{kind}_compress_hook")
        if kind == "bf16" and model.device.type == "cpu":
            # Known by its name, torch refuses it without NCCL; gloo adds up bfloat16 as well.
            model.register_comm_hook(None, lambda group, bucket: hook(group, bucket))
            return
        model.register_comm_hook(None, hook)
        return
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

    state = powerSGD_hook.PowerSGDState(process_group=None, **options)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)


def _unused(model: DistributedDataParallel, text: str) -> list[str]:
    """Return the names of the parameters whose numbers torch's error tells."""
    found = re.search(r"did not receive grad for rank \d+: ([\d ]+)", text)
    if found is None:
        return []
    ignored = set(getattr(model, "parameters_to_ignore", ()))
    # In the order in which torch numbers them: shared ones once, by their first name.
    names = [
        name
        for name, parameter in model.module.named_parameters()
        if parameter.requires_grad and name not in ignored
    ]
    return [names[int(index)] for index in found[1].split() if int(index) < len(names)]
