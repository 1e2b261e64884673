"""Which of the others a Python has."""

import importlib.util


def is_here(module: str) -> bool:
    """Tell whether a peer is installed. Where mmx is, ``mmengine`` is another name of it."""
    if module == "mmengine" and importlib.util.find_spec("mmx") is not None:
        return False
    return importlib.util.find_spec(module) is not None
