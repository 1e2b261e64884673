"""The table of promises names tests that exist, and a negative control for each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROWS = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")]
    for line in (HERE / "README.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| promise")
]
# `file.py`, `file.py::name`, or `…name` in the file named before; names may be cut short by `…`.
NAMED = re.compile(r"`([\w./]*\.py)?(?:::|…)?((?:Test|test_)\w*)?…?`")


def named_by(cell: str) -> list[tuple[Path, str]]:
    found, file = [], ""
    for match in NAMED.finditer(cell):
        file = match[1] or file
        if match[1] or match[2]:
            found.append(((HERE / file).resolve(), match[2] or ""))
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_each_promise_names_tests_that_exist_and_a_control(row: list[str]) -> None:
    _, tests, control = row
    assert named_by(tests)
    assert named_by(control) or "the same test" in control or "of this file" in control
    for file, name in named_by(tests) + named_by(control):
        assert file.is_file(), file
        assert re.search(rf"^(?:class|    def|def) {name}", file.read_text(), re.M), (file, name)


def test_the_table_is_read_as_it_is_written() -> None:
    assert len(ROWS) > 20
    assert all(len(row) == 3 for row in ROWS)
    read = named_by("`a.py::test_one…`, `…test_two`, `b.py`; `--option`")
    assert read == [(HERE / "a.py", "test_one"), (HERE / "a.py", "test_two"), (HERE / "b.py", "")]
