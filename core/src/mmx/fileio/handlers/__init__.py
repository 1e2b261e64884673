"""Handlers of file formats."""

from mmx.fileio.handlers.base import BaseFileHandler
from mmx.fileio.handlers.json_handler import JsonHandler
from mmx.fileio.handlers.npy_handler import NpyHandler
from mmx.fileio.handlers.pickle_handler import PickleHandler
from mmx.fileio.handlers.registry_utils import file_handlers, register_handler
from mmx.fileio.handlers.toml_handler import TomlHandler
from mmx.fileio.handlers.yaml_handler import YamlHandler

__all__ = [
    "BaseFileHandler",
    "JsonHandler",
    "NpyHandler",
    "PickleHandler",
    "TomlHandler",
    "YamlHandler",
    "file_handlers",
    "register_handler",
]
