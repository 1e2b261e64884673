"""Counting what a model does, operator by operator and module by module, while it runs once.

MMEngine traces the model with TorchScript, which torch has given up. Here the model simply runs,
and torch's dispatcher tells of every operator before it is taken apart, by the same names.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mmx.analysis.jit_handles import Handle
from mmx.logging import print_log
from mmx.utils.errors import InvalidTypeError

# Operators that move or compare numbers: they count as nothing.
_IGNORED_OPS = {
    "aten::Int",
    "aten::ScalarImplicit",
    "aten::__and__",
    "aten::arange",
    "aten::bitwise_not",
    "aten::cat",
    "aten::chunk",
    "aten::clamp",
    "aten::clamp_",
    "aten::constant_pad_nd",
    "aten::contiguous",
    "aten::copy_",
    "aten::detach",
    "aten::dropout",
    "aten::empty",
    "aten::eq",
    "aten::expand",
    "aten::flatten",
    "aten::floor",
    "aten::floor_divide",
    "aten::full",
    "aten::full_like",
    "aten::gather",
    "aten::ge",
    "aten::gt",
    "aten::index",
    "aten::index_put_",
    "aten::masked_fill",
    "aten::max",
    "aten::narrow",
    "aten::new_empty",
    "aten::new_full",
    "aten::new_zeros",
    "aten::nonzero",
    "aten::ones",
    "aten::permute",
    "aten::relu",
    "aten::relu_",
    "aten::remainder",
    "aten::reshape",
    "aten::roll",
    "aten::select",
    "aten::size",
    "aten::slice",
    "aten::split",
    "aten::split_with_sizes",
    "aten::squeeze",
    "aten::stack",
    "aten::t",
    "aten::to",
    "aten::transpose",
    "aten::type_as",
    "aten::unbind",
    "aten::unsqueeze",
    "aten::unsqueeze_",
    "aten::view",
    "aten::zeros",
    "aten::zeros_like",
    # Of running code, which a trace did not show.
    "aten::_local_scalar_dense",
    "aten::alias",
    "aten::item",
    "aten::is_nonzero",
    "aten::lift_fresh",
}

_CONVOLUTION = "aten::_convolution"


class _Statistics:
    """What one run has shown."""

    def __init__(self, names: Sequence[str]) -> None:
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in names}
        self.unsupported: dict[str, Counter[str]] = {name: Counter() for name in names}
        self.uncalled: set[str] = set()


class JitModelAnalysis:
    """Counts by handles what the operators of a model do.

    The model runs once, when the first figure is asked for, in its present mode (training or
    evaluation) and without gradients.

    Args:
        model: The model.
        inputs: Its input, or a tuple of its inputs.
    """

    def __init__(self, model: nn.Module, inputs: Tensor | tuple[Any, ...]) -> None:
        self._model = model
        self._inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self._op_handles: dict[str, Handle | None] = {}
        # A module that is used under several names is counted under the first.
        self._named_modules = dict(model.named_modules())
        self._aliases = self._find_aliases(model)
        self._stats: _Statistics | None = None
        self._ancestor_mode = "owner"
        self._warn_trace = "none"
        self._enable_warn_unsupported_ops = True
        self._enable_warn_uncalled_mods = True

    @staticmethod
    def _find_aliases(model: nn.Module) -> dict[str, str]:
        first: dict[nn.Module, str] = {}
        return {
            name: first.setdefault(module, name)
            for name, module in model.named_modules(remove_duplicate=False)
        }

    # Figures

    def total(self, module_name: str = "") -> int:
        """Return the sum over all operators of a module; of the whole model by default.

        Raises:
            KeyError: There is no module of this name.
        """
        name = self.canonical_module_name(module_name)
        return sum(self._analyze().counts[name].values())

    def by_operator(self, module_name: str = "") -> Counter[str]:
        """Return operator -> count of a module; of the whole model by default.

        Raises:
            KeyError: There is no module of this name.
        """
        name = self.canonical_module_name(module_name)
        return Counter(self._analyze().counts[name])

    def by_module(self) -> Counter[str]:
        """Return module -> count, each with all that it contains."""
        summed: Counter[str] = Counter()
        for name, counts in self._analyze().counts.items():
            summed[name] = sum(counts.values())
        return summed

    def by_module_and_operator(self) -> dict[str, Counter[str]]:
        """Return module -> operator -> count."""
        return {name: Counter(counts) for name, counts in self._analyze().counts.items()}

    def unsupported_ops(self, module_name: str = "") -> Counter[str]:
        """Return the operators of a module that no handle counts -> number of calls.

        Raises:
            KeyError: There is no module of this name.
        """
        name = self.canonical_module_name(module_name)
        return Counter(self._analyze().unsupported[name])

    def uncalled_modules(self) -> set[str]:
        """Return the names of modules that were not called.

        They are not used, or used otherwise than by calling them. What a module does whose
        ``forward`` is called directly counts for the module around it.
        """
        return set(self._analyze().uncalled)

    # Settings

    def set_op_handle(self, *args: Any, **kwargs: Handle | None) -> Self:
        """Set how operators are counted.

        Args:
            *args: Pairs of a name, such as ``'aten::mul'``, and a handle; None ignores the
                operator.
            **kwargs: Name -> handle, ``**{'aten::mul': handle}``.

        Returns:
            The analysis itself.

        Raises:
            TypeError: The arguments are no pairs.
        """
        self._stats = None
        if len(args) % 2 != 0 or not all(isinstance(name, str) for name in args[::2]):
            raise TypeError("set_op_handle should be called with pairs of names and handles!")
        pairs = dict(zip(args[::2], args[1::2], strict=True)) | kwargs
        for name, handle in pairs.items():
            self._op_handles[name] = handle
        return self

    def clear_op_handles(self) -> Self:
        """Forget how operators are counted, so that all are unsupported; return the analysis."""
        self._op_handles = {}
        self._stats = None
        return self

    def canonical_module_name(self, name: str) -> str:
        """Return the name under which a module is counted.

        Raises:
            TypeError: The name is no str.
            KeyError: There is no module of this name.
        """
        if not isinstance(name, str):
            raise InvalidTypeError(f"Module name must be a string, but got {type(name)}")
        try:
            return self._aliases[name]
        except KeyError:
            raise KeyError(
                "Requested module name is not among the descendants of the analyzed model: "
                f"{name!r}"
            ) from None

    def copy(self, new_model: nn.Module | None = None, new_inputs: Any = None) -> Self:
        """Return an analysis with the same settings.

        Args:
            new_model: Another model; None is the same.
            new_inputs: Other inputs; None are the same.
        """
        other = type(self)(
            self._model if new_model is None else new_model,
            self._inputs if new_inputs is None else new_inputs,
        )
        other._op_handles = dict(self._op_handles)
        other._ancestor_mode = self._ancestor_mode
        other._warn_trace = self._warn_trace
        other._enable_warn_unsupported_ops = self._enable_warn_unsupported_ops
        other._enable_warn_uncalled_mods = self._enable_warn_uncalled_mods
        return other

    def tracer_warnings(self, mode: str) -> Self:
        """Set which warnings of the running model are shown; return the analysis.

        Args:
            mode: ``'all'``, ``'none'``, or ``'no_tracer_warning'`` (all but those of a tracer;
                there is no tracer here).

        Raises:
            ValueError: The mode is another.
        """
        if mode not in ("all", "none", "no_tracer_warning"):
            raise ValueError(f"Unrecognized tracer warning mode {mode}.")
        self._warn_trace = mode
        return self

    def ancestor_mode(self, mode: str) -> Self:
        """Set to which modules an operator counts; return the analysis.

        Args:
            mode: ``'owner'``: to the module that runs it and those that contain that one.
                ``'caller'``: to the module that runs it and those that have called that one.

        Raises:
            ValueError: The mode is another.
        """
        if mode not in ("owner", "caller"):
            raise ValueError(f"Unrecognized ancestor mode: {mode}")
        self._ancestor_mode = mode
        self._stats = None
        return self

    def unsupported_ops_warnings(self, enabled: bool) -> Self:
        """Set whether operators that no handle counts are logged; return the analysis."""
        self._enable_warn_unsupported_ops = enabled
        return self

    def uncalled_modules_warnings(self, enabled: bool) -> Self:
        """Set whether modules that were not called are logged; return the analysis."""
        self._enable_warn_uncalled_mods = enabled
        return self

    # The run

    def _analyze(self) -> _Statistics:
        if self._stats is not None:
            return self._stats
        stats = _Statistics(list(self._named_modules))
        scopes = _Scopes(self._named_modules)
        counter = _OperatorCounter(self._op_handles, scopes, stats, self._ancestor_mode)
        with contextlib.ExitStack() as stack:
            if self._warn_trace == "none":
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            stack.enter_context(scopes)
            stack.enter_context(torch.no_grad())
            # Below autograd an operator is seen whole, before it is taken apart. (In inference
            # mode, too; but tensors that a model keeps for itself would be spoilt for training.)
            stack.enter_context(torch._C._AutoDispatchBelowAutograd())
            stack.enter_context(counter)
            self._model(*self._inputs)
        called = set(scopes.called)
        if self._ancestor_mode == "owner":
            # What a module does counts to those that contain it, as if they had been called.
            called.update(a for name in scopes.called for a in _containers(name))
        stats.uncalled = set(self._named_modules) - called
        self._stats = stats
        self._warn(stats)
        return stats

    def _does_something(self, name: str) -> bool:
        """Tell whether it matters that a module was not called: lists of modules cannot be."""
        cls = type(self._named_modules[name])
        return cls.forward not in (nn.Module.forward, nn.Identity.forward)

    def _warn(self, stats: _Statistics) -> None:
        if self._enable_warn_unsupported_ops:
            for name, number in stats.unsupported[""].items():
                print_log(
                    f"Unsupported operator {name} encountered {number} time(s)",
                    "current",
                    logging.WARNING,
                )
        uncalled = [
            name
            for name in self._named_modules
            if name in stats.uncalled and self._does_something(name)
        ]
        if self._enable_warn_uncalled_mods and uncalled:
            print_log(
                "The following submodules of the model were never called during the trace of the "
                "graph. They may be unused, or they were accessed by direct calls to .forward() or "
                "via other python methods. In the latter case they will have zeros for statistics, "
                "though their statistics will still contribute to their parent calling "
                f"module.\n{', '.join(uncalled)}",
                "current",
                logging.WARNING,
            )


class _Scopes:
    """Which modules are being called, outermost first."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self._modules = modules
        self._handles: list[Any] = []
        self.stack: list[str] = []
        self.called: set[str] = set()

    def __enter__(self) -> _Scopes:
        for name, module in self._modules.items():
            self._handles.append(
                module.register_forward_pre_hook(lambda *_, name=name: self._push(name))
            )
            self._handles.append(
                module.register_forward_hook(lambda *_: self._pop(), always_call=True)
            )
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.stack.clear()

    def _push(self, name: str) -> None:
        self.stack.append(name)
        self.called.add(name)

    def _pop(self) -> None:
        if self.stack:
            self.stack.pop()

    def ancestors(self, mode: str) -> set[str]:
        """Return the modules that an operator counts to."""
        if mode == "caller":
            return {"", *self.stack}
        return _containers(self.stack[-1]) if self.stack else {""}


