"""Walking a code base."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from mmx.cli.doctor import data_files, names, parts
from mmx.cli.doctor.findings import WARNING, Report
from mmx.cli.doctor.sources import SourceReader, declared_scopes, registered

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})
# Where installed projects of the family keep their configs and tools.
_SHIPPED = ".mim"


def examine(path: Path) -> Report:
    """Return what does not run, or runs otherwise, in a file or in all files of a folder.

    Nothing of it is imported.

    Args:
        path: The file or folder.

    Raises:
        FileNotFoundError: There is no such path.
        NotInstalledError: The package with the old names is not installed.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}")
    names.check_installed()
    report = Report()
    around = parts.Surroundings()
    around.add_installed()
    files = [path] if path.is_file() else sorted(_walk(path))
    trees: list[tuple[Path, ast.Module]] = []
    for file in files:
        if file.suffix == ".py":
            tree = _parse(file, report)
            if tree is not None:
                around.names.update(registered(tree))
                around.scopes.update(declared_scopes(tree))
                trees.append((file, tree))
            report.num_files += 1
        if file.name == "__init__.py":
            around.scopes.add(file.parent.name)
    for file, tree in trees:
        SourceReader(file, tree, around, report).read()
    for file in files:
        if file.suffix in (".yaml", ".yml", ".json") and (
            file.stat().st_size <= data_files.MAX_BYTES
        ):
            text = file.read_text(encoding="utf-8", errors="replace")
            report.num_files += data_files.read(file, text, around, report)
    report.sort()
    return report


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED and (name == _SHIPPED or not name.startswith("."))
        )
        for name in files:
            if name.endswith((".py", ".yaml", ".yml", ".json")):
                yield Path(where) / name


def _parse(file: Path, report: Report) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            # Escapes in old strings are the code's affair.
            warnings.simplefilter("ignore")
            return ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 0
        text = f"the file cannot be parsed: {getattr(error, 'msg', error)}"
        report.add(file, line, "syntax", file.name, text, level=WARNING)
        return None
