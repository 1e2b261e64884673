"""Comparisons for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmx import testing


class Thing:
    number = 1
    array = np.ones(2)


@pytest.mark.parametrize(
    ("given", "subset", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": np.ones(2)}, {"a": np.ones(2)}, True),
        ({"a": np.ones(2)}, {"a": np.zeros(2)}, False),
        ({"a": (1, [torch.ones(2)])}, {"a": (1, [torch.ones(2)])}, True),
        ({"a": (1, torch.ones(2))}, {"a": (1, torch.zeros(2))}, False),
        ({"a": {"b": torch.ones(1)}}, {"a": {"b": torch.ones(1)}}, True),
        ({"a": torch.ones(1)}, {"a": 1}, False),
        ({"a": [1]}, {"a": (1,)}, False),
        ({}, {}, True),
    ],
)
def test_a_dict_contains_another(given: Any, subset: Any, expected: bool) -> None:
    assert expected is testing.assert_dict_contains_subset(given, subset)


def test_attributes_and_keys() -> None:
    assert testing.assert_attrs_equal(Thing(), {"number": 1, "array": np.ones(2)})
    assert not testing.assert_attrs_equal(Thing(), {"number": 2})
    assert not testing.assert_attrs_equal(Thing(), {"absent": 1})
    assert testing.assert_dict_has_keys({"a": 1, "b": 2}, ["a"])
    assert not testing.assert_dict_has_keys({"a": 1}, ["a", "b"])
    assert testing.assert_keys_equal(["a", "b"], ["b", "a"])
    assert not testing.assert_keys_equal(["a", "b"], ["a"])


def test_layers() -> None:
    assert testing.assert_is_norm_layer(nn.GroupNorm(1, 1))
    assert not testing.assert_is_norm_layer(nn.Linear(1, 1))
    linear = nn.Linear(2, 2)
    nn.init.zeros_(linear.weight)
    assert not testing.assert_params_all_zeros(linear)
    nn.init.zeros_(linear.bias)
    assert testing.assert_params_all_zeros(linear)
    assert testing.assert_params_all_zeros(nn.BatchNorm2d(1, affine=False).requires_grad_())
    with pytest.raises(AttributeError, match="weight"):
        testing.assert_params_all_zeros(nn.ReLU())


def test_scripts_run_with_their_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    script = tmp_path / "script.py"
    script.write_text("import sys\nassert __name__ == '__main__'\nprint(sys.argv[1:])\n")
    before = sys.argv
    testing.check_python_script(f"{script} --flag 'a b'")
    assert "['--flag', 'a b']\n" == capsys.readouterr().out
    assert before is sys.argv
    script.write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        testing.check_python_script(str(script))
    with pytest.raises(FileNotFoundError):
        testing.check_python_script(str(tmp_path / "absent.py"))


def test_close_numbers_pass() -> None:
    testing.assert_allclose(torch.ones(2), torch.ones(2) + 1e-7)
    testing.assert_allclose(torch.ones(2), np.ones(2))
    testing.assert_allclose([1, 2], (1, 2))
    testing.assert_allclose(torch.tensor(float("nan")), torch.tensor(float("nan")))
    testing.assert_allclose(torch.ones(2), torch.ones(2) * 1.01, rtol=0.1)
    testing.assert_allclose(torch.ones(2), torch.ones(2) + 0.01, atol=0.1)


def test_numbers_that_differ_are_shown() -> None:
    with pytest.raises(AssertionError, match="Mismatched elements: 1 / 2"):
        testing.assert_allclose(torch.ones(2), torch.tensor([1.0, 2.0]))
    with pytest.raises(AssertionError, match=r"^because$"):
        testing.assert_allclose(1.0, 2.0, msg="because")
    with pytest.raises(AssertionError, match=r"^because Scalars"):
        testing.assert_allclose(1.0, 2.0, msg=lambda text: f"because {text}")
    with pytest.raises(AssertionError):
        testing.assert_allclose(
            torch.tensor(float("nan")), torch.tensor(float("nan")), equal_nan=False
        )
