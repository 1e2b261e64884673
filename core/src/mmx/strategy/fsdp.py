"""Weights, gradients and optimizer state sharded over the ranks (PyTorch's ``fully_shard``)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_

from mmx.device import get_device
from mmx.dist import get_data_group, get_world_size, is_distributed
from mmx.dist.failures import watching_more
from mmx.dist.utils import keep_timeout
from mmx.optim import OptimWrapperDict
from mmx.registry import FUNCTIONS, STRATEGIES
from mmx.strategy.activation_checkpointing import turn_on_activation_checkpointing
from mmx.strategy.base import STRIP_WRAPPER, ReviseKeys, revised, without_sums
from mmx.strategy.clipping import clip_sharded_norm_
from mmx.strategy.distributed import DDPStrategy
from mmx.strategy.naming import state_by_name
from mmx.strategy.replicas import (
    keep_random_states,
    make_copies_equal,
    own_random_numbers,
    take_from_first_rank,
)
from mmx.strategy.scaling import SplitGradScaler
from mmx.utils.errors import InvalidValueError

_OWN_KEYS = (
    "auto_wrap_policy",
    "shard",
    "min_num_params",
    "reshard_after_forward",
    "mixed_precision",
    "cpu_offload",
)


@STRATEGIES.register_module()
class FSDPStrategy(DDPStrategy):
    """Fully sharded data parallel training.

    The model stays what it is: its modules are sharded in place. A run saved on N ranks goes on on
    M, or on a single device, from whole checkpoints as from sharded ones.

    Args:
        model_wrapper: How to shard: ``shard`` (names or classes' names of the modules to shard
            one by one) or ``auto_wrap_policy`` (a function from a module to a bool, or a dict
            with its registered ``type``) or ``min_num_params`` (modules of at least so many
            weights, less those of sharded parts), ``reshard_after_forward``, ``mixed_precision``
            (``dict(param_dtype='bfloat16', reduce_dtype='float32')``) and ``cpu_offload`` (True, or
            ``dict(pin_memory=...)``: weights, gradients and optimizer state wait in the memory of
            the host). Without any, each child of a module list and the model itself are sharded.
        skip_init_weights: Do not call the model's ``init_weights``, as the weights are loaded
            anyway.
        state_dict_cfg: ``'full'`` or ``'local'``: checkpoints hold the whole weights and optimizer
            state, gathered on rank 0; ``'sharded'``: a folder that each rank writes its part of.
            Or a dict with ``state_dict_type`` of these.
        activation_checkpointing: Names of modules that recompute their activations, or
            ``dict(modules=[...])``.
        tensor_parallel: ``dict(size=2, plan={'layers.*.up': 'colwise', 'layers.*.down':
            'rowwise'})``: the layers that a pattern names are split over each ``size`` neighbouring
            ranks (by default all), which get the same samples; the weights are sharded over the
            others. A style is ``colwise``, ``rowwise`` or ``sequence``, or a dict with its ``type``
            and the layouts it takes (``'replicate'``, ``'shard(-1)'``); or ``random`` for dropout
            whose input is split, so that each part is dropped at places of its own.
        replicate: How many copies of the sharded weights there are: the ranks, or with
            ``tensor_parallel`` the sets of them, are parted into so many neighbouring groups. Each
            shards the weights over its own ranks, and gradients are averaged over the groups (HSDP).
            -1: each has all weights and nothing is sharded.
        **kwargs: As for :class:`~mmx.strategy.BaseStrategy`.

    All ranks begin with the weights and buffers of rank 0. A model on the meta device gets its
    memory after it was sharded: each rank makes only its part, with the values of
    ``reset_parameters`` of the layers and then of the model's ``init_weights``.

    Raises:
        ValueError: An argument is none of the above.
    """

    sharded = True

    def __init__(
        self,
        *,
        model_wrapper: dict[str, Any] | None = None,
        skip_init_weights: bool = False,
        state_dict_cfg: str | dict[str, Any] = "local",
        activation_checkpointing: dict[str, Any] | list[str] | None = None,
        tensor_parallel: dict[str, Any] | None = None,
        replicate: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_wrapper=model_wrapper, state_dict_cfg=state_dict_cfg, **kwargs)
        unknown = set(model_wrapper or {}) - {*_OWN_KEYS, "type"}
        if unknown:
            raise ValueError(
                f"model_wrapper of FSDPStrategy takes {', '.join(_OWN_KEYS)}, but it has "
                f"{', '.join(sorted(unknown))}"
            )
        self.skip_init_weights = skip_init_weights
        self._weights_are_ready = skip_init_weights
        self.activation_checkpointing = activation_checkpointing
        self.tensor_parallel_size = 1
        self._plan: dict[str, Any] = {}
        if tensor_parallel is not None:
            from mmx.strategy.tensor_parallel import check_plan

            size, self._plan = check_plan(tensor_parallel)
            self.tensor_parallel_size = size if size is not None else get_world_size()
            if get_world_size() % self.tensor_parallel_size:
                raise InvalidValueError(
                    f"tensor_parallel.size={size} does not divide the {get_world_size()} processes"
                )
        self._hold_copies_together(self.tensor_parallel_size)
        sets = get_world_size() // self.tensor_parallel_size
        self.replicate = sets if replicate == -1 else replicate
        if isinstance(replicate, bool) or not isinstance(replicate, int) or self.replicate < 1:
            raise InvalidValueError(
                f"replicate must be a positive number of copies or -1, but got {replicate!r}"
            )
        if sets % self.replicate:
            raise InvalidValueError(
                f"replicate={replicate} does not divide the {sets} "
                + ("ranks" if self.tensor_parallel_size == 1 else "sets of ranks that split layers")
            )

    def convert_model(self, model: nn.Module) -> nn.Module:
        """Return the model as :class:`DDPStrategy` does, batch statistics counting samples once."""
        model = super().convert_model(model)
        if self.tensor_parallel_size > 1:
            for module in model.modules():
                if isinstance(module, nn.SyncBatchNorm) and module.process_group is None:
                    module.process_group = get_data_group()
        return model

    def _init_model_weights(self, model: nn.Module) -> nn.Module:
        # Once, and before the weights are sharded: initialisers see whole tensors.
        if self._weights_are_ready:
            return model
        self._weights_are_ready = True
        return super()._init_model_weights(model)

    def wrap_model(
        self, model: nn.Module, model_wrapper_cfg: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Shard the model of rank 0 in place over all ranks."""
        if not is_distributed():
            raise RuntimeError(
                "FSDPStrategy shards over the ranks of a process group, but there is none. Start "
                "with torchrun and launcher='pytorch', or use strategy=dict("
                "type='SingleDeviceStrategy')"
            )
        options = dict(model_wrapper_cfg or self.model_wrapper or {})
        device = get_device()
        on_meta = any(parameter.is_meta for parameter in model.parameters())
        if not on_meta:
            model = self._init_model_weights(model.to(device))
            take_from_first_rank(model)
        self._recompute(model)
        mesh = self._mesh_of_ranks = self._mesh(device.split(":")[0])
        keep_random_states(mesh)
        if self._plan:
            from mmx.strategy.tensor_parallel import parallelize

            parallelize(model, mesh["tensor"], self._plan)
        data = mesh["replicate", "shard"] if self.replicate > 1 else mesh["shard"]
        if data.size() > 1 or not self._plan:
            self._shard(model, options, data)
        if on_meta:
            with own_random_numbers(mesh):
                self._materialise(model.to_empty(device=device))
            make_copies_equal(model, mesh)
        return model

    def _mesh(self, kind: str) -> DeviceMesh:
        """Return all ranks: the copies, the shards of each, and the parts of split layers of these."""
        split, copies = self.tensor_parallel_size, self.replicate
        sizes = {
            "replicate": copies,
            "shard": get_world_size() // (copies * split),
            "tensor": split,
        }
        kept = {
            name: size
            for name, size in sizes.items()
            if size > 1 or name == "shard" or (name == "tensor" and self._plan)
        }
        with watching_more():
            mesh = init_device_mesh(kind, tuple(kept.values()), mesh_dim_names=tuple(kept))
        keep_timeout(mesh.get_all_groups())
        return mesh

    def _shard(self, model: nn.Module, options: Mapping[str, Any], mesh: Any) -> None:
        keywords: dict[str, Any] = {
            "mesh": mesh,
            "reshard_after_forward": options.get("reshard_after_forward", True),
        }
        precision = options.get("mixed_precision")
        if precision:
            policy: dict[str, Any] = {
                k: _dtype(v) if k.endswith("dtype") else v for k, v in precision.items()
            }
            keywords["mp_policy"] = MixedPrecisionPolicy(**policy)
        offload = options.get("cpu_offload")
        if offload:
            given = dict(offload) if isinstance(offload, Mapping) else {}
            given.setdefault("pin_memory", torch.accelerator.is_available())
            keywords["offload_policy"] = CPUOffloadPolicy(**given)
        chosen = _choice(options, model)
        # From the leaves up: a module shards what its own sharded parts have left over.
        for name, module in reversed(list(model.named_modules())):
            if module is not model and chosen(name, module):
                fully_shard(module, **keywords)
        fully_shard(model, **keywords)

    def _materialise(self, model: nn.Module) -> None:
        """Give sharded weights, that have memory but no values yet, those of the initialisers."""
        if self._weights_are_ready:
            return  # they are loaded
        own: list[tuple[str, Any]] = [
            (name, module)
            for name, module in model.named_modules()
            if [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        ]
        bare = [n or "the model" for n, m in own if not hasattr(m, "reset_parameters")]
        if bare and not hasattr(model, "init_weights"):
            raise InvalidValueError(
                f"a model on the meta device needs initialisers, but {', '.join(bare)} has no "
                "reset_parameters() and the model no init_weights(); add one of them, or set "
                "skip_init_weights=True and load the weights"
            )
        for _, module in own:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        self._weights_are_ready = True
        initialise: Any = getattr(model, "init_weights", None)
        if initialise is not None:
            initialise()

    def join(self, model: nn.Module, optim_wrapper: Any) -> nn.Module:
        """Let the optimizer step and clip weights that are sharded over unlike sets of ranks."""
        wrappers = list(self._wrappers_of(optim_wrapper).values())
        counts = [getattr(wrapper, "_accumulative_counts", 1) for wrapper in wrappers]
        for wrapper, count in zip(wrappers, counts, strict=True):
            if count == 1 and max(counts) > 1:
                # One that accumulates leaves the model so that gradients stay where they are.
                own = wrapper.optim_context
                wrapper.optim_context = functools.partial(_reducing_gradients, own)
            self._settle(wrapper)
            if getattr(wrapper, "clip_func", None) is clip_grad_norm_:
                wrapper.clip_func = clip_sharded_norm_
        return super().join(model, optim_wrapper)

    def _settle(self, wrapper: Any) -> None:
        if not self._plan:
            return
        # Its own class alone: others know how they share their decisions.
        if type(getattr(wrapper, "loss_scaler", None)) is torch.amp.GradScaler:
            wrapper.loss_scaler.__class__ = SplitGradScaler
        for group in wrapper.optimizer.param_groups:
            # Steps over many tensors at once take tensors of one mesh only.
            if "foreach" in group:
                group["foreach"] = False

    @staticmethod
    def _wrappers_of(optim_wrapper: Any) -> dict[Any, Any]:
        if isinstance(optim_wrapper, OptimWrapperDict):
            return dict(optim_wrapper.items())
        return {None: optim_wrapper}

    def _recompute(self, model: nn.Module) -> None:
        wanted = self.activation_checkpointing
        if not wanted:
            return
        names = wanted["modules"] if isinstance(wanted, Mapping) else wanted
        turn_on_activation_checkpointing(model, names)

    def _layout(self) -> Callable[[tuple[Any, ...], torch.Size], DTensor | None]:
        """Return the function from a tensor's place in a checkpoint to the weight it is like."""
        own = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if isinstance(parameter, DTensor)
        }

        def like(path: tuple[Any, ...], shape: torch.Size) -> DTensor | None:
            sums = self._layout_of_sums(path, shape)
            if sums is not None:
                return sums
            for part in path[1:]:
                weight = own.get(part.removeprefix("module.")) if isinstance(part, str) else None
                if weight is not None and weight.shape == shape:
                    return weight
            return None

        return like

    def model_state_dict(self) -> dict[str, Any]:
        """Return the weights. Every rank must call.

        These are the whole weights on rank 0 and an empty dict on others, or with
        ``state_dict_cfg='sharded'`` each rank's shards.
        """
        return get_model_state_dict(self.model, options=self._saved_form())

    def _saved_form(self) -> StateDictOptions:
        return StateDictOptions(full_state_dict=not self.saves_shards, cpu_offload=True)

    def load_model_state_dict(
        self,
        state_dict: dict[str, Any],
        *,
        strict: bool = False,
        revise_keys: ReviseKeys = STRIP_WRAPPER,
    ) -> None:
        """Load weights: whole ones, which every rank holds and which are sharded here, or shards."""
        state = revised(state_dict, revise_keys)
        shards = any(isinstance(value, DTensor) for value in state.values())
        options = StateDictOptions(full_state_dict=not shards, strict=strict)
        set_model_state_dict(self.model, state, options=options)

    def optim_state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer, in the form of the weights. Every rank must call."""
        if isinstance(self.optim_wrapper, OptimWrapperDict):
            state = {name: self._state_of(wrapper) for name, wrapper in self.optim_wrapper.items()}
        else:
            state = self._state_of(self.optim_wrapper)
        self._add_sums(state)
        return state

    def _ranks(self) -> Any:
        return self._mesh_of_ranks

    def _state_of(self, wrapper: Any) -> dict[str, Any]:
        optimizer = wrapper.optimizer
        if optimizer.state:
            options = self._saved_form()
            state = dict(get_optimizer_state_dict(self.model, optimizer, options=options))
        else:
            # Of an optimizer without state torch makes one by a step, which counts from then on.
            names = {parameter: name for name, parameter in self.model.named_parameters()}
            groups = [
                {**group, "params": [names[parameter] for parameter in group["params"]]}
                for group in optimizer.param_groups
            ]
            state = {"state": {}, "param_groups": groups}
        return {**state, **wrapper.extra_state_dict()}

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the optimizer: whole, which every rank holds, or shards.

        It is known by the names of weights, or by their numbers where a strategy without shards
        has saved it.
        """
        wrappers = self._wrappers_of(self.optim_wrapper)
        for name, wrapper in wrappers.items():
            given = state_dict if name is None else state_dict[name]
            state = self._by_name({key: given[key] for key in ("state", "param_groups")}, wrapper)
            self._load_state_of(wrapper.optimizer, state)
            self._settle(wrapper)
            extra = {k: v for k, v in given.items() if k not in state}
            wrapper.load_extra_state_dict(without_sums(extra))
        self._take_sums(state_dict)

    def _load_state_of(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Load an optimizer's state by the names of weights."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        if not state["state"]:
            # torch takes none that is empty, as that of SGD without momentum.
            empty = optimizer.state_dict()
            numbers = {
                names[parameter]: number
                for group, numbered in zip(
                    optimizer.param_groups, empty["param_groups"], strict=True
                )
                for parameter, number in zip(group["params"], numbered["params"], strict=True)
            }
            groups = [
                {**group, "params": [numbers[name] for name in group["params"]]}
                for group in state["param_groups"]
            ]
            optimizer.load_state_dict({"state": {}, "param_groups": groups})
            return
        shards = any(
            isinstance(value, DTensor)
            for entry in state["state"].values()
            for value in entry.values()
        )
        known = {name for group in state["param_groups"] for name in group["params"]}
        unstepped = known - set(state["state"])
        options = StateDictOptions(full_state_dict=not shards, strict=not unstepped)
        set_optimizer_state_dict(self.model, optimizer, state, options=options)
        for parameter, name in names.items():
            if name in unstepped:
                # What torch has made up for weights that had no gradients yet.
                optimizer.state.pop(parameter, None)

    def _by_name(self, state: dict[str, Any], wrapper: Any) -> dict[str, Any]:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        groups = wrapper.optimizer.param_groups
        return state_by_name(state, [[names[p] for p in group["params"]] for group in groups])


@STRATEGIES.register_module()
class TensorParallelStrategy(FSDPStrategy):
    """Layers split over ranks by a plan; over several such sets of ranks the weights are sharded.

    Args:
        tensor_parallel: ``dict(size=2, plan={'layers.*.up': 'colwise'})``, see
            :class:`FSDPStrategy`.
        **kwargs: As for :class:`FSDPStrategy`.
    """

    def __init__(self, *, tensor_parallel: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(tensor_parallel=tensor_parallel, **kwargs)


def _reducing_gradients(
    context: Callable[[Any], AbstractContextManager[Any]], model: Any
) -> AbstractContextManager[Any]:
    """Let gradients be averaged over the ranks in the next backward pass."""
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(True)
    return context(model)


def _choice(options: Mapping[str, Any], model: nn.Module) -> Callable[[str, nn.Module], bool]:
    """Return the function (name, module) -> whether the module is sharded by itself."""
    policy: Any = options.get("auto_wrap_policy")
    if isinstance(policy, Mapping):
        arguments = dict(policy)
        kind = arguments.pop("type")
        function: Any = FUNCTIONS.get(kind) if isinstance(kind, str) else kind
        policy = functools.partial(function, **arguments)
    if policy is not None:
        return lambda name, module: bool(policy(module))
    least = options.get("min_num_params")
    if least is not None:
        large = _large_modules(model, int(least))
        return lambda name, module: name in large
    wanted = options.get("shard")
    if wanted is not None:
        return lambda name, module: name in wanted or type(module).__name__ in wanted
    blocks = {
        f"{name}.{child}" if name else child
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        for child, _ in module.named_children()
    }
    return lambda name, module: name in blocks


def _large_modules(model: nn.Module, least: int) -> set[str]:
    """Return the modules that hold ``least`` weights, those of such parts of theirs not counted."""
    large: set[str] = set()
    taken: set[int] = set()
    for name, module in reversed(list(model.named_modules())):
        left = {id(p): p.numel() for p in module.parameters() if id(p) not in taken}
        # Lists and dicts of modules have no forward pass in which to gather weights.
        if sum(left.values()) >= least and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            large.add(name)
            taken.update(left)
    return large


def _dtype(value: Any) -> torch.dtype | None:
    if value is None or isinstance(value, torch.dtype):
        return value
    found = getattr(torch, str(value).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{value!r} is no torch dtype; give 'bfloat16', 'float16' or 'float32'")
    return found
