"""A process group of any number of ranks in one process, and what is sent through it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

Collectives = dict[str, tuple[int, int]]


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward_flops(
    gradient: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> int:
    return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))


def _recurrent_flops(inputs: Any, from_input: Any, from_state: Any, *args: Any, **kw: Any) -> int:
    # Each sample of each time step is multiplied with both matrices.
    return int(2 * math.prod(inputs.shape[:-1]) * (from_input.numel() + from_state.numel()))


# Operations of the CPU that torch's own table has not.
_ATEN = torch.ops.aten
_FLOPS: dict[Any, Any] = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    _ATEN.mkldnn_rnn_layer: _recurrent_flops,
    _ATEN.mkldnn_rnn_layer_backward: lambda *args, **kw: 2 * _recurrent_flops(*args, **kw),
}

_KINDS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all")
_WAITS = ("wait", "_wrap", "barrier")


@contextmanager
def pretended_ranks(ranks: int) -> Iterator[None]:
    """Be rank 0 of so many in a block: its collectives return at once, and send nothing.

    Raises:
        RuntimeError: There is a process group already.
    """
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from mmx.dist import set_model_parallel_size

    if dist.is_initialized():
        raise RuntimeError(
            "a plan pretends to be one of many ranks, which it cannot within a process group; "
            "make it in a process of its own"
        )
    # With its store, as torch's first versions that have this backend want it.
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
        set_model_parallel_size(1)


class Recorder(TorchDispatchMode):
    """Counts collectives and floating-point operations in a block.

    Attributes:
        collectives: Kind -> (calls, bytes of the whole tensors that they work on).
        flops: Floating-point operations, those of parts of tensors where tensors are split.
    """

    def __init__(self) -> None:
        super().__init__()
        self.collectives: Collectives = {}
        self.flops = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count it."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again, with the parts of this rank
        given = dict(kwargs or {})
        out = func(*args, **given)
        if func.namespace in ("c10d", "_c10d_functional", "_dtensor"):
            self._count(func._opname, args, out)
        elif func._overloadpacket in _FLOPS:
            counted = _FLOPS[func._overloadpacket](*args, **given, out_val=out)
            self.flops += int(counted)
        return out

    def _count(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        if name.startswith(_WAITS):
            return
        plain = name.replace("_", "")
        kind = next((k for k in _KINDS if k.replace("_", "") in plain), None)
        if kind is None:
            return
        # In the operations of torch.distributed the output comes first, then the input.
        in_place = name.endswith("_")
        if kind == "all_gather":
            whole = args[0] if in_place else out
        elif kind == "reduce_scatter":
            whole = args[1] if in_place else args[0]
        else:
            whole = args[0]
        size = sum(t.nbytes for t in tree_leaves(whole) if isinstance(t, torch.Tensor))
        calls, total = self.collectives.get(kind, (0, 0))
        self.collectives[kind] = (calls + 1, total + size)
