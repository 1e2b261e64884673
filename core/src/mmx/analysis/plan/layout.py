"""How a config spreads its model over ranks, as its strategy would do it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmx.analysis.plan.build import CannotPlanError
from mmx.analysis.plan.memory import ShardOptions
from mmx.analysis.plan.passes import Precision
from mmx.analysis.plan.traffic import BUCKET, DDPOptions, dtype_of, itemsize_of
from mmx.registry import MODEL_WRAPPERS, STRATEGIES

_SHARED = {"shared": True, "launcher": "pytorch", "timestamp": "plan", "randomness": {}, "seed": 0}


@dataclass(frozen=True)
class Layout:
    """How a model is spread over ranks.

    Attributes:
        strategy: ``'single'``, ``'ddp'`` or ``'fsdp'``.
        ranks: Number of processes.
        ddp: Options of DDP.
        sharding: Options of sharding.
        chosen: Which modules (name, module) are sharded one by one; None shards the model whole.
        tensor_ranks: Neighbouring ranks that hold split layers together.
        tensor_plan: Pattern -> style of the layers that are split.
        precision: Types to compute in, if the weights are not sharded: without those of sharding.
        sharded_precision: Types to compute in, if they are.
        recompute: Names of modules whose activations are computed again.
        accumulation: Iterations per step of the optimizer.
        sync_bn: Batch statistics are synchronised.
        shard: Shards a model in place over a mesh, as the strategy does.
        join: Lets an optimizer wrapper (model, wrapper) step as the strategy wants it.
        copies: Groups of ranks that each shard the weights over their own ranks; None: as many as
            there are ranks (or sets of them that split layers).
        any_ranks: The layout serves other numbers of ranks, too.
    """

    strategy: str
    ranks: int
    ddp: DDPOptions = field(default_factory=DDPOptions)
    sharding: ShardOptions = field(default_factory=ShardOptions)
    chosen: Callable[[str, nn.Module], bool] | None = None
    tensor_ranks: int = 1
    tensor_plan: Mapping[str, Any] = field(default_factory=dict)
    precision: Precision = field(default_factory=Precision)
    sharded_precision: Precision | None = None
    recompute: tuple[str, ...] = ()
    accumulation: int = 1
    sync_bn: bool = False
    shard: Callable[[nn.Module, Any], None] | None = None
    join: Callable[[nn.Module, Any], Any] | None = None
    copies: int | None = 1
    any_ranks: bool = True

    @property
    def data_ranks(self) -> int:
        """Processes that get different samples, or sets of them that share layers."""
        return self.ranks // self.tensor_ranks

    @property
    def unit(self) -> int:
        """Numbers of ranks that are a multiple of this can be laid out so."""
        return self.tensor_ranks * (self.copies or 1)

    def shard_ranks(self, data_ranks: int) -> int:
        """Return over how many of so many ranks (or sets of them) a copy's weights are sharded."""
        return data_ranks // (data_ranks if self.copies is None else self.copies)

    def shards(self, data_ranks: int) -> bool:
        """Tell whether weights are sharded over so many ranks (or sets of them)."""
        # Where all ranks split layers together there is nobody to shard with.
        return self.strategy == "fsdp" and (data_ranks > 1 or not self.tensor_plan)

    def split(self, model: nn.Module) -> None:
        """Split a model's layers in place. Needs the process group of :attr:`ranks`."""
        self._split(model, self._mesh(1))

    def split_and_shard(self, model: nn.Module, most: int | None = None) -> None:
        """Split layers and shard weights in place, as training does.

        Args:
            model: The model.
            most: Shard over no more than so many ranks, for which time grows.
        """
        mesh = self._mesh(most)
        self._split(model, mesh)
        if self.shards(self.data_ranks) and self.shard is not None:
            copied = "replicate" in (mesh.mesh_dim_names or ())
            self.shard(model, mesh["replicate", "shard"] if copied else mesh["shard"])

    def _split(self, model: nn.Module, mesh: Any) -> None:
        if self.tensor_plan:
            from mmx.strategy.tensor_parallel import parallelize

            parallelize(model, mesh["tensor"], self.tensor_plan)

    def _mesh(self, most: int | None = None) -> Any:
        from torch.distributed.device_mesh import DeviceMesh

        shards = self.shard_ranks(self.data_ranks)
        # More copies than two change nothing for one of them.
        sizes = {
            "replicate": min(self.data_ranks // shards, 2),
            "shard": min(shards, most or shards),
            "tensor": self.tensor_ranks,
        }
        kept = {name: size for name, size in sizes.items() if size > 1 or name != "replicate"}
        ranks = torch.arange(math.prod(kept.values())).view(*kept.values())
        return DeviceMesh("cpu", ranks, mesh_dim_names=tuple(kept))


def layout_of(config: Mapping[str, Any], ranks: int, model: nn.Module) -> tuple[Layout, list[str]]:
    """Return (how a config spreads its model over ranks, what a reader should know of it).

    Called within :func:`~mmx.analysis.plan.pretend.pretended_ranks`.

    Raises:
        CannotPlanError: Its strategy or wrapper is not known here.
        ValueError: Its settings are wrong, as training would say.
    """
    notes: list[str] = []
    given = copy.deepcopy(dict(config.get("strategy") or {}))
    if "type" not in given:
        given["type"] = "DDPStrategy"
        given.setdefault("sync_bn", config.get("sync_bn"))
        given.setdefault(
            "model_wrapper", {"find_unused_parameters": config.get("find_unused_parameters", False)}
        )
    given.pop("env_kwargs", None)  # the processes are not there
    kind = given["type"]
    from mmx.strategy import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy

    cls: Any = STRATEGIES.get(kind) if isinstance(kind, str) else kind
    if cls is None or not isinstance(cls, type) or not issubclass(cls, SingleDeviceStrategy):
        raise CannotPlanError(
            f"strategy {kind} is not known here; DDPStrategy, FSDPStrategy, TensorParallelStrategy "
            "and SingleDeviceStrategy are"
        )
    if issubclass(cls, DeepSpeedStrategy):
        raise CannotPlanError(
            "DeepSpeedStrategy cannot be planned: DeepSpeed itself divides weights and state; "
            "FSDPStrategy does the same as its ZeRO stage 3 and can be planned"
        )
    strategy: Any = STRATEGIES.build(given, default_args={"env_kwargs": dict(_SHARED)})
    wrapper = config.get("model_wrapper_cfg")
    common = _common(config, strategy)
    if issubclass(cls, FSDPStrategy):
        options = dict(wrapper or strategy.model_wrapper or {})
        common["sync_bn"] = strategy.sync_bn is not None
        common["copies"] = None if given.get("replicate") == -1 else strategy.replicate
        if ranks == 1:
            notes.append(
                f"{cls.__name__} needs a process group on one rank, too: start it with torchrun and "
                "launcher='pytorch'"
            )
        has_size = (given.get("tensor_parallel") or {}).get("size") is not None
        return _sharded(strategy, options, ranks, model, common, has_size, notes), notes
    if not issubclass(cls, DDPStrategy) and wrapper is None:
        if ranks > 1:
            notes.append(
                f"SingleDeviceStrategy averages no gradients: {ranks} ranks train {ranks} models, "
                "each on its part of the data. For one model use DDPStrategy, or leave strategy out"
            )
        return Layout("single", ranks, **common), notes
    if wrapper is None:
        wrapper = getattr(strategy, "model_wrapper", None)
    ddp = _ddp_options(dict(wrapper or {}), notes)
    return Layout(
        "ddp", ranks, ddp=ddp, sync_bn=getattr(strategy, "sync_bn", None) is not None, **common
    ), notes


def _common(config: Mapping[str, Any], strategy: Any) -> dict[str, Any]:
    recompute = [*_names(config.get("activation_checkpointing"))]
    own = getattr(strategy, "activation_checkpointing", None)
    recompute += [n for n in _names(own) if n not in recompute]
    optim = config.get("optim_wrapper") or {}
    accumulation = optim.get("accumulative_counts", 1) if isinstance(optim, Mapping) else 1
    return {
        "recompute": tuple(recompute),
        "accumulation": int(accumulation),
        "precision": Precision(autocast=_autocast(optim)),
    }


def _names(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        value = value.get("modules")
    return [value] if isinstance(value, str) else list(value or ())


def _autocast(optim: Any) -> torch.dtype | None:
    kind = optim.get("type") if isinstance(optim, Mapping) else None
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    if name.rpartition(".")[2] != "AmpOptimWrapper":
        return None
    # What torch takes on accelerators if nothing is said.
    dtype = dtype_of(optim.get("dtype") or "float16")
    return dtype if dtype in (torch.float16, torch.bfloat16) else None


def _ddp_options(wrapper: dict[str, Any], notes: list[str]) -> DDPOptions:
    kind = wrapper.get("type", "MMDistributedDataParallel")
    cls: Any = MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind
    bases = {base.__name__ for base in getattr(cls, "__mro__", ())}
    if "DistributedDataParallel" not in bases:
        hint = (
            "; FSDPStrategy shards, too, and can be planned"
            if "FullyShardedDataParallel" in bases
            else ""
        )
        raise CannotPlanError(
            f"the wrapper {kind} is not known here, subclasses of DistributedDataParallel are{hint}"
        )
    by_child = "MMSeparateDistributedDataParallel" in bases
    quiet = by_child or cls.__name__ == "MMDistributedDataParallel"
    compression = wrapper.get("gradient_compression")
    hook: dict[str, Any] = (
        {"type": compression} if not isinstance(compression, Mapping) else dict(compression)
    )
    if hook["type"] not in (None, "fp16", "bf16", "powerSGD"):
        raise CannotPlanError(
            f"gradient_compression {hook['type']!r} is not known here; 'fp16', 'bf16' and "
            "'powerSGD' are"
        )
    if hook["type"] == "powerSGD":
        start = hook.get("start_powerSGD_iter", 1000)
        notes.append(f"powerSGD compresses from iteration {start} on; this is a step after it")
    find_unused = bool(wrapper.get("find_unused_parameters")) and not wrapper.get("static_graph")
    sync = wrapper.get("forward_sync_buffers", wrapper.get("broadcast_buffers", not quiet))
    return DDPOptions(
        bucket_cap=int((wrapper.get("bucket_cap_mb") or BUCKET / (1 << 20)) * (1 << 20)),
        bucket_view=bool(wrapper.get("gradient_as_bucket_view", False)),
        compression=hook["type"],
        rank=int(hook.get("matrix_approximation_rank", 1)),
        min_compression_rate=hook.get("min_compression_rate", 2),
        error_feedback=bool(hook.get("use_error_feedback", True)),
        find_unused=find_unused,
        sync_buffers=bool(sync),
        by_child=by_child,
    )


def _sharded(
    strategy: Any,
    options: dict[str, Any],
    ranks: int,
    model: nn.Module,
    common: dict[str, Any],
    has_size: bool,
    notes: list[str],
) -> Layout:
    from mmx.strategy.fsdp import _choice

    policy = dict(options.get("mixed_precision") or {})
    split = int(strategy.tensor_parallel_size)
    precision: Precision = common["precision"]
    chosen = _choice(options, model)
    layout = Layout(
        "fsdp",
        ranks,
        sharding=ShardOptions(
            reshard_after_forward=bool(options.get("reshard_after_forward", True)),
            gathered_itemsize=itemsize_of(policy.get("param_dtype")),
            reduced_itemsize=itemsize_of(policy.get("reduce_dtype")),
            offload=bool(options.get("cpu_offload")),
            keep_gradients=common["accumulation"] > 1,
        ),
        chosen=chosen,
        tensor_ranks=split,
        tensor_plan=strategy._plan,
        sharded_precision=Precision(
            autocast=precision.autocast,
            weights=dtype_of(policy.get("param_dtype")),
            outputs=dtype_of(policy.get("output_dtype")),
            cast_inputs=bool(policy.get("cast_forward_inputs", True)),
            sharded=chosen,
        ),
        shard=lambda module, mesh: strategy._shard(module, options, mesh),
        join=strategy.join,
        any_ranks=has_size or not strategy._plan,
        **common,
    )
    if not layout.shards(layout.data_ranks) and (policy or options.get("cpu_offload")):
        notes.append(
            "all ranks split layers together, so that nothing is sharded: mixed_precision and "
            "cpu_offload of model_wrapper have no effect"
        )
    return layout
