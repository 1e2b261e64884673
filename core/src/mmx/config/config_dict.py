"""The dict that a config consists of."""

from __future__ import annotations

import contextlib
import copy
import difflib
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from mmx.config.lazy import LAZY_TYPES

Self = TypeVar("Self", bound="ConfigDict")

DELETE_KEY = "_delete_"

_ATOMIC = frozenset({int, float, str, bool, type(None), bytes, complex})
_MAPPINGS = (dict, OrderedDict)
# Methods of `Config` that no dict has. A `Config` shares the attributes of its dict, where a key of
# such a name would hide the method.
CONFIG_METHODS = frozenset(
    {
        "auto_argparser",
        "diff",
        "dump",
        "fromfile",
        "fromstring",
        "fromdict",
        "merge_from_dict",
        "_bind",
        "_dumped",
        "_fields",
        "_file2dict",
        "_get_cfg_path",
        "_imported_names",
        "_is_lazy_import",
        "_merge_a_into_b",
        "_set",
    }
)

_dict_items = dict.items
_dict_set = dict.__setitem__
_dict_get = dict.__getitem__
_dict_update = dict.update
_new_dict = dict.__new__
_set_attribute = object.__setattr__


class ConfigDict(dict[Any, Any]):
    """A dict whose keys are attributes too, and whose dicts at all depths are of its kind.

    Attributes are found by Python itself, without a call: each key that is no name of a method is
    kept in the instance's ``__dict__`` too. (A key ``"items"`` is had by ``cfg["items"]``;
    ``cfg.items`` is the method, as in every dict.)

    Values are converted when they come in: dicts to this class, lists and tuples to new ones with
    their dicts converted. Dicts of a class of their own stay as they are.

    A :class:`~mmx.config.lazy.LazyObject` is imported when it is accessed as an attribute, by
    ``[]``, ``get``, ``pop``, ``items``, ``values`` or ``**``; inside a list it stays as it is.
    ``_to_lazy_dict`` returns it unimported, ``to_dict`` as its dotted path.
    """

    # Where the dict is in the config that was read, for errors: what finds origins, and its keys.
    __slots__ = ("__dict__", "__weakref__", "_edits", "_place")
    _place: tuple[Any, tuple[Any, ...]]
    # Keys that code has set one by one since, with the file and line that did; None of those that
    # an override has set after that.
    _edits: dict[Any, tuple[str, int] | None]
    # Names that attribute access must leave to the class; set by `_prepare`.
    _reserved: frozenset[str]
    # The class of instances that need `__getattr__`; see `_Watchful`.
    _watchful: type[ConfigDict]
    # Classes of values that are converted to this one, and of those that are imported on access.
    _converted: frozenset[type] = frozenset({dict, OrderedDict})
    _lazy_types: tuple[type, ...] = LAZY_TYPES

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        for arg in args:
            if arg is None:
                continue
            if isinstance(arg, dict):
                self._take(_dict_items(arg))
            elif isinstance(arg, Mapping):
                self._take((key, arg[key]) for key in arg)
            elif isinstance(arg, tuple) and arg and not isinstance(arg[0], tuple):
                self._take([arg])
            elif hasattr(arg, "keys"):
                self._take((key, arg[key]) for key in arg.keys())  # noqa: SIM118  # no mapping
            else:
                self._take(iter(arg))
        if kwargs:
            self._take(kwargs.items())

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_public" not in vars(cls):
            cls._prepare()

    @classmethod
    def _prepare(cls) -> None:
        cls._watchful = type(
            cls.__name__,
            (_Watchful, cls),
            {
                "__module__": cls.__module__,
                "__doc__": cls.__doc__,
                "__slots__": (),
                "_public": cls,
            },
        )
        cls._reserved = frozenset(dir(cls))

    # -- taking values in

    def _take(self, items: Iterable[tuple[Any, Any]]) -> None:
        """Set items, converted."""
        attributes = self.__dict__
        reserved = self._reserved
        converted = self._converted
        watch = False
        for key, value in items:
            kind = type(value)
            if kind in _ATOMIC:
                pass
            elif kind in converted:
                value = self._class()._convert_dict(value)
            elif kind is list or isinstance(value, (list, tuple)):
                value = self._class()._convert_sequence(value)
            elif isinstance(value, self._lazy_types):
                _dict_set(self, key, value)
                attributes.pop(key, None)
                watch = True
                continue
            _dict_set(self, key, value)
            if type(key) is str and key not in reserved:
                if key in CONFIG_METHODS:
                    watch = True
                else:
                    attributes[key] = value
        if watch:
            self._watch()

    def _watch(self) -> None:
        if not isinstance(self, _Watchful):
            self.__class__ = self._watchful

    @classmethod
    def _convert_dict(cls: type[Self], value: dict[Any, Any]) -> Self:
        new = cls.__new__(cls)
        new._take(_dict_items(value))
        return new

    @classmethod
    def _convert_sequence(cls, value: Any) -> Any:
        items = [item if type(item) in _ATOMIC else cls._hook(item) for item in value]
        kind = type(value)
        if kind is list:
            return items
        if kind is tuple:
            return tuple(items)
        if hasattr(value, "_fields"):
            return kind(*items)
        # A list class of the user's own is not taken apart.
        return value

    @classmethod
    def _hook(cls, item: Any) -> Any:
        """Return a value as it is kept."""
        kind = type(item)
        if kind in cls._converted:
            return cls._convert_dict(item)
        if isinstance(item, (list, tuple)):
            return cls._convert_sequence(item)
        return item

    # -- dict

    def __setitem__(self, name: Any, value: Any) -> None:
        self._take(((name, value),))
        _note_edit(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":
            object.__setattr__(self, name, value)
        elif name in self._reserved:
            raise AttributeError(
                f"{type(self).__name__!r} object attribute {name!r} is read-only: it is a method of "
                f"dicts; use cfg[{name!r}] = ..."
            )
        else:
            self._take(((name, value),))
            _note_edit(self, name)

    def __delitem__(self, name: Any) -> None:
        dict.__delitem__(self, name)
        self.__dict__.pop(name, None)

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise MissingAttributeError(_attribute_error(self, name))
        del self[name]

    def __missing__(self, name: Any) -> Any:
        raise missing_key(self, name)

    def __reduce_ex__(self, proto: Any) -> Any:
        attributes = self.__dict__
        if len(attributes) == len(self) and self.__class__ is ConfigDict:
            # The usual case, made cheap: its attributes are its items.
            return _restore_simple, (attributes,)
        return _restore, (self._class(), dict(_dict_items(self)))

    @classmethod
    def _class(cls: type[Self]) -> type[Self]:
        """Return the class that users know."""
        return cls

    def __copy__(self: Self) -> Self:
        cls = self._class()
        new = cls.__new__(cls)
        new._set_converted(_dict_items(self))
        _keep_place(self, new)
        return new

    copy = __copy__

    def _set_converted(self, items: Iterable[tuple[Any, Any]]) -> None:
        """Set items that need no conversion."""
        plain = dict(items)
        dict.update(self, plain)
        attributes = self.__dict__
        attributes.update(plain)
        reserved = self._reserved
        watch = False
        if not reserved.isdisjoint(plain):
            for key in reserved.intersection(plain):
                del attributes[key]
        if not CONFIG_METHODS.isdisjoint(plain):
            for key in CONFIG_METHODS.intersection(plain):
                del attributes[key]
            watch = True
        for key, value in plain.items():
            if type(value) not in _ATOMIC and isinstance(value, self._lazy_types):
                attributes.pop(key, None)
                watch = True
            elif type(key) is not str:
                attributes.pop(key, None)
        if watch:
            self._watch()

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        cls = self._class()
        new = cls.__new__(cls)
        memo[id(self)] = new
        _keep_place(self, new)
        atomic = _ATOMIC
        new._set_converted(
            [
                (
                    key,
                    value
                    if type(value) in atomic
                    else _copy_list(value, memo)
                    if type(value) is list
                    else copy.deepcopy(value, memo),
                )
                for key, value in _dict_items(self)
            ]
        )
        return new

    def deepcopy(self: Self) -> Self:
        """Return a copy at all depths."""
        return copy.deepcopy(self)

    @classmethod
    def fromkeys(cls: type[Self], iterable: Iterable[Any], value: Any = None, /) -> Self:
        """Return a dict with the keys given and one value."""
        new = cls.__new__(cls)
        new._take((key, value) for key in iterable)
        return new

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of a key, or the default."""
        return dict.get(self, key, default)

    def pop(self, key: Any, default: Any = None) -> Any:
        """Remove a key and return its value; the default, None if not given, without the key."""
        self.__dict__.pop(key, None)
        return self.build_lazy(dict.pop(self, key, default))

    def popitem(self) -> tuple[Any, Any]:
        """Remove the last item and return it."""
        key, value = dict.popitem(self)
        self.__dict__.pop(key, None)
        return key, self.build_lazy(value)

    def clear(self) -> None:
        """Remove everything."""
        dict.clear(self)
        self.__dict__.clear()

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value of a key; without it, set it to the default first."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set items. Where both have a dict, the one here is updated with the other's items."""
        if len(args) > 1:
            raise TypeError("update only accept one positional argument")
        for arg in args:
            if isinstance(arg, dict):
                self._update(_dict_items(arg))
            elif hasattr(arg, "keys"):
                self._update([(key, arg[key]) for key in arg.keys()])  # noqa: SIM118  # no mapping
            else:
                self._update(arg)
        if kwargs:
            self._update(kwargs.items())

    def _update(self, items: Iterable[tuple[Any, Any]]) -> None:
        for key, value in items:
            mine = dict.get(self, key)
            if isinstance(mine, dict) and isinstance(value, dict):
                mine.update(value)
            else:
                self._take(((key, value),))
                _note_edit(self, key)

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        """Return the items as a list, so that the dict may change while one goes over them."""
        return list(_dict_items(self))

    def values(self) -> list[Any]:  # type: ignore[override]
        """Return the values as a list."""
        return list(dict.values(self))

    def __or__(self: Self, other: Any) -> Self:
        if not isinstance(other, Mapping):
            return NotImplemented
        new = self.copy()
        new.update(other)
        return new

    def __ror__(self: Self, other: Any) -> Self:
        if not isinstance(other, Mapping):
            return NotImplemented
        new = self._class()(other)
        new.update(self)
        return new

    def __ior__(self: Self, other: Any) -> Self:
        self.update(other)
        return self

    # -- origins

    def __config_source__(self) -> str:
        """Return where the dict is written, for errors of what is built from it; or ""."""
        edit = (edits_of(self) or {}).get("type")
        if edit is not None:
            return _InCode(edit)(())
        try:
            source, path = self._place
        except AttributeError:
            return ""
        return str(source(path))

    def _like(self: Self, items: Mapping[Any, Any]) -> Self:
        """Return a dict of other items that is written where this one is."""
        new = self._class()(items)
        _keep_place(self, new)
        return new

    # -- what MMEngine adds

    def build_lazy(self, value: Any) -> Any:
        """Import a value that is a lazy object; return any other as it is."""
        return value.build() if isinstance(value, self._lazy_types) else value  # type: ignore[attr-defined]  # lazy types have it

    def merge(self, other: Mapping[Any, Any]) -> None:
        """Merge another dict into this one, as a config is merged into its base.

        Dicts are merged with dicts, unless the new one has ``_delete_=True``, which replaces the old
        one; everything else is replaced.

        Raises:
            TypeError: ``other`` is no dict.
        """
        if not isinstance(other, Mapping):
            raise TypeError(f"a ConfigDict is merged with a dict, but got {type(other).__name__}")
        if other.get(DELETE_KEY, False):
            self.clear()
        for key, value in raw_items(other):
            if key == DELETE_KEY:
                continue
            mine = dict.get(self, key)
            if (
                isinstance(value, Mapping)
                and isinstance(mine, ConfigDict)
                and not value.get(DELETE_KEY, False)
            ):
                mine.merge(value)
            else:
                self[key] = without_delete_keys(value)

    def to_dict(self) -> dict[Any, Any]:
        """Return plain dicts at all depths; a lazy object is given as its dotted path."""
        return plain(self, lazy_as_text=True)  # type: ignore[no-any-return]  # of a dict, a dict

    def _to_lazy_dict(self) -> dict[Any, Any]:
        """Return plain dicts at all depths, with lazy objects as they are."""
        return plain(self, lazy_as_text=False)  # type: ignore[no-any-return]  # of a dict, a dict


class _Watchful(ConfigDict):
    """A ConfigDict some of whose attributes are not in its ``__dict__``.

    Attribute access of a class with ``__getattr__`` is several times slower, so only instances that
    need it are of this class: those with lazy objects, and with keys that `Config` has methods for.
    """

    __slots__ = ()
    _public: type[ConfigDict] = ConfigDict

    @classmethod
    def _class(cls) -> Any:
        return cls._public

    def __getattr__(self, name: str) -> Any:
        try:
            value = _dict_get(self, name)
        except KeyError:
            raise _attribute_error(self, name) from None
        return self.build_lazy(value)

    def __getitem__(self, key: Any) -> Any:
        return self.build_lazy(_dict_get(self, key))

    def __iter__(self) -> Iterator[Any]:
        # A dict with its own `__iter__` is unpacked (`**cfg`, `dict(cfg)`) by `[]`, which imports.
        return dict.__iter__(self)

    def get(self, key: Any, default: Any = None) -> Any:
        return self.build_lazy(dict.get(self, key, default))

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        return [(key, self.build_lazy(value)) for key, value in _dict_items(self)]

    def values(self) -> list[Any]:  # type: ignore[override]
        return [self.build_lazy(value) for value in dict.values(self)]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ConfigDict):
            return dict.__eq__(self, other)
        if isinstance(other, dict):
            return dict(self.items()) == other
        return NotImplemented

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = None  # type: ignore[assignment]  # as dicts

    def _watch(self) -> None:
        pass


