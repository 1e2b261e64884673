"""Every name that old code uses is there, and is the object that mmx has."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"
USED = [
    line
    for line in (DATA / "used_downstream.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def imported(name: str) -> object:
    """Return what ``from module import name`` gives."""
    module_name, _, attribute = name.partition(":")
    value: object = importlib.import_module(module_name)
    for part in attribute.split("."):
        if not hasattr(value, part):
            return importlib.import_module(f"{module_name}.{attribute}")
        value = getattr(value, part)
    return value


def test_the_list_of_used_names_is_whole() -> None:
    assert 326 == len(USED) == len(set(USED))


@pytest.mark.parametrize("name", [name for name in USED if ":" in name])
def test_a_used_name_can_be_imported_and_is_that_of_mmx(name: str) -> None:
    value = imported(name)
    module, _, attribute = name.partition(":")
    if module == "mmengine":  # its top-level names come from five packages
        return
    own = importlib.import_module(module)
    assert own.__name__.partition(".")[0] == "mmx"
    assert value is imported(f"{own.__name__}:{attribute}")


def test_names_read_as_attributes_need_no_import_of_their_modules() -> None:
    names = [name for name in USED if ":" not in name]
    code = (
        "import mmengine, operator, warnings\n"
        "warnings.simplefilter('error')\n"
        f"for name in {names}:\n"
        "    rest = name.partition('.')[2]\n"
        "    assert not rest or operator.attrgetter(rest)(mmengine) is not None, name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_further_name_is_where_the_tables_say() -> None:
    from mmengine._compat import extra

    for module_name, names in extra.EXTRA.items():
        module = importlib.import_module(module_name)
        for name, (place, other) in names.items():
            value = getattr(importlib.import_module(place), other)
            # What mmx has itself goes first.
            assert name in vars(module) or getattr(module, name) is value, (module_name, name)
    for old, new in extra.MOVED.items():
        assert importlib.import_module(f"mmengine.{old}") is importlib.import_module(new)
