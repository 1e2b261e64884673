"""The steps of reading a config under the names that MMEngine gives them, for code that takes one.

`Config.fromfile` uses none of these: it goes from text to settings without files in between.
"""

from __future__ import annotations

import ast
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from mmx.config import data, source, template
from mmx.config.config_dict import ConfigDict
from mmx.config.errors import ConfigParsingError, ConfigSyntaxError
from mmx.config.load import Options, load_file, with_scope
from mmx.config.template import Variables


class Steps:
    """Static methods of `Config`; each is one step, from a file to a file or to settings."""

    __slots__ = ()

    @staticmethod
    def _validate_py_syntax(filename: str) -> None:
        """Raise the error of a file that is no Python.

        Raises:
            SyntaxError: It is none; the message names the file.
        """
        try:
            ast.parse(Path(filename).read_text(encoding="utf-8"))
        except SyntaxError as error:
            raise ConfigSyntaxError(
                f"There are syntax errors in config file {filename}: {error}",
                filename=filename,
                line=error.lineno,
            ) from error

    @staticmethod
    def _substitute_predefined_vars(filename: str, temp_config_name: str) -> None:
        """Write a copy of a file in which ``{{ fileDirname }}`` and its kin are replaced."""
        path = Path(filename)
        values = {
            **template.predefined_variables(path),
            "fileDirname": os.path.dirname(filename),
        }
        _rewrite(
            path,
            temp_config_name,
            lambda item, _: values[item.name] if item.kind == "predefined" else None,
        )
        shutil.copymode(filename, temp_config_name)

    @staticmethod
    def _substitute_env_variables(filename: str, temp_config_name: str) -> dict[str, str]:
        """Write a copy of a file in which environment variables are replaced.

        Returns:
            The variables that are set, with their values.

        Raises:
            KeyError: One is not set and has no default.
        """
        variables = Variables(Path(filename))
        _rewrite(
            Path(filename),
            temp_config_name,
            lambda item, _: variables.text_of(item) if item.kind == "environment" else None,
        )
        return variables.used

    @staticmethod
    def _pre_substitute_base_vars(filename: str, temp_config_name: str) -> dict[str, str]:
        """Write a copy of a file in which names stand for ``{{_base_.x}}``.

        Returns:
            The path of the base's value by that name.
        """
        found: dict[str, str] = {}

        def name_of(item: template.Template, quoted: bool) -> str | None:
            if item.kind != "base":
                return None
            name = f"_{item.name.removeprefix('.')}_{uuid.uuid4().hex[:6]}"
            found[name] = item.name.removeprefix(".")
            return name if quoted else f'"{name}"'

        _rewrite(Path(filename), temp_config_name, name_of)
        return found

    @staticmethod
    def _substitute_base_vars(cfg: Any, base_var_dict: dict[str, str], base_cfg: Any) -> Any:
        """Return settings with the values of a base for the names that stand for them.

        Args:
            cfg: Settings.
            base_var_dict: What `_pre_substitute_base_vars` returned.
            base_cfg: The base's settings.
        """

        def value_of(path: str) -> Any:
            value = base_cfg
            for key in path.split("."):
                value = value[key]
            return value

        def fill(item: Any) -> Any:
            if isinstance(item, dict):
                return {fill(k): fill(v) for k, v in item.items()}
            if isinstance(item, (list, tuple)):
                return type(item)(fill(v) for v in item)
            if isinstance(item, str):
                if item in base_var_dict:
                    return value_of(base_var_dict[item])
                for name, path in base_var_dict.items():
                    if name in item:
                        item = item.replace(name, str(value_of(path)))
            return item

        return fill(cfg)

    @staticmethod
    def _get_base_files(filename: str) -> list[str]:
        """Return what ``_base_`` of a file names.

        Raises:
            ConfigParsingError: The file is of no known format.
        """
        path = Path(filename)
        text = path.read_text(encoding="utf-8")
        variables = Variables(path, predefined=False, environment=False)
        base: Any
        if path.suffix == ".py":
            parsed = source.parse(text, path, variables)
            base = []
            for position in source.base_assignments(parsed.tree):
                value = parsed.tree.body[position].value  # type: ignore[attr-defined]  # an assignment
                code = compile(ast.Expression(value), filename, "eval")
                base = eval(code, {})  # noqa: S307  # a Python config is code, as its user wants
        elif path.suffix in (".json", ".yaml", ".yml", ".toml"):
            base = data.parse_data(text, path, variables)[0].get(source.BASE_KEY, [])
        else:
            raise ConfigParsingError(
                f"The config type should be py, json, yaml, yml or toml, but got {path.suffix}"
            )
        return list(base) if isinstance(base, (list, tuple)) else [base]

    @staticmethod
    def _get_base_modules(nodes: list[ast.stmt]) -> list[str]:
        """Return the modules that ``with read_base():`` in some statements imports."""
        return [
            "." * statement.level + (statement.module or "")
            for node in nodes
            if isinstance(node, ast.With) and source._is_read_base(node)
            for statement in node.body
            if isinstance(statement, ast.ImportFrom)
        ]

    @staticmethod
    def _parse_lazy_import(filename: str) -> tuple[ConfigDict, set[str]]:
        """Return the settings of a pure-Python config, and the names that it imports."""
        names = load_file(filename, Options(lazy=True)).names
        return ConfigDict({**names.imported, **names.values}), set(names.imported)

    @staticmethod
    def _dict_to_config_dict(
        cfg: Any, scope: str | None = None, has_scope: bool = True
    ) -> ConfigDict:
        """Return settings as a ConfigDict; with a scope, its types are marked as of that scope."""
        if scope is not None and not (has_scope and "_scope_" in cfg):
            cfg = {key: with_scope(value, scope) for key, value in cfg.items()}
        return ConfigDict(cfg)

    @staticmethod
    def _dict_to_config_dict_lazy(cfg: Any) -> ConfigDict:
        """Return settings as a ConfigDict, with lazy objects as they are."""
        return ConfigDict(cfg)

    @staticmethod
    def _parse_scope(cfg: Any) -> None:
        """Kept for old callers: the scope of a dict holds for what is in it without more ado."""


def _rewrite(path: Path, target: str, replacement: Any) -> None:
    """Write a text with some of its templates replaced.

    Args:
        path: The file to read.
        target: The file to write.
        replacement: Called with a template and whether it is in a string, returns what stands for
            it; None leaves it.
    """
    text = path.read_text(encoding="utf-8")
    strings = source.python_strings if path.suffix == ".py" else source.json_strings
    spans = strings(text)
    pieces, done = [], 0
    for item in template.find(text):
        new = replacement(item, any(start < item.start < end for start, end in spans))
        if new is not None:
            pieces += [text[done : item.start], new]
            done = item.end
    Path(target).write_text("".join([*pieces, text[done:]]), encoding="utf-8")
