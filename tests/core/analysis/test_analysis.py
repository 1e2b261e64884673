"""What the golden figures do not show: settings, errors, operators of torch's own counter."""

import logging
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmx.analysis import (
    ActivationAnalyzer,
    FlopAnalyzer,
    activation_count,
    flop_count,
    get_model_complexity_info,
    parameter_count,
)
from mmx.analysis.jit_handles import get_shape, matmul_flop_jit
from mmx.analysis.print_helper import _format_size


class Two(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.linear(a, b)


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def quiet(analysis: Any) -> Any:
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)


def test_several_inputs() -> None:
    assert 2 * 3 * 4 == FlopAnalyzer(Two(), (torch.ones(2, 4), torch.ones(3, 4))).total()


def test_counts_come_in_billions_and_millions_with_ones_own_handles() -> None:
    inputs = (torch.ones(2, 4), torch.ones(3, 4))
    flops, skipped = flop_count(Two(), inputs)
    assert {"linear": 24e-9} == flops
    assert Counter() == skipped
    assert 0.0 == flops["other"]
    activations, _ = activation_count(Two(), inputs)
    assert {"linear": 6e-6} == activations
    flops, _ = flop_count(Two(), inputs, {"aten::linear": lambda i, o: 10**9 * get_shape(o[0])[1]})  # type: ignore[index]  # it is a tensor
    assert {"linear": 3.0} == flops


def test_a_handle_may_name_what_it_counts_and_none_ignores_an_operator() -> None:
    analysis = quiet(FlopAnalyzer(Function(lambda x: torch.sigmoid(x) * x), torch.ones(3)))
    assert Counter({"aten::sigmoid": 1, "aten::mul": 1}) == analysis.unsupported_ops()
    analysis.set_op_handle("aten::sigmoid", lambda i, o: Counter(expensive=7), "aten::mul", None)
    assert Counter(expensive=7) == analysis.by_operator()
    assert Counter() == analysis.unsupported_ops()
    copied = analysis.copy(new_inputs=torch.ones(5))
    assert 7 == copied.total()
    assert Counter() == quiet(analysis.clear_op_handles()).by_operator()


@pytest.mark.parametrize("wrong", [("aten::mul",), (1, None), ("a", None, "b")])
def test_handles_come_in_pairs(wrong: Any) -> None:
    with pytest.raises(TypeError, match="pairs of names and handles"):
        FlopAnalyzer(Two(), torch.ones(1)).set_op_handle(*wrong)


def test_operators_that_torch_counts_are_counted() -> None:
    gru = nn.GRU(4, 4)
    x = torch.ones(3, 2, 4)
    # Three gates of two products each.
    assert 3 * 2 * 3 * 2 * 4 * 4 == quiet(FlopAnalyzer(gru, x)).by_operator()["gru"]
    q = torch.ones(1, 2, 5, 8)
    attention = quiet(FlopAnalyzer(Function(F.scaled_dot_product_attention), (q, q, q)))
    assert 2 * 2 * 5 * 5 * 8 == attention.total()
    assert Counter() == attention.unsupported_ops()
    # But they are no activations.
    assert 0 == quiet(ActivationAnalyzer(gru, x)).total()


def test_convolutions_with_padding_by_name_are_counted() -> None:
    conv = nn.Conv2d(2, 3, 3, padding="same")
    assert 8 * 8 * 2 * 3 * 9 == FlopAnalyzer(conv, torch.ones(1, 2, 8, 8)).total()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((3,), (3,), 3),
        ((2, 3), (3,), 6),
        ((2, 3), (3, 4), 24),
        ((5, 2, 3), (3, 4), 120),
        ((5, 2, 3), (5, 3, 4), 120),
        ((5, 1, 2, 3), (6, 3, 4), 720),
    ],
)
def test_matrix_products_of_all_dimensions(a: Any, b: Any, expected: int) -> None:
    assert expected == matmul_flop_jit([torch.ones(a), torch.ones(b)], [])


