"""Configs: read, inherited, changed, shown and written."""

from __future__ import annotations

import argparse
import copy
import difflib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mmx.config import format as formatting
from mmx.config import load, source
from mmx.config.config_dict import (
    CONFIG_METHODS,
    ConfigDict,
    _Watchful,
    give_edits,
    may_be_edited,
    near,
    plain,
    set_places,
    take_edits,
)
from mmx.config.config_dict import DELETE_KEY as DELETE_KEY
from mmx.config.dict_action import DictAction as DictAction
from mmx.config.errors import ConfigError as ConfigError
from mmx.config.errors import ConfigKeyError, ConfigParsingError, ConfigTypeError
from mmx.config.lazy import LazyAttr as LazyAttr
from mmx.config.lazy import LazyObject as LazyObject
from mmx.config.lazy import read_base as read_base
from mmx.config.load import DEPRECATION_KEY as DEPRECATION_KEY
from mmx.config.load import RESERVED_KEYS, Layer, Loaded, Options
from mmx.config.locate import SUFFIXES, resolve_config_path, split_package
from mmx.config.merge import merge, merge_options
from mmx.config.source import BASE_KEY as BASE_KEY
from mmx.config.steps import Steps
from mmx.registry import trust_packages
from mmx.utils import import_modules_from_strings

logger = logging.getLogger("mmx")

_FIELDS = (
    "_cfg_dict",
    "_filename",
    "_text",
    "_env_variables",
    "_imported",
    "_layer",
    "_overrides",
    "_format_python_code",
)


