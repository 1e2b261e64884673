"""Every Python block of the README and the manual runs as it stands."""

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
    ROOT / "core" / "README.md",
    ROOT / "registry" / "README.md",
]


def blocks() -> list:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^( *)```python\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE):
            line = text[: match.start()].count("\n") + 2
            name = f"{page.relative_to(ROOT)}:{line}"
            # Compiled under the page's name and line, so that a traceback points there.
            code = "\n" * (line - 1) + textwrap.dedent(match[2])
            found.append(pytest.param(str(page), code, id=name))
    return found


@pytest.mark.parametrize(("page", "code"), blocks())
def test_the_block_runs(
    page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolated: None
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {"__name__": "__main__"})
