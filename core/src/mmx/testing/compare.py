"""Comparisons for tests. Those that return a bool are meant to stand behind ``assert``."""

from __future__ import annotations

import runpy
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from mmx.utils.dl_utils import is_norm


def check_python_script(cmd: str) -> None:
    """Run a Python script with arguments in this process, as ``__main__``.

    Args:
        cmd: The script and its arguments, ``'tools/train.py config.py --debug'``.

    Raises:
        FileNotFoundError: There is no such script.
        Exception: What the script raises.
    """
    arguments = shlex.split(cmd)
    with mock.patch.object(sys, "argv", arguments):
        runpy.run_path(arguments[0], run_name="__main__")


def _equal(actual: Any, expected: Any) -> bool:
    """Compare nested values with arrays and tensors in them, whose ``==`` gives no bool."""
    if isinstance(actual, Tensor) or isinstance(expected, Tensor):
        return (
            isinstance(actual, Tensor)
            and isinstance(expected, Tensor)
            and torch.equal(actual, expected)
        )
    if isinstance(actual, np.ndarray) or isinstance(expected, np.ndarray):
        return np.array_equal(np.asarray(actual), np.asarray(expected))
    if isinstance(actual, Mapping) and isinstance(expected, Mapping):
        return actual.keys() == expected.keys() and all(
            _equal(value, expected[key]) for key, value in actual.items()
        )
    if isinstance(actual, (list, tuple)) and isinstance(expected, (list, tuple)):
        return (
            type(actual) is type(expected)
            and len(actual) == len(expected)
            and all(_equal(a, b) for a, b in zip(actual, expected, strict=True))
        )
    return bool(actual == expected)


def assert_dict_contains_subset(
    dict_obj: Mapping[Any, Any], expected_subset: Mapping[Any, Any]
) -> bool:
    """Tell whether a dict has all items of another, also where they are arrays or tensors."""
    return all(
        key in dict_obj and _equal(dict_obj[key], value) for key, value in expected_subset.items()
    )


def assert_attrs_equal(obj: Any, expected_attrs: Mapping[str, Any]) -> bool:
    """Tell whether an object has these attributes with these values."""
    return all(
        hasattr(obj, name) and _equal(getattr(obj, name), value)
        for name, value in expected_attrs.items()
    )


def assert_dict_has_keys(obj: Mapping[str, Any], expected_keys: Iterable[str]) -> bool:
    """Tell whether a dict has all of these keys."""
    return set(expected_keys).issubset(obj.keys())


def assert_keys_equal(result_keys: Iterable[str], target_keys: Iterable[str]) -> bool:
    """Tell whether both have the same keys, in any order."""
    return set(result_keys) == set(target_keys)


def assert_is_norm_layer(module: nn.Module) -> bool:
    """Tell whether a module is a normalisation layer."""
    return is_norm(module)


def assert_params_all_zeros(module: nn.Module) -> bool:
    """Tell whether the weight, and the bias if there is one, are all zero.

    Raises:
        AttributeError: The module has no weight.
    """
    weight = module.weight
    bias = getattr(module, "bias", None)
    return all(not bool(p.any()) for p in (weight, bias) if isinstance(p, Tensor))


def assert_allclose(
    actual: Any,
    expected: Any,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = True,
    msg: str | Callable[[str], str] | None = "",
) -> None:
    """Check that tensors, or what makes them, are close; dtype and device do not matter.

    Args:
        actual: Tensor, array, number or list.
        expected: The same.
        rtol: Relative tolerance; None is torch's for the dtypes.
        atol: Absolute tolerance; None is torch's for the dtypes.
        equal_nan: Take NaNs as equal.
        msg: Replaces the message; a function is given the message and returns another.

    Raises:
        AssertionError: They are not close.
    """
    tensors = [
        value if isinstance(value, Tensor) else torch.as_tensor(value)
        for value in (actual, expected)
    ]
    if (rtol is None) != (atol is None):
        # torch wants both or none.
        default = torch.testing._comparison.default_tolerances(*tensors)
        rtol, atol = (
            rtol if rtol is not None else default[0],
            (atol if atol is not None else default[1]),
        )
    torch.testing.assert_close(
        *tensors,
        rtol=rtol,
        atol=atol,
        equal_nan=equal_nan,
        check_device=False,
        check_dtype=False,
        check_stride=False,
        msg=msg or None,
    )
