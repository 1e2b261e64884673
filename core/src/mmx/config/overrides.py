"""``KEY=VALUE`` overrides from a command line, typed by what they override."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from mmx.config.config_dict import DELETE_KEY
from mmx.config.dict_action import DictAction
from mmx.config.errors import ConfigKeyError, ConfigParsingError

_MISSING = object()


def parse_overrides(cfg: Any, pairs: Iterable[str]) -> dict[str, Any]:
    """Return ``{"model.depth": 50}`` of ``["model.depth=50"]``, for `Config.merge_from_dict`.

    Values are read as `DictAction` reads them, then fitted to what they override: to a text stays
    text, to a float becomes one, to a list or a tuple becomes that. Where nothing is overridden,
    the annotation of the argument decides, if the dict has a ``type``.

    Args:
        cfg: The config.
        pairs: ``KEY=VALUE``.

    Raises:
        ConfigParsingError: A pair is none, or the brackets of a value do not match.
        ConfigKeyError: A key is not in the config, is no argument of what the dict builds, and a
            near name is; or an index is outside of its list.
    """
    settings = cfg._to_lazy_dict() if hasattr(cfg, "_to_lazy_dict") else cfg
    result: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        key = key.strip()
        if not separator or not key:
            raise ConfigParsingError(
                f"an override is KEY=VALUE, such as model.depth=50, not {pair!r}"
            )
        try:
            value = DictAction._parse_iterable(text)
        except ValueError as error:
            raise ConfigParsingError(f"{key}: {error}") from error
        holder, last, old = _find(settings, key)
        result[key] = _fitted(value, text, old, holder, last)
    return result


def _find(settings: Any, key: str) -> tuple[Any, str, Any]:
    """Return what holds an overridden value, its name there, and the value or `_MISSING`."""
    holder: Any = settings
    done: list[str] = []
    parts = key.split(".")
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(holder, Mapping):
            if part not in holder:
                _check_new(holder, part, key, done)
                return holder, parts[-1] if last else "", _MISSING
            value = dict.__getitem__(holder, part) if isinstance(holder, dict) else holder[part]
        elif isinstance(holder, (list, tuple)) and part.lstrip("-").isdigit():
            index = int(part)
            if not -len(holder) <= index < len(holder):
                raise ConfigKeyError(
                    f"{key!r}: {'.'.join(done)} has {len(holder)} elements, so none with index "
                    f"{index}"
                )
            value = holder[index]
        else:
            return holder, "", _MISSING
        if last:
            return holder, part, value
        holder = value
        done.append(part)
    return holder, "", _MISSING


def _check_new(holder: Mapping[Any, Any], part: str, key: str, done: list[str]) -> None:
    """Refuse a new key that looks like a slip of one that is there."""
    if part == DELETE_KEY or part.startswith("_"):
        return
    known = [name for name in holder if isinstance(name, str)]
    if not done:
        from mmx.config.keys import KNOWN_KEYS

        if part in KNOWN_KEYS:
            return
    else:
        hints = _hints(holder)
        if part in hints:
            return
        known += list(hints)
    close = difflib.get_close_matches(part, known, n=1)
    if close:
        where = f"{'.'.join(done)} has" if done else "the config has"
        raise ConfigKeyError(f"{key!r}: {where} no {part!r}; did you mean {close[0]!r}?")


def _hints(holder: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the arguments of what a dict builds, with their annotations; {} if they are unknown."""
    kind = holder.get("type")
    if kind is None:
        return {}
    from mmx.config.check.parts import _ANY, _node
    from mmx.config.check.signatures import accepted_by
    from mmx.config.lazy import LAZY_TYPES

    target: Any = None if isinstance(kind, str) else kind
    with contextlib.suppress(Exception):
        if isinstance(kind, LAZY_TYPES):
            target = kind.build()
    if target is None and isinstance(kind, str):
        scope = str(holder.get("_scope_", "mmx"))
        for name in _ANY:
            with contextlib.suppress(Exception), _node(name, scope) as node:
                target = node.get(kind)
            if target is not None:
                break
    accepted = accepted_by(target) if target is not None else None
    return accepted.hints if accepted is not None else {}


def _fitted(value: Any, text: str, old: Any, holder: Any, name: str) -> Any:
    bare = text.strip()
    quoted = len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\""
    raw = bare[1:-1] if quoted else bare
    if old is _MISSING or old is None:
        if name and isinstance(holder, Mapping) and not isinstance(value, str):
            hint = _hints(holder).get(name)
            if hint is not None:
                from mmx.config.check.values import fits

                if not fits(value, hint):
                    if fits(raw, hint):
                        return raw
                    if isinstance(value, list) and fits(tuple(value), hint):
                        return tuple(value)
                    if fits([value], hint):
                        return [value]
        return value
    if value is None:
        return None
    if isinstance(old, str):
        # `[a, b]` is meant as a list, whatever it was; a comma alone may be part of a text.
        explicit = bare[:1] in ("[", "(") and isinstance(value, (list, tuple))
        return value if explicit else raw
    if isinstance(old, bool):
        return bool(value) if value in (0, 1) and isinstance(value, int) else value
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, (list, tuple)) and type(old) in (list, tuple):
        if isinstance(value, (list, tuple)):
            return type(old)(value)
        return type(old)([value]) if not isinstance(value, str) or value else type(old)()
    return value
