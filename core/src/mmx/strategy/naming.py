"""Optimizer state by the names of weights, as runs with other numbers of ranks find it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmx.utils.errors import InvalidValueError


def state_by_name(state: Mapping[str, Any], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return ``state`` and ``param_groups`` of an optimizer with weights named.

    Args:
        state: An optimizer's state, in which weights are named or numbered.
        names: The names of the weights that this run's optimizer has, by group.

    Raises:
        ValueError: Weights are numbered, and groups are of other sizes than here.
    """
    groups = state["param_groups"]
    if not any(isinstance(number, int) for group in groups for number in group["params"]):
        return {"state": state["state"], "param_groups": groups}
    if [len(g["params"]) for g in groups] != [len(g) for g in names]:
        raise InvalidValueError(
            "the checkpoint's optimizer has groups of "
            f"{[len(g['params']) for g in groups]} weights, this run's of "
            f"{[len(g) for g in names]}; resume with the same optim_wrapper"
        )
    named = {
        number: name
        for saved, group in zip(groups, names, strict=True)
        for number, name in zip(saved["params"], group, strict=True)
    }
    return {
        "state": {named[number]: entry for number, entry in state["state"].items()},
        "param_groups": [
            {**group, "params": [named[number] for number in group["params"]]} for group in groups
        ],
    }
