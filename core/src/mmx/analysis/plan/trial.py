"""An iteration, tried without memory, else for real with few samples."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmx.analysis.plan.build import Batch
from mmx.analysis.plan.layout import Layout
from mmx.analysis.plan.passes import Passes, measured, prepare_types, run_passes

# Models with more bytes of weights are not run for real where they do not run without memory.
_LARGEST_REAL = 2 << 30


@dataclass(frozen=True)
class Trial:
    """What the passes of an iteration took, and how that was found.

    Attributes:
        passes: None if it is not known.
        without_recompute: The same if nothing were computed again.
        notes: What the reader should know.
    """

    passes: Passes | None
    without_recompute: Passes | None
    notes: tuple[str, ...]


def try_passes(
    model: nn.Module,
    layout: Layout,
    batch: Batch | None,
    size: int,
    build_real: Callable[[], nn.Module] | None,
) -> Trial:
    """Run an iteration without memory; if that fails, for real with few samples."""
    if batch is None:
        return Trial(None, None, ("activations and times are unknown without a batch",))
    precision = layout.precision
    if layout.sharded_precision is not None and layout.shards(layout.data_ranks):
        precision = layout.sharded_precision
    sync_bn = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    if sync_bn:
        from mmx.model import revert_sync_batchnorm

        model = revert_sync_batchnorm(copy.deepcopy(model))

    def passes(recompute: tuple[str, ...]) -> Passes:
        call = batch(size)
        return run_passes(
            model, call, recompute=recompute, precision=precision, prepare=layout.split
        )

    try:
        found = passes(layout.recompute)
        plain = passes(()) if layout.recompute else None
        return Trial(found, plain, ())
    except Exception as error:  # noqa: BLE001  # a model may fail in any way
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    unknown = f"activations and times are unknown: the model does not run without memory: {reason}"
    if build_real is None or layout.tensor_plan:
        return Trial(None, None, (unknown,))
    weights = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    if weights > _LARGEST_REAL:
        why = f"{weights / 1e9:.3g} GB of weights are too many to run it for real instead"
        return Trial(None, None, (f"{unknown}; {why}",))
    try:
        found = real_passes(build_real, layout.recompute, precision, batch, size)
        plain = real_passes(build_real, (), precision, batch, size) if layout.recompute else None
    except Exception as error:  # noqa: BLE001  # as above
        text = f"{type(error).__name__}: {error}"
        return Trial(None, None, (f"{unknown}. Run on the CPU it ends in {text}",))
    note = f"the model does not run without memory ({reason}), so that it was run on the CPU"
    return Trial(found, plain, (note + (", with 2 and 3 samples" if size > 3 else ""),))


def real_passes(
    build: Callable[[], nn.Module],
    recompute: tuple[str, ...],
    precision: Any,
    batch: Batch,
    size: int,
) -> Passes:
    """Run iterations for real, with 2 and 3 samples if there are more, and extend them."""
    sizes = [size] if size <= 3 else [2, 3]
    found = []
    for n in sizes:
        model = build().train()
        prepare_types(model, recompute, precision)
        found.append(measured(model, batch(n), recompute, precision))
    if len(found) == 1:
        return found[0]
    few, more = found

    def extended(name: str) -> int:
        low, high = getattr(few, name), getattr(more, name)
        return int(low + (high - low) * (size - sizes[0]))

    return Passes(extended("kept"), extended("flops"), extended("forward_flops"), order=more.order)
