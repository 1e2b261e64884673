"""Configs: files of settings with inheritance, in Python, YAML, JSON and TOML."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.config.config import Config as Config
    from mmx.config.config_dict import ConfigDict as ConfigDict
    from mmx.config.dict_action import DictAction as DictAction
    from mmx.config.errors import ConfigError as ConfigError
    from mmx.config.errors import ConfigParsingError as ConfigParsingError
    from mmx.config.lazy import read_base as read_base
    from mmx.config.locate import resolve_config_path as resolve_config_path
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "config": ["Config"],
            "config_dict": ["ConfigDict"],
            "dict_action": ["DictAction"],
            "errors": ["ConfigError", "ConfigParsingError"],
            "lazy": ["read_base"],
            "locate": ["resolve_config_path"],
        },
    )
