"""Undoing what a test does to the state that a process shares."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from mmx.fileio.backends import registry_utils as storage
from mmx.fileio.handlers import registry_utils as formats
from mmx.utils.manager import ManagerMixin
from mmx_registry.isolation import isolated


def _managed_classes() -> list[Any]:
    found: list[Any] = []
    waiting: list[Any] = [ManagerMixin]
    while waiting:
        cls = waiting.pop()
        found.append(cls)
        waiting.extend(cls.__subclasses__())
    return found


@contextmanager
def isolate() -> Iterator[None]:
    """Restore registries, scopes, named instances, storage back ends and log levels after a block.

    What came about inside is gone afterwards: registrations, loggers and message hubs, back ends
    and file formats. Loggers that are made inside are closed.
    """
    tables: list[dict[Any, Any]] = [
        storage.backends,
        storage.prefix_to_backends,
        formats.file_handlers,
    ]
    before = [dict(table) for table in tables]
    instances = {cls: dict(cls._instance_dict) for cls in _managed_classes()}
    with ExitStack() as stack:
        stack.enter_context(isolated())
        try:
            yield
        finally:
            for cls in _managed_classes():
                kept = instances.get(cls, {})
                for name, instance in list(cls._instance_dict.items()):
                    if kept.get(name) is not instance and isinstance(instance, logging.Logger):
                        for handler in list(instance.handlers):
                            handler.close()
                cls._instance_dict.clear()
                cls._instance_dict.update(kept)
            for table, content in zip(tables, before, strict=True):
                table.clear()
                table.update(content)


__all__ = ["isolate"]
