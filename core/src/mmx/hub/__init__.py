"""Configs and models that installed packages publish."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.hub.hub import get_config as get_config
    from mmx.hub.hub import get_model as get_model
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__, {"hub": ["get_config", "get_model"]})
