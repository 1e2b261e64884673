"""Gradients of an accumulation that is under way, saved so that any layout of ranks can take them up.

Until the iteration that ends in a step, each share of the data has a sum of its own, and the step is
taken on their mean. A checkpoint holds the sums of all shares: the same number of shares goes on with
them, to the same bits whatever the strategy; another number goes on with their mean, on each of them,
which leads to the same step but for the order of the sum.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmx.checkpoint import unwrap
from mmx.dist import (
    all_gather_object,
    data_share,
    gather_object,
    get_dist_info,
    get_model_parallel_size,
    get_rank,
)
from mmx.logging import print_log
from mmx.utils.errors import InvalidValueError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

# Where the sums of all shares of the data are, in the state of an optimizer wrapper.
ENTRY, SUMS = "accumulation", "sums"
_TENSOR = "tensor"


class Accumulation:
    """The sums of gradients of one model, on the ranks as they are now.

    Args:
        model: The model.
        mesh: All ranks, in their order; its axis ``tensor``, if it has one, is that of the ranks
            that split layers. None if the model is whole on each rank and saved by rank 0.
    """

    def __init__(self, model: nn.Module, mesh: DeviceMesh | None = None) -> None:
        self._share, self._shares = data_share(*get_dist_info())
        self._mesh = mesh
        names = (mesh.mesh_dim_names or ()) if mesh is not None else ()
        self._tensor = mesh[_TENSOR] if mesh is not None and _TENSOR in names else None
        bare = unwrap(model)
        self._names = {parameter: name for name, parameter in bare.named_parameters()}
        self._waiting = _sharded_parameters(bare) if mesh is not None else {}

    # Saving -------------------------------------------------------------------------------------

    def saved(self, wrapper: Any, stored: dict[str, Any], *, shards: bool) -> dict[str, Any]:
        """Return a wrapper's state of accumulation with the sums of all shares. Every rank must call.

        Args:
            wrapper: The optimizer wrapper.
            stored: Its ``accumulation``, with the gradients of this rank.
            shards: Each rank keeps its own part, as a sharded tensor (share, *shape of the weight);
                otherwise rank 0 gets a list with a dict of whole tensors for each share.
        """
        if stored["gradients"] is None:  # between two accumulations
            return stored
        trained = self._trained(wrapper)
        own = {
            name: self._part(parameter, gradient)
            for (name, parameter), gradient in zip(
                trained.items(), stored["gradients"], strict=True
            )
        }
        result = {
            **stored,
            "gradients": None,
            "counts": getattr(wrapper, "_accumulative_counts", None),
            "shares": self._shares,
        }
        if not shards:
            whole = {
                name: self._whole(part, trained[name]).detach().cpu()
                for name, part in own.items()
                if part is not None
            }
            mine = whole if get_rank() % get_model_parallel_size() == 0 else None
            gathered = gather_object(mine)
            result[SUMS] = (gathered or [])[:: get_model_parallel_size()]
            return result
        known = all_gather_object([None if part is None else part.dtype for part in own.values()])
        by_share = dict(
            zip(own, zip(*known[:: get_model_parallel_size()], strict=True), strict=True)
        )
        result["held"] = {
            name: [dtype is not None for dtype in dtypes] for name, dtypes in by_share.items()
        }
        result[SUMS] = {
            name: self._stacked(part, trained[name], next(filter(None, by_share[name])))
            for name, part in own.items()
            if any(result["held"][name])
        }
        return result

    def names_of(self, wrapper: Any) -> set[str]:
        """Return the names of the weights of an optimizer."""
        return set(self._trained(wrapper))

    def _trained(self, wrapper: Any) -> dict[str, nn.Parameter]:
        """Return the weights of an optimizer by name, in its order."""
        params = [param for group in wrapper.optimizer.param_groups for param in group["params"]]
        return {self._names.get(param, f"#{i}"): param for i, param in enumerate(params)}

    def _part(self, parameter: nn.Parameter, gradient: torch.Tensor | None) -> torch.Tensor | None:
        """Return this rank's sum: of the whole weight, or of its part of a layer that is split."""
        found = [gradient] if gradient is not None else []
        found += [g for w in self._waiting.get(parameter, ()) if (g := w.gradient()) is not None]
        total = None
        for each in found:
            part = self._local(each, parameter)
            total = part if total is None else total + part
        return None if total is None else total.detach().clone()

    def _local(self, gradient: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        if not hasattr(gradient, "full_tensor"):
            return gradient
        place = self._place(parameter)
        if place is None:
            return gradient.full_tensor()
        if gradient.device_mesh.ndim == 1:  # type: ignore[attr-defined]  # a DTensor
            return gradient.redistribute(placements=[place]).to_local()  # type: ignore[attr-defined]
        return self._cut(gradient.full_tensor(), self._tensor, [place])

    def _place(self, parameter: nn.Parameter) -> Any:
        """Return how a weight lies on the ranks that split layers, None if each has all of it."""
        mesh = getattr(parameter, "device_mesh", None)
        names = (mesh.mesh_dim_names or ()) if mesh is not None else ()
        if _TENSOR not in names:
            return None
        return parameter.placements[names.index(_TENSOR)]  # type: ignore[attr-defined]  # a DTensor

    def _whole(self, part: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        place = self._place(parameter)
        return part if place is None else self._split(part, parameter, place).full_tensor()

    def _split(self, part: torch.Tensor, parameter: nn.Parameter, place: Any) -> DTensor:
        return _distributed(part, self._tensor, [place], parameter.shape)

    def _stacked(
        self, part: torch.Tensor | None, parameter: nn.Parameter, dtype: torch.dtype
    ) -> torch.Tensor:
        """Return the sums of all shares, (share, *shape), of which each rank holds its own."""
        place = self._place(parameter)
        if part is None:
            local: Any = parameter
            if hasattr(parameter, "full_tensor"):
                whole = torch.empty(parameter.shape, device="meta")
                local = whole if place is None else self._cut(whole, self._tensor, [place])
            part = torch.zeros(local.shape, dtype=dtype, device=parameter.device)
        shape = torch.Size((self._shares, *parameter.shape))
        return _distributed(part[None], self._mesh, self._stacking(place), shape)

    def _stacking(self, place: Any) -> list[Any]:
        from torch.distributed.tensor import Replicate, Shard

        assert self._mesh is not None
        rest = Replicate() if place is None else _behind(place)
        names = self._mesh.mesh_dim_names or ("shard",)
        return [rest if name == _TENSOR else Shard(0) for name in names]

    def layout(self, name: str, shape: torch.Size) -> DTensor | None:
        """Return a tensor that saved sums of a weight are to be read like, None if they are whole.

        Each rank reads the sum of its share, or if there were more or fewer, its shard of each.
        """
        parameter = next((p for p, known in self._names.items() if known == name), None)
        if self._mesh is None or parameter is None or tuple(shape[1:]) != tuple(parameter.shape):
            return None
        if shape[0] == self._shares:
            return _empty(self._mesh, self._stacking(self._place(parameter)), shape)
        if not hasattr(parameter, "full_tensor"):
            return None
        like: Any = parameter
        return _empty(like.device_mesh, [_behind(place) for place in like.placements], shape)

    # Loading ------------------------------------------------------------------------------------

    def take(self, wrapper: Any, stored: Mapping[str, Any], *, scale: float | None = None) -> None:
        """Give the weights of an optimizer the sums that were saved; what does not fit is logged.

        Args:
            wrapper: The optimizer wrapper.
            stored: Its ``accumulation``, of any layout of ranks.
            scale: What the loss was multiplied with; the gradients get the wrapper's own scale. None
                leaves them as they are.

        Raises:
            ValueError: One process saved them without names, of another number of weights.
        """
        trained = self._trained(wrapper)
        sums = _by_share(stored, trained)
        if sums is None:
            return
        counts, own_counts = stored.get("counts"), getattr(wrapper, "_accumulative_counts", None)
        if counts is not None and counts != own_counts:
            _warn(
                f"the gradients of the {stored['inner_count'] % counts} iterations after the last "
                f"step are lost: they were accumulated with accumulative_counts={counts}, this run "
                f"has {own_counts}"
            )
            return
        for parameter in trained.values():
            parameter.grad = None
            for waiting in self._waiting.get(parameter, ()):
                waiting.put(None)
        lost = sorted(_names_of(sums) - set(trained))
        for name, parameter in trained.items():
            if not parameter.requires_grad:
                continue
            try:
                self._give(parameter, sums, name, stored.get("held", {}).get(name))
            except ValueError:
                lost.append(name)
        if lost:
            shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
            _warn(
                "accumulated gradients are lost, as this run trains no weights of their names and "
                f"shapes: {shown}. The next step is taken without them"
            )
        scaler = getattr(wrapper, "loss_scaler", None)
        own_scale = float(scaler.get_scale()) if scaler is not None else 1.0
        if scale is not None and scale != own_scale:
            for parameter in trained.values():
                self._multiply(parameter, own_scale / scale)
        wrapper.has_resumed_gradients = True

    def _multiply(self, parameter: nn.Parameter, factor: float) -> None:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)
        for waiting in self._waiting.get(parameter, ()):
            gradient = waiting.gradient()
            if gradient is not None:
                waiting.put(gradient * factor)

    def _give(self, parameter: nn.Parameter, sums: Any, name: str, held: list[bool] | None) -> None:
        if isinstance(sums, list):
            if len(sums) == self._shares:
                self._give_own(parameter, sums[self._share].get(name))
                return
            found = [share[name] for share in sums if name in share]
            mean = sum(found[1:], found[0].clone()) / len(sums) if found else None
            self._give_mean(parameter, mean)
            return
        stacked = sums.get(name)
        if stacked is None:
            return
        if tuple(stacked.shape[1:]) != tuple(parameter.shape):
            raise ValueError
        is_part = hasattr(stacked, "full_tensor")
        if stacked.shape[0] == self._shares:
            if held is not None and not held[self._share]:
                return
            local = stacked.to_local()[0] if is_part else stacked[self._share]
            self._give_own(parameter, local, is_part=is_part)
            return
        if not is_part:
            self._give_mean(parameter, stacked.mean(0))
            return
        like: Any = parameter
        mean = stacked.to_local().mean(0).to(parameter.dtype)
        parameter.grad = _distributed(mean, like.device_mesh, like.placements, parameter.shape)

    def _give_own(
        self, parameter: nn.Parameter, gradient: torch.Tensor | None, *, is_part: bool = False
    ) -> None:
        """Give a weight the sum of this rank's share, whole or this rank's part of it."""
        if gradient is None:
            return
        place = self._place(parameter)
        if not is_part:
            if gradient.shape != parameter.shape:
                raise ValueError
            if place is not None:
                gradient = self._cut(gradient, self._tensor, [place])
        waiting = self._waiting.get(parameter)
        dtype = waiting[0].dtype if waiting else parameter.dtype
        device = waiting[0].device if waiting else parameter.device
        own: Any = gradient.to(device, dtype, copy=True).contiguous()
        if place is not None:
            own = self._split(own, parameter, place)
        if waiting:
            waiting[0].put(own)
        else:
            parameter.grad = own

    def _give_mean(self, parameter: nn.Parameter, mean: torch.Tensor | None) -> None:
        """Give a weight the mean over all shares, on each rank its shard."""
        if mean is None:
            return
        if mean.shape != parameter.shape:
            raise ValueError
        own: Any = mean.to(parameter.device, parameter.dtype)
        if hasattr(parameter, "full_tensor"):
            like: Any = parameter
            own = self._cut(own, like.device_mesh, like.placements).contiguous()
            own = _distributed(own, like.device_mesh, like.placements, parameter.shape)
        parameter.grad = own

    @staticmethod
    def _cut(whole: torch.Tensor, mesh: Any, placements: Any) -> torch.Tensor:
        """Return this rank's part of a whole tensor, without asking other ranks."""
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        sizes, offsets = compute_local_shape_and_global_offset(whole.shape, mesh, placements)
        window = tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))
        return whole[window]


