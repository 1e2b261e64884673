"""Configs: files of settings with inheritance, in Python, YAML, JSON and TOML."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.config.changes import ABSENT as ABSENT
    from mmx.config.changes import Change as Change
    from mmx.config.changes import apply as apply
    from mmx.config.changes import content_hash as content_hash
    from mmx.config.changes import diff as diff
    from mmx.config.config import Config as Config
    from mmx.config.config_dict import ConfigDict as ConfigDict
    from mmx.config.dict_action import DictAction as DictAction
    from mmx.config.errors import ConfigError as ConfigError
    from mmx.config.errors import ConfigParsingError as ConfigParsingError
    from mmx.config.lazy import LazyAttr as LazyAttr
    from mmx.config.lazy import LazyObject as LazyObject
    from mmx.config.lazy import read_base as read_base
    from mmx.config.locate import list_configs as list_configs
    from mmx.config.locate import resolve_config_path as resolve_config_path
    from mmx.config.origin import Origin as Origin
    from mmx.config.origin import origin_of as origin_of
    from mmx.config.overrides import parse_overrides as parse_overrides
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "changes": ["ABSENT", "Change", "apply", "content_hash", "diff"],
            "config": ["Config"],
            "config_dict": ["ConfigDict"],
            "dict_action": ["DictAction"],
            "errors": ["ConfigError", "ConfigParsingError"],
            "lazy": ["LazyAttr", "LazyObject", "read_base"],
            "locate": ["list_configs", "resolve_config_path"],
            "origin": ["Origin", "origin_of"],
            "overrides": ["parse_overrides"],
        },
    )