class Config(Steps):
    """A config: nested settings with access by key and by attribute.

    Args:
        cfg_dict: Settings; copied, unless they are a ConfigDict.
        cfg_text: Text that they were read from.
        filename: File that they were read from.
        env_variables: Environment variables that were used, with their values.
        format_python_code: Kept for old callers; text is always formatted.

    Raises:
        TypeError: ``cfg_dict`` is no dict.
        KeyError: A top-level key is reserved: ``filename``, ``text``, ``pretty_text`` or
            ``env_variables``.

    Examples:
        >>> cfg = Config(dict(model=dict(depth=18)))
        >>> cfg.model.depth
        18
        >>> cfg.merge_from_dict({"model.depth": 50})
        >>> cfg
        Config (path: None): {'model': {'depth': 50}}
    """

    # The instance's `__dict__` is that of its ConfigDict, so that settings are attributes without a
    # call; what is its own is in slots, which go before.
    __slots__ = (*_FIELDS, "__dict__", "__weakref__")

    _cfg_dict: ConfigDict
    _filename: str | None
    _text: str
    _env_variables: dict[str, str]
    # Names of imports, which are no settings.
    _imported: dict[str, Any]
    # The files that the settings were read from, and the overrides merged since, for origins.
    _layer: Layer | None
    _overrides: list[tuple[dict[str, Any], str]]
    _format_python_code: bool

    if TYPE_CHECKING:  # settings are attributes, whatever their names

        def __getattr__(self, name: str) -> Any: ...

    def __init__(
        self,
        cfg_dict: Mapping[str, Any] | None = None,
        cfg_text: str | None = None,
        filename: str | Path | None = None,
        env_variables: dict[str, str] | None = None,
        format_python_code: bool = True,
    ) -> None:
        if cfg_dict is None:
            cfg_dict = {}
        elif not isinstance(cfg_dict, dict):
            raise TypeError(f"cfg_dict must be a dict, but got {type(cfg_dict)}")
        for key in RESERVED_KEYS:
            if key in cfg_dict:
                raise ConfigKeyError(f"{key} is reserved for config file")
        if not isinstance(cfg_dict, ConfigDict):
            cfg_dict = ConfigDict(cfg_dict)
        name = os.fspath(filename) if filename is not None else None
        if not cfg_text and name and os.path.isfile(name):
            cfg_text = Path(name).read_text(encoding="utf-8")
        self._set(
            _cfg_dict=cfg_dict,
            _filename=name,
            _text=cfg_text or "",
            _env_variables=dict(env_variables or {}),
            _imported={},
            _layer=None,
            _overrides=[],
            _format_python_code=format_python_code,
        )

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if "_cfg_dict" in fields:
            object.__setattr__(self, "__dict__", vars(self._cfg_dict))
        self._bind()

    def _bind(self) -> None:
        """Take the class with ``__getattr__`` if some settings are no attributes of the dict."""
        watch = isinstance(self._cfg_dict, _Watchful) or bool(self._imported)
        if watch and not isinstance(self, _WatchfulConfig):
            object.__setattr__(self, "__class__", _watchful_class(type(self)))

    # -- reading

    @staticmethod
    def fromfile(
        filename: str | Path,
        use_predefined_variables: bool = True,
        import_custom_modules: bool = True,
        use_environment_variables: bool = True,
        lazy_import: bool | None = None,
        format_python_code: bool = True,
        trust: Sequence[str] = (),
    ) -> Config:
        """Read a config file and what it inherits.

        Args:
            filename: A ``.py``, ``.json``, ``.yaml``, ``.yml`` or ``.toml`` file, or
                ``package::path`` of one that an installed package ships.
            use_predefined_variables: Replace ``{{ fileDirname }}`` and its kin.
            import_custom_modules: Import what ``custom_imports`` names.
            use_environment_variables: Replace ``{{$NAME:default}}``.
            lazy_import: Whether it is a pure-Python config, whose imports are done when they are
                used; None finds out by the text.
            format_python_code: Kept for old callers; text is always formatted.
            trust: Packages that a config which cannot run code may name objects of, from now on.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: It is of no known format.
            ConfigError: The text is wrong; the message says file and line.
            ImportError: ``custom_imports`` names what cannot be imported.
        """
        if trust:
            trust_packages(*trust)
        path = resolve_config_path(filename)
        options = Options(use_predefined_variables, use_environment_variables, lazy_import)
        config = _from_loaded(load.load_file(path, options), path, import_custom_modules)
        if not format_python_code:
            config._set(_format_python_code=False)
        return config

    @staticmethod
    def fromstring(cfg_str: str, file_format: str) -> Config:
        """Read a config from text; relative bases are looked for in the working directory.

        Args:
            cfg_str: The text.
            file_format: ``".py"``, ``".json"``, ``".yaml"``, ``".yml"`` or ``".toml"``.

        Raises:
            OSError: The format is not known.
            ConfigError: The text is wrong.
        """
        if file_format not in SUFFIXES:
            raise OSError(
                "Only py/yml/yaml/json/toml type are supported now, as '.py', '.yaml'…, but got "
                f"{file_format!r}"
            )
        path = Path(os.getcwd(), f"<string>{file_format}")
        try:
            loaded = load.load_text(cfg_str, path, Options())
        except ConfigParsingError as error:
            if file_format != ".py" and "dict(" in cfg_str:
                hint = 'Please check "file_format", the file format may be .py'
                warnings.warn(hint, stacklevel=2)
                error.add_note(hint)
            raise
        return _from_loaded(loaded, None, import_custom_modules=True)

    @staticmethod
    def fromdict(cfg_dict: Mapping[str, Any]) -> Config:
        """Return a config of settings, which are copied."""
        return Config(ConfigDict(cfg_dict))

    @staticmethod
    def auto_argparser(description: str | None = None) -> tuple[argparse.ArgumentParser, Config]:
        """Return a parser with an option for each setting of the config that the command line names.

        Returns:
            The parser, and the config. An option that is not given is None (False of a flag).
        """
        first = argparse.ArgumentParser(description=description, add_help=False)
        first.add_argument("config", help="config file path")
        known, _ = first.parse_known_args()
        cfg = Config.fromfile(known.config)
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("config", help="config file path")
        add_args(parser, cfg._cfg_dict)
        return parser, cfg

    # -- changing

    def merge_from_dict(self, options: dict[str, Any], allow_list_keys: bool = True) -> None:
        """Merge overrides such as ``{"model.depth": 50, "pipeline.0.type": "Load"}``.

        Args:
            options: Value by dotted key. A dict is merged with the one it overrides, unless it has
                ``_delete_=True``.
            allow_list_keys: Numbers in keys are indices of lists.

        Raises:
            TypeError: A key goes into something that is no dict.
            KeyError: An index is outside of its list.
        """
        merged = merge_options(options, self._cfg_dict, allow_list_keys)
        overrides = [*self._overrides, (dict(options), "override")]
        self._set(_cfg_dict=merged, _overrides=overrides)
        if self._layer is not None:
            set_places(merged, _Source(self._layer, overrides))

    # -- showing

    @property
    def filename(self) -> str | None:
        """The file that this was read from."""
        return self._filename

    @property
    def text(self) -> str:
        """The text that this was read from, with that of its bases."""
        return self._text

    @property
    def env_variables(self) -> dict[str, str]:
        """The environment variables that were used, with their values."""
        return self._env_variables

    @property
    def pretty_text(self) -> str:
        """The settings as a Python config."""
        return formatting.to_python(_settings(self._cfg_dict))

    @property
    def _imported_names(self) -> set[str]:
        return set(self._imported)

    def to_dict(self, keep_imported: bool = False) -> dict[str, Any]:
        """Return plain dicts at all depths; lazy objects as their dotted paths.

        Args:
            keep_imported: Also return the names that the config imports.
        """
        result = self._cfg_dict.to_dict()
        if keep_imported:
            imported = {
                key: value.dotted_path
                if isinstance(value, (LazyObject, LazyAttr))
                else formatting.dotted_name(value)
                for key, value in self._imported.items()
            }
            result = {**imported, **result}
        return result

    def _to_lazy_dict(self, keep_imported: bool = False) -> dict[str, Any]:
        """Return plain dicts at all depths, with lazy objects as they are."""
        result = self._cfg_dict._to_lazy_dict()
        return {**self._imported, **result} if keep_imported else result

    def dump(self, file: str | Path | None = None) -> str | None:
        """Write the config in the format of the file's ending.

        Args:
            file: Where to; a path or an URL that `mmx.fileio` knows. None returns the text, in the
                format that the config was read from.

        Returns:
            The text, if no file is given.

        Raises:
            TypeError: The ending is of no known format.
            ConfigError: The format cannot express a value.
        """
        if file is None:
            suffix = Path(self._filename).suffix if self._filename else ".py"
            return self._dumped(suffix if suffix in SUFFIXES else ".py")
        name = os.fspath(file)
        text = self._dumped(Path(name).suffix)
        if "://" in name:
            from mmx.fileio import put_text

            put_text(text, name)
        else:
            Path(name).write_text(text, encoding="utf-8")
        return None

    def _dumped(self, suffix: str) -> str:
        if suffix == ".py":
            return self.pretty_text
        return formatting.to_text(_settings(self._cfg_dict), suffix)

    @staticmethod
    def diff(cfg1: str | Config, cfg2: str | Config) -> str:
        """Return the lines in which two configs differ, as ``diff -u`` shows them."""

        def lines_of(cfg: str | Config) -> list[str]:
            config = cfg if isinstance(cfg, Config) else Config.fromfile(cfg)
            return formatting.to_python(_sorted(_settings(config._cfg_dict))).split("\n")

        lines = difflib.unified_diff(lines_of(cfg1), lines_of(cfg2))
        return "".join(f"{line}\n" for line in lines) + "\n"

    # -- container

    def __repr__(self) -> str:
        return f"Config (path: {self._filename}): {self._cfg_dict!r}"

    def __len__(self) -> int:
        return len(self._cfg_dict)

    def __getitem__(self, name: str) -> Any:
        return self._cfg_dict[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIELDS:
            if name == "_cfg_dict" and not isinstance(value, ConfigDict):
                value = ConfigDict(value)
            self._set(**{name: value})
        else:
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        self._cfg_dict[name] = value
        self._bind()

    def __delattr__(self, name: str) -> None:
        delattr(self._cfg_dict, name)

    def __delitem__(self, name: str) -> None:
        del self._cfg_dict[name]

    def __contains__(self, name: object) -> bool:
        return name in self._cfg_dict

    def __iter__(self) -> Iterator[str]:
        return iter(self._cfg_dict)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Config):
            return NotImplemented
        return self._cfg_dict == other._cfg_dict

    __hash__ = None  # type: ignore[assignment]  # settings change

    def keys(self) -> Any:
        """Return the names of the settings."""
        return self._cfg_dict.keys()

    def values(self) -> list[Any]:
        """Return the settings' values."""
        return self._cfg_dict.values()

    def items(self) -> list[tuple[str, Any]]:
        """Return the settings."""
        return self._cfg_dict.items()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a setting, or the default."""
        return self._cfg_dict.get(key, default)

    def pop(self, key: str, default: Any = None) -> Any:
        """Remove a setting and return its value, or the default."""
        return self._cfg_dict.pop(key, default)

    def popitem(self) -> tuple[str, Any]:
        """Remove the last setting and return it."""
        return self._cfg_dict.popitem()

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return a setting; without it, set it to the default first."""
        value = self._cfg_dict.setdefault(key, default)
        self._bind()
        return value

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set settings; dicts are updated with the items of new ones."""
        self._cfg_dict.update(
            *(a._cfg_dict if isinstance(a, Config) else a for a in args), **kwargs
        )
        self._bind()

    def merge(self, other: Mapping[str, Any]) -> None:
        """Merge settings, as a config is merged into its base."""
        self._cfg_dict.merge(other)
        self._bind()

    def clear(self) -> None:
        """Remove all settings."""
        self._cfg_dict.clear()

    def build_lazy(self, value: Any) -> Any:
        """Import a value that is a lazy object; return any other as it is."""
        return self._cfg_dict.build_lazy(value)

    # -- copying

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS}

    def __copy__(self) -> Self:
        fields = {**self._fields(), "_cfg_dict": copy.copy(self._cfg_dict)}
        new: Self = _new(_public_class(self), fields)
        return new

    copy = __copy__

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        fields = self._fields()
        fields["_cfg_dict"] = copy.deepcopy(self._cfg_dict, memo)
        fields["_env_variables"] = dict(self._env_variables)
        new: Self = _new(_public_class(self), fields)
        memo[id(self)] = new
        return new

    def __reduce_ex__(self, protocol: Any) -> Any:
        edits = None
        if self._layer is not None and may_be_edited(self._cfg_dict):
            edits = take_edits(self._cfg_dict)
        return _new, (_public_class(self), self._fields(), edits)

    # -- stages under their MMEngine names

    @staticmethod
    def _file2dict(
        filename: str,
        use_predefined_variables: bool = True,
        use_environment_variables: bool = True,
        lazy_import: bool | None = None,
    ) -> tuple[dict[str, Any], str, dict[str, str]]:
        """Return a file's settings, text and environment variables."""
        options = Options(use_predefined_variables, use_environment_variables, lazy_import)
        loaded = load.load_file(resolve_config_path(filename), options)
        return dict(dict.items(loaded.names.values)), loaded.text, loaded.environment

    @staticmethod
    def _merge_a_into_b(a: Mapping[str, Any], b: Any, allow_list_keys: bool = False) -> Any:
        """Return ``b`` with the settings of ``a``; neither is changed."""
        return merge(a, b, allow_list_keys)

    @staticmethod
    def _is_lazy_import(filename: str) -> bool:
        """Whether a file is a pure-Python config."""
        path = Path(filename)
        return path.suffix == ".py" and source.is_lazy_text(path.read_text("utf-8"), path)

    @staticmethod
    def _get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        """Return the path of a base config and the package it is from, if any."""
        package, _ = split_package(cfg_path)
        if package is None:
            return os.path.join(os.path.dirname(filename), cfg_path), None
        return resolve_config_path(cfg_path), package


