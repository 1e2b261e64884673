"""What modules, names, parameters and members of the old package we lack, and why.

The old package's layout is recorded by ``tests/contract/layout/record.py``.
"""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

LAYOUT: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "contract/layout/layout.json").read_text()
)


def ours(function: Any) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def refused_calls(old: list[str], function: Any) -> list[str]:
    """Return parameters that old code may pass, by name or by place, and ours does not take."""
    new = ours(function)
    if new is None:
        return []
    kinds = {p.kind for p in new}
    by_name = {p.name for p in new if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    by_place = [p.name for p in new if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_any_name = inspect.Parameter.VAR_KEYWORD in kinds
    takes_any_place = inspect.Parameter.VAR_POSITIONAL in kinds
    refused = []
    positional = True
    for place, text in enumerate(old):
        name = text.strip("*=")
        if text.startswith("*"):
            positional = False
            taken = takes_any_name if text.startswith("**") else takes_any_place or not name
            if not taken:
                refused.append(text)
            continue
        if name not in by_name and not takes_any_name and place:
            refused.append(name)
        elif positional and by_place[place : place + 1] != [name] and not takes_any_place and place:
            refused.append(f"{name} by place")
    given = {text.strip("*=") for text in old}
    refused += [
        f"needs {p.name}"
        for p in new
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.name not in given
        and not refused
    ]
    optional = {text.rstrip("=") for text in old if text.endswith("=")}
    refused += [f"{p.name} is needed" for p in new if p.name in optional and p.default is p.empty]
    return refused


def lacks() -> set[str]:
    found = set()
    for module_name, names in LAYOUT.items():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError:
            found.add(module_name)
            continue
        for name, facts in names.items():
            path = f"{module_name}:{name}"
            if not hasattr(module, name):
                found.add(path)
                continue
            value = getattr(module, name)
            if isinstance(facts, list):
                found.update(f"{path}({item})" for item in refused_calls(facts, value))
            elif isinstance(facts, dict):
                for member, inner in facts.items():
                    try:
                        own = inspect.getattr_static(value, member)
                    except AttributeError:
                        if not hasattr(value, member):
                            found.add(f"{path}.{member}")
                        continue
                    if inner == "property":
                        continue
                    function = own.__func__ if isinstance(own, (staticmethod, classmethod)) else own
                    if isinstance(inner, list) and callable(function):
                        found.update(
                            f"{path}.{member}({item})" for item in refused_calls(inner, function)
                        )
    return found


def known_lacks() -> set[str]:
    lines = (Path(__file__).parent / "data/lacks.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_nothing_is_lacking_but_what_is_known() -> None:
    assert [] == sorted(lacks() - known_lacks())


def test_what_is_known_to_lack_was_there() -> None:
    for name in known_lacks():
        module, _, path = name.partition("(")[0].partition(":")
        top, _, member = path.partition(".")
        assert not top or top in LAYOUT[module], name
        assert not member or member in LAYOUT[module][top], name


def test_every_module_of_the_old_package_imports_but_one() -> None:
    absent = {name for name in lacks() if ":" not in name}
    assert {"mmengine.utils.dl_utils.visualize"} == absent
