"""Averages of a model's weights over training."""

from __future__ import annotations

import logging
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from copy import deepcopy
from operator import getitem, is_
from typing import Any, Self

import torch
from torch import Tensor, nn

from mmx.logging import print_log
from mmx.registry import MODELS
from mmx.utils.errors import InvalidValueError


def averaged_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the averaged weights of a checkpoint, under the model's own names.

    :class:`mmx.hooks.EMAHook` and MMEngine's save the average as ``state_dict``, because it is what
    a checkpoint is used for, and the weights in training under ``ema_state_dict``; so does a file
    in which nothing was averaged hold its weights in ``state_dict``.

    Args:
        checkpoint: What a checkpoint file holds, or a bare state dict, or the state of a
            :class:`BaseAveragedModel` (``steps`` and ``module.*``).
    """
    state = dict(checkpoint.get("state_dict", checkpoint))
    if "steps" in state and all(key == "steps" or key.startswith("module.") for key in state):
        return {
            key.removeprefix("module."): value for key, value in state.items() if key != "steps"
        }
    return state


def source_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights that were in training when a checkpoint with an average was saved.

    Raises:
        KeyError: The checkpoint holds no average, so that its ``state_dict`` is what was in training.
    """
    if "ema_state_dict" not in checkpoint:
        raise KeyError(
            "the checkpoint holds no 'ema_state_dict': it was saved without EMAHook, "
            "its 'state_dict' is what was in training"
        )
    return {
        key.removeprefix("module."): value
        for key, value in checkpoint["ema_state_dict"].items()
        if key.startswith("module.")
    }


