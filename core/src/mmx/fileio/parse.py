"""Text files of lists and tables."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

from mmx.fileio.io import BackendArgs, _storage
from mmx.fileio.paths import StrPath
from mmx.utils.errors import InvalidValueError


def _text(
    filename: StrPath, encoding: str, file_client_args: BackendArgs, backend_args: BackendArgs
) -> StringIO:
    storage = _storage(str(filename), file_client_args, backend_args)
    return StringIO(storage.get_text(filename, encoding))


def list_from_file(
    filename: StrPath,
    prefix: str = "",
    offset: int = 0,
    max_num: int = 0,
    encoding: str = "utf-8",
    file_client_args: BackendArgs = None,
    backend_args: BackendArgs = None,
) -> list[str]:
    """Return the lines of a text file of any storage.

    Args:
        filename: Path of the file.
        prefix: Put before each line.
        offset: Number of lines to leave out at the beginning.
        max_num: Number of lines to read at most; 0 or less reads all.
        encoding: Of the text.
        file_client_args: Older form of ``backend_args``.
        backend_args: Arguments of the back end.
    """
    lines: list[str] = []
    with _text(filename, encoding, file_client_args, backend_args) as file:
        for number, line in enumerate(file):
            if number < offset:
                continue
            if 0 < max_num <= len(lines):
                break
            lines.append(prefix + line.rstrip("\n\r"))
    return lines


def dict_from_file(
    filename: StrPath,
    key_type: Callable[[str], Any] = str,
    encoding: str = "utf-8",
    file_client_args: BackendArgs = None,
    backend_args: BackendArgs = None,
) -> dict[Any, Any]:
    """Return a table of a text file of any storage: first column -> the others.

    A line has two or more columns, parted by white space. The value is a text, or a list of texts
    if there are more than two columns.

    Args:
        filename: Path of the file.
        key_type: Makes the keys.
        encoding: Of the text.
        file_client_args: Older form of ``backend_args``.
        backend_args: Arguments of the back end.

    Raises:
        ValueError: A line has fewer than two columns.
    """
    table: dict[Any, Any] = {}
    with _text(filename, encoding, file_client_args, backend_args) as file:
        for number, line in enumerate(file, 1):
            items = line.rstrip("\n").split()
            if len(items) < 2:
                raise InvalidValueError(
                    f"{filename}, line {number}: a key and at least one value are expected, but got {line.rstrip()!r}"
                )
            table[key_type(items[0])] = items[1:] if len(items) > 2 else items[1]
    return table