def _containers(name: str) -> set[str]:
    """Return a module's name and those of all modules that contain it."""
    parts = name.split(".") if name else []
    return {".".join(parts[:length]) for length in range(len(parts) + 1)}


class _OperatorCounter(TorchDispatchMode):
    """Is told of every operator that runs, and counts it."""

    def __init__(
        self,
        handles: dict[str, Handle | None],
        scopes: _Scopes,
        stats: _Statistics,
        ancestor_mode: str,
    ) -> None:
        super().__init__()
        self._handles_by_name = handles
        self._scopes = scopes
        self._stats = stats
        self._ancestor_mode = ancestor_mode
        self._names: dict[str, set[str]] = defaultdict(set)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name, inputs = _normalise(func, args, kwargs)
        if name in self._handles_by_name:
            result = func(*args, **kwargs)
            handle = self._handles_by_name[name]
            if handle is not None:
                outputs = [leaf for leaf in tree_leaves(result) if leaf is not None]
                self._add(name, handle(inputs, outputs))
            return result
        if name in _IGNORED_OPS or not name.startswith("aten::"):
            return func(*args, **kwargs)
        # An operator without a handle may consist of ones that torch's own counter knows.
        with FlopCounterMode(display=False) as inner:
            result = func(*args, **kwargs)
        if inner.get_total_flops() and self._counts_operations():
            self._add(name, inner.get_total_flops() // 2)
        else:
            for module in self._modules():
                self._stats.unsupported[module][name] += 1
        return result

    def _counts_operations(self) -> bool:
        """Tell whether figures are operations, so that torch's can be added to them."""
        from mmx.analysis.jit_handles import linear_flop_jit

        return self._handles_by_name.get("aten::linear") is linear_flop_jit

    def _modules(self) -> Iterator[str]:
        for name in self._scopes.ancestors(self._ancestor_mode):
            # A module that is not the model's own, such as one made in `forward`, has no entry.
            if name in self._stats.counts:
                yield name

    def _add(self, op: str, count: Any) -> None:
        counts = count if isinstance(count, Counter) else Counter({_simple_name(op): count})
        for module in self._modules():
            self._stats.counts[module].update(counts)


def _simple_name(op: str) -> str:
    return op.split("::", 1)[1].removesuffix("_") if not op.endswith("__") else op.split("::", 1)[1]


_CONVOLUTIONS = {
    f"aten::conv{kind}{n}d": (kind != "", n) for kind in ("", "_transpose") for n in (1, 2, 3)
}


def _normalise(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, list[Any]]:
    """Return the name of an operator and all its arguments in the order of its schema."""
    schema = func._schema
    inputs = list(args)
    for argument in schema.arguments[len(args) :]:
        if argument.name in kwargs:
            inputs.append(kwargs[argument.name])
        else:
            inputs.append(argument.default_value if argument.has_default_value() else None)
    name: str = schema.name
    if name == "aten::convolution":
        return _CONVOLUTION, inputs
    if name in _CONVOLUTIONS:
        # As the one operator that all convolutions are.
        given = {a.name: value for a, value in zip(schema.arguments, inputs, strict=True)}
        transposed = _CONVOLUTIONS[name][0]
        return _CONVOLUTION, [
            given["input"],
            given["weight"],
            given["bias"],
            given["stride"],
            given["padding"],
            given["dilation"],
            transposed,
            given.get("output_padding", [0]),
            given["groups"],
        ]
    return name, inputs


ModelAnalysis = JitModelAnalysis