class BaseAveragedModel(nn.Module):
    """Base class of averaged models.

    Holds a copy of a model, ``module``, whose parameters are an average of those of the model; the
    first update copies them. Saved are ``module.*`` and ``steps``, the number of updates seen.

    A subclass says in :meth:`avg_func` how one tensor is averaged. One that can do it for many
    tensors at once also overrides :meth:`avg_many`.

    Args:
        model: The model.
        interval: Average every so many updates.
        device: Where the average is kept; None is where the model is.
        update_buffers: Average buffers, such as statistics of normalisation, like parameters; else
            they are copied from the model at each update.

    Raises:
        ValueError: ``interval`` is not a positive number.
    """

    def __init__(
        self,
        model: nn.Module,
        interval: int = 1,
        device: torch.device | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__()
        if interval < 1:
            raise InvalidValueError(f"interval must be at least 1, but got {interval}")
        self.module = _copy_of(model).requires_grad_(False)
        self.interval = interval
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("steps", torch.tensor(0, dtype=torch.long, device=device))
        self.update_buffers = update_buffers
        # Reading `steps` from an accelerator would wait for it: its number is kept beside it.
        self._count: int | None = None
        self._pairing: _Pairing | None = None

    steps: Tensor

    @property
    def avg_parameters(self) -> dict[str, Tensor]:
        """The averaged tensors by name: parameters and, with ``update_buffers``, buffers."""
        return self._tensors_of(self.module)

    def _tensors_of(self, model: nn.Module) -> dict[str, Tensor]:
        return dict(model.state_dict() if self.update_buffers else model.named_parameters())

    @abstractmethod
    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Update one averaged tensor in place from the model's.

        Args:
            averaged_param: The average.
            source_param: The model's value, on the average's device.
            steps: Number of updates before this one.
        """

    def avg_many(self, averaged: list[Tensor], sources: list[Tensor], steps: int) -> None:
        """Update tensors of one type and device in place; by default one by one."""
        for average, source in zip(averaged, sources, strict=True):
            self.avg_func(average, source, steps)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the averaged model."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: nn.Module) -> None:
        """Take a model's present values into the average.

        Args:
            model: The model, of the structure that this one was made from.

        Raises:
            ValueError: A tensor is absent from the model, or of another shape.
        """
        # Attributes of modules are looked up, and set, slowly: each is touched once.
        buffer: Any = self._buffers["steps"]
        own = self.__dict__
        steps = int(buffer) if buffer.is_cpu or own["_count"] is None else own["_count"]
        pairing = own["_pairing"]
        if pairing is None or not pairing.fits(model):
            pairing = own["_pairing"] = _Pairing(self.module, model, self.update_buffers)
        with torch.no_grad():
            if steps == 0:
                pairing.copy_averaged()
            elif steps % self.interval == 0:
                for averaged, sources in pairing.averaged():
                    self.avg_many(averaged, sources, steps)
            if not self.update_buffers:
                pairing.copy_buffers()
            buffer.add_(1)
        own["_count"] = steps + 1

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`torch.nn.Module.load_state_dict`."""
        self._count, self._pairing = None, None
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        # Moving a module replaces its buffers.
        self._pairing = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # What is remembered of another model goes neither into copies nor into pickles.
        return {**self.__dict__, "_pairing": None}


Slot = tuple[dict[str, Any], str]


class _Pairing:
    """The tensors of an average beside those of its model, found once instead of at each update.

    Looking up 300 parameters by name takes longer than averaging them. Kept are the dicts that the
    model's tensors and parts lie in, so that one that has been replaced since is noticed. The
    average belongs to this module, which forgets the pairing when it moves or loads.
    """

    def __init__(self, average: nn.Module, model: nn.Module, with_buffers: bool) -> None:
        self._model = model
        averages, sources = _slots(average, with_buffers), _slots(model, with_buffers)
        ours, theirs = _buffers(average), _buffers(model)
        pairs = [(slot, _partner(name, slot, sources, model)) for name, slot in averages.items()]
        buffers = [(slot, _partner(name, slot, theirs, model)) for name, slot in ours.items()]
        # Averages need no gradient; torch takes plain tensors faster than parameters.
        self._averaged = [(_local(_tensor(a).detach()), _local(_tensor(b))) for a, b in pairs]
        self._buffers = [_tensor(a) for a, _ in buffers], [_tensor(b) for _, b in buffers]
        self._groups = self._grouped()
        # Where something lies and what lay there: columns, which are compared without a Python
        # loop. Tensors by identity; modules as lists, since these are equal only to themselves.
        places = [slot for _, slot in (*pairs, *buffers)]
        self._tables = [table for table, _ in places]
        self._names = [name for _, name in places]
        self._held = [table[name] for table, name in places]
        self._parents = [m._modules for m in model.modules() if m._modules]
        self._children = [list(children.values()) for children in self._parents]
        self._probe = self._where()

    def _where(self) -> Any:
        # Parameters move and change type in place, normally all together.
        if not self._averaged:
            return None
        source = self._averaged[0][1]
        return source.dtype, source.device

    def _grouped(self) -> list[tuple[bool, list[Tensor], list[Tensor]]]:
        """Return the pairs by type and device, as multi-tensor kernels need them."""
        groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for average, source in self._averaged:
            # Counters keep their first value, as in MMEngine.
            if average.is_floating_point() or average.is_complex():
                same = average.dtype == source.dtype and average.device == source.device
                ours, theirs = groups.setdefault((same, average.dtype, average.device), ([], []))
                ours.append(average)
                theirs.append(source)
        return [(key[0], *lists) for key, lists in groups.items()]

    def fits(self, model: nn.Module) -> bool:
        """Tell whether this is the model, unchanged but for values and for what was added."""
        if self._model is not model or self._probe != self._where():
            return False
        if list(map(list, map(dict.values, self._parents))) != self._children:
            return False
        try:
            return all(map(is_, map(getitem, self._tables, self._names), self._held))
        except KeyError:
            return False

    def averaged(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Yield averages and values, group by group, each on one device and of one type."""
        for same, ours, theirs in self._groups:
            if same:
                yield ours, theirs
            else:
                yield ours, [t.to(o.device, o.dtype) for o, t in zip(ours, theirs, strict=True)]

    def copy_averaged(self) -> None:
        """Copy all values over their averages."""
        for average, source in self._averaged:
            average.copy_(source)

    def copy_buffers(self) -> None:
        """Copy all buffers."""
        ours, theirs = self._buffers
        if ours:
            torch._foreach_copy_(ours, theirs)


def _tensor(slot: Slot) -> Tensor:
    tensor: Tensor = slot[0][slot[1]]
    return tensor


def _slots(root: nn.Module, with_buffers: bool) -> dict[str, Slot]:
    """Return where each tensor to average lies, by name; a shared one once, if it is a parameter."""
    slots: dict[str, Slot] = {}
    seen: set[int] = set()
    for prefix, module in root.named_modules(remove_duplicate=not with_buffers):
        dot = f"{prefix}." if prefix else ""
        for name, param in module._parameters.items():
            if param is not None and (with_buffers or id(param) not in seen):
                seen.add(id(param))
                slots[dot + name] = (module._parameters, name)
        if with_buffers:
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in module._non_persistent_buffers_set:
                    slots[dot + name] = (module._buffers, name)
    return slots


def _buffers(root: nn.Module) -> dict[str, Slot]:
    slots: dict[str, Slot] = {}
    seen: set[int] = set()
    for prefix, module in root.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in seen:
                seen.add(id(buffer))
                slots[dot + name] = (module._buffers, name)
    return slots


def _partner(name: str, ours: Slot, sources: dict[str, Slot], model: nn.Module) -> Slot:
    if name not in sources:
        raise InvalidValueError(
            f"the model ({type(model).__name__}) has no {name!r}, which is averaged: it should have "
            "the structure of the model that the average was made from"
        )
    average, source = _tensor(ours), _tensor(sources[name])
    if average.shape != source.shape:
        raise InvalidValueError(
            f"{name!r} has shape {tuple(source.shape)} in the model and {tuple(average.shape)} in its "
            "average: it should have the structure of the model that the average was made from"
        )
    return sources[name]


def is_sharded(tensor: Any) -> bool:
    """Tell whether a tensor is spread over ranks, as ``fully_shard`` does it."""
    # Importing this package takes half a second, which only those who use it should spend.
    package: Any = sys.modules.get("torch.distributed.tensor")
    return package is not None and isinstance(tensor, package.DTensor)


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a sharded tensor, and others as they are."""
    if not is_sharded(tensor):
        return tensor
    shard: Tensor = tensor.detach().to_local()  # type: ignore[attr-defined]  # of sharded tensors
    return shard


def _copy_of(model: nn.Module) -> nn.Module:
    """Return a deep copy; of a model that `fully_shard` has sharded, one that holds its shards."""
    if any(is_sharded(tensor) for tensor in model.parameters()):
        return _shards_of(model, {})
    return deepcopy(model)


def _shards_of(module: nn.Module, copies: dict[int, Any]) -> nn.Module:
    """Return a copy of a sharded module that holds tensors but cannot run.

    torch refuses to copy such modules, whose hooks gather the parameters for each pass.
    """
    if id(module) in copies:
        copied: nn.Module = copies[id(module)]
        return copied
    # `fully_shard` puts a class of its own before the module's.
    sharding: Any = sys.modules["torch.distributed.fsdp"]
    shards_itself = isinstance(module, sharding.FSDPModule)
    kind: Any = type(module).__mro__[2] if shards_itself else type(module)
    result = copies[id(module)] = nn.Module.__new__(kind)
    nn.Module.__init__(result)
    for name, value in vars(module).items():
        if name not in vars(result):
            result.__dict__[name] = value
    for name, param in module._parameters.items():
        if param is not None and id(param) not in copies:
            copies[id(param)] = nn.Parameter(param.detach().clone(), requires_grad=False)
        result._parameters[name] = None if param is None else copies[id(param)]
    for name, buffer in module._buffers.items():
        result._buffers[name] = None if buffer is None else buffer.clone()
    result._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    for name, child in module._modules.items():
        result._modules[name] = None if child is None else _shards_of(child, copies)
    return result


@MODELS.register_module()
class StochasticWeightAverage(BaseAveragedModel):
    """The plain mean of the weights at each update (Izmailov et al., 2018, arXiv:1803.05407)."""

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """``average += (value - average) / (number of averaged values + 1)``."""
        averaged_param.add_(
            source_param - averaged_param, alpha=1 / float(steps // self.interval + 1)
        )

    def avg_many(self, averaged: list[Tensor], sources: list[Tensor], steps: int) -> None:
        """The same for all tensors at once."""
        if type(self).avg_func is not StochasticWeightAverage.avg_func:
            super().avg_many(averaged, sources, steps)
            return
        alpha = 1 / float(steps // self.interval + 1)
        for some_averaged, some_sources in _chunks(averaged, sources):
            differences = torch._foreach_sub(some_sources, some_averaged)
            torch._foreach_add_(some_averaged, differences, alpha=alpha)


def _chunks(
    averaged: list[Tensor], sources: list[Tensor], numel: int = 1 << 22
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield parts of two lists with about ``numel`` values each, so that differences stay small."""
    start = count = 0
    for end, average in enumerate(averaged, 1):
        count += average.numel()
        if count >= numel or end == len(averaged):
            yield averaged[start:end], sources[start:end]
            start, count = end, 0


@MODELS.register_module()
class ExponentialMovingAverage(BaseAveragedModel):
    """``average = (1 - momentum) * average + momentum * value``.

    Args:
        model: The model.
        momentum: Weight of the new value, above 0 and below 1; usually small.
        interval: Average every so many updates.
        device: Where the average is kept; None is where the model is.
        update_buffers: Average buffers like parameters, else copy them.

    Raises:
        ValueError: ``momentum`` is outside of 0 to 1.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        interval: int = 1,
        device: torch.device | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, interval, device, update_buffers)
        if not 0.0 < momentum < 1.0:
            raise InvalidValueError(f"momentum must be in range (0.0, 1.0) but got {momentum}")
        if momentum > 0.5:
            print_log(
                "The value of momentum in EMA is usually a small number, which is different from the "
                f"conventional notion of momentum but got {momentum}. Please make sure the value is correct.",
                logger="current",
                level=logging.WARNING,
            )
        self.momentum = momentum

    def _momentum_at(self, steps: int) -> float:
        return self.momentum

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Move one average towards a value."""
        averaged_param.lerp_(source_param, self._momentum_at(steps))

    def avg_many(self, averaged: list[Tensor], sources: list[Tensor], steps: int) -> None:
        """The same for all tensors at once."""
        if type(self).avg_func is not ExponentialMovingAverage.avg_func:
            # A subclass that averages in a way of its own.
            super().avg_many(averaged, sources, steps)
            return
        torch._foreach_lerp_(averaged, sources, self._momentum_at(steps))


@MODELS.register_module()
class MomentumAnnealingEMA(ExponentialMovingAverage):
    """An exponential average whose momentum falls from 1 towards its value.

    At update t it is ``max(momentum, gamma / (gamma + t))``.

    Args:
        model: The model.
        momentum: The least momentum, above 0 and below 1.
        gamma: How slowly it falls; a positive whole number.
        interval: Average every so many updates.
        device: Where the average is kept; None is where the model is.
        update_buffers: Average buffers like parameters, else copy them.

    Raises:
        ValueError: ``gamma`` is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        gamma: int = 100,
        interval: int = 1,
        device: torch.device | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, momentum, interval, device, update_buffers)
        if gamma <= 0:
            raise InvalidValueError(f"gamma must be greater than 0, but got {gamma}")
        self.gamma = gamma

    def _momentum_at(self, steps: int) -> float:
        return max(self.momentum, self.gamma / (self.gamma + steps))