ConfigDict._prepare()

# Not by attribute access, which asks `__getattr__` of those that have one.
_get_edits = ConfigDict.__dict__["_edits"].__get__
_get_place = ConfigDict.__dict__["_place"].__get__


def edits_of(config: ConfigDict) -> dict[Any, tuple[str, int] | None] | None:
    """Return what code has set in a dict since it was made, and where; None for nothing."""
    try:
        return _get_edits(config)  # type: ignore[no-any-return]  # of a slot
    except AttributeError:
        return None


def take_edits(value: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """Return what code has set in a value's dicts, by the keys of the dict."""
    found: dict[tuple[Any, ...], Any] = {}
    if isinstance(value, ConfigDict):
        edits = edits_of(value)
        if edits:
            found[path] = edits
        for key, item in _dict_items(value):
            if type(item) not in _ATOMIC:
                found.update(take_edits(item, (*path, key)))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            if type(item) not in _ATOMIC:
                found.update(take_edits(item, (*path, i)))
    return found


def give_edits(value: Any, edits: dict[tuple[Any, ...], Any]) -> None:
    """Put back what `take_edits` returned."""
    for path, known in edits.items():
        target = value
        for key in path:
            target = _dict_get(target, key) if isinstance(target, dict) else target[key]
        _set_attribute(target, "_edits", known)


def may_be_edited(config: ConfigDict) -> bool:
    """Whether code may have set something in a config since it was read."""
    try:
        return bool(_get_place(config)[0].edited)
    except AttributeError:
        return True


class _InCode:
    """Says where in code a dict was set; stands where others have what finds files and lines."""

    __slots__ = ("edit",)
    edited = True

    def __init__(self, edit: tuple[str, int]) -> None:
        self.edit = edit

    def __call__(self, path: tuple[Any, ...]) -> str:
        from mmx.config.origin import in_code

        return str(in_code(self.edit))


def _note_edit(config: ConfigDict, key: Any) -> None:
    """Remember who sets a value, for origins; nothing is known of it in the config's files."""
    if isinstance(config, ParsedDict):
        return
    frame: Any = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("mmx.config"):
        frame = frame.f_back
    edit = (frame.f_code.co_filename, frame.f_lineno)
    edits = edits_of(config)
    if edits is None:
        edits = {}
        _set_attribute(config, "_edits", edits)
    edits[key] = edit
    with contextlib.suppress(AttributeError):
        source = _get_place(config)[0]
        if type(source) is not _InCode:
            source.edited = True
    value = _dict_get(config, key)
    if isinstance(value, (dict, list, tuple)):
        _place_new(value, _InCode(edit))


def _place_new(value: Any, source: _InCode) -> None:
    """Tell dicts that are not from a config where code has set them."""
    if isinstance(value, ConfigDict):
        try:
            _get_place(value)
        except AttributeError:
            _set_attribute(value, "_place", (source, ()))
        else:
            return  # a part of the config at a second place
        value = dict.values(value)
    elif not isinstance(value, (list, tuple)):
        return
    for item in value:
        if type(item) not in _ATOMIC:
            _place_new(item, source)


def put_override(config: Any, key: Any, value: Any, *, part: bool = False) -> None:
    """Set a value that an override or a child has: of its origin the files and overrides know.

    Args:
        config: Where to.
        key: The key.
        value: The value.
        part: Only parts of the value are the override's, and have been set so.
    """
    if type(config) is dict or isinstance(config, ParsedDict) or not isinstance(config, ConfigDict):
        config[key] = value
        return
    config._take(((key, value),))
    if part:
        return
    edits = edits_of(config)
    if edits is None:
        edits = {}
        _set_attribute(config, "_edits", edits)
    edits[key] = None


class ParsedDict(ConfigDict):
    """A ConfigDict that a config's code sees while it is read: lazy objects stay as they are."""

    __slots__ = ()
    _converted = frozenset({dict, OrderedDict})
    _lazy_types = ()


ConfigDict._converted |= {ParsedDict, ParsedDict._watchful}


def _keep_place(old: ConfigDict, new: ConfigDict) -> None:
    try:
        place = _get_place(old)
    except AttributeError:
        place = None
    else:
        _set_attribute(new, "_place", place)
    if place is None or place[0].edited:
        edits = edits_of(old)
        if edits:
            _set_attribute(new, "_edits", dict(edits))


def set_places(value: Any, source: Any, path: tuple[Any, ...] = ()) -> None:
    """Tell each ConfigDict in a value where it is.

    Args:
        value: Settings.
        source: Called with the keys of a dict, returns where it is written.
        path: The keys of ``value``.
    """
    atomic = _ATOMIC
    if isinstance(value, ConfigDict):
        try:
            if type(_get_place(value)[0]) is _InCode:
                return  # not of the files
        except AttributeError:
            pass
        _set_attribute(value, "_place", (source, path))
        for key, item in _dict_items(value):
            if type(item) not in atomic:
                set_places(item, source, (*path, key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            if type(item) not in atomic:
                set_places(item, source, (*path, i))


def raw_items(mapping: Any) -> Iterable[tuple[Any, Any]]:
    """Return the items of a mapping without importing its lazy objects."""
    return _dict_items(mapping) if isinstance(mapping, dict) else mapping.items()


def without_delete_keys(value: Any) -> Any:
    """Return a value whose dicts, at all depths, have no ``_delete_``; the value if none has."""
    if isinstance(value, dict):
        if not _has_delete_key(value):
            return value
        new = {k: without_delete_keys(v) for k, v in _dict_items(value) if k != DELETE_KEY}
        return new if type(value) in _MAPPINGS else type(value)(new)
    if type(value) in (list, tuple):
        return type(value)(without_delete_keys(item) for item in value)
    return value


def _has_delete_key(value: Any) -> bool:
    if isinstance(value, dict):
        return DELETE_KEY in value or any(_has_delete_key(v) for v in dict.values(value))
    if isinstance(value, (list, tuple)):
        return any(_has_delete_key(item) for item in value)
    return False


def plain(value: Any, *, lazy_as_text: bool) -> Any:
    """Return a value with plain dicts in place of ConfigDicts.

    Args:
        value: A value of a config.
        lazy_as_text: Give lazy objects as their dotted paths, and modules, classes and functions
            that a config imports likewise.
    """
    kind = type(value)
    if kind in _ATOMIC:
        return value
    if isinstance(value, ConfigDict) or kind in _MAPPINGS:
        return {k: plain(v, lazy_as_text=lazy_as_text) for k, v in _dict_items(value)}
    if kind is list:
        return [plain(item, lazy_as_text=lazy_as_text) for item in value]
    if kind is tuple:
        return tuple(plain(item, lazy_as_text=lazy_as_text) for item in value)
    if lazy_as_text and isinstance(value, LAZY_TYPES):
        return value.dotted_path
    return value


def _copy_list(value: list[Any], memo: dict[int, Any]) -> list[Any]:
    known = memo.get(id(value))
    if known is not None:
        return known  # type: ignore[no-any-return]  # the copy of this list
    new: list[Any] = []
    memo[id(value)] = new
    # As `copy.deepcopy`: the original lives as long as the memo, so that its id stays its own.
    memo.setdefault(id(memo), []).append(value)
    atomic = _ATOMIC
    new.extend(item if type(item) in atomic else copy.deepcopy(item, memo) for item in value)
    return new


def _restore_simple(items: dict[str, Any]) -> ConfigDict:
    new = _new_dict(ConfigDict)
    _dict_update(new, items)
    _set_attribute(new, "__dict__", items)
    return new


def _restore(cls: type[ConfigDict], items: dict[Any, Any]) -> ConfigDict:
    new = cls.__new__(cls)
    new._set_converted(items)
    return new


def near(name: Any, names: Iterable[Any]) -> str:
    """Return ``"; did you mean 'x'?"`` with the nearest of some names, or ""."""
    found = difflib.get_close_matches(str(name), [n for n in names if isinstance(n, str)], n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


class MissingKeyError(KeyError):
    """A config lacks a key. ``args[0]`` is the key; a note names the nearest."""

    def __init__(self, key: Any, config: Any = None) -> None:
        super().__init__(key)
        self.key = key
        hint = near(key, config) if config else ""
        if hint:
            self.add_note(hint.removeprefix("; "))


class MissingAttributeError(AttributeError, KeyError):
    """``del cfg.name`` of a config that lacks it; a KeyError as in MMEngine."""

    def __init__(self, error: AttributeError) -> None:
        super().__init__(str(error), name=error.name, obj=error.obj)

    def __str__(self) -> str:
        return str(self.args[0])


def missing_key(config: ConfigDict, key: Any) -> MissingKeyError:
    """Return the error of a key that a config lacks."""
    return MissingKeyError(key, dict.keys(config))


def _attribute_error(config: ConfigDict, name: str) -> AttributeError:
    return AttributeError(
        f"'ConfigDict' object has no attribute {name!r}{near(name, dict.keys(config))}",
        name=name,
        obj=config,
    )