class _Waiting:
    """Where ``fully_shard`` keeps the sums of a weight that it has not yet reduced over ranks."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        policy = inner.mp_policy
        self.dtype: torch.dtype = (
            policy.reduce_dtype or policy.param_dtype or inner.sharded_param.dtype
        )
        self.device: torch.device = inner.device

    def gradient(self) -> torch.Tensor | None:
        inner = self._inner
        found: list[torch.Tensor] = []
        if inner.unsharded_accumulated_grad is not None:
            found.append(inner.unsharded_accumulated_grad)
        unsharded = getattr(inner, "_unsharded_param", None)  # made by the first forward pass
        if unsharded is not None and unsharded.grad is not None:
            found.append(unsharded.grad)
        return sum(found[1:], found[0]) if found else None

    def put(self, gradient: torch.Tensor | None) -> None:
        self._inner.unsharded_accumulated_grad = gradient
        unsharded = getattr(self._inner, "_unsharded_param", None)
        if unsharded is not None:
            unsharded.grad = None


def _sharded_parameters(model: nn.Module) -> dict[nn.Parameter, list[_Waiting]]:
    found: dict[nn.Parameter, list[_Waiting]] = {}
    for module in model.modules():
        if not hasattr(module, "_get_fsdp_state"):
            continue
        state = module._get_fsdp_state()  # type: ignore[operator]  # a method of FSDPModule
        groups = getattr(state, "_fsdp_param_groups", None)
        if groups is None:  # torch before 2.13
            groups = [state._fsdp_param_group] if state._fsdp_param_group is not None else []
        for inner in (param for group in groups for param in group.fsdp_params):
            found.setdefault(inner.sharded_param, []).append(_Waiting(inner))
    return found


def _by_share(
    stored: Mapping[str, Any], trained: Mapping[str, Any]
) -> list[dict[str, torch.Tensor]] | dict[str, torch.Tensor] | None:
    """Return saved sums: a list of dicts, one for each share, or name -> (share, *shape)."""
    if SUMS in stored:
        return stored[SUMS]
    alone = stored.get("gradients")
    if alone is None:
        return None
    if len(alone) != len(trained):
        raise InvalidValueError(
            f"the accumulated gradients of {len(alone)} parameters do not fit an optimizer of "
            f"{len(trained)}"
        )
    return [{n: g for n, g in zip(trained, alone, strict=True) if g is not None}]


def _names_of(sums: Any) -> set[str]:
    return set().union(*sums) if isinstance(sums, list) else set(sums)


def _behind(place: Any) -> Any:
    """Return the placement of a tensor that got another axis in front."""
    from torch.distributed.tensor import Shard

    split = getattr(place, "split_factor", None)
    if split is not None:
        return type(place)(place.dim + 1, split_factor=split)
    return Shard(place.dim + 1) if isinstance(place, Shard) else place


def _distributed(local: torch.Tensor, mesh: Any, placements: Any, shape: torch.Size) -> DTensor:
    from torch.distributed.tensor import DTensor

    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=shape, stride=stride)


def _empty(mesh: Any, placements: Any, shape: torch.Size) -> DTensor:
    local = Accumulation._cut(torch.empty(shape, device="meta"), mesh, placements)
    return _distributed(torch.empty(local.shape, device=mesh.device_type), mesh, placements, shape)


def _warn(text: str) -> None:
    print_log(text, logger="current", level=logging.WARNING)
