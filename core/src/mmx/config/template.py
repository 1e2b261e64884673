"""The templates in the text of a config: ``{{ fileDirname }}``, ``{{$NAME:default}}``, ``{{_base_.x}}``.

A template inside quotes is part of a string; a bare one, ``{{'$NAME:default'}}`` too, stands for a
value. Values never become source text again, so what is in them (quotes, backslashes, braces) does
not matter.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmx.config.errors import ConfigKeyError

PREDEFINED = ("fileDirname", "fileBasename", "fileBasenameNoExtension", "fileExtname")

logger = logging.getLogger("mmx")


def predefined_variables(path: Path) -> dict[str, str]:
    """Return what ``{{ fileDirname }}`` and its kin stand for in a file."""
    full = os.path.abspath(path)
    return {
        "fileDirname": os.path.dirname(full),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }


@dataclass(frozen=True, slots=True)
class Template:
    """One template in a text.

    Attributes:
        start: Where it starts in the text.
        end: Where it ends.
        kind: Whether it names a predefined variable, an environment variable or a value of a base.
        name: The name; of a base's value its path, such as ``"model.depth"``.
        default: Of an environment variable, or "".
    """

    start: int
    end: int
    kind: Literal["predefined", "environment", "base"]
    name: str
    default: str = ""


def find(text: str, start: int = 0) -> Iterator[Template]:
    """Yield the templates of a text. Other double braces are none of our business."""
    while (start := text.find("{{", start)) >= 0:
        template = _read(text, start)
        if template is None:
            start += 1
        else:
            yield template
            start = template.end


def _read(text: str, start: int) -> Template | None:
    i = _skip_space(text, start + 2)
    if text[i : i + 1] in ("'", '"'):
        return _read_quoted(text, start, i)
    if text.startswith("$", i):
        i = _skip_space(text, i + 1)
        end = _skip_word(text, i)
        name = text[i:end]
        i = _skip_space(text, end)
        if not name or not text.startswith(":", i):
            return None
        close = _closing(text, i + 1)
        if close < 0:
            return None
        return Template(start, close + 2, "environment", name, text[i + 1 : close].strip())
    end = _skip_word(text, i)
    name = text[i:end]
    if name in PREDEFINED:
        i = _skip_space(text, end)
        return Template(start, i + 2, "predefined", name) if text.startswith("}}", i) else None
    if name != "_base_":
        return None
    close = text.find("}}", end)
    if close < 0 or "\n" in text[end:close]:
        return None
    path = text[end:close].strip()
    if not path.startswith((".", "[")) or not path[1:]:
        return None
    return Template(start, close + 2, "base", path)


def _read_quoted(text: str, start: int, i: int) -> Template | None:
    """Read ``{{'$NAME:default'}}``, which stands for a value, as ``{{$NAME:default}}`` does."""
    quote = text[i]
    i = _skip_space(text, i + 1)
    if not text.startswith("$", i):
        return None
    i = _skip_space(text, i + 1)
    end = _skip_word(text, i)
    name = text[i:end]
    i = _skip_space(text, end)
    if not name or not text.startswith(":", i):
        return None
    close = i
    while (close := text.find(quote, close + 1)) >= 0:
        if "\n" in text[i:close]:
            return None
        after = _skip_space(text, close + 1)
        if text.startswith("}}", after):
            default = text[i + 1 : close].strip()
            return Template(start, after + 2, "environment", name, default)
    return None


def _skip_space(text: str, i: int) -> int:
    while i < len(text) and text[i] in " \t":
        i += 1
    return i


def _skip_word(text: str, i: int) -> int:
    while i < len(text) and (text[i].isalnum() or text[i] == "_"):
        i += 1
    return i


def _closing(text: str, i: int) -> int:
    """Return where the ``}}`` of a template is; braces in its default are balanced."""
    depth = 0
    while i < len(text) and text[i] != "\n":
        if text[i] == "{":
            depth += 1
        elif text[i] == "}":
            if depth == 0:
                return i if text.startswith("}}", i) else -1
            depth -= 1
        i += 1
    return -1


@dataclass
class Variables:
    """What the templates of one file stand for.

    Attributes:
        path: The file.
        predefined: Whether predefined variables are replaced.
        environment: Whether environment variables are.
        used: The environment variables that were found set, with their values.
    """

    path: Path
    predefined: bool = True
    environment: bool = True
    used: dict[str, str] = field(default_factory=dict)

    def wants(self, template: Template) -> bool:
        """Whether a template is to be replaced."""
        if template.kind == "predefined":
            return self.predefined
        return self.environment if template.kind == "environment" else True

    def text_of(self, template: Template) -> str:
        """Return the text that a template stands for; not for a base's value.

        Raises:
            ConfigKeyError: An environment variable is not set and has no default.
        """
        if template.kind == "predefined":
            return predefined_variables(self.path)[template.name]
        value = os.environ.get(template.name)
        if value is not None:
            logger.info(
                "Using env variable `%s` with value of %s to replace item in config.",
                template.name,
                value,
            )
            self.used[template.name] = value
            return value
        if not template.default:
            raise ConfigKeyError(
                f"`{template.name}` cannot be found in `os.environ`. Please set `{template.name}` "
                f"in environment or give a default value: {{{{${template.name}:default}}}}",
                filename=str(self.path),
            )
        return template.default


# ------------------------------------------------------------------- templates outside quotes

# Private-use characters, which no config has, mark where a template was.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_BARE, _QUOTED = "b", "q"


def hide(
    text: str,
    variables: Variables,
    quoted_spans: Callable[[str], list[tuple[int, int]]] | None,
) -> tuple[str, list[Template]]:
    """Return a text whose templates are replaced by markers that any parser takes as a string.

    Args:
        text: The text of a JSON, YAML or TOML file.
        variables: Says which templates are to be replaced.
        quoted_spans: Finds the strings of the text; a template outside them becomes a string of
            its own. None leaves markers unquoted (YAML).

    Returns:
        The text, and the templates in the order of their markers.
    """
    templates = [item for item in find(text) if variables.wants(item)]
    if not templates:
        return text, templates
    spans = quoted_spans(text) if quoted_spans is not None else []
    result = []
    done = 0
    for number, template in enumerate(templates):
        result.append(text[done : template.start])
        quoted = any(start < template.start < end for start, end in spans)
        if quoted_spans is None:
            result.append(f"{_OPEN}{number}{_CLOSE}")
        elif quoted:
            result.append(f"{_OPEN}{number}{_QUOTED}{_CLOSE}")
        else:
            result.append(f'"{_OPEN}{number}{_BARE}{_CLOSE}"')
        done = template.end
    result.append(text[done:])
    return "".join(result), templates


def marker(number: int) -> str:
    """Return the marker of a template inside a string."""
    return f"{_OPEN}{number}{_QUOTED}{_CLOSE}"


def is_hidden(text: str) -> bool:
    """Whether a string has markers."""
    return _OPEN in text


def mark_bare(text: str) -> str:
    """Return the marker that a string consists of as that of a bare template, if it is only that."""
    inner = text[1:-1]
    if text[:1] == _OPEN and text[-1:] == _CLOSE and inner.isdigit():
        return f"{_OPEN}{inner}{_BARE}{_CLOSE}"
    return text


def reveal(
    text: str,
    templates: list[Template],
    variables: Variables,
    base_value: Callable[[Template], Any],
    typed: Callable[[str], Any],
) -> Any:
    """Return what a string with markers stands for.

    Args:
        text: A string that a parser returned.
        templates: Those of the file.
        variables: What they stand for.
        base_value: Finds a base's value.
        typed: Reads the value of a bare environment variable in the file's format.
    """
    parts: list[Any] = []
    rest = text
    while _OPEN in rest:
        before, _, rest = rest.partition(_OPEN)
        marker, _, rest = rest.partition(_CLOSE)
        bare = marker.endswith(_BARE)
        template = templates[int(marker.rstrip(_BARE + _QUOTED))]
        if before:
            parts.append(before)
        if template.kind == "base":
            parts.append(base_value(template))
        elif template.kind == "environment" and bare:
            parts.append(typed(variables.text_of(template)))
        else:
            parts.append(variables.text_of(template))
    if rest:
        parts.append(rest)
    return parts[0] if len(parts) == 1 else "".join(str(part) for part in parts)
