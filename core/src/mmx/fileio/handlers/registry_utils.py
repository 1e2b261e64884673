"""Which handler serves which file format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mmx.fileio.handlers.base import BaseFileHandler
from mmx.fileio.handlers.json_handler import JsonHandler
from mmx.fileio.handlers.npy_handler import NpyHandler
from mmx.fileio.handlers.pickle_handler import PickleHandler
from mmx.fileio.handlers.toml_handler import TomlHandler
from mmx.fileio.handlers.yaml_handler import YamlHandler

H = TypeVar("H", bound=type[BaseFileHandler])

# File extension -> handler.
file_handlers: dict[str, BaseFileHandler] = {
    "json": JsonHandler(),
    "yaml": YamlHandler(),
    "yml": YamlHandler(),
    "pickle": PickleHandler(),
    "pkl": PickleHandler(),
    "toml": TomlHandler(),
    "npy": NpyHandler(),
}


def _register_handler(handler: BaseFileHandler, file_formats: Any) -> None:
    if not isinstance(handler, BaseFileHandler):
        raise TypeError(f"handler must be a child of BaseFileHandler, not {type(handler)}")
    formats = [file_formats] if isinstance(file_formats, str) else file_formats
    if not isinstance(formats, (list, tuple)) or not all(isinstance(f, str) for f in formats):
        raise TypeError("file_formats must be a str or a list of str")
    for name in formats:
        file_handlers[name] = handler


def register_handler(file_formats: str | list[str], **kwargs: Any) -> Callable[[H], H]:
    """Return a class decorator that registers a handler for file formats.

    Args:
        file_formats: File extension, or a list of them. What is registered for it is replaced.
        **kwargs: For the handler's constructor.

    Raises:
        TypeError: From the decorator: the class is no handler, or a format no text.
    """

    def register(cls: H) -> H:
        if not (isinstance(cls, type) and issubclass(cls, BaseFileHandler)):
            raise TypeError(f"handler must be a child of BaseFileHandler, not {cls!r}")
        _register_handler(cls(**kwargs), file_formats)
        return cls

    return register
