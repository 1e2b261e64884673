"""YAML, without what could run code."""

from __future__ import annotations

import sys
from collections import OrderedDict
from enum import Enum
from pathlib import PurePath
from typing import Any

import yaml

from mmx.fileio.handlers.base import BaseFileHandler

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Loader(_SafeLoader):  # type: ignore[misc]  # written in C where possible
    """Reads plain data only, and tuples as older files have them."""


def _tuple(loader: Any, node: Any) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


class Dumper(_SafeDumper):  # type: ignore[misc]  # written in C where possible
    """Writes plain data; containers and numbers of other kinds become the plain ones."""

    def represent_undefined(self, data: Any) -> Any:
        np = sys.modules.get("numpy")
        if np is not None and isinstance(data, np.ndarray):
            return self.represent_data(data.tolist())
        if np is not None and isinstance(data, np.generic):
            return self.represent_data(data.item())
        if isinstance(data, PurePath):
            return self.represent_str(str(data))
        if isinstance(data, Enum):
            return self.represent_data(data.value)
        # Other subclasses of plain types are written as their plain value.
        plain: Any
        for plain in (int, float, str, bytes):
            if isinstance(data, plain):
                return self.represent_data(plain(data))
        if isinstance(data, dict):
            return self.represent_dict(dict(data))
        if isinstance(data, (list, tuple, range)):
            return self.represent_list(list(data))
        if isinstance(data, (set, frozenset)):
            return self.represent_set(set(data))
        raise TypeError(f"{type(data)} is unsupported for yaml dump")


Dumper.add_representer(tuple, lambda dumper, data: dumper.represent_list(list(data)))
Dumper.add_representer(OrderedDict, lambda dumper, data: dumper.represent_dict(dict(data)))
Dumper.add_representer(None, Dumper.represent_undefined)


class YamlHandler(BaseFileHandler):
    """YAML."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Return what an open file contains.

        Args:
            file: An open text file.
            **kwargs: ``Loader``: the class of PyYAML to read with; by default one that builds
                plain data only.

        Raises:
            yaml.YAMLError: It is no YAML, or asks for an object that is not plain data.
        """
        kwargs.setdefault("Loader", Loader)
        return yaml.load(file, **kwargs)

    def dump_to_fileobj(self, obj: Any, file: Any, **kwargs: Any) -> None:
        """Write an object to an open file. Arguments are those of ``yaml.dump``."""
        kwargs.setdefault("Dumper", Dumper)
        yaml.dump(obj, file, **kwargs)

    def dump_to_str(self, obj: Any, **kwargs: Any) -> str:
        """Return an object as YAML. Arguments are those of ``yaml.dump``."""
        kwargs.setdefault("Dumper", Dumper)
        return str(yaml.dump(obj, **kwargs))
