"""From a file to settings: each file is parsed, run, and merged onto its bases."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmx.config import restricted, source
from mmx.config.config_dict import ParsedDict, without_delete_keys
from mmx.config.data import parse_data
from mmx.config.errors import (
    ConfigBaseImportError,
    ConfigFileNotFoundError,
    ConfigKeyError,
    ConfigMergeError,
    ConfigParsingError,
)
from mmx.config.locate import SUFFIXES, module_file, resolve_config_path, split_package
from mmx.config.merge import merge
from mmx.config.source import BASE_KEY, Names
from mmx.config.template import Template, Variables

DEPRECATION_KEY = "_deprecation_"
RESERVED_KEYS = ("filename", "text", "pretty_text", "env_variables")


@dataclass
class Layer:
    """One file that a config was read from, and its bases; origins of values are found by it.

    Attributes:
        path: The file.
        text: Its text.
        kind: How it was read.
        bases: What it is built on, in order. Of a pure-Python config, by the module as it is
            written in the file (``".base"``).
        scope: The package whose scope its types have, if another package's file names it.
    """

    path: str
    text: str
    kind: Literal["text", "lazy", "data"]
    bases: dict[str, Layer] = field(default_factory=dict)
    scope: str | None = None


@dataclass
class Loaded:
    """What reading a config yields.

    Attributes:
        names: Its settings and other names.
        text: Its text, with those of its bases above it.
        layer: Its files.
        environment: The environment variables that were used.
    """

    names: Names
    text: str
    layer: Layer
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """How configs are read; see `Config.fromfile`."""

    predefined: bool = True
    environment: bool = True
    lazy: bool | None = None


def load_file(
    filename: str | os.PathLike[str],
    options: Options,
    above: tuple[str, ...] = (),
    data_only: bool = False,
) -> Loaded:
    """Read a config file and its bases.

    Args:
        filename: The file.
        options: How.
        above: The files that it is a base of.
        data_only: Whether it may hold data only; see `restricted`.

    Raises:
        ConfigFileNotFoundError: There is no such file.
        OSError: It is of no known format.
        ConfigError: Its text is wrong.
    """
    path = Path(os.path.abspath(os.path.expanduser(filename)))
    if not path.is_file():
        by = f" (named as a base by {above[-1]})" if above else ""
        raise ConfigFileNotFoundError(f'file "{path}" does not exist{by}')
    if path.suffix not in SUFFIXES:
        raise OSError(
            f"Only py/yml/yaml/json/toml type are supported now, but {path.name} is none of them"
        )
    if str(path) in above:
        chain = " -> ".join([*above[above.index(str(path)) :], str(path)])
        raise ConfigParsingError(f"the file inherits from itself: {chain}", filename=str(path))
    return load_text(path.read_text(encoding="utf-8"), path, options, above, data_only)


def load_text(
    text: str,
    path: Path,
    options: Options,
    above: tuple[str, ...] = (),
    data_only: bool = False,
) -> Loaded:
    """Read a config from its text; ``path`` says its format and where its bases are."""
    variables = Variables(path, options.predefined, options.environment)
    reader = _Reader(path, options, (*above, str(path)), data_only)
    if path.suffix == ".py" and not data_only and not options.lazy and source.is_plain(text):
        kind: Literal["text", "lazy", "data"] = "text"
        names = source.run_plain(text, path)
    elif path.suffix == ".py":
        parsed = source.parse(text, path, variables)
        lazy = source.is_lazy(parsed.tree) if options.lazy is None or above else options.lazy
        if data_only:
            kind = "text"
            names = restricted.evaluate(parsed, reader.bases)
            check_custom_imports(names.values, path)
        elif lazy:
            kind = "lazy"
            names = source.run_lazy(parsed, reader.module)
        else:
            kind = "text"
            names = source.run_text(parsed, reader.bases)
    else:
        kind = "data"
        reader.data_only = True
        names = _read_data(text, path, variables, reader)
    _check_reserved(names.values, path)
    _warn_deprecated(names.values, path)
    if reader.merged is not None:
        try:
            names.values = merge(names.values, reader.merged, may_delete="_delete_" in text)
        except (ConfigMergeError, ConfigKeyError) as error:
            error.add_note(f"while merging {path} onto {', '.join(reader.layers)}")
            raise
    else:
        names.values = {k: without_delete_keys(v) for k, v in dict.items(names.values)}
        names.values.pop("_delete_", None)
    names.imported = {**reader.imported, **names.imported}
    full_text = text if kind == "lazy" else "\n".join([*reader.texts, f"{path}\n{text}"])
    return Loaded(
        names,
        full_text,
        Layer(str(path), text, kind, reader.layers),
        {**reader.environment, **variables.used},
    )


def _read_data(text: str, path: Path, variables: Variables, reader: _Reader) -> Names:
    settings, fill = parse_data(text, path, variables)

    def base_value(item: Template) -> Any:
        return source.base_value(reader.merged, item, path)

    base = settings.pop(BASE_KEY, None)
    if base is not None:
        reader.bases(fill(base_value, base), None)
    values = fill(base_value, settings)
    check_custom_imports(values, path)
    return Names(values)


class _Reader:
    """Reads the bases of one file, and keeps what it learns."""

    def __init__(
        self, path: Path, options: Options, above: tuple[str, ...], data_only: bool
    ) -> None:
        self.path = path
        self.options = options
        self.above = above
        self.data_only = data_only
        self.merged: ParsedDict | None = None
        self.texts: list[str] = []
        self.layers: dict[str, Layer] = {}
        self.imported: dict[str, Any] = {}
        self.environment: dict[str, str] = {}

    def bases(self, value: Any, line: int | None) -> ParsedDict:
        """Load what ``_base_`` names and merge it.

        Raises:
            ConfigParsingError: ``_base_`` is no path and no list of paths.
            ConfigKeyError: Two bases set one key.
        """
        values: dict[str, Any] = {}
        owners: dict[str, str] = {}
        for address in self._addresses(value, line):
            file, package = self._locate(address, line)
            # The configs of a trusted package may run, as its modules may.
            data_only = self.data_only and not (package and is_trusted(package))
            loaded = load_file(file, self.options, self.above, data_only)
            layer = loaded.layer
            settings = loaded.names.values
            if package is not None:
                # Types in another package's config are those of its scope.
                settings = {key: with_scope(v, package) for key, v in settings.items()}
                layer.scope = package
            twice = [key for key in settings if key in owners]
            if twice:
                raise ConfigKeyError(
                    "Duplicate key is not allowed among bases. Duplicate keys: "
                    f"{', '.join(sorted(twice))}; {owners[twice[0]]} and {layer.path} both set "
                    f"{twice[0]!r}. Let one of them inherit from the other",
                    filename=str(self.path),
                    line=line,
                )
            values.update(settings)
            owners.update(dict.fromkeys(settings, layer.path))
            self.texts.append(loaded.text)
            self.layers[address] = layer
            self.imported.update(loaded.names.imported)
            self.environment.update(loaded.environment)
        self.merged = ParsedDict(values)
        return self.merged

    def _addresses(self, value: Any, line: int | None) -> list[str]:
        items = [value] if isinstance(value, (str, os.PathLike)) else value
        if not isinstance(items, (list, tuple)) or not all(
            isinstance(item, (str, os.PathLike)) for item in items
        ):
            raise ConfigParsingError(
                f"_base_ must be a path or a list of paths, but got {value!r}",
                filename=str(self.path),
                line=line,
            )
        return [os.fspath(item) for item in items]

    def _locate(self, address: str, line: int | None) -> tuple[str, str | None]:
        package, _ = split_package(address)
        if package is not None:
            try:
                return resolve_config_path(address), package
            except (OSError, ImportError) as error:
                error.add_note(f"named as a base by {self.path}" + (f":{line}" if line else ""))
                raise
        if "://" in address:
            raise ConfigParsingError(
                f"_base_ {address!r} is remote; configs are read from local files only",
                filename=str(self.path),
                line=line,
            )
        file = os.path.normpath(self.path.parent / os.path.expanduser(address))
        if not os.path.isfile(file):
            raise ConfigFileNotFoundError(
                f"its base {address!r} does not exist: there is no {file}",
                filename=str(self.path),
                line=line,
            )
        return file, None

    def module(self, module: str, level: int, line: int) -> Names:
        """Load the base that an import in ``with read_base():`` names.

        Raises:
            ConfigParsingError: There is no such file.
        """
        if level:
            folder = self.path.parent
            for _ in range(level - 1):
                folder = folder.parent
            target = folder.joinpath(*module.split(".")) if module else folder / "__init__"
            found = target.with_name(f"{target.name}.py")
            file: Path | None = found if found.is_file() else target / "__init__.py"
        else:
            file = module_file(module)
        written = f"{'.' * level}{module}"
        if file is None or not file.is_file():
            where = f"{found} not found! It means that" if level else "It seems that an"
            raise (ConfigParsingError if module else ConfigBaseImportError)(
                f"{where} incorrect module is defined in `with read_base(): from {written} import "
                "...`, please make sure the base config module is valid and is consistent with the "
                "prior import logic",
                filename=str(self.path),
                line=line,
            )
        loaded = load_file(file, self.options, self.above)
        self.layers[written] = loaded.layer
        self.environment.update(loaded.environment)
        return loaded.names


def with_scope(value: Any, scope: str) -> Any:
    """Return a value whose outermost dicts with a ``type`` have a ``_scope_``.

    What is inside them is built in that scope, too, so it needs none of its own.
    """
    if isinstance(value, dict):
        if "type" in value:
            if "_scope_" in value:
                return value
            new = value.copy()
            new["_scope_"] = scope
            return new
        return type(value)({k: with_scope(v, scope) for k, v in dict.items(value)})
    if type(value) in (list, tuple):
        return type(value)(with_scope(item, scope) for item in value)
    return value


def _check_reserved(values: Mapping[str, Any], path: Path) -> None:
    for key in values:
        if key in RESERVED_KEYS:
            raise ConfigKeyError(f"{key} is reserved for config file", filename=str(path))


def _warn_deprecated(values: dict[str, Any], path: Path) -> None:
    note = dict.pop(values, DEPRECATION_KEY, None)
    if note is None:
        return
    text = f"The config file {path} will be deprecated in the future."
    if isinstance(note, Mapping):
        if "expected" in note:
            text += f" Please use {note['expected']} instead."
        if "reference" in note:
            text += f" More information can be found at {note['reference']}"
    warnings.warn(text, DeprecationWarning, stacklevel=2)


def is_trusted(module: str) -> bool:
    """Whether configs that cannot run code may name a module. Nothing is imported."""
    from mmx.registry import is_trusted_package

    return is_trusted_package(module)


def check_custom_imports(values: Mapping[str, Any], path: Path) -> None:
    """Check that a config which cannot run code imports trusted packages only.

    Raises:
        ConfigParsingError: It names another.
    """
    imports = values.get("custom_imports")
    if imports is None:
        return
    modules = imports.get("imports") if isinstance(imports, Mapping) else imports
    for name in [modules] if isinstance(modules, str) else modules or ():
        if not isinstance(name, str) or not is_trusted(name):
            top = str(name).partition(".")[0]
            raise ConfigParsingError(
                f"custom_imports names {name!r}, which is in no trusted package, and a "
                f"{path.suffix} config cannot run code. Trust it (`mmx --trust {top}`, or "
                f"MMX_TRUST={top}), or write the config as a Python file",
                filename=str(path),
            )
