"""Configs: read, inherited, changed, shown and written."""

from __future__ import annotations

import copy
import os
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from mmx.config import source
from mmx.config.config_dict import ConfigDict
from mmx.config.errors import ConfigParsingError
from mmx.config.format import to_python, to_text
from mmx.config.lazy import is_lazy_config, run_lazy
from mmx.config.locate import resolve_config_path, split_package
from mmx.config.merge import from_options, merge, without_delete
from mmx.fileio import dump as dump_file
from mmx.utils import check_file_exist, import_modules_from_strings

BASE_KEY = "_base_"
DELETE_KEY = "_delete_"
DEPRECATION_KEY = "_deprecation_"
RESERVED_KEYS = ("filename", "text", "pretty_text", "env_variables")
SUFFIXES = (".py", ".json", ".yaml", ".yml", ".toml")


class Config:
    """A config: nested settings with access by key and by attribute.

    Args:
        cfg_dict: Settings; copied.
        cfg_text: Text that they were read from.
        filename: File that they were read from.
        env_variables: Environment variables that the file asked for.
        format_python_code: Kept for old callers; text is always formatted.

    Raises:
        TypeError: ``cfg_dict`` is no dict.
        KeyError: A top-level key is reserved.
    """

    def __init__(
        self,
        cfg_dict: dict[str, Any] | None = None,
        cfg_text: str | None = None,
        filename: str | Path | None = None,
        env_variables: dict[str, str] | None = None,
        format_python_code: bool = True,
    ) -> None:
        filename = os.fspath(filename) if isinstance(filename, Path) else filename
        if cfg_dict is None:
            cfg_dict = {}
        elif not isinstance(cfg_dict, dict):
            raise TypeError(f"cfg_dict must be a dict, but got {type(cfg_dict)}")
        for key in cfg_dict:
            if key in RESERVED_KEYS:
                raise KeyError(f"{key} is reserved for config file")
        if not isinstance(cfg_dict, ConfigDict):
            cfg_dict = ConfigDict(cfg_dict)
        super().__setattr__("_cfg_dict", cfg_dict)
        super().__setattr__("_filename", filename)
        super().__setattr__("_format_python_code", format_python_code)
        if cfg_text is None and filename and os.path.isfile(filename):
            cfg_text = Path(filename).read_text(encoding="utf-8")
        super().__setattr__("_text", cfg_text or "")
        super().__setattr__("_env_variables", env_variables or {})

    # Reading --------------------------------------------------------------------------------

    @staticmethod
    def fromfile(
        filename: str | Path,
        use_predefined_variables: bool = True,
        import_custom_modules: bool = True,
        use_environment_variables: bool = True,
        lazy_import: bool | None = None,
        format_python_code: bool = True,
    ) -> Config:
        """Read a config file and what it inherits.

        Args:
            filename: ``.py``, ``.json``, ``.yaml``, ``.yml`` or ``.toml`` file, or ``package::path``.
            use_predefined_variables: Replace ``{{ fileDirname }}`` and its kin.
            import_custom_modules: Import what ``custom_imports`` names.
            use_environment_variables: Replace ``{{$NAME:default}}``.
            lazy_import: Whether it is a pure Python config; None finds out.
            format_python_code: Kept for old callers.

        Raises:
            FileNotFoundError: There is no such file.
            ConfigError: The text is wrong; the message says where.
        """
        path = Path(resolve_config_path(filename))
        return _read(path, import_custom_modules, lazy_import)

    @staticmethod
    def fromstring(cfg_str: str, file_format: str) -> Config:
        """Read a config from text.

        Args:
            cfg_str: The text.
            file_format: ``'.py'``, ``'.json'``, ``'.yaml'``, ``'.yml'`` or ``'.toml'``.

        Raises:
            OSError: The format is not known.
        """
        if file_format not in SUFFIXES:
            raise OSError(
                f"Only {', '.join(SUFFIXES)} type are supported now, got {file_format!r}!"
            )
        if file_format != ".py" and "dict(" in cfg_str:
            warnings.warn('Please check "file_format", the file format may be .py', stacklevel=2)
        path = Path.cwd() / f"<string>{file_format}"
        settings, text, used = _settings(cfg_str, path, set(), None)
        _import_custom(settings, path)
        return Config(settings, cfg_text=text, filename=None, env_variables=used)

    @staticmethod
    def fromdict(cfg_dict: dict[str, Any]) -> Config:
        """Return a config of settings."""
        return Config(cfg_dict)

    @staticmethod
    def auto_argparser(description: str | None = None) -> tuple[ArgumentParser, Config]:
        """Return a parser with an option for each setting of the config that the command line names."""
        first = ArgumentParser(description=description)
        first.add_argument("config", help="config file path")
        known, _ = first.parse_known_args()
        cfg = Config.fromfile(known.config)
        parser = ArgumentParser(description=description)
        parser.add_argument("config", help="config file path")
        add_args(parser, cfg._cfg_dict)
        return parser, cfg

    # Changing -------------------------------------------------------------------------------

    def merge_from_dict(self, options: dict[str, Any], allow_list_keys: bool = True) -> None:
        """Merge ``{'model.depth': 50}`` into this config.

        Args:
            options: Value by dotted key.
            allow_list_keys: Numbers in keys are indices of lists.
        """
        merged = merge(from_options(options), self._cfg_dict, allow_list_keys=allow_list_keys)
        super().__setattr__("_cfg_dict", ConfigDict(merged))

    @staticmethod
    def _merge_a_into_b(a: dict[str, Any], b: dict[str, Any], allow_list_keys: bool = False) -> Any:
        return merge(a, b, allow_list_keys)

    # Showing --------------------------------------------------------------------------------

    @property
    def filename(self) -> str | None:
        """File that this was read from."""
        name: str | None = self._filename
        return name

    @property
    def text(self) -> str:
        """Text that this was read from, with that of what it inherits."""
        text: str = self._text
        return text

    @property
    def env_variables(self) -> dict[str, str]:
        """Environment variables that were asked for, with their values."""
        values: dict[str, str] = self._env_variables
        return values

    @property
    def pretty_text(self) -> str:
        """The settings as a Python config."""
        return to_python(self._cfg_dict.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dicts."""
        result: dict[str, Any] = self._cfg_dict.to_dict()
        return result

    def _to_lazy_dict(self, keep_imported: bool = False) -> dict[str, Any]:
        return self.to_dict()

    def dump(self, file: str | Path | None = None) -> str | None:
        """Write the config, in the format of the file's ending.

        Args:
            file: Path; None returns the text, as Python or in the format that it was read from.

        Returns:
            The text, if no file is given.
        """
        suffix = Path(self._filename).suffix if self._filename else ".py"
        if file is None:
            return to_text(self.to_dict(), suffix if suffix in SUFFIXES else ".py")
        path = Path(file)
        text = to_text(self.to_dict(), path.suffix)
        if "://" in os.fspath(file):
            dump_file(text, os.fspath(file), file_format="txt")
        else:
            path.write_text(text, encoding="utf-8")
        return None

    @staticmethod
    def diff(cfg1: str | Config, cfg2: str | Config) -> str:
        """Return the lines in which two configs differ, as ``diff -c`` shows them."""
        import difflib

        def text_of(cfg: str | Config) -> list[str]:
            config = cfg if isinstance(cfg, Config) else Config.fromfile(cfg)
            return config.pretty_text.split("\n")

        lines = []
        for line in difflib.unified_diff(text_of(cfg1), text_of(cfg2)):
            lines.append(line if line.endswith("\n") else line + "\n")
        return "".join(lines)

    # Container ------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Config (path: {self._filename}): {self._cfg_dict!r}"

    def __len__(self) -> int:
        return len(self._cfg_dict)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(super().__getattribute__("_cfg_dict"), name)

    def __getitem__(self, name: str) -> Any:
        return self._cfg_dict[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self._cfg_dict[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        self._cfg_dict[name] = value

    def __delattr__(self, name: str) -> None:
        delattr(self._cfg_dict, name)

    def __delitem__(self, name: str) -> None:
        del self._cfg_dict[name]

    def __contains__(self, name: object) -> bool:
        return name in self._cfg_dict

    def __iter__(self) -> Iterator[str]:
        return iter(self._cfg_dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self._cfg_dict == other._cfg_dict

    __hash__ = None  # type: ignore[assignment]  # settings change

    def __getstate__(self) -> tuple[Any, ...]:
        return self._cfg_dict, self._filename, self._text, self._env_variables, True

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for name, value in zip(
            ("_cfg_dict", "_filename", "_text", "_env_variables", "_format_python_code"),
            state,
            strict=True,
        ):
            super().__setattr__(name, value)

    def __copy__(self) -> Self:
        other = type(self).__new__(type(self))
        other.__setstate__(self.__getstate__())
        object.__setattr__(other, "_cfg_dict", copy.copy(self._cfg_dict))
        return other

    copy = __copy__

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__setstate__(self.__getstate__())
        object.__setattr__(other, "_cfg_dict", copy.deepcopy(self._cfg_dict, memo))
        return other


def add_args(parser: ArgumentParser, cfg: dict[str, Any], prefix: str = "") -> ArgumentParser:
    """Add an option for each setting to a parser."""
    for key, value in cfg.items():
        name = f"--{prefix}{key}"
        if isinstance(value, bool):
            parser.add_argument(name, action="store_true", default=value)
        elif isinstance(value, (str, int, float)):
            parser.add_argument(name, type=type(value), default=value)
        elif isinstance(value, dict):
            add_args(parser, value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)) and value:
            parser.add_argument(name, type=type(value[0]), nargs="+", default=value)
    return parser


def _read(path: Path, import_custom_modules: bool, lazy_import: bool | None) -> Config:
    check_file_exist(path)
    if path.suffix not in SUFFIXES:
        raise OSError(f"Only {', '.join(SUFFIXES)} type are supported now, got {path.name}!")
    text = path.read_text(encoding="utf-8")
    settings, full_text, used = _settings(text, path, set(), lazy_import)
    if import_custom_modules:
        _import_custom(settings, path)
    return Config(settings, cfg_text=full_text, filename=path, env_variables=used)


def _settings(
    text: str, path: Path, above: set[Path], lazy_import: bool | None = None
) -> tuple[dict[str, Any], str, dict[str, str]]:
    """Return the merged settings of one file, its text with that of its bases, and its variables."""
    if path in above:
        raise ConfigParsingError(
            "this file inherits from itself, through its bases", filename=str(path)
        )
    used: dict[str, str] = {}
    full_text = f"{path}\n{text}"
    if path.suffix == ".py" and (lazy_import or (lazy_import is None and is_lazy_config(text))):

        def read(base: Path) -> tuple[dict[str, Any], str]:
            settings, base_text, _ = _settings(base.read_text("utf-8"), base, above | {path})
            return settings, base_text

        settings, extra = run_lazy(text, path, read)
        return settings, "\n".join([*extra, full_text]), used
    tree = None
    if path.suffix == ".py":
        tree, base_names = source.parse_python(text, path, used)
        own: dict[str, Any] = {}
    else:
        own = source.parse_data(text, path, used)
        base_names = own.pop(BASE_KEY, None)
    base, base_texts = _bases(base_names, path, above | {path}, used)
    if tree is not None:
        own = source.run_python(tree, path, base)
    elif base is not None:
        own = source.fill_base_values(own, base, path)
    for key in own:
        if key in RESERVED_KEYS:
            raise KeyError(f"{key} is reserved for config file")
    _warn_deprecated(own, path)
    if base is not None:
        own = merge(own, base)
    else:
        own = without_delete(own)
    return own, "\n".join([*base_texts, full_text]), used


def _bases(
    names: Any, path: Path, above: set[Path], used: dict[str, str]
) -> tuple[ConfigDict | None, list[str]]:
    """Return the merged bases of a file and their texts; None without any.

    Raises:
        KeyError: Two bases set one key.
    """
    if not names:
        return None, []
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, (list, tuple)):
        raise ConfigParsingError(
            f"_base_ must be a path or a list of paths, got {type(names).__name__}",
            filename=str(path),
        )
    merged: dict[str, Any] = {}
    owners: dict[str, Path] = {}
    texts = []
    for name in names:
        package, _ = split_package(name)
        if package is None:
            base_path = Path(os.path.normpath(path.parent / os.path.expanduser(name)))
        else:
            base_path = Path(resolve_config_path(name))
        if not base_path.is_file():
            raise FileNotFoundError(
                f"{path}: its base {name!r} does not exist: there is no {base_path}"
            )
        settings, text, variables = _settings(
            base_path.read_text(encoding="utf-8"), base_path, above
        )
        used.update(variables)
        if package is not None:
            # Types in another package's config mean that package's scope.
            settings = {key: _with_scope(value, package) for key, value in settings.items()}
        twice = [key for key in settings if key in merged]
        if twice:
            raise KeyError(
                f"Duplicate key is not allowed among bases. Duplicate keys: {', '.join(twice)} "
                f"are set in {owners[twice[0]]} and in {base_path}"
            )
        merged.update(settings)
        owners.update(dict.fromkeys(settings, base_path))
        texts.append(text)
    return ConfigDict(merged), texts


def _with_scope(value: Any, scope: str) -> Any:
    if isinstance(value, dict):
        result = {k: _with_scope(v, scope) for k, v in value.items()}
        if "type" in result and "_scope_" not in result:
            result["_scope_"] = scope
        return result
    if isinstance(value, list):
        return [_with_scope(item, scope) for item in value]
    return value


def _warn_deprecated(settings: dict[str, Any], path: Path) -> None:
    note = settings.pop(DEPRECATION_KEY, None)
    if note is None:
        return
    text = f"The config file {path} will be deprecated in the future."
    if "expected" in note:
        text += f" Please use {note['expected']} instead."
    if "reference" in note:
        text += f" More information can be found at {note['reference']}"
    warnings.warn(text, DeprecationWarning, stacklevel=2)


def _import_custom(settings: dict[str, Any], path: Path) -> None:
    imports = settings.get("custom_imports")
    if not imports:
        return
    if path.suffix != ".py":
        # Data files must not run code: only packages that are trusted may be imported.
        from mmx.registry import is_trusted_package

        names = imports.get("imports") or []
        for name in [names] if isinstance(names, str) else names:
            if not is_trusted_package(str(name)):
                raise ConfigParsingError(
                    f"custom_imports names {name!r}, which is not in a trusted package; trust it with "
                    f"MMX_TRUST={str(name).split('.')[0]}, or write the config as a Python file",
                    filename=str(path),
                )
    import_modules_from_strings(**imports)