class _Source:
    """Finds where dicts are written; see `mmx.config.origin.Source`, which it stands for."""

    __slots__ = ("_layer", "_overrides", "_source", "edited")

    def __init__(self, layer: Layer, overrides: Any = ()) -> None:
        # Whether some of the dicts know of something that code or an override has set.
        self.edited = bool(overrides)
        self._layer = layer
        self._overrides = overrides
        self._source: Any = None

    def __call__(self, path: tuple[Any, ...]) -> str:
        if self._source is None:
            from mmx.config.origin import Source

            self._source = Source(self._layer, self._overrides)
        return str(self._source(path))


class _WatchfulConfig(Config):
    """A config some of whose settings are not in the ``__dict__`` of its dict."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in _FIELDS:
            raise AttributeError(name)
        settings = self._cfg_dict
        if name in settings:
            return settings[name]
        if name in self._imported:
            return settings.build_lazy(self._imported[name])
        raise AttributeError(
            f"'ConfigDict' object has no attribute {name!r}{near(name, settings)}",
            name=name,
            obj=self,
        )

    def __getitem__(self, name: str) -> Any:
        if name in self._imported and name not in self._cfg_dict:
            return self._cfg_dict.build_lazy(self._imported[name])
        return self._cfg_dict[name]


_WATCHFUL: dict[type[Config], type[Config]] = {Config: _WatchfulConfig}
_WatchfulConfig.__name__ = _WatchfulConfig.__qualname__ = "Config"


def _watchful_class(cls: type[Config]) -> type[Config]:
    found = _WATCHFUL.get(cls)
    if found is None:
        found = type(cls.__name__, (_WatchfulConfig, cls), {"__module__": cls.__module__})
        _WATCHFUL[cls] = found
    return found


def _public_class(config: Config) -> Any:
    cls = type(config)
    return next((known for known, watchful in _WATCHFUL.items() if watchful is cls), cls)


def _new(
    cls: type[Any], fields: dict[str, Any], edits: dict[tuple[Any, ...], Any] | None = None
) -> Any:
    new = object.__new__(cls)
    new._set(**fields)
    if edits:
        give_edits(new._cfg_dict, edits)
    return new


def _settings(config: ConfigDict) -> dict[str, Any]:
    """Return the settings as they are written out."""
    result: dict[str, Any] = plain(config, lazy_as_text=True)
    return result


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (type(key).__name__, str(key)))
        return {key: _sorted(value[key]) for key in keys}
    if type(value) in (list, tuple):
        return type(value)(_sorted(item) for item in value)
    return value


def _from_loaded(loaded: Loaded, filename: str | None, import_custom_modules: bool) -> Config:
    values = loaded.names.values
    config = Config(
        ConfigDict(values),
        cfg_text=loaded.text,
        filename=filename,
        env_variables=loaded.environment,
    )
    config._set(_imported=loaded.names.imported, _layer=loaded.layer)
    set_places(config._cfg_dict, _Source(loaded.layer))
    custom = values.get("custom_imports")
    if import_custom_modules and custom:
        if not isinstance(custom, Mapping) or set(custom) - {"imports", "allow_failed_imports"}:
            raise ConfigTypeError(
                "custom_imports is a dict: custom_imports=dict(imports=['my_package.models'], "
                f"allow_failed_imports=False); but got {custom!r}",
                filename=loaded.layer.path,
            )
        try:
            import_modules_from_strings(**custom)
        except ImportError as error:
            raise ImportError(f"Failed to import custom modules from {custom}: {error}") from error
    return config


def add_args(
    parser: argparse.ArgumentParser, cfg: Mapping[str, Any], prefix: str = ""
) -> argparse.ArgumentParser:
    """Add an option for each setting to a parser, ``--model.depth`` for nested ones."""
    for key, value in cfg.items():
        option = f"--{prefix}{key}"
        if isinstance(value, bool):
            parser.add_argument(option, action="store_true")
        elif isinstance(value, (str, int, float)):
            parser.add_argument(option, type=type(value))
        elif isinstance(value, Mapping):
            add_args(parser, value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)) and value:
            parser.add_argument(option, type=type(value[0]), nargs="+")
        else:
            logger.info("cannot parse key %s of type %s", f"{prefix}{key}", type(value))
    return parser


# What a Config shares with its dict are attributes; the rest of its methods must not be hidden.
assert {name for name in vars(Config) if not name.startswith("_")} - set(dir(ConfigDict)) <= (
    CONFIG_METHODS | {"filename", "text", "env_variables", "pretty_text"}
)
