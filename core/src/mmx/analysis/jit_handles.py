"""How many operations an operator takes, and how many numbers it returns.

A handle is a function ``handle(inputs, outputs)``: the arguments of a call in the order of the
operator's schema, and a list of what it returned. It gives a number, or a ``Counter`` of names.
One multiplication with its addition counts once, as in MMEngine and fvcore; torch's own counter,
whose formulas are used, counts both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils import flop_counter

Count = Counter[str] | int | float
Handle = Callable[[list[Any], list[Any]], Count]


def get_shape(val: Any) -> list[int] | None:
    """Return the shape of an argument; None if it is no tensor."""
    return list(val.shape) if isinstance(val, Tensor) else None


def _shape(val: Any) -> list[int]:
    shape = get_shape(val)
    if shape is None:
        raise TypeError(f"a tensor is expected, but got {type(val)}")
    return shape


def generic_activation_jit(op_name: str | None = None) -> Handle:
    """Return a handle that counts the numbers in the first output.

    Args:
        op_name: Name to count them under; None is the operator's own.
    """

    def count(inputs: list[Any], outputs: list[Any]) -> Count:
        number = prod(_shape(outputs[0]))
        return number if op_name is None else Counter({op_name: number})

    return count


def elementwise_flop_counter(input_scale: float = 1, output_scale: float = 0) -> Handle:
    """Return a handle of an operator whose cost is proportional to its input and output.

    Args:
        input_scale: Operations per number of the first input.
        output_scale: Operations per number of the first output.
    """

    def count(inputs: list[Any], outputs: list[Any]) -> Count:
        number: float = 0
        if input_scale != 0:
            number += input_scale * prod(_shape(inputs[0]))
        if output_scale != 0:
            number += output_scale * prod(_shape(outputs[0]))
        return number

    return count


def norm_flop_counter(affine_arg_index: int) -> Handle:
    """Return a handle of a normalisation: 5 operations per number, 4 without scale and shift.

    Args:
        affine_arg_index: Place of the weight among the arguments.
    """

    def count(inputs: list[Any], outputs: list[Any]) -> Count:
        affine = get_shape(inputs[affine_arg_index]) is not None
        return prod(_shape(inputs[0])) * (5 if affine else 4)

    return count


def batchnorm_flop_jit(inputs: list[Any], outputs: list[Any]) -> Count:
    """Count batch normalisation: in evaluation one scale and one shift are left of it."""
    training = inputs[5]
    if training:
        return norm_flop_counter(1)(inputs, outputs)
    affine = get_shape(inputs[1]) is not None
    return prod(_shape(inputs[0])) * (2 if affine else 1)


def conv_flop_count(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    out_shape: Sequence[int],
    transposed: bool = False,
) -> int:
    """Count a convolution, without its bias.

    Args:
        x_shape: Of the input, ``(N, C, ...)``.
        w_shape: Of the weight.
        out_shape: Of the output.
        transposed: Whether the convolution is transposed.
    """
    twice = flop_counter.conv_flop_count(
        list(x_shape), list(w_shape), list(out_shape), transposed=transposed
    )
    return int(twice) // 2


def conv_flop_jit(inputs: list[Any], outputs: list[Any]) -> Count:
    """Count a convolution under the name ``conv``."""
    x, w, out = _shape(inputs[0]), _shape(inputs[1]), _shape(outputs[0])
    return Counter({"conv": conv_flop_count(x, w, out, transposed=bool(inputs[6]))})


def addmm_flop_jit(inputs: list[Any], outputs: list[Any]) -> Count:
    """Count a product of matrices with a sum."""
    return _matmul(_shape(inputs[1]), _shape(inputs[2]))


def linear_flop_jit(inputs: list[Any], outputs: list[Any]) -> Count:
    """Count a linear layer, without its bias."""
    return prod(_shape(inputs[0])) * prod(_shape(inputs[1])[:-1])


def bmm_flop_jit(inputs: list[Any], outputs: list[Any]) -> Count:
    """Count products of batches of matrices."""
    return int(flop_counter.bmm_flop(_shape(inputs[0]), _shape(inputs[1]))) // 2


def _matmul(a: list[int], b: list[int]) -> int:
    return int(flop_counter.mm_flop(a, b)) // 2


def matmul_flop_jit(inputs: list[Any], outputs: list[Any]) -> Count:
    """Count a matrix product of any number of dimensions."""
    a, b = _shape(inputs[0]), _shape(inputs[1])
    if len(a) == 1 or len(b) == 1:
        return max(prod(a), prod(b))
    if len(a) == len(b) == 2:
        return _matmul(a, b)
    batch = np.broadcast_shapes(tuple(a[:-2]), tuple(b[:-2]))
    return prod(batch) * _matmul(a[-2:], b[-2:])


def einsum_flop_jit(inputs: list[Any], outputs: list[Any]) -> Count:
    """Count an Einstein sum along the best order of its products."""
    equation = str(inputs[0]).replace(" ", "")
    shapes = [_shape(tensor) for tensor in inputs[1]]
    # Letters renamed in their order, so that equal sums are known as such.
    letters: dict[str, int] = {}
    for letter in equation:
        if letter.isalpha():
            letters.setdefault(letter, ord("a") + len(letters))
    renamed = equation.translate({ord(letter): code for letter, code in letters.items()})
    if renamed == "abc,abd->acd":
        (n, c, t), p = shapes[0], shapes[-1][-1]
        return n * t * c * p
    if renamed == "abc,adc->adb":
        (n, t, g), c = shapes[0], shapes[-1][1]
        return n * t * g * c
    operands = [np.empty((1,) * len(shape)) for shape in shapes]
    operands = [np.broadcast_to(o, s) for o, s in zip(operands, shapes, strict=True)]
    report = np.einsum_path(equation, *operands, optimize="optimal")[1]
    for line in report.split("\n"):
        if "optimized flop" in line.lower():
            return float(np.floor(float(line.split(":")[-1]) / 2))
    raise RuntimeError("NumPy's report on an Einstein sum has another form than expected")


def attention_flop_jit(inputs: list[Any], outputs: list[Any]) -> Count:
    """Count scaled dot-product attention: its two products. (MMEngine does not.)"""
    q, k, v = (_shape(tensor) for tensor in inputs[:3])
    # Heads and batch in one, as the formula has two dimensions for them.
    q, k, v = ([1] * (4 - len(shape)) + shape for shape in (q, k, v))
    return int(flop_counter.sdpa_flop_count(q, k, v)) // 2


SUPPORTED_FLOP_OPS: dict[str, Handle] = {
    "aten::addmm": addmm_flop_jit,
    "aten::bmm": bmm_flop_jit,
    "aten::_convolution": conv_flop_jit,
    "aten::einsum": einsum_flop_jit,
    "aten::matmul": matmul_flop_jit,
    "aten::mm": matmul_flop_jit,
    "aten::linear": linear_flop_jit,
    "aten::batch_norm": batchnorm_flop_jit,
    "aten::group_norm": norm_flop_counter(2),
    "aten::layer_norm": norm_flop_counter(2),
    "aten::instance_norm": norm_flop_counter(1),
    "aten::upsample_nearest2d": elementwise_flop_counter(0, 1),
    "aten::upsample_bilinear2d": elementwise_flop_counter(0, 4),
    "aten::adaptive_avg_pool2d": elementwise_flop_counter(1, 0),
    "aten::grid_sampler": elementwise_flop_counter(0, 4),
    "aten::scaled_dot_product_attention": attention_flop_jit,
}

SUPPORTED_ACT_OPS: dict[str, Handle] = {
    "aten::_convolution": generic_activation_jit("conv"),
    "aten::addmm": generic_activation_jit(),
    "aten::bmm": generic_activation_jit(),
    "aten::einsum": generic_activation_jit(),
    "aten::matmul": generic_activation_jit(),
    "aten::linear": generic_activation_jit(),
}
