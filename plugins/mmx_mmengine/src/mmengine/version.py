"""The version whose interface this package answers to; our own is ``mmengine.__mmx_version__``."""

import re

__version__ = "0.10.7"


def parse_version_info(version_str: str) -> tuple[int | str, ...]:
    """Return a version as a tuple.

    Args:
        version_str: A version such as ``"0.10.7"`` or ``"1.0.0rc1"``.

    Returns:
        The numbers, and for a release candidate ``"rcN"`` at the end.
    """
    info: list[int | str] = []
    for part in version_str.split("."):
        if part.isdigit():
            info.append(int(part))
        elif found := re.fullmatch(r"(\d+)rc(\w+)", part):
            info += [int(found[1]), f"rc{found[2]}"]
    return tuple(info)


version_info = parse_version_info(__version__)