def test_a_module_is_asked_by_any_of_its_names() -> None:
    model = nn.Module()
    model.a = nn.Linear(2, 2)
    model.b = model.a
    model.forward = lambda x: model.a(x)  # type: ignore[method-assign]  # on purpose
    analysis = quiet(FlopAnalyzer(model, torch.ones(1, 2)))
    assert ("a", 4, 4) == (
        analysis.canonical_module_name("b"),
        analysis.total("b"),
        analysis.total(),
    )
    assert Counter(linear=4) == analysis.by_operator("b")
    for ask in (analysis.total, analysis.by_operator, analysis.unsupported_ops):
        with pytest.raises(KeyError, match="not among the descendants of the analyzed model: 'c'"):
            ask("c")


def test_modes_are_checked() -> None:
    analysis = FlopAnalyzer(Two(), torch.ones(1))
    with pytest.raises(ValueError, match="Unrecognized ancestor mode: friend"):
        analysis.ancestor_mode("friend")
    with pytest.raises(ValueError, match="Unrecognized tracer warning mode some"):
        analysis.tracer_warnings("some")


def test_a_run_leaves_no_trace_in_the_model() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.table = torch.arange(2.0)
            return self.linear(x) * self.table

    model = Remembers()
    quiet(FlopAnalyzer(model, torch.ones(1, 2))).total()
    assert not model.table.is_inference()
    (model.linear(torch.ones(1, 2)) * model.table).sum().backward()
    assert model.linear.weight.grad is not None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_error_of_the_model_goes_through_and_leaves_no_trace() -> None:
    model = nn.Linear(2, 2)
    analysis = FlopAnalyzer(model, torch.ones(1, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        analysis.total()
    assert not model._forward_hooks
    assert analysis.copy(new_inputs=torch.ones(1, 2)).total() == 4


def test_what_is_not_counted_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Sigmoid(), nn.Linear(1, 1), nn.Linear(1, 1))
    model.forward = lambda x: model[1](model[0](x))  # type: ignore[method-assign]  # on purpose
    texts: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    from mmx.logging import MMLogger

    logger = MMLogger.get_current_instance()
    handler = Collect()
    logger.addHandler(handler)
    try:
        analysis = FlopAnalyzer(model, torch.ones(1, 1))
        analysis.total()
        analysis.total()
    finally:
        logger.removeHandler(handler)
    assert 2 == len(texts)
    assert "Unsupported operator aten::sigmoid encountered 1 time(s)" == texts[0]
    assert texts[1].endswith("\n2")


@pytest.mark.parametrize(
    ("number", "digits", "hide", "expected"),
    [
        (0, 3, False, "0"),
        (0, 3, True, ""),
        (100, 0, False, "100"),
        (101, 3, False, "0.101K"),
        (999, 2, False, "1K"),
        (1234567, 3, False, "1.235M"),
        (1234567, 5, False, "1.23457M"),
        (10**9, 3, False, "1G"),
        (10**12, 3, False, "1T"),
        (3 * 10**15, 3, False, "3P"),
    ],
)
def test_numbers_have_units(number: int, digits: int, hide: bool, expected: str) -> None:
    assert expected == _format_size(number, digits, hide)


def test_model_complexity_of_shapes() -> None:
    result = get_model_complexity_info(nn.Conv2d(3, 8, 3), (3, 16, 16))
    assert 14 * 14 * 8 * 27 == result["flops"]
    assert ("42.336K", "1.568K", "0.224K") == (
        result["flops_str"],
        result["activations_str"],
        result["params_str"],
    )
    assert "| #flops" in str(result["out_table"])
    assert "#acts: 1.57K" in str(result["out_arch"])
    result = get_model_complexity_info(
        Function(lambda a, b: a @ b), ((2, 4), (4, 2)), show_table=False, show_arch=False
    )
    assert (16, "", "") == (result["flops"], result["out_table"], result["out_arch"])
    assert 0 == result["params"]


@pytest.mark.parametrize(
    ("shape", "inputs", "text"),
    [
        (None, None, 'One of "input_shape" and "inputs" should be set'),
        ((1,), torch.ones(1), '"input_shape" and "inputs" cannot be both set'),
        ("3", None, "either a `tuple of int`.* but got '3'"),
        (((1, "a"),), None, "either a `tuple of int`"),
    ],
)
def test_inputs_are_checked(shape: Any, inputs: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        get_model_complexity_info(nn.Linear(1, 1), shape, inputs)


def test_shared_parameters_count_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    assert {"": 8, "a": 6, "a.weight": 4, "a.bias": 2, "b": 2, "b.bias": 2} == parameter_count(
        model
    )
