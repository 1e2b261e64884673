"""From the text of a JSON, YAML or TOML config to its settings. Nothing in it can run code."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from mmx.config import template
from mmx.config.errors import (
    ConfigJSONError,
    ConfigParsingError,
    ConfigSyntaxError,
    ConfigYAMLError,
)
from mmx.config.source import json_strings, toml_strings
from mmx.config.template import Template, Variables

# Replaces the markers in settings, given what finds the values of bases.
Fill = Callable[[Callable[[Template], Any], Any], Any]


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which knows the tags of tuples besides: they are data, too."""


def _tuple(loader: yaml.SafeLoader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a sequence", node.start_mark)
    return tuple(loader.construct_sequence(node, deep=True))


Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


class Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which writes tuples as tuples."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write shared values out each time."""
        return True


Dumper.add_representer(
    tuple,
    lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:python/tuple", value),
)


def parse_data(text: str, path: Path, variables: Variables) -> tuple[dict[str, Any], Fill]:
    """Read the settings of a JSON, YAML or TOML config.

    Args:
        text: The text.
        path: Its file, whose ending says the format.
        variables: What templates stand for.

    Returns:
        The settings with markers for templates, and the function that replaces these in a value.

    Raises:
        ConfigSyntaxError: The text is not of its format.
        ConfigParsingError: It is no mapping.
    """
    suffix = path.suffix
    if suffix == ".json":
        hidden, templates = template.hide(text, variables, json_strings)
        settings = _json(hidden, path)
        typed: Callable[[str], Any] = _json_value
    elif suffix == ".toml":
        hidden, templates = template.hide(text, variables, toml_strings)
        settings = _toml(hidden, path)
        typed = _toml_value
    else:
        hidden, templates = template.hide(text, variables, None)
        settings = _yaml(hidden, path)
        typed = _yaml_value
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        raise ConfigParsingError(
            f"a config is a mapping of settings, but this is a {type(settings).__name__}",
            filename=str(path),
        )

    def fill(base_value: Callable[[Template], Any], value: Any) -> Any:
        return _fill(value, templates, variables, base_value, typed) if templates else value

    return settings, fill


def _fill(
    value: Any,
    templates: list[Template],
    variables: Variables,
    base_value: Callable[[Template], Any],
    typed: Callable[[str], Any],
) -> Any:
    def fill(item: Any) -> Any:
        if isinstance(item, str):
            if not template.is_hidden(item):
                return item
            return template.reveal(item, templates, variables, base_value, typed)
        if isinstance(item, dict):
            return {fill(k): fill(v) for k, v in item.items()}
        if isinstance(item, (list, tuple)):
            return type(item)(fill(v) for v in item)
        return item

    return fill(value)


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigJSONError.of(error, str(path)) from error


def _toml(text: str, path: Path) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigSyntaxError(f"this is no valid TOML: {error}", filename=str(path)) from error


def _yaml(text: str, path: Path) -> Any:
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if template.is_hidden(text):
            _mark(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigYAMLError(
            f"this is no valid YAML, or more than data: {getattr(error, 'problem', None) or error}",
            filename=str(path),
            line=None if mark is None else mark.line + 1,
        ) from error
    finally:
        loader.dispose()


def _mark(node: yaml.Node) -> None:
    """Tell bare templates from quoted ones."""
    pending = [node]
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.ScalarNode):
            if node.style is None:
                node.value = template.mark_bare(node.value)
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value
        elif isinstance(node, yaml.MappingNode):
            for pair in node.value:
                pending += pair


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _yaml_value(text: str) -> Any:
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError:
        return text
