"""Building objects from configs. The common case is kept short: see `build_from_cfg`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mmx_registry.errors import ArgumentTypeError, ConfigKeyError
from mmx_registry.registry import Registry, is_config
from mmx_registry.scope import DefaultScope, current

logger = logging.getLogger("mmx_registry")
# What the logger remembers of `isEnabledFor`; asking it directly takes a third of the time. Without
# an entry, which is so after every change of logging, the logger is asked.
_levels: dict[int, bool] = getattr(logger, "_cache", {})
_DEBUG = logging.DEBUG


def build_from_cfg(cfg: Any, registry: Registry[Any], default_args: Any = None) -> Any:
    """Build an object of the class or function that a config names.

    Args:
        cfg: A mapping with ``type``: a name, a class or a function. The other items are its
            keyword arguments. ``_scope_`` binds the default scope for this object and all that it
            builds. The mapping is not changed.
        registry: Where names are looked up; the node of the default scope in its tree, if one is
            bound.
        default_args: Items that ``cfg`` lacks.

    Returns:
        The object. A class that defines the class method ``build_from_registry(**kwargs)`` is
        built by it (managers of named instances return the one that exists).

    Raises:
        ArgumentTypeError: An argument or ``type`` has a wrong type.
        ConfigKeyError: There is no ``type``.
        NotFoundError: Nothing is registered under the name.
        Exception: Whatever the class raised, with a note saying where in the config it was.
    """
    if default_args is None and type(cfg) is dict and isinstance(registry, Registry):
        args = cfg.copy()
    else:
        args = _merge(cfg, registry, default_args)
    if "_scope_" in args:
        scope = args.pop("_scope_")
        if scope is not None:
            token = current.set(DefaultScope("_scope_", scope, _transient=True))
            try:
                return _build(cfg, args, _node(cfg, registry, scope))
            finally:
                current.reset(token)
    bound = current.get()
    if (
        bound is None
        or bound._scope_name == registry._scope
        or not (bound._transient or DefaultScope._instance_dict.get(bound._name) is bound)
    ):
        node = registry
    else:
        try:
            node = registry._nodes[bound._scope_name]
        except KeyError:
            node = _node(cfg, registry, bound._scope_name)
    # As `_build`, once more: a call would take a tenth of the whole.
    kind = make = None
    try:
        kind = args.pop("type")
        try:
            make = node._makers[kind]
        except (KeyError, TypeError):
            make = _maker(node, kind)
        built = make(**args)
    except Exception as error:
        _explain(error, cfg, kind, make, args, node)
        raise
    if _levels.get(_DEBUG, True) and logger.isEnabledFor(_DEBUG):
        _log_build(make)
    return built


def _node(cfg: Any, registry: Registry[Any], scope: str) -> Registry[Any]:
    try:
        return registry._node_of(scope)
    except Exception as error:
        from mmx_registry import explain

        explain.annotate(error, cfg, cfg.get("type"), None, {}, registry)
        raise


def _build(cfg: Any, args: dict[str, Any], node: Registry[Any]) -> Any:
    kind = make = None
    try:
        kind = args.pop("type")
        try:
            make = node._makers[kind]
        except (KeyError, TypeError):
            make = _maker(node, kind)
        built = make(**args)
    except Exception as error:
        _explain(error, cfg, kind, make, args, node)
        raise
    if _levels.get(_DEBUG, True) and logger.isEnabledFor(_DEBUG):
        _log_build(make)
    return built


def _explain(
    error: Exception, cfg: Any, kind: Any, make: Any, args: dict[str, Any], node: Registry[Any]
) -> None:
    """Add a note to an error that says where in the config it happened.

    Raises:
        ConfigKeyError: In place of the KeyError of a config without ``type``.
    """
    from mmx_registry import explain

    if kind is None and isinstance(error, KeyError):
        missing = _no_type(cfg)
        explain.annotate(missing, cfg, kind, make, args, node)
        raise missing from None
    explain.annotate(error, cfg, kind, make, args, node)


def _log_build(make: Any) -> None:
    if getattr(make, "__name__", "") == "build_from_registry":
        make = getattr(make, "__self__", make)
    logger.debug(
        "An `%s` instance is built from registry, and its implementation can be found in %s",
        getattr(make, "__name__", make),
        getattr(make, "__module__", "?"),
    )


def _maker(node: Registry[Any], kind: Any) -> Callable[..., Any]:
    """Return what builds a type, from now on without a search."""
    if not isinstance(kind, str):
        if isinstance(kind, type):
            return getattr(kind, "build_from_registry", kind)
        if callable(kind):
            return kind  # type: ignore[no-any-return]  # just checked
        raise ArgumentTypeError(f"type must be a str or valid type, but got {type(kind)}")
    makers = node._makers
    obj: Any = node.resolve(kind)
    if logger.isEnabledFor(_DEBUG):
        logger.debug(
            'Get class `%s` from "%s" registry in "%s"',
            getattr(obj, "__name__", obj),
            node._name,
            node.scope,
        )
    if not callable(obj):
        raise ArgumentTypeError(
            f"type {kind!r} stands for {obj!r}, which is neither a class nor a function"
        )
    make: Callable[..., Any] = obj
    if isinstance(obj, type):
        make = getattr(obj, "build_from_registry", obj)
    # What `get` does not keep, such as paths that are trusted by an environment variable, is not
    # kept here either.
    if kind in node._cache:
        makers[kind] = make
    return make


def _no_type(cfg: Any) -> ConfigKeyError:
    return ConfigKeyError(f'`cfg` or `default_args` must contain the key "type", but got {cfg!r}')


def _merge(cfg: Any, registry: Any, default_args: Any) -> dict[str, Any]:
    if not is_config(cfg):
        raise ArgumentTypeError(f"cfg should be a dict, ConfigDict or Config, but got {type(cfg)}")
    if not isinstance(registry, Registry):
        raise ArgumentTypeError(f"registry must be a mmx.Registry object, but got {type(registry)}")
    args: dict[str, Any] = dict(cfg.items())
    if default_args is not None:
        if not is_config(default_args):
            raise ArgumentTypeError(
                "default_args should be a dict, ConfigDict, Config or None, "
                f"but got {type(default_args)}"
            )
        for name, value in default_args.items():
            args.setdefault(name, value)
    return args
