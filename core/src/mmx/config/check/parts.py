"""Checking what is built from dicts: type names, arguments and their values, at all depths."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmx import registry as roots
from mmx.config.check.findings import Finding
from mmx.config.check.signatures import Accepted, accepted_by
from mmx.config.check.values import describe, fits
from mmx.config.lazy import LAZY_TYPES

# Which registry builds what an argument of this name is given, whatever has the argument.
_BY_NAME = {
    "pipeline": "TRANSFORMS",
    "transforms": "TRANSFORMS",
    "dataset": "DATASETS",
    "datasets": "DATASETS",
    "sampler": "DATA_SAMPLERS",
    "batch_sampler": "DATA_SAMPLERS",
    "init_cfg": "WEIGHT_INITIALIZERS",
    "data_preprocessor": "MODELS",
    "vis_backends": "VISBACKENDS",
    "metrics": "METRICS",
    "optimizer": "OPTIMIZERS",
    "collate_fn": "FUNCTIONS",
}
# Where a nested type is looked for if nothing says which registry builds it.
_ANY = (
    "MODELS",
    "TRANSFORMS",
    "DATASETS",
    "TASK_UTILS",
    "WEIGHT_INITIALIZERS",
    "METRICS",
    "HOOKS",
    "OPTIMIZERS",
    "OPTIM_WRAPPERS",
    "PARAM_SCHEDULERS",
    "DATA_SAMPLERS",
    "LOOPS",
    "VISBACKENDS",
    "VISUALIZERS",
    "FUNCTIONS",
    "MODEL_WRAPPERS",
    "LOG_PROCESSORS",
    "EVALUATOR",
    "STRATEGIES",
)
# Data about data is not built, even if it has a `type`.
_NOT_BUILT = frozenset({"metainfo", "meta", "dataset_meta", "custom_keys"})


@dataclass(frozen=True)
class Place:
    """What is known of the dict that is looked at.

    Attributes:
        path: Its key.
        scope: The scope in which its type is looked up.
        registry: The name of the root registry that builds it, or "" if that is not known.
        injected: Arguments that whoever builds it adds.
        extra: Keys that whoever builds it takes out.
        default: The type that it has if it names none.
        is_sure: Whether it is known that it is built from all its items.
        complete: Whether arguments that are missing are errors.
    """

    path: str
    scope: str
    registry: str = ""
    injected: frozenset[str] = frozenset()
    extra: frozenset[str] = frozenset()
    default: Any = None
    is_sure: bool = True
    complete: bool = True


@dataclass
class PartChecker:
    """Collects findings; see `part`."""

    findings: list[Finding] = field(default_factory=list)

    def add(self, path: str, message: str, *, is_error: bool = True) -> None:
        """Add a finding."""
        self.findings.append(Finding(path, message, is_error))

    def parts(self, value: Any, place: Place) -> None:
        """Check a part, or a list of parts."""
        if isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                self.parts(item, _at(place, f"{place.path}.{i}"))
        elif isinstance(value, Mapping):
            self.part(value, place)

    def part(self, cfg: Mapping[str, Any], place: Place) -> Any:
        """Check a dict that is built, and all that is in it; return what its type stands for."""
        scope = cfg.get("_scope_", place.scope)
        kind = cfg.get("type", place.default)
        if kind is None:
            self.add(
                place.path,
                f"the dict names no 'type', which says what to build; it has {_listed(cfg)}"
                + _near_clause("type", [str(key) for key in cfg]),
            )
            return None
        place = _at(place, place.path, scope=scope)
        target = self._resolve(kind, place)
        arguments = {
            key: value for key, value in _items(cfg) if key not in ("type", "_scope_", *place.extra)
        }
        accepted = accepted_by(target) if target is not None else None
        if accepted is not None:
            self._arguments(arguments, accepted, target, place)
        self._inside(arguments, target, place)
        return target

    # -- type

    def _resolve(self, kind: Any, place: Place) -> Any:
        path = f"{place.path}.type"
        if isinstance(kind, LAZY_TYPES):
            try:
                return kind.build()
            except Exception as error:  # noqa: BLE001 - any import may fail in any way
                self.add(path, _first_lines(error))
                return None
        if not isinstance(kind, str):
            if callable(kind):
                return kind
            self.add(path, f"'type' is a name, a class or a function, but got {kind!r}")
            return None
        names = [place.registry] if place.registry else []
        if not place.is_sure or not place.registry:
            names += [name for name in _ANY if name not in names]
        first: Exception | None = None
        for name in names:
            try:
                with _node(name, place.scope) as node:
                    if not place.is_sure and not node.get(kind):
                        continue
                    return node.resolve(kind)
            except Exception as error:  # noqa: BLE001 - of whatever is imported
                first = first or error
                if place.is_sure:
                    break
        if first is not None:
            self.add(path, _first_lines(first))
        else:
            self._not_found(path, kind, place)
        return None

    def _not_found(self, path: str, kind: str, place: Place) -> None:
        """Report a nested type that no registry has. Whether one should is a guess."""
        from mmx_registry import lookup

        close: list[str] = []
        for name in dict.fromkeys([place.registry or "MODELS", *_ANY]):
            with contextlib.suppress(Exception), _node(name, place.scope) as node:
                known = {n for part in lookup.chain(node) for n in lookup.known_names(part)}
                close += difflib.get_close_matches(kind.rpartition(".")[2], known, n=1, cutoff=0.7)
        hint = (
            f"; did you mean {' or '.join(repr(c) for c in dict.fromkeys(close))}?" if close else ""
        )
        self.add(
            path,
            f"{kind!r} is registered nowhere that scope {place.scope!r} reaches{hint}",
            is_error=bool(close),
        )

    # -- arguments

    def _arguments(
        self, arguments: Mapping[str, Any], accepted: Accepted, target: Any, place: Place
    ) -> None:
        name = getattr(target, "__name__", str(target))
        known = [n for n in accepted.hints if n not in place.injected]
        own = _is_own(target)
        for key, value in arguments.items():
            path = f"{place.path}.{key}"
            if key not in accepted.hints:
                if accepted.is_open:
                    self._open_ended(key, path, name, [n for n in known if n not in arguments])
                    continue
                listed = ", ".join(known) or "no arguments"
                self.add(
                    path,
                    f"{name} takes no argument {key!r}{_near_clause(key, known)} It takes {listed}",
                    is_error=own or place.is_sure,
                )
                continue
            hint = accepted.hints[key]
            if key in accepted.defaults and _same(value, accepted.defaults[key]):
                continue
            if not fits(value, hint):
                self.add(
                    path,
                    f"{name} expects {describe(hint)}, but got {_shown(value)}"
                    + _number_hint(value, hint),
                    is_error=own,
                )
        if not place.complete:
            return
        missing = [n for n in accepted.required if n not in arguments and n not in place.injected]
        if missing:
            self.add(
                place.path,
                f"{name} needs {', '.join(map(repr, missing))}, which "
                f"{'is' if len(missing) == 1 else 'are'} not given",
                is_error=own or place.is_sure,
            )

    def _open_ended(self, key: Any, path: str, name: str, unused: list[str]) -> None:
        """Warn of a slip that ``**kwargs`` would swallow."""
        close = difflib.get_close_matches(str(key), unused, n=1, cutoff=0.85)
        if close:
            self.add(
                path,
                f"{name} takes any argument, but {key!r} looks like {close[0]!r}",
                is_error=False,
            )

    # -- what is inside

    def _inside(self, arguments: Mapping[str, Any], target: Any, place: Place) -> None:
        for key, value in arguments.items():
            if key in _NOT_BUILT:
                continue
            registry = _BY_NAME.get(str(key), place.registry)
            self._nested(value, f"{place.path}.{key}", place.scope, registry, str(key))

    def _nested(self, value: Any, path: str, scope: str, registry: str, key: str) -> None:
        if isinstance(value, Mapping):
            if "type" in value:
                # By its name alone an argument may be anything; these are what they say.
                sure = key in ("pipeline", "vis_backends", "init_cfg") and registry != ""
                kind = value["type"]
                if isinstance(kind, str) or callable(kind) or isinstance(kind, LAZY_TYPES):
                    self.part(
                        value,
                        Place(path, scope, registry, is_sure=sure, complete=False),
                    )
                return
            if registry and key in ("pipeline", "vis_backends"):
                self.part(value, Place(path, scope, registry, complete=False))
                return
            self._misspelled_type(value, path, scope)
            inner = value.get("_scope_", scope)
            for name, item in _items(value):
                if name not in _NOT_BUILT:
                    self._nested(item, f"{path}.{name}", inner, registry, str(name))
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                self._nested(item, f"{path}.{i}", scope, registry, key)

    def _misspelled_type(self, value: Mapping[Any, Any], path: str, scope: str) -> None:
        """Find a ``tpye`` that names something registered."""
        for key, item in _items(value):
            if (
                not isinstance(item, str)
                or not isinstance(key, str)
                or not difflib.get_close_matches(key, ["type"], cutoff=0.7)
            ):
                continue
            for name in _ANY:
                with contextlib.suppress(Exception), _node(name, scope) as node:
                    if item in node:
                        self.add(
                            f"{path}.{key}", f"{item!r} is registered: is 'type' meant by {key!r}?"
                        )
                        return


def _at(place: Place, path: str, scope: str | None = None) -> Place:
    from dataclasses import replace

    return replace(place, path=path, scope=place.scope if scope is None else scope)


def _items(cfg: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return list(dict.items(cfg)) if isinstance(cfg, dict) else list(cfg.items())


@contextlib.contextmanager
def _node(name: str, scope: str) -> Iterator[Any]:
    registry: Any = getattr(roots, name)
    with registry.switch_scope_and_registry(scope) as node:
        yield node


def _is_own(target: Any) -> bool:
    """Whether a class is ours or torch's, whose annotations can be believed."""
    package = (getattr(target, "__module__", "") or "").partition(".")[0]
    return package in ("mmx", "torch") or package.startswith("mmx_")


def _same(value: Any, default: Any) -> bool:
    try:
        return type(value) is type(default) and bool(value == default)
    except Exception:  # noqa: BLE001 - arrays
        return value is default


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _number_hint(value: Any, hint: Any) -> str:
    if isinstance(value, str) and (fits(1.5, hint) or fits(1, hint)):
        with contextlib.suppress(ValueError):
            number = float(value)
            return f"; in quotes it is text (YAML reads 1e-3 as text too: write {number!r})"
    return ""


def _near_clause(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else "."


def _listed(cfg: Mapping[Any, Any]) -> str:
    return ", ".join(map(repr, cfg)) if cfg else "no keys"


def _first_lines(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = text.strip().splitlines()
    prefix = "" if isinstance(error, LookupError) else f"{type(error).__name__}: "
    return prefix + (" ".join(line.strip() for line in lines[:4]) if lines else "")
