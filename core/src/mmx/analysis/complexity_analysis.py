"""How much a model computes, how much it remembers for the backward pass, how large it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmx.analysis.jit_analysis import JitModelAnalysis
from mmx.analysis.jit_handles import SUPPORTED_ACT_OPS, SUPPORTED_FLOP_OPS, Handle


class FlopAnalyzer(JitModelAnalysis):
    """Counts the floating point operations of a model for given inputs.

    A multiplication with its addition counts once. Matrix products, convolutions, normalisations,
    interpolation and pooling are counted; of other operators, what torch's own counter knows of
    them; element-wise operators are not, they are listed by :meth:`unsupported_ops`.

    Args:
        model: The model; it runs once in its present mode.
        inputs: Its input, or a tuple of its inputs.

    Example:
        >>> flops = FlopAnalyzer(nn.Linear(10, 4), torch.ones(2, 10))
        >>> flops.total()
        80
    """

    def __init__(self, model: nn.Module, inputs: Tensor | tuple[Any, ...]) -> None:
        super().__init__(model, inputs)
        self.set_op_handle(**SUPPORTED_FLOP_OPS)


class ActivationAnalyzer(JitModelAnalysis):
    """Counts the numbers that convolutions, linear layers and matrix products return.

    They are what the backward pass needs most memory for.

    Args:
        model: The model; it runs once in its present mode.
        inputs: Its input, or a tuple of its inputs.
    """

    def __init__(self, model: nn.Module, inputs: Tensor | tuple[Any, ...]) -> None:
        super().__init__(model, inputs)
        self.set_op_handle(**SUPPORTED_ACT_OPS)


def _count(
    analysis: JitModelAnalysis, supported_ops: Mapping[str, Handle] | None, unit: float
) -> tuple[defaultdict[str, float], Counter[str]]:
    analysis.set_op_handle(**dict(supported_ops or {}))
    result: defaultdict[str, float] = defaultdict(float)
    for name, count in analysis.by_operator().items():
        result[name] = count / unit
    return result, analysis.unsupported_ops()


def flop_count(
    model: nn.Module,
    inputs: tuple[Any, ...],
    supported_ops: Mapping[str, Handle] | None = None,
) -> tuple[defaultdict[str, float], Counter[str]]:
    """Count the operations of a model, in billions.

    Args:
        model: The model.
        inputs: Its inputs.
        supported_ops: Further handles, by operator; they win over ours.

    Returns:
        Operator -> billions of operations, and operator -> calls that nothing counts.
    """
    return _count(FlopAnalyzer(model, inputs), supported_ops, 1e9)


def activation_count(
    model: nn.Module,
    inputs: tuple[Any, ...],
    supported_ops: Mapping[str, Handle] | None = None,
) -> tuple[defaultdict[str, float], Counter[str]]:
    """Count the activations of a model, in millions.

    Args:
        model: The model.
        inputs: Its inputs.
        supported_ops: Further handles, by operator; they win over ours.

    Returns:
        Operator -> millions of numbers, and operator -> calls that nothing counts.
    """
    return _count(ActivationAnalyzer(model, inputs), supported_ops, 1e6)


def parameter_count(model: nn.Module) -> defaultdict[str, int]:
    """Return the number of parameters of each module, with all it contains, and parameter.

    The key ``''`` stands for the whole model. A parameter that is shared counts once.
    """
    counts: defaultdict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        for length in range(len(parts) + 1):
            counts[".".join(parts[:length])] += parameter.numel()
    return counts


def parameter_count_table(model: nn.Module, max_depth: int = 3) -> str:
    """Return a table of the numbers of parameters of a model.

    Args:
        model: The model.
        max_depth: Levels of modules to show.
    """
    from mmx.analysis.print_helper import _render

    counts = parameter_count(model)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    rows = [("model", _rounded(counts.pop("", 0)))]

    def fill(level: int, prefix: str) -> None:
        if level > max_depth:
            return
        for name, count in counts.items():
            if name.count(".") == level - 1 and name.startswith(prefix):
                indent = " " * level
                shown = str(shapes[name]) if name in shapes else _rounded(count)
                rows.append((indent + name, indent + shown))
                fill(level + 1, name + ".")

    fill(1, "")
    title = f"parameter count of {type(model).__name__}"
    return _render(["name", "#elements or shape"], rows, title)


def _rounded(number: int) -> str:
    for limit, unit, letter in ((1e8, 1e9, "G"), (1e5, 1e6, "M"), (1e2, 1e3, "K")):
        if number > limit:
            return f"{number / unit:.1f}{letter}"
    return str(number)
