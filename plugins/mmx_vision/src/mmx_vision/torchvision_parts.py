"""Registers the public names of torchvision. It is never required, and never the CPU build's fault."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging

from mmx.registry import Registry

PREFIX = "torchvision/"


def register_all(registry: Registry, module_name: str) -> list[str]:
    """Register the public classes and model functions of a torchvision module, if it imports.

    They are named ``torchvision/<name>``, so that none hides a part of this plugin.

    Returns:
        The names registered; none where torchvision is absent or does not fit the installed torch.
    """
    if importlib.util.find_spec("torchvision") is None:
        return []
    try:
        module = importlib.import_module(module_name)
    except (ImportError, RuntimeError) as error:
        # A build for another torch fails while it registers its operators.
        logging.getLogger("mmx_vision").warning(
            "torchvision is installed but does not import, so its parts are not registered: %s",
            error,
        )
        return []
    names = []
    for name, part in sorted(vars(module).items()):
        public = not name.startswith("_")
        is_class = inspect.isclass(part) and part.__module__.startswith("torchvision.")
        is_model = inspect.isfunction(part) and part.__module__.startswith("torchvision.models.")
        if public and (is_class or is_model):
            registry.register_module(name=PREFIX + name, module=part)
            names.append(PREFIX + name)
    return names
